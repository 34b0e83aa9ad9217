"""What guides/n8n.md puts into n8n's table of keys is what n8n decrypts there."""

import base64
import hashlib
import subprocess

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC

from keyrotation_pipeline_tests.marked_libraries import N8N
from keyrotation_pipeline_tests.pages import block


def test_a_key_is_encrypted_as_n8n_encrypts_with_its_instance_key() -> None:
    entry, instance = N8N.generate(), "an instance key"
    environment = {"PATH": "/usr/bin:/bin", "ENTRY": entry, "N8N_ENCRYPTION_KEY": instance}
    made = subprocess.run(["sh", "-euc", block("n8n-key")], env=environment, capture_output=True, check=True).stdout
    raw = base64.b64decode(made, validate=True)
    assert raw[:8] == b"Salted__"
    derived, last = b"", b""
    while len(derived) < 48:
        last = hashlib.md5(last + instance.encode() + raw[8:16], usedforsecurity=False).digest()
        derived += last
    decryptor = Cipher(AES256(derived[:32]), CBC(derived[32:48])).decryptor()
    padded = decryptor.update(raw[16:]) + decryptor.finalize()
    assert padded[: -padded[-1]].decode() == entry.partition(":")[2]
