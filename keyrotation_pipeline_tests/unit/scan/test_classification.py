"""What the columns of one table say together, and what is said of values that are not stored as usual."""

import base64
import random
from collections.abc import Callable

import pytest

from keyrotation_pipeline.scan.classification import classify_table
from keyrotation_pipeline.scan.report import Finding, Place
from keyrotation_pipeline_tests.unit.scan.ciphertexts import b64, gcm, name
from keyrotation_pipeline_tests.vectors.foreign_values import FOREIGN

BY_FORMAT = {entry.format: entry.values for entry in reversed(FOREIGN)}
TOKENS = [value for value in BY_FORMAT["fernet"] if isinstance(value, str)]


def place(column: str, path: tuple[str, ...] | None = None, kind: str = "text") -> Place:
    return Place("public.clients", column, path, elements=False, type=kind)


def scan(**columns: object) -> tuple[Finding, ...]:
    return classify_table({place(column): values for column, values in columns.items()})  # type: ignore[misc]


def test_nothing_is_found_in_nothing() -> None:
    assert classify_table({}) == ()
    assert scan(empty=["", ""], none=[], raw=[b""], plain=["Ana Pérez", "Berlin"]) == ()


def test_two_formats_in_one_column_are_two_findings() -> None:
    found = scan(data=[*BY_FORMAT["fernet"], *BY_FORMAT["fernet"], *BY_FORMAT["native"], "Ana"])
    assert [(finding.format, finding.share, finding.values) for finding in found] == [
        ("fernet", 0.6, 10), ("native", 0.3, 10)
    ]  # fmt: skip
    assert all("1 of 10 values look like plaintext." in finding.notes for finding in found)


def test_attr_encrypted_is_known_by_its_two_columns() -> None:
    rng = random.Random(1)
    ivs, sealed = [], []
    for _ in range(30):
        nonce, ciphertext, tag = gcm(rng, name(rng))
        ivs.append(b64(nonce) + "\n")
        sealed.append(b64(ciphertext + tag) + "\n")
    (found,) = scan(encrypted_ssn=sealed, encrypted_ssn_iv=ivs, name=["Ana"] * 30)
    assert (found.format, found.tier, found.reads_two_keys) == ("attr_encrypted", "likely", False)
    assert "`encrypted_ssn_iv` holds the IV." in found.notes


def test_columns_that_belong_to_a_value_are_notes() -> None:
    rng = random.Random(2)
    sealed = [b64(b"".join(gcm(rng, name(rng)))) for _ in range(40)]
    (found,) = scan(
        email_ciphertext=sealed,
        email_bidx=[b64(rng.randbytes(32)) for _ in range(40)],
        emailHash=[rng.randbytes(32).hex() for _ in range(40)],
        email_nonce=[rng.randbytes(12) for _ in range(40)],
        key_id=[rng.choice(("k1", "k2")) for _ in range(40)],
        phone_bidx=[rng.randbytes(32).hex() for _ in range(40)],
    )
    assert found.place.column == "email_ciphertext"
    assert set(found.notes) >= {
        "Blind index in `email_bidx`: leave it alone, unless it is derived from the key that changes.",
        "Blind index in `emailHash`: leave it alone, unless it is derived from the key that changes.",
        "`email_nonce` holds the nonce.",
        "`key_id` holds the name of the key.",
    }
    assert not any("phone" in note for note in found.notes)


def test_keys_of_a_json_object_belong_together_too() -> None:
    rng = random.Random(3)
    parts = [gcm(rng, name(rng)) for _ in range(30)]
    samples = {
        place("doc", ("ssn", part), "jsonb"): [b64(values[at]) for values in parts]
        for at, part in enumerate(("iv", "data", "tag"))
    }
    (found,) = classify_table(samples)
    assert (found.place.path, found.notes[-2:]) == (("ssn", "data"), ("`iv` holds the IV.", "`tag` holds the tag."))


def test_the_last_name_of_a_path_counts() -> None:
    values = [b64(b"".join(gcm(random.Random(at), "123456789"))) for at in range(30)]
    tiers = {
        path: [found.tier for found in classify_table({place("doc", path, "jsonb"): values})]
        for path in [("x",), ("encryptedSsn", "[]"), ("encrypted_ssn", "*"), ("encrypted_ssn", "upload_id")]
    }
    assert list(tiers.values()) == [["possible"], ["likely"], ["likely"], []]


@pytest.mark.parametrize("around", [base64.b64encode, lambda raw: raw.hex().encode()], ids=["base64", "hex"])
def test_a_token_inside_an_encoding_is_noted_as_double(around: Callable[[bytes], bytes]) -> None:
    values = [around(token.encode()).decode() for token in TOKENS]
    (found,) = scan(data=values)
    assert (found.format, found.tier) == ("fernet", "certain")
    assert "3 values are a token inside base64 or hex once more: encoded or encrypted twice." in found.notes


def test_the_prefix_is_shown_only_if_values_share_it() -> None:
    (shared,) = scan(data=[f"enc:{token}" for token in TOKENS])
    (own,) = scan(data=[f"ana{at}:{token}" for at, token in enumerate(TOKENS)])
    assert shared.notes == ("3 values stand behind a prefix `enc:`.",)
    assert own.notes == ("3 values stand behind a prefix.",)


def test_the_order_is_that_of_the_places() -> None:
    found = scan(b=BY_FORMAT["jwe"], a=BY_FORMAT["fernet"], c=["Ana"], d=BY_FORMAT["iron"])
    assert [finding.place.column for finding in found] == ["b", "a", "d"]


def test_a_nonce_somewhere_in_the_table_makes_no_ciphertext_of_digests() -> None:
    rng = random.Random(4)
    digests = [rng.randbytes(32).hex() for _ in range(40)]
    assert scan(nonce=[rng.randbytes(16).hex() for _ in range(40)], state=digests, value=digests) == ()
