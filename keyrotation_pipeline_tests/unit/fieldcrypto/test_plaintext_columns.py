"""Columns that held plaintext: their texts are encrypted once, and no value is encrypted again."""

import os

import pytest

from keyrotation_pipeline.fieldcrypto.batch import Failure, ReencryptedBatch
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.plaintext_columns import OldFormWriter, PlaintextReencryptor, is_plaintext
from keyrotation_pipeline.fieldcrypto.reads import NOT_A_VALUE, Defect, DefectKind
from keyrotation_pipeline.fieldcrypto.source_keys import LegacyKey
from keyrotation_pipeline_tests.integration.encrypted_rows import opened, ring_of, sealed

V1, V2 = KeyVersion(1), KeyVersion(2)
TEXTS = [
    "Ada", "v2: final version", "v1:", "V1: see above", "v01:AAAAAAAAAAAAAAAA:", "Zürich 😀", "x" * 100_000,
    f"v2:{'A' * 16}:Ada", f"v2:{'A' * 16}:{'A' * 23}",
]  # fmt: skip


@pytest.fixture(scope="module")
def ring() -> KeyRing:
    return ring_of(1, 2)


def rewrite(
    ring: KeyRing, target: KeyVersion, values: list[str | None], begun: tuple[int, ...] = (0,)
) -> ReencryptedBatch:
    stored = [None if value is None else value.encode() for value in values]
    reencryptor = PlaintextReencryptor(ring, target, ("t.note", "t.name"), dict.fromkeys(begun))
    return reencryptor.reencrypt([stored, [None] * len(values)])


def texts(ring: KeyRing, batch: ReencryptedBatch) -> list[tuple[str, str] | None]:
    return [opened(ring, None if value is None else value.decode()) for value in batch.columns[0]]


def test_texts_beside_values_of_every_version_come_to_the_target(ring: KeyRing) -> None:
    mixed = [*TEXTS, None, "", sealed(ring, 1, "old"), sealed(ring, 2, "new"), "last"]
    batch = rewrite(ring, V2, mixed)
    assert batch.failures == []
    expected = [("v2", text) for text in TEXTS]
    assert texts(ring, batch) == [*expected, None, None, ("v2", "old"), None, ("v2", "last")]
    stored = [value for value in batch.columns[0] if value]
    assert len({value[:20] for value in stored}) == len(stored)  # no nonce twice


def test_a_second_rewrite_changes_nothing(ring: KeyRing) -> None:
    once = [value.decode() for value in rewrite(ring, V2, list(TEXTS)).columns[0] if value]
    assert len(once) == len(TEXTS)
    again = rewrite(ring, V2, list(once))
    assert (again.columns[0], again.failures) == ([None] * len(once), [])


def test_what_is_a_value_and_does_not_open_is_a_failure_and_stays(ring: KeyRing) -> None:
    strange = f"v2:{'A' * 16}:{'A' * 24}"
    unknown = sealed(ring_of(9, primary=9), 9, "Ada")
    batch = rewrite(ring, V2, [unknown, strange.replace("v2", "v1"), "Ada"])
    assert batch.failures == [
        Failure(0, 0, Defect(DefectKind.UNKNOWN_VERSION, KeyVersion(9))),
        Failure(1, 0, Defect(DefectKind.NOT_AUTHENTIC, V1)),
    ]
    assert texts(ring, batch) == [None, None, ("v2", "Ada")]


def test_a_rollback_leaves_plaintext_and_brings_values_back(ring: KeyRing) -> None:
    batch = rewrite(ring, V1, ["Ada", sealed(ring, 2, "new")])
    assert (texts(ring, batch), batch.failures) == ([None, ("v1", "new")], [])


def test_other_columns_of_the_table_still_refuse_plaintext(ring: KeyRing) -> None:
    batch = rewrite(ring, V2, ["Ada"], begun=(1,))
    assert batch.failures == [Failure(0, 0, NOT_A_VALUE)]


def test_checking_tells_plaintext_of_such_columns_from_what_is_damaged(ring: KeyRing) -> None:
    reencryptor = PlaintextReencryptor(ring, V2, ("t.note", "t.name"), {0: None})
    damaged = f"v2:{'A' * 16}:{'A' * 24}".encode()
    held, failed = reencryptor.check([[b"Ada", sealed(ring, 1, "old").encode(), damaged], [b"Ada", None, None]])
    assert held[0] == {V1: 1}
    assert {(each.row, each.column): is_plaintext(each, {0}) for each in failed} == {
        (0, 0): True,
        (2, 0): False,
        (0, 1): False,
    }


def test_a_thousand_texts_that_begin_like_values_are_encrypted_once(ring: KeyRing) -> None:
    heads = ["v1:", "v2:", "v2x:", f"v2:{'A' * 16}:-", f"v1:{'A' * 16}", " v2:", "v999999:"]
    made = [f"{heads[n % len(heads)]}{os.urandom(n % 40).hex()}" for n in range(1000)]
    batch = rewrite(ring, V2, list(made))
    assert (batch.failures, texts(ring, batch)) == ([], [("v2", text) for text in made])


def given_back(ring: KeyRing, values: list[str | None]) -> ReencryptedBatch:
    stored = [None if value is None else value.encode() for value in values]
    names: list[bytes | None] = [sealed(ring, 2, f"name {n}").encode() for n in range(len(values))]
    return OldFormWriter(ring, V1, ("t.note", "t.name"), {0: None}).reencrypt([stored, names])


def test_values_of_every_version_become_texts_and_texts_stay(ring: KeyRing) -> None:
    mixed = [*(sealed(ring, 1 + n % 2, text) for n, text in enumerate(TEXTS)), sealed(ring, 2, ""), *TEXTS, "", None]
    batch = given_back(ring, mixed)
    assert batch.failures == []
    assert batch.columns[0] == [*(text.encode() for text in TEXTS), b"", *[None] * (len(TEXTS) + 2)]
    new, names = ([None if value is None else value.decode() for value in column] for column in batch.columns)
    assert [opened(ring, name) for name in names] == [("v1", f"name {n}") for n in range(len(mixed))]
    assert given_back(ring, new).columns[0] == [None] * len(mixed)


def test_what_would_be_decrypted_again_or_cannot_be_stored_stays_encrypted(ring: KeyRing) -> None:
    twice = sealed(ring, 2, sealed(ring, 1, "Ada"))
    batch = given_back(ring, [twice, sealed(ring, 2, "a\0b"), f"v1:{'A' * 16}:{'A' * 24}", sealed(ring, 1, "Ada")])
    assert batch.columns[0] == [None, None, None, b"Ada"]
    assert batch.failures == [
        Failure(0, 0, Defect(DefectKind.ENCRYPTED_TWICE, V2)),
        Failure(1, 0, Defect(DefectKind.NO_OLD_FORM, V2)),
        Failure(2, 0, Defect(DefectKind.NOT_AUTHENTIC, V1)),
    ]


def test_the_form_of_another_library_is_given_back_only_where_it_holds_the_text() -> None:
    """Its padding loses asterisks at the end."""
    key = LegacyKey("sqlalchemy-utils-aes", "an old key", padding="naive")
    ring = ring_of(1, 2)
    writer = OldFormWriter(ring, V1, ("t.note",), {0: key.source})
    batch = writer.reencrypt([[sealed(ring, 2, "Ada").encode(), sealed(ring, 2, "Ada*").encode()]])
    former, left = batch.columns[0]
    assert former is not None
    assert (key.source.opened(former), left) == (b"Ada", None)
    assert batch.failures == [Failure(1, 0, Defect(DefectKind.NO_OLD_FORM, V2))]
