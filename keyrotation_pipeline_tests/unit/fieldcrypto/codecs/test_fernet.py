"""Fernet tokens against `cryptography.fernet`, and against values that other libraries stored."""

import base64
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet, MultiFernet

from keyrotation_pipeline.errors import InvalidKeyError, KeyRotationError, UnknownKeyVersionError
from keyrotation_pipeline.fieldcrypto.batch import FAULTY_MACHINE, Failure
from keyrotation_pipeline.fieldcrypto.codecs.derived_keys import derived_ring
from keyrotation_pipeline.fieldcrypto.codecs.format import format_of, new_key, notation_of
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import as_list
from keyrotation_pipeline.fieldcrypto.formats.fernet import DJANGO_FERNET_ENCRYPTED_FIELDS, FERNET
from keyrotation_pipeline.fieldcrypto.formats.fernet import codec as fernet
from keyrotation_pipeline.fieldcrypto.formats.fernet.codec import FernetFormat, FernetReencryptor, parsed
from keyrotation_pipeline.fieldcrypto.formats.registry import DERIVATIONS
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial, Passphrase
from keyrotation_pipeline.fieldcrypto.probe import fitting_derivation
from keyrotation_pipeline.fieldcrypto.reads import NOT_A_VALUE, UNDER_NO_KEY, Defect, DefectKind

V1, V2 = KeyVersion(1), KeyVersion(2)
VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parents[3] / "vectors" / "fernet.json").read_text())
# One plaintext per length of the last base64 group and of the padding.
PLAINTEXTS = [
    b"",
    b"x",
    b"x" * 15,
    b"x" * 16,
    b"x" * 31,
    "Müller-Lüdenscheidt 🔑".encode(),
    bytes(range(256)),
    b"y" * 9_999,
]


def library(key: KeyMaterial) -> Fernet:
    return Fernet(base64.urlsafe_b64encode(raw_of(key)))


@pytest.fixture
def ring() -> KeyRing:
    return KeyRing({V1: KeyMaterial.generate(), V2: KeyMaterial.generate()}, V2)


def at(key: KeyMaterial, text: bytes, seconds: int) -> bytes:
    return library(key).encrypt_at_time(text, seconds)


@pytest.mark.parametrize("source", [V1, V2])
@pytest.mark.parametrize("plaintext", PLAINTEXTS, ids=len)
def test_the_library_reads_what_was_rewritten(ring: KeyRing, plaintext: bytes, source: KeyVersion) -> None:
    stored = library(ring.material(source)).encrypt(plaintext)
    rewritten = FernetReencryptor(ring, V1).reencrypt([[stored, None, b""]])
    assert rewritten.failures == []
    new, *others = rewritten.columns[0]
    assert others == [None, None]
    assert (new is None) == (source == V1)
    if new is not None:
        assert library(ring.material(V1)).decrypt(new) == plaintext
        assert len(new) == len(stored)
        assert new[12:] != stored[12:]


def test_values_under_both_keys_in_one_batch_are_told_apart(ring: KeyRing) -> None:
    one, two = library(ring.material(V1)), library(ring.material(V2))
    texts = [os.urandom(number) for number in range(40)]
    stored = [(one, two)[number % 3 == 0].encrypt(text) for number, text in enumerate(texts)]
    (new,) = FernetReencryptor(ring, V2).reencrypt([stored]).columns
    assert [value is None for value in new] == [number % 3 == 0 for number in range(40)]
    assert [two.decrypt(value or old) for value, old in zip(new, stored, strict=True)] == texts
    held, failures = FernetReencryptor(ring, V2).check([stored, [b"", None, b""]])
    assert (held, failures) == ([{V1: 26, V2: 14}, {None: 2}], [])


@pytest.mark.parametrize("keep_time", [True, False])
def test_a_token_keeps_its_time_where_that_is_wanted(ring: KeyRing, *, keep_time: bool) -> None:
    stored = at(ring.material(V1), b"x", 1_500_000_000)
    ((new,),) = FernetFormat(keep_time=keep_time).reencryptor(ring, V2).reencrypt([[stored]]).columns
    assert new is not None
    seconds = library(ring.material(V2)).extract_timestamp(new)
    assert (seconds == 1_500_000_000) == keep_time
    # As the library's own rotation does.
    rotated = MultiFernet([library(ring.material(V2)), library(ring.material(V1))]).rotate(stored)
    assert library(ring.material(V2)).extract_timestamp(rotated) == 1_500_000_000


def _bad(ring: KeyRing) -> list[tuple[bytes, Defect]]:
    good, stranger = library(ring.material(V1)).encrypt(b"text"), Fernet(Fernet.generate_key())
    token = base64.urlsafe_b64decode(good)
    return [
        (b"plain", NOT_A_VALUE),
        (b"\xff" * 100, NOT_A_VALUE),
        (good[:-4], NOT_A_VALUE),
        (good + b"=", NOT_A_VALUE),
        (b" " + good[:-1], NOT_A_VALUE),
        (good.replace(b"gA", b"gQ", 1), NOT_A_VALUE),
        (base64.urlsafe_b64encode(b"\x81" + token[1:]), NOT_A_VALUE),
        (base64.urlsafe_b64encode(token[:57]), NOT_A_VALUE),
        (base64.urlsafe_b64encode(token + b"x"), NOT_A_VALUE),
        (base64.urlsafe_b64encode(token[:30] + bytes([token[30] ^ 1]) + token[31:]), UNDER_NO_KEY),
        (base64.urlsafe_b64encode(token[:-1] + bytes([token[-1] ^ 1])), UNDER_NO_KEY),
        (stranger.encrypt(b"text"), UNDER_NO_KEY),
        (library(ring.material(V1)).encrypt(good), Defect(DefectKind.ENCRYPTED_TWICE, V1)),
        (library(ring.material(V1)).encrypt(stranger.encrypt(b"text")), Defect(DefectKind.ENCRYPTED_TWICE, V1)),
    ]


def test_what_cannot_be_rewritten_stays_and_is_named(ring: KeyRing) -> None:
    bad = _bad(ring)
    good = library(ring.material(V1)).encrypt(b"good")
    values = [each for value, _ in bad for each in (value, good)]
    expected = [Failure(2 * row, 1, defect) for row, (_, defect) in enumerate(bad)]
    rewritten = FernetReencryptor(ring, V2).reencrypt([[None] * len(values), values])
    assert rewritten.failures == expected
    assert [new is None for new in rewritten.columns[1]] == [row % 2 == 0 for row in range(len(values))]
    held, failures = FernetReencryptor(ring, V2).check([[None] * len(values), values])
    assert (held, failures) == ([{}, {V1: len(bad)}], expected)
    assert [FernetFormat().opened_by(ring, bad[row][0]) for row in (0, 9, 12)] == [
        None,
        (V2, None),
        (V1, V1),
    ]


def test_a_wrong_padding_under_a_right_mac_is_not_authentic(ring: KeyRing) -> None:
    key = fernet._Key(V1, ring.material(V1))  # noqa: SLF001
    token = bytearray(base64.urlsafe_b64decode(library(ring.material(V1)).encrypt(b"x" * 20)))
    for last in range(1, 8):  # any block ends in a random byte
        token[-33] ^= last
        forged = bytes(token[:-32]) + key._mac(bytes(token[:-32]))  # noqa: SLF001
        if key.opened(forged) is None:
            held, failures = FernetReencryptor(ring, V2).check([[fernet.encoded(forged)]])
            assert (held, failures) == ([{}], [Failure(0, 0, Defect(DefectKind.NOT_AUTHENTIC, V1))])
            return
    pytest.fail("every padding was right")


def test_a_value_that_does_not_read_back_is_never_returned(ring: KeyRing, monkeypatch: pytest.MonkeyPatch) -> None:
    seal = fernet._Key.sealed  # noqa: SLF001
    monkeypatch.setattr(fernet._Key, "sealed", lambda key, text, *others: seal(key, text[:-1], *others))  # noqa: SLF001
    with pytest.raises(KeyRotationError, match=re.escape(FAULTY_MACHINE)):
        FernetReencryptor(ring, V2).reencrypt([[library(ring.material(V1)).encrypt(b"text")]])


def test_the_target_must_be_in_the_ring(ring: KeyRing) -> None:
    with pytest.raises(UnknownKeyVersionError):
        FernetReencryptor(ring, KeyVersion(3))


def test_the_sql_half_of_a_key_signs_and_does_not_decrypt(ring: KeyRing) -> None:
    from hashlib import sha256  # noqa: PLC0415  as the server computes it

    inner, outer = fernet.signing_blocks(ring.material(V1))
    token = parsed(library(ring.material(V1)).encrypt(b"text"))
    assert token is not None
    assert sha256(outer + sha256(inner + token[:-32]).digest()).digest() == token[-32:]
    assert raw_of(ring.material(V1))[16:] not in inner + outer
    assert len(inner) == len(outer) == 64


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: str(case["library"]))
def test_what_libraries_have_stored_is_read(case: dict[str, Any]) -> None:
    declared = replace(FERNET, derivation=DERIVATIONS[case["derivation"]]) if "derivation" in case else FERNET
    notation = notation_of(declared)
    keys = notation.keys_in(case["keys"], "FERNET_KEYS")
    assert notation.text_of(keys) == case["keys"]
    given = KeyRing({KeyVersion(number): key for number, key in enumerate(reversed(keys), 1)}, KeyVersion(len(keys)))
    ring = derived_ring(declared.derivation, given)
    assert case.get("derived", []) in ([], [as_list([ring.material(each)]) for each in reversed(ring.versions)])
    stored = [value["stored"].encode() for value in case["values"]]
    held, failures = format_of(declared).reencryptor(given, given.primary).check([stored])
    assert failures == []
    assert sum(held[0].values()) == len(stored)
    target, old = KeyVersion(9), {version: given.material(version) for version in given.versions}
    more = KeyRing({**old, target: new_key(declared, (), given.material(given.primary))}, target)
    fresh = derived_ring(declared.derivation, more)
    (new,) = format_of(declared).reencryptor(more, target).reencrypt([stored]).columns
    reader = library(fresh.material(KeyVersion(9)))
    assert [reader.decrypt(value or b"").decode() for value in new] == [each["plaintext"] for each in case["values"]]


KEY = base64.urlsafe_b64encode(bytes(range(32))).decode()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("", "entry 1 of FERNET_KEYS is not a Fernet key", id="empty"),
        pytest.param(f"{KEY},", "entry 2 of FERNET_KEYS is not a Fernet key", id="trailing comma"),
        pytest.param(f"{KEY[:-4]}AA==", "entry 1 of FERNET_KEYS is not a Fernet key", id="31 bytes"),
        pytest.param(f"{KEY}, {KEY}", "entries 1 and 2 of FERNET_KEYS are the same key", id="twice"),
        pytest.param("geheim", "entry 1 of FERNET_KEYS is not a Fernet key", id="passphrase"),
    ],
)
def test_a_list_that_holds_no_keys_is_refused_by_place(text: str, said: str) -> None:
    with pytest.raises(InvalidKeyError, match=said) as refused:
        notation_of(FERNET).keys_in(text, "FERNET_KEYS")
    assert refused.value.__context__ is None
    assert "geheim" not in str(refused.value)


def test_both_alphabets_of_base64_are_a_key() -> None:
    raw = bytes([251, 255] * 16)
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        (key,) = notation_of(FERNET).keys_in(f" {encode(raw).decode()} ", "FERNET_KEYS")
        assert raw_of(key) == raw


PAIRS = replace(FERNET, derivation=DJANGO_FERNET_ENCRYPTED_FIELDS)


def test_a_new_pair_keeps_the_secret_key_that_signs_sessions_but_in_an_emergency() -> None:
    before = Passphrase(b"s3cr&t(=):the salt")
    new, emergency = new_key(PAIRS, (), before), new_key(PAIRS, (), before, replaces_all=True)
    assert raw_of(new).startswith(b"s3cr&t(=):")
    assert raw_of(new) != raw_of(before)
    secret, salt = raw_of(emergency).split(b":")
    assert len(secret) == len(salt) == 32
    assert isinstance(new, Passphrase)
    assert notation_of(PAIRS).keys_in(notation_of(PAIRS).text_of([new, emergency]), "K") == (new, emergency)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("secretsecretsecret", "entry 1 of K is not a pair SECRET_KEY:SALT_KEY", id="no salt"),
        pytest.param("secretsecretsecret:", "entry 1 of K is not a pair", id="an empty salt"),
        pytest.param(":saltsaltsaltsalt", "entry 1 of K is not a pair", id="an empty secret"),
        pytest.param("secret:'salt'salt", "without commas, quotes and backslashes", id="a quote"),
        pytest.param("a" * 200 + ":" + "b" * 60, "12 to 256 characters of printable ASCII", id="too long"),
        pytest.param("sécrét:saltsaltsalt", "12 to 256 characters of printable ASCII", id="not ASCII"),
        pytest.param("secret:saltsalt,secret:saltsalt", "entries 1 and 2 of K are the same key", id="twice"),
    ],
)
def test_what_is_no_pair_is_refused_by_its_place(text: str, said: str) -> None:
    with pytest.raises(InvalidKeyError, match=said) as refused:
        notation_of(PAIRS).keys_in(text, "K")
    assert refused.value.__context__ is None
    assert "salt'" not in str(refused.value)


def test_passphrases_without_a_derivation_are_refused() -> None:
    ring = KeyRing({V1: Passphrase(b"the passphrase")}, V1)
    with pytest.raises(InvalidKeyError, match="write the derivation with which the keys were imported"):
        format_of(FERNET).reencryptor(ring, V1)


@pytest.mark.parametrize(
    ("given", "derivation", "said"),
    [
        pytest.param(None, None, None, id="nothing opens them"),
        pytest.param(None, "django-fernet-fields", 'derivation = "django-fernet-fields"', id="keys that are derived"),
        pytest.param("sha256", "django-fernet-fields", 'derivation = "django-fernet-fields"', id="otherwise"),
        pytest.param("django-fernet-encrypted-fields", "sha256", 'derivation = "sha256"', id="of pairs"),
        pytest.param("sha256", None, "no derivation", id="keys as they are"),
    ],
)
def test_a_derivation_is_found_that_opens_values(given: str | None, derivation: str | None, said: str | None) -> None:
    listed = {"django-fernet-encrypted-fields": "the secret:the salt"}.get(given or "", KEY)
    declared, right = (
        replace(FERNET, derivation=None if each is None else DERIVATIONS[each]) for each in (given, derivation)
    )
    keys = notation_of(declared).keys_in(listed, "K")
    under = derived_ring(right.derivation, KeyRing({V1: notation_of(right).keys_in(listed, "K")[0]}, V1)).material(V1)
    value = library(under if said else KeyMaterial.generate()).encrypt(b"text")
    assert fitting_derivation(declared, KeyRing({V1: keys[0]}, V1), [value]) == said


def test_keys_are_never_delivered_in_the_notation_of_another_format() -> None:
    for declared, key in ((FERNET, Passphrase(b"the passphrase")), (PAIRS, KeyMaterial.generate())):
        with pytest.raises(InvalidKeyError, match="write name and derivation as before"):
            notation_of(declared).text_of([key])


def test_what_keys_are_derived_from_is_in_the_signed_text() -> None:
    assert PAIRS.signed() == (
        "fernet, keys derived by django-fernet-encrypted-fields, identified by the MAC of each value"
    )
