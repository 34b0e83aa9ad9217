"""The derivations of keys that several formats know, and what NIST has against some. Standard library only."""

import hashlib

from keyrotation_pipeline.fieldcrypto.format_spec import Derivation


def sha256(text: bytes) -> bytes:
    """As FernetEngine and AesGcmEngine of sqlalchemy-utils 0.43 derive a key from a passphrase."""
    return hashlib.sha256(text).digest()


ONE_HASH = "keys are the SHA-256 of a secret, no derivation of SP 800-132: it must be random, and no password"
LONG_NONCES = (
    "nonces have 16 bytes, which AES-GCM hashes first; SP 800-38D recommends that implementations restrict themselves "
    "to 12"
)
SHA256 = Derivation("sha256", f"{__name__}:{sha256.__name__}", against=ONE_HASH)
