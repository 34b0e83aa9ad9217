"""Frozen ciphertexts: what was once stored stays readable, by us and by another implementation of AES-256-GCM."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from keyrotation_pipeline.fieldcrypto.cipher import decrypt, encrypt
from keyrotation_pipeline.fieldcrypto.grammar import Ciphertext, KeyVersion, parse
from keyrotation_pipeline.fieldcrypto.key_bytes import key_from_base64
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing

HERE = Path(__file__).parent
VECTORS: dict[str, Any] = json.loads((HERE / "vectors.json").read_text())
KEYS = {KeyVersion.parse(name): key_from_base64(key) for name, key in VECTORS["keys"].items()}
RING = KeyRing(KEYS, KeyVersion(10))
CASES = [pytest.param(case["plaintext"], case["stored"], id=case["name"]) for case in VECTORS["values"]]

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="needs node")


def node(vectors: Path) -> list[dict[str, str]]:
    done = subprocess.run([str(NODE), HERE / "crosscheck.mjs", vectors], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    sealed: list[dict[str, str]] = json.loads(done.stdout)
    return sealed


@pytest.mark.parametrize(("plaintext", "stored"), CASES)
def test_a_frozen_value_is_read(plaintext: str, stored: str) -> None:
    assert decrypt(RING, stored) == plaintext


@pytest.mark.parametrize(("plaintext", "stored"), CASES)
def test_the_same_nonce_gives_the_same_value(plaintext: str, stored: str) -> None:
    frozen = parse(stored)
    body = RING.cipher(frozen.version).encrypt(frozen.nonce, plaintext.encode(), None)
    assert str(Ciphertext(frozen.version, frozen.nonce, body)) == stored


def test_the_frozen_megabyte_is_reproduced_and_read() -> None:
    (large,) = VECTORS["large"]
    version, text = KeyVersion.parse(large["version"]), large["unit"] * large["count"]
    nonce = parse(f"v1:{large['nonce']}:{'A' * 24}").nonce
    stored = str(Ciphertext(version, nonce, RING.cipher(version).encrypt(nonce, text.encode(), None)))
    assert len(text.encode()) > 1_000_000
    assert hashlib.sha256(stored.encode()).hexdigest() == large["stored_sha256"]
    assert decrypt(RING, stored) == text


@needs_node
def test_openssl_reads_the_frozen_values_and_we_read_what_it_writes() -> None:
    sealed = {case["name"]: case["stored"] for case in node(HERE / "vectors.json")}
    assert {name: decrypt(RING, stored) for name, stored in sealed.items()} == {
        case["name"]: case["plaintext"] for case in VECTORS["values"]
    }


@needs_node
def test_openssl_reads_what_we_write_today(tmp_path: Path) -> None:
    fresh = [case | {"stored": encrypt(RING, case["plaintext"])} for case in VECTORS["values"]]
    vectors = tmp_path / "vectors.json"
    vectors.write_text(json.dumps(VECTORS | {"values": fresh}))
    assert {case["stored"].partition(":")[0] for case in node(vectors)} == {"v10"}


@needs_node
def test_the_crosscheck_notices_a_wrong_text(tmp_path: Path) -> None:
    wrong = [case | {"plaintext": case["plaintext"] + "!"} for case in VECTORS["values"]]
    vectors = tmp_path / "vectors.json"
    vectors.write_text(json.dumps(VECTORS | {"values": wrong}))
    with pytest.raises(AssertionError, match="ERR_ASSERTION"):
        node(vectors)
