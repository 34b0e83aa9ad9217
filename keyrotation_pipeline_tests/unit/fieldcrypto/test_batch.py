"""The reencryptor: which values it leaves alone, which it rewrites, and which it names as unusable, and why."""

import os
import pickle
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from keyrotation_pipeline.errors import KeyRotationError, UnknownKeyVersionError
from keyrotation_pipeline.fieldcrypto.batch import Failure, Reencryptor
from keyrotation_pipeline.fieldcrypto.cipher import plaintext
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing

if TYPE_CHECKING:
    from keyrotation_pipeline.fieldcrypto.keyring import FieldCipher
from keyrotation_pipeline.fieldcrypto.reads import NOT_A_VALUE, Defect, DefectKind
from keyrotation_pipeline_tests.integration.encrypted_rows import opened, ring_of, sealed
from keyrotation_pipeline_tests.unit.fieldcrypto.value_cases import ACCEPTED, LIKE_VALUES, REFUSED

V2 = KeyVersion(2)


@pytest.fixture(scope="module")
def ring() -> KeyRing:
    return ring_of(1, 2, 999_999)


@pytest.fixture(scope="module")
def reencryptor(ring: KeyRing) -> Reencryptor:
    return Reencryptor(ring, V2)


def damaged(stored: str) -> str:
    """The same with another first character of its ciphertext."""
    head, _, body = stored.rpartition(":")
    return f"{head}:{'A' if body[0] != 'A' else 'B'}{body[1:]}"


@pytest.mark.parametrize("version", [1, 999_999])
@pytest.mark.parametrize(
    "plaintext", ["", "Ada", "Zürich 😀", "x" * 100_000], ids=["empty", "short", "unicode", "long"]
)
def test_an_old_value_comes_to_the_target_with_its_text(
    reencryptor: Reencryptor, ring: KeyRing, version: int, plaintext: str
) -> None:
    rewritten = reencryptor.reencrypt([[sealed(ring, version, plaintext).encode()]])
    (value,) = rewritten.columns[0]
    assert value is not None
    assert opened(ring, value.decode()) == ("v2", plaintext)
    assert rewritten.failures == []


def test_nulls_empty_strings_and_values_under_the_target_stay(reencryptor: Reencryptor, ring: KeyRing) -> None:
    rewritten = reencryptor.reencrypt([[None, b"", sealed(ring, 2, "x").encode()]])
    assert (rewritten.columns, rewritten.failures) == ([[None, None, None]], [])


@pytest.mark.parametrize(
    "stored", [value for value in REFUSED.values() if value], ids=[n for n, v in REFUSED.items() if v]
)
def test_what_the_grammar_refuses_is_not_a_value(reencryptor: Reencryptor, stored: str) -> None:
    rewritten = reencryptor.reencrypt([[stored.encode()]])
    assert (rewritten.columns, rewritten.failures) == ([[None]], [Failure(0, 0, NOT_A_VALUE)])


@pytest.mark.parametrize("stored", REFUSED.values(), ids=REFUSED)
def test_one_value_that_the_grammar_refuses_is_found_among_good_ones(
    reencryptor: Reencryptor, ring: KeyRing, stored: str
) -> None:
    good = sealed(ring, 1, "good").encode()
    rewritten = reencryptor.reencrypt([[good, stored.encode(), good]])
    assert [value is None for value in rewritten.columns[0]] == [False, True, False]
    assert [failure.row for failure in rewritten.failures] == ([1] if stored else [])


def test_two_halves_of_values_that_only_fit_together_are_not_values(reencryptor: Reencryptor, ring: KeyRing) -> None:
    # Side by side the beginnings read like those of two values, with nonces of 15 and 17 characters.
    first, second = sealed(ring, 1, "first").encode(), sealed(ring, 1, "second").encode()
    cut = [first[:18] + b":v" + first[20:], b"1:" + first[18:19] + second[3:19] + b":" + second[20:]]
    assert [failure.row for failure in reencryptor.reencrypt([cut]).failures] == [0, 1]


@pytest.mark.parametrize("stored", ACCEPTED.values(), ids=ACCEPTED)
def test_what_the_grammar_accepts_is_never_called_unencrypted(reencryptor: Reencryptor, stored: str) -> None:
    defects = [failure.defect for failure in reencryptor.check([[stored.encode()]])[1]]
    assert len(defects) == 1
    assert NOT_A_VALUE not in defects


@pytest.mark.parametrize(
    "raw", [b"\xff\xfe", b"v\xc3:", bytes(range(256)), b":" * 60], ids=["bytes", "cut", "all", "colons"]
)
def test_bytes_of_any_kind_are_named_and_never_raise(reencryptor: Reencryptor, raw: bytes) -> None:
    assert [failure.defect for failure in reencryptor.reencrypt([[raw]]).failures] == [NOT_A_VALUE]


def test_failures_name_row_column_and_reason_and_the_rest_continues(reencryptor: Reencryptor, ring: KeyRing) -> None:
    good = sealed(ring, 1, "good").encode()
    unknown = good.replace(b"v1:", b"v7:")
    rewritten = reencryptor.reencrypt([[good, unknown, good], [b"plain", good, damaged(good.decode()).encode()]])
    assert [[value is None for value in column] for column in rewritten.columns] == [
        [False, True, False],
        [True, False, True],
    ]
    assert rewritten.failures == [
        Failure(1, 0, Defect(DefectKind.UNKNOWN_VERSION, KeyVersion(7))),
        Failure(0, 1, NOT_A_VALUE),
        Failure(2, 1, Defect(DefectKind.NOT_AUTHENTIC, KeyVersion(1))),
    ]


@pytest.mark.parametrize("others", [0, 3], ids=["alone", "among others"])
@pytest.mark.parametrize("inner", [1, 2, 7])
def test_a_value_within_a_value_is_left_under_whatever_key(
    reencryptor: Reencryptor, ring: KeyRing, inner: int, others: int
) -> None:
    twice = sealed(ring, 1, sealed(ring_of(7, primary=7), 7, "x") if inner == 7 else sealed(ring, inner, "x")).encode()
    batch = [*[sealed(ring, 1, "good").encode()] * others, twice]
    failures = [Failure(others, 0, Defect(DefectKind.ENCRYPTED_TWICE, KeyVersion(1)))]
    rewritten = reencryptor.reencrypt([batch])
    assert rewritten.failures == failures
    assert [value is None for value in rewritten.columns[0]] == [False] * others + [True]
    assert reencryptor.check([batch]) == ([Counter({KeyVersion(1): others}) if others else Counter()], failures)
    assert plaintext(ring, twice.decode(), None) == failures[0].defect


def test_texts_that_only_begin_like_values_are_rewritten(reencryptor: Reencryptor, ring: KeyRing) -> None:
    rewritten = reencryptor.reencrypt([[sealed(ring, 1, text).encode() for text in LIKE_VALUES]])
    assert rewritten.failures == []
    assert [opened(ring, (value or b"").decode()) for value in rewritten.columns[0]] == [("v2", t) for t in LIKE_VALUES]


def test_a_value_is_never_opened_with_another_key_than_it_names(reencryptor: Reencryptor, ring: KeyRing) -> None:
    lying = sealed(ring, 999_999, "x").replace("v999999:", "v1:")
    assert reencryptor.reencrypt([[lying.encode()]]).columns == [[None]]


def test_every_value_gets_a_nonce_of_its_own_from_one_call_a_batch(
    reencryptor: Reencryptor, ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    urandom = os.urandom

    def counting(size: int) -> bytes:
        calls.append(size)
        return urandom(size)

    value = sealed(ring, 1, "the same").encode()
    monkeypatch.setattr("os.urandom", counting)
    batch = [[value] * 50, [value] * 50]
    nonces = [
        new.split(b":")[1] for _ in range(2) for column in reencryptor.reencrypt(batch).columns for new in column if new
    ]
    assert len(nonces) == len(set(nonces)) == 200
    assert calls == [1200, 1200]


class Flipping:
    """A cipher on a faulty machine: what it encrypts is of another text."""

    def __init__(self, cipher: "FieldCipher") -> None:
        self.cipher = cipher
        self.decrypt = cipher.decrypt

    def encrypt(self, nonce: bytes, plaintext: bytes, data: bytes | None) -> bytes:
        return self.cipher.encrypt(nonce, plaintext[:-1] + b"?", data)


def test_a_new_ciphertext_that_does_not_decrypt_to_its_text_is_not_given_out(
    reencryptor: Reencryptor, ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reencryptor, "_target", Flipping(ring.cipher(V2)))
    with pytest.raises(KeyRotationError, match="faulty") as refusal:
        reencryptor.reencrypt([[sealed(ring, 1, "secret").encode()]])
    assert "secret" not in str(refusal.value)


def test_checking_counts_values_and_names_those_that_do_not_decrypt(reencryptor: Reencryptor, ring: KeyRing) -> None:
    good = [sealed(ring, version, "x").encode() for version in (1, 2)]
    held, failures = reencryptor.check([[None, b"", *good, damaged(good[1].decode()).encode()], [good[0]] * 5])
    assert held == [{None: 1, KeyVersion(1): 1, V2: 1}, {KeyVersion(1): 5}]
    assert failures == [Failure(4, 0, Defect(DefectKind.NOT_AUTHENTIC, KeyVersion(2)))]


def test_a_target_outside_the_ring_is_refused(ring: KeyRing) -> None:
    with pytest.raises(UnknownKeyVersionError):
        Reencryptor(ring, KeyVersion(3))


def test_a_reencryptor_never_travels_to_another_process(reencryptor: Reencryptor) -> None:
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(reencryptor)
