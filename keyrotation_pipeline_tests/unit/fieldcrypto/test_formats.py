"""Recognisers decode the structure of a value: what only begins like one is none."""

import pytest

from keyrotation_pipeline.fieldcrypto.formats.recogniser import Recognised, from_base64, from_base64url
from keyrotation_pipeline.fieldcrypto.formats.recognition import recognise_bytes, recognise_text
from keyrotation_pipeline_tests.vectors.foreign_values import MARKED, ForeignValues

# In these, ciphertext of any length is the end, and half of a value can be one.
OPEN_ENDED = frozenset(
    ("cloak-ecto", "cloak-ecto-ctr", "ciphersweet-brng", "ciphersweet-fips", "vault-transit", "native")
)


def recognise(value: str | bytes) -> Recognised | None:
    return recognise_bytes(value) if isinstance(value, bytes) else recognise_text(value.strip())


def ids(entry: ForeignValues) -> str:
    return f"{entry.format}: {entry.made_by}"


@pytest.mark.parametrize("entry", [entry for entry in MARKED if entry.format not in OPEN_ENDED], ids=ids)
def test_a_beginning_alone_is_not_recognised(entry: ForeignValues) -> None:
    for value in entry.values:
        found = [recognise(value[:size]) for size in (len(value) // 2, 20, 12, 6, 1, 0)]
        assert [one for one in found if one is not None and not one.weak] == []


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("gAAAAABrCbGW" + "A" * 88, id="fernet of a length without blocks"),
        pytest.param("v01:7YAY2Bx7Khjj/+nA:gT6pYn+JlvrdW2fECfnTUrg=", id="native, a leading zero"),
        pytest.param("v1:7YAY2Bx7Khjj/+nA:gT6pYn+J", id="native, too short for a tag"),
        pytest.param("vault:v0:Tz/EJqy0IF8b/YYLWGqNVeD7Sx16dE9UaQJo/lg=", id="vault, version 0"),
        pytest.param("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", id="a JWT"),
        pytest.param("eyJhbGciOiJIUzI1NiJ9..AAAAAAAAAAAAAAAA.AAAA.AAAAAAAAAAAAAAAAAAAAAA", id="five parts, no enc"),
        pytest.param("eyJpdiI6IngiLCJ2YWx1ZSI6IngiLCJtYWMiOiJ4In0=", id="laravel's keys, other values"),
        pytest.param('{"p":"QQ==","h":{"iv":"QQ==","at":"QQ=="}}', id="rails' keys, other sizes"),
        pytest.param("BAhJIgZhBjoGRVQ=--" + "0" * 40, id="a signed message of Rails"),
        pytest.param("v1.public.aGVsbG8", id="a PASETO"),
        pytest.param("nacl:aGVsbG8=", id="ciphersweet, too short"),
        pytest.param("enc:fernet:k1:aGVsbG8=", id="a wrapper around no token"),
        pytest.param("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nxsBNBF\n-----END PGP PUBLIC KEY BLOCK-----", id="a key"),
    ],
)
def test_a_text_that_only_looks_like_it_is_not_recognised(text: str) -> None:
    assert recognise(text) is None


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\x80\0\0\0\0\0\0\0\1" + b"x" * 64, id="a token of 1970"),
        pytest.param(b"\x80\x04\x95" + b"x" * 70, id="a pickle"),
        pytest.param(b"Salted__" + b"x" * 17, id="salted, no blocks"),
        pytest.param(b"\xc3\x0d\x04\x09\x03\x02" + b"x" * 60, id="a session packet, then no packet"),
        pytest.param(b"\x02\x05\x78" + bytes(200), id="an SDK message without keys"),
        pytest.param(b'"' * 200, id="quotes"),
        pytest.param(b"\x01\x0aAES.GCM.V1" + b"x" * 5, id="Cloak, too short for iv and text"),
        pytest.param(b"#a2V5#text about something else entirely", id="a key's id before no cipher"),
    ],
)
def test_bytes_that_only_look_like_it_are_not_recognised(raw: bytes) -> None:
    assert recognise(raw) is None


def test_the_key_of_a_public_key_message_is_named() -> None:
    session = b"\xc1\x0e\x03" + bytes.fromhex("0123456789abcdef") + b"\x01" + b"key."
    assert recognise(session + b"\xd2\x05\x01data") == Recognised("pgcrypto-pgp", "0123456789abcdef")
    assert recognise(session + b"\xd2\x05\x01data" + b"more") is None


def test_base64_with_stray_bits_is_none() -> None:
    assert (from_base64("QQ=="), from_base64("QR=="), from_base64url("QQ"), from_base64url("QR")) == (
        b"A",
        None,
        b"A",
        None,
    )
