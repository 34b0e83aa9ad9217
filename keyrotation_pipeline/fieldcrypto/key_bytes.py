"""Reads and writes the bytes of a key. The import contracts allow only a few modules to use it.

The rest of the code passes `KeyMaterial` on, identifies it by its fingerprint, and never sees its bytes.
"""

import base64
import binascii

from keyrotation_pipeline.errors import InvalidKeyError
from keyrotation_pipeline.fieldcrypto.material import AesKey, KeyMaterial, Passphrase, SourceKey, TransitKey

# Before the base64 of a passphrase, so that no cipher of ours takes one of 32 characters for a key; and of a key of an
# application's own library, between them its name, which may be empty; of the one key of another library, likewise; and
# of what names a key that Vault holds.
_PASSPHRASE, _AES, _TRANSIT, _SOURCE = "passphrase:", "aes:", "transit:", "source:"


def raw_of(material: KeyMaterial) -> bytes:
    """Returns the bytes, for a cipher object and nothing else: 32, unless it is of a subclass."""
    return material._raw  # noqa: SLF001  the one place


def base64_of(material: KeyMaterial) -> str:
    """Returns a key in the form that stores and backups hold."""
    text = base64.b64encode(raw_of(material)).decode()
    if isinstance(material, AesKey):
        return f"{_AES}{material.name}:{text}"
    if isinstance(material, SourceKey):
        return f"{_SOURCE}{material.name}:{text}"
    if isinstance(material, TransitKey):
        return f"{_TRANSIT}{text}"
    return f"{_PASSPHRASE}{text}" if isinstance(material, Passphrase) else text


def key_from_base64(text: str) -> KeyMaterial:
    """Parses standard base64 (ignoring white space around it: the source procedure's files may end in a newline).

    Raises:
        InvalidKeyError: not base64, or not 32 bytes.
    """
    stripped = text.strip()
    is_aes, is_passphrase = stripped.startswith(_AES), stripped.startswith(_PASSPHRASE)
    is_transit, is_source = stripped.startswith(_TRANSIT), stripped.startswith(_SOURCE)
    name, encoded = "", stripped.removeprefix(_PASSPHRASE).removeprefix(_TRANSIT)
    if is_aes or is_source:
        name, _, encoded = stripped.removeprefix(_AES).removeprefix(_SOURCE).rpartition(":")
    try:
        raw = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidKeyError("a key is not valid base64; give the base64 of 32 bytes") from None
    if is_aes:
        return AesKey(raw, name)
    if is_source:
        return SourceKey(raw, name)
    if is_transit:
        return TransitKey(raw)
    return Passphrase(raw) if is_passphrase else KeyMaterial(raw)
