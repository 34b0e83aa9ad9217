"""Encrypted values without any marker are found by their bytes, and other random data are not taken for them."""

import random
import re
from collections.abc import Callable, Mapping, Sequence

import pytest

from keyrotation_pipeline.scan.classification import classify_table
from keyrotation_pipeline.scan.names import is_prefix_of_ciphertext
from keyrotation_pipeline.scan.readings import read
from keyrotation_pipeline.scan.report import Finding, Place
from keyrotation_pipeline_tests.unit.scan import adversarial_data, more_other_data, other_data
from keyrotation_pipeline_tests.unit.scan.ciphertexts import (
    PLAINTEXTS,
    UNMARKED,
    address,
    b64,
    email,
    iv_and_blocks,
    name,
    note,
)
from keyrotation_pipeline_tests.unit.scan.other_data import rows

Values = Sequence[str | bytes]
Row = Callable[[random.Random], str | bytes]
BLOCKS = (
    "sqlalchemy-utils-aes",
    "typeorm-encrypted-cbc",
    "sequelize-encrypted",
    "pgcrypto-raw",
    "iv:ciphertext, hex",
    "iv.ciphertext, base64",
)


def scan(values: Values, column: str = "data") -> tuple[Finding, ...]:
    kind = "bytea" if isinstance(values[0], bytes) else "text"
    return classify_table({Place("public.t", column, None, elements=False, type=kind): values})


def encrypted(form: str, plaintext: str, count: int) -> list[str | bytes]:
    rng = random.Random(f"{form} {plaintext}")
    return [UNMARKED[form](rng, PLAINTEXTS[plaintext](rng)) for _ in range(count)]


# Of bytes, and of hex: it takes a name, or a column that belongs to them, to tell these from what is random anyway.
BARE = (
    "django-searchable-encrypted-fields", "handmade, hex", "handmade, upper hex", "handmade, hex of bytea",
    "handmade, bytea", "cryptr", "sequelize-encrypted", "lockbox, bytea", "pgcrypto-raw",
)  # fmt: skip


@pytest.mark.parametrize("form", UNMARKED)
@pytest.mark.parametrize("plaintext", PLAINTEXTS)
def test_unmarked_ciphertext_is_likely_and_bytes_by_a_name(form: str, plaintext: str) -> None:
    few, many = encrypted(form, plaintext, 12), encrypted(form, plaintext, 100)
    (of_few,), (found,), (named,) = scan(few), scan(many), scan(few, "data_encrypted")
    assert named.tier == "likely"
    if form not in BARE:
        assert (of_few.tier, found.tier) == ("likely", "likely")
    elif form not in BLOCKS:
        assert (of_few.tier, found.tier) == ("possible", "possible")
    assert found.format == ("unknown-cbc" if form in BLOCKS else "unknown-aead")
    assert (found.identified_by, found.reads_two_keys, found.share) == ("decrypt", None, 1.0)


@pytest.mark.parametrize("form", UNMARKED)
def test_unmarked_ciphertext_is_likely_in_a_tenth_of_the_rows(form: str) -> None:
    rng = random.Random(form)
    others = [plain(rng) for plain in (name, email, address, note) for _ in range(135)]
    sealed = encrypted(form, "address", 60)
    (found,) = scan([*sealed, *(text if isinstance(sealed[0], str) else text.encode() for text in others)])
    assert (form in BARE or found.tier == "likely", round(found.share, 2)) == (True, 0.1)
    assert "540 of 600 values look like plaintext." in found.notes


@pytest.mark.parametrize(
    "form", ["handmade-aesgcm-b64", "handmade, hex", "handmade, bytea", "typeorm-encrypted-cbc", "iv:ciphertext, hex"]
)
@pytest.mark.parametrize("prefix", ["enc:", "crypt:", "{aes}", "$v1$", "app::v2:", "v1.", "enc2.", "|"])
def test_a_prefix_that_all_values_have_is_no_part_of_them(form: str, prefix: str) -> None:
    values = encrypted(form, "address", 40)
    (found,) = scan([prefix + value if isinstance(value, str) else prefix.encode() + value for value in values])
    assert found.tier == ("possible" if form in BARE and not is_prefix_of_ciphertext(prefix) else "likely")
    assert f"behind the prefix `{prefix}`" in found.notes[0]


@pytest.mark.parametrize("encode", [bytes, b64, bytes.hex], ids=["bytes", "base64", "hex"])
@pytest.mark.parametrize(
    ("head", "tail"),
    [
        pytest.param(b"\x01", b"", id="a version"),
        pytest.param(b"\x02key-2026-01", b"", id="a key's name"),
        pytest.param(b"", b"\x00\x03", id="a version at the end"),
        pytest.param(b"\x00\x00\x00\x0c", b"\x01", id="the length of a nonce, and a key's number"),
    ],
)
@pytest.mark.parametrize("form", ["handmade, bytea", "sequelize-encrypted"])
def test_bytes_that_all_values_share_hide_no_ciphertext(
    form: str, head: bytes, tail: bytes, encode: Callable[[bytes], str | bytes]
) -> None:
    values = [encode(head + value + tail) for value in encrypted(form, "email", 40) if isinstance(value, bytes)]
    (found,) = scan(values)
    assert (found.tier, found.format) == ("possible", "unknown-cbc" if form in BLOCKS else "unknown-aead")
    assert "without bytes that all values begin or end with" in found.notes[0]
    (named,) = scan(values, "email_enc")
    assert named.tier == "likely"


def test_two_versions_at_the_beginning_hide_no_ciphertext() -> None:
    bare = [value for value in encrypted("handmade, bytea", "name", 60) if isinstance(value, bytes)]
    values = [bytes([1 + at % 2, 0]) + value for at, value in enumerate(bare)]
    assert [(found.tier, found.share) for found in scan(values)] == [("possible", 1.0)]


def test_parts_are_found_between_two_colons_and_with_the_iv_at_the_end() -> None:
    rng = random.Random(1)
    for form in ("{1}|{0}", "{0}::{1}", "{1}::{0}"):
        values = [form.format(*map(b64, iv_and_blocks(rng, email(rng)))) for _ in range(40)]
        assert [(found.format, found.tier) for found in scan(values)] == [("unknown-cbc", "likely")]


def test_ciphertext_of_one_length_is_possible_and_likely_only_by_name() -> None:
    rng = random.Random(1)
    values = [UNMARKED["handmade-aesgcm-b64"](rng, f"{rng.randrange(10**9):09}") for _ in range(50)]
    assert [found.tier for found in scan(values)] == ["possible"]
    assert [found.tier for found in scan(values, "ssnEncrypted")] == ["likely"]
    assert scan(values, "upload_id") == ()


@pytest.mark.parametrize(
    ("form", "column", "tiers"),
    [
        pytest.param("handmade, base64url", "session_token", ["possible"], id="a token fit for a URL"),
        pytest.param("lockbox", "session_token", ["likely"], id="a token in base64, as nobody hands out"),
        pytest.param("lockbox", "imageHash", ["possible"], id="a digest"),
        pytest.param("lockbox", "encrypted_hash", ["likely"], id="an encrypted digest"),
    ],
)
def test_a_name_moves_a_tier_by_one(form: str, column: str, tiers: list[str]) -> None:
    assert [found.tier for found in scan(encrypted(form, "email", 50), column)] == tiers


def test_the_convention_of_lockbox_is_noted() -> None:
    (found,) = scan(encrypted("lockbox", "email", 50), "email_ciphertext")
    (note,) = (each for each in found.notes if each.startswith("Named as Lockbox names its columns: "))
    assert '`[format] name = "lockbox"`, `keyrotation docs lockbox`' in note


@pytest.mark.parametrize(("count", "shown"), [(2, False), (3, True)])
def test_the_prefix_of_one_or_two_values_is_not_shown(count: int, shown: bool) -> None:
    (found,) = scan([f"ana:{value}" for value in encrypted("cryptr", "note", count)])  # type: ignore[str-bytes-safe]
    assert ("ana" in str(found)) is shown


@pytest.mark.parametrize(
    "columns",
    [
        pytest.param(other_data.COLUMNS, id="those that the judgement was tuned on"),
        pytest.param(more_other_data.COLUMNS, id="those that were written afterwards"),
        pytest.param(adversarial_data.COLUMNS, id="those that were written against it"),
    ],
)
def test_other_data_is_not_taken_for_encrypted(columns: Mapping[str, Row]) -> None:
    found = {column: finding.tier for column in columns for finding in scan(rows(columns, column))}
    assert len(columns) > 55
    assert {column: tier for column, tier in found.items() if tier != "possible"} == {}


@pytest.mark.parametrize("rows_of_it", [1, 2, 3, 50])
def test_a_file_in_a_few_rows_is_no_ciphertext(rows_of_it: int) -> None:
    assert scan([b"\x1f\x8b\x08\x00" + random.Random(1).randbytes(90)] * rows_of_it) == ()


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("lockbox", r"Base64: \d+ to \d+ bytes each\."),
        ("handmade, bytea", r"Bytes: \d+ to \d+ bytes each\."),
        ("attr_encrypted", r"Base64: \d+ to \d+ bytes each, too short to hold nonce and tag\."),
        ("iv|ciphertext|tag, hex", r"Hex: \d+ to \d+ bytes each, in 3 parts\."),
        ("base64 in base64", r"Base64: \d+ to \d+ bytes each, encoded twice\."),
    ],
)
def test_the_values_are_described_in_a_sentence(form: str, said: str) -> None:
    (found,) = scan(encrypted(form, "name", 50))
    assert re.fullmatch(said, found.notes[0])


def test_ciphertext_is_found_next_to_more_of_other_values() -> None:
    digests = [random.Random(at).randbytes(16).hex() for at in range(90)]
    (found,) = scan([*encrypted("lockbox", "address", 40), *digests, "Ana"])
    assert (found.tier, round(found.share, 1)) == ("likely", 0.3)
    assert found.notes[1:3] == (
        "1 of 131 values look like plaintext.", "90 of 131 values are encoded in another way and were not judged."
    )  # fmt: skip


def test_two_key_versions_before_unmarked_values_are_both_named() -> None:
    values = encrypted("handmade-aesgcm-b64", "email", 40)
    (found,) = scan([f"v{1 + at % 2}:{value}" for at, value in enumerate(values)])  # type: ignore[str-bytes-safe]
    assert (found.share, found.notes[0].endswith("behind the prefix `v1:`, `v2:`.")) == (1.0, True)


@pytest.mark.parametrize("column", ["ipfs v0", "base62 tokens", "camel words"])
def test_what_decodes_in_a_few_of_many_values_is_no_base64(column: str) -> None:
    """Every fourth text of these characters has a length that base64 can have."""
    values = [rows(other_data.COLUMNS, column, seed)[:8] for seed in range(6)]
    assert [found for few in values for found in scan(few)] == []


def test_blocks_that_repeat_at_the_beginning_are_deterministic_encryption() -> None:
    rng = random.Random(5)
    texts = [f"name of the patient: {address(rng)}" for _ in range(100)]
    for form in ("pgcrypto-raw", "sqlalchemy-utils-aes"):
        (found,) = scan([UNMARKED[form](rng, text) for text in texts], "text_encrypted")
        assert (found.format, found.tier) == ("unknown-cbc", "likely")


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(lambda rng: rng.randbytes(rng.choice((16, 32))).hex(), id="MD5 and SHA-256 in hex"),
        pytest.param(lambda rng: rng.randbytes(rng.choice((32, 64))), id="SHA-256 and SHA-512"),
        pytest.param(lambda rng: rng.randbytes(rng.choice((16, 20, 32, 48, 64))).hex(), id="five kinds of digests"),
    ],
)
def test_digests_of_several_kinds_are_possible(row: Row) -> None:
    rng = random.Random(6)
    assert [found.tier for found in scan([row(rng) for _ in range(60)])] == ["possible"]


@pytest.mark.parametrize("prefix", ["{SSHA}", "sha512:", "$pbkdf2-sha256$", "md5$", "scrypt:32768:8:1$"])
def test_a_prefix_that_names_a_digest_is_no_prefix_of_ciphertext(prefix: str) -> None:
    rng = random.Random(8)
    assert scan([prefix + b64(rng.randbytes(rng.choice((29, 31, 35, 41)))) for _ in range(60)]) == ()


def test_words_in_one_case_are_plaintext() -> None:
    assert not any(read(text).encoding for text in ("a-slug-of-some-words-for-you", "ABCDEFGHIJKLMNOPQRSTUVWX"))
