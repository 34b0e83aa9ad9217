"""The derivations of keys that several formats know. Standard library only."""

import hashlib

from keyrotation_pipeline.fieldcrypto.format_spec import Derivation


def sha256(text: bytes) -> bytes:
    """As FernetEngine and AesGcmEngine of sqlalchemy-utils 0.43 derive a key from a passphrase."""
    return hashlib.sha256(text).digest()


SHA256 = Derivation("sha256", f"{__name__}:{sha256.__name__}")
