"""Markers of few bits count only where values agree; chance, repeated values and other data do not pass as formats."""

import random
import struct
import uuid
from collections.abc import Callable

import pytest

from keyrotation_pipeline.scan.classification import classify_table
from keyrotation_pipeline.scan.report import Finding, Place
from keyrotation_pipeline_tests.unit.scan.ciphertexts import b64, cbc, email, gcm, name

KEY_ID = b"\x01\x75\x48\x52\x95"
OLD_KEY_ID = b"\x01\x00\x00\x10\x01"
Row = Callable[[random.Random], str | bytes]
PLACE = Place("public.t", "data", None, elements=False, type="text")


def tink(rng: random.Random, head: bytes = KEY_ID) -> bytes:
    return head + b"".join(gcm(rng, name(rng)))


def scan(row: Row, rows: int = 60) -> tuple[Finding, ...]:
    rng = random.Random(7)
    return classify_table({PLACE: [row(rng) for _ in range(rows)]})


def formats(found: tuple[Finding, ...]) -> list[tuple[str, str]]:
    return [(finding.format, finding.tier) for finding in found]


def test_two_keys_in_one_column_are_both_named() -> None:
    (found,) = scan(lambda rng: tink(rng, OLD_KEY_ID if rng.random() < 0.3 else KEY_ID))
    assert (found.format, found.tier, found.key_ids) == ("tink", "certain", ("1967674005", "4097"))


@pytest.mark.parametrize("rows", [1, 2])
def test_one_or_two_values_are_possible_only(rows: int) -> None:
    assert formats(scan(tink, rows)) == [("tink", "possible")]


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(lambda rng: rng.randbytes(rng.randrange(30, 90)), id="random bytes"),
        pytest.param(lambda rng: b64(rng.randbytes(rng.randrange(30, 90))), id="random base64"),
        pytest.param(lambda rng: b"\x01" + rng.randbytes(rng.randrange(30, 90)), id="a constant first byte"),
        pytest.param(lambda rng: struct.pack("<BIdd", 1, 1, rng.random(), rng.random()), id="geometry"),
        pytest.param(
            lambda rng: b64(KEY_ID + struct.pack(">III", 10_000, 16, 0) + rng.randbytes(48)), id="a fixed head"
        ),
        pytest.param(lambda rng: cbc(email(rng), bytes(16)), id="values that repeat, encrypted deterministically"),
        pytest.param(lambda rng: b"\x01\x04tag." + b"text" * rng.randrange(9, 20), id="a label before text"),
    ],
)
@pytest.mark.parametrize("rows", [60, 1500])
def test_chance_is_no_marker(row: Row, rows: int) -> None:
    assert "certain" not in {finding.tier for finding in scan(row, rows)}


def acra_block(rng: random.Random) -> bytes:
    return b'""""' + struct.pack("<QB2sBH", 88, 0, b"ab", 0, 44) + rng.randbytes(74)


MADE: dict[str, tuple[str, str, Row]] = {
    "Cloak, own label": ("cloak-ecto", "certain", lambda rng: b"\x01\x07default" + b"".join(gcm(rng, name(rng)))),
    "Magento": ("magento", "certain", lambda rng: f"0:3:{b64(b''.join(gcm(rng, name(rng))))}"),
    "Grafana, bytea": ("grafana", "certain", lambda rng: b"#bXkta2V5LTE#*YWVzLWNmYg*" + rng.randbytes(40)),
    "Grafana, JSON": ("grafana", "certain", lambda rng: b64(b"#bXkta2V5LTE#*YWVzLWdjbQ*" + rng.randbytes(40))),
    "AcraBlock": ("acra", "certain", acra_block),
    "AcraBlock, in a container": (
        "acra",
        "certain",
        lambda rng: b"%%%" + struct.pack("<Q", 104) + b"\xf1" + acra_block(rng),
    ),
    "HMACs of Vault": ("vault-transit", "possible", lambda rng: f"vault:v1:{b64(rng.randbytes(32))}"),
    "three digests": (
        "handmade-hex-colon",
        "possible",
        lambda rng: ":".join(rng.randbytes(16).hex() for _ in range(3)),
    ),
}


@pytest.mark.parametrize(("form", "tier", "row"), MADE.values(), ids=MADE.keys())
def test_formats_of_which_no_frozen_value_is_at_hand(form: str, tier: str, row: Row) -> None:
    found = scan(row)
    assert (formats(found), found[0].notes) == ([(form, tier)], ())


def test_a_signature_of_vault_is_not_its_ciphertext() -> None:
    signature = bytes.fromhex("3044022079be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")
    found = scan(lambda rng: "vault:v1:" + b64(signature + b"\x02\x20" + rng.randbytes(32)))
    assert "certain" not in {finding.tier for finding in found}


@pytest.mark.parametrize("users", [1, 60])
def test_a_uuid_before_a_token_is_a_key_only_if_many_values_name_it(users: int) -> None:
    def row(rng: random.Random) -> str:
        user = uuid.UUID(bytes=random.Random(rng.randrange(users)).randbytes(16))
        return f"{user}:{b64(rng.randbytes(rng.randrange(29, 60)))}"

    assert [tier for format_name, tier in formats(scan(row)) if format_name == "n8n-keyid"] == ["certain"] * (
        users == 1
    )


def test_a_value_in_many_rows_agrees_with_itself_only() -> None:
    values = [b"\x01" + random.Random(at).randbytes(40 + at) for at in range(5)]
    assert formats(scan(lambda rng: rng.choice(values))) == [("unknown-aead", "possible")]


def test_tink_is_named_next_to_more_values_of_another_kind() -> None:
    found = scan(lambda rng: tink(rng) if rng.random() < 0.3 else b"".join(gcm(rng, email(rng))))
    assert sorted(formats(found)) == [("tink", "certain"), ("unknown-aead", "possible")]


def cloak(label: bytes) -> Row:
    return lambda rng: b"\x01" + bytes([len(label)]) + label + b"".join(gcm(rng, name(rng)))


@pytest.mark.parametrize("usual_first", [True, False])
@pytest.mark.parametrize("own", [1, 2, 60])
@pytest.mark.parametrize("usual", [1, 60])
def test_cloak_with_the_usual_label_and_an_own_one_is_one_finding(own: int, usual: int, usual_first: bool) -> None:
    rng = random.Random(7)
    kinds = [[cloak(b"AES.GCM.V1")(rng) for _ in range(usual)], [cloak(b"My.Key")(rng) for _ in range(own)]]
    values = [value for kind in (kinds if usual_first else kinds[::-1]) for value in kind]
    (found,) = (each for each in classify_table({PLACE: values}) if each.format == "cloak-ecto")
    agree = own == 60  # fewer are no evidence of their own
    assert (found.tier, found.share) == ("certain", (usual + own * agree) / len(values))


@pytest.mark.parametrize("at", [0, 25, 50])
def test_one_usual_label_makes_no_certainty_of_other_data_with_a_length_and_a_word(at: int) -> None:
    rng = random.Random(7)
    values: list[str | bytes] = [b"\x01\x04tag." + b"text" * rng.randrange(9, 20) for _ in range(50)]
    values.insert(at, cloak(b"AES.GCM.V1")(rng))
    found = classify_table({PLACE: values})
    assert [(each.format, each.share) for each in found] == [("cloak-ecto", 1 / 51)]


@pytest.mark.parametrize("seed", range(8))
def test_no_mixture_of_formats_raises_or_depends_on_its_order(seed: int) -> None:
    rng = random.Random(seed)
    rows = [row for _, _, row in MADE.values()] + [tink, cloak(b"AES.GCM.V1"), cloak(b"AES.CTR.V1"), cloak(b"My.CTR")]
    values = [rng.choice(rows)(rng) for _ in range(rng.choice((3, 5, 40)))]
    shuffled = rng.sample(values, len(values))
    assert {(each.format, each.tier, each.share) for each in classify_table({PLACE: values})} == {
        (each.format, each.tier, each.share) for each in classify_table({PLACE: shuffled})
    }
