"""Ed25519 by the program openssl, as a pack's `verify.py` uses it: RFC 8032's examples, and what is no signature."""

import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keyrotation_pipeline.adapters.openssl import OpenSSL
from keyrotation_pipeline.errors import BackupError

OPENSSL = OpenSSL(shutil.which("openssl") or "")
PREFIX = bytes.fromhex("302a300506032b6570032100")
ORDER = 2**252 + 27742317777372353535851937790883648493


def test_an_example_of_the_standard_is_good() -> None:
    """RFC 8032, section 7.1, test 3; `OpenSSL.found` asks test 2."""
    public = bytes.fromhex("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025")
    signature = bytes.fromhex(
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
    )
    assert OPENSSL.verifies(PREFIX + public, b"\xaf\x82", signature)


def test_only_this_signature_of_this_key_over_these_bytes_is_good() -> None:
    key, message = Ed25519PrivateKey.generate(), b'{"made_at": "2026"}'
    public, signature = der(key), key.sign(message)
    assert OPENSSL.verifies(public, message, signature)
    scalar = int.from_bytes(signature[32:], "little") + ORDER
    wrong = {
        "another message": (public, message + b" ", signature),
        "another key": (der(Ed25519PrivateKey.generate()), message, signature),
        "of another key": (public, message, Ed25519PrivateKey.generate().sign(message)),
        "nothing": (public, message, b""),
        "cut off": (public, message, signature[:-1]),
        "with more behind it": (public, message, signature + b"\0"),
        "zeroes": (public, message, bytes(64)),
        "the same modulo the order": (public, message, signature[:32] + scalar.to_bytes(32, "little")),
        "in hexadecimal": (public, message, signature.hex().encode()),
        "a key that is none": (b"key", message, signature),
        "a key with more behind it": (public + b"\0", message + b" ", signature),
    }
    assert [name for name, each in wrong.items() if OPENSSL.verifies(*each)] == []


@pytest.mark.parametrize("script", ["exit 0", "exit 1"], ids=["takes all", "takes none"])
def test_an_openssl_that_cannot_verify_is_none(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    OpenSSL.found()
    stub = tmp_path / "openssl"
    stub.write_text(f"#!/bin/sh\n{script}\n")
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackupError, match="openssl is not installed"):
        OpenSSL.found()


def der(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
