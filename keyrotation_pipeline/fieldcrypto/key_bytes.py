"""Reads and writes the bytes of a key. The import contracts allow only a few modules to use it.

The rest of the code passes `KeyMaterial` on, identifies it by its fingerprint, and never sees its bytes.
"""

import base64
import binascii

from keyrotation_pipeline.errors import InvalidKeyError
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial, Passphrase

# Before the base64 of a passphrase, so that no cipher of ours takes one of 32 characters for a key.
_MARK = "passphrase:"


def raw_of(material: KeyMaterial) -> bytes:
    """Returns the bytes, for a cipher object and nothing else: 32, unless it is a passphrase."""
    return material._raw  # noqa: SLF001  the one place


def base64_of(material: KeyMaterial) -> str:
    """Returns a key in the form that stores and backups hold."""
    text = base64.b64encode(raw_of(material)).decode()
    return f"{_MARK}{text}" if isinstance(material, Passphrase) else text


def key_from_base64(text: str) -> KeyMaterial:
    """Parses standard base64 (ignoring white space around it: the source procedure's files may end in a newline).

    Raises:
        InvalidKeyError: not base64, or not 32 bytes.
    """
    stripped = text.strip()
    encoded = stripped.removeprefix(_MARK)
    try:
        raw = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidKeyError("a key is not valid base64; give the base64 of 32 bytes") from None
    return KeyMaterial(raw) if encoded == stripped else Passphrase(raw)
