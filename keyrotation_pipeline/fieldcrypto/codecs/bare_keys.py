"""Keys as an application writes them without anything around: for Fernet, and for AES-GCM in one of three encodings.

``FERNET_KEYS=new,old`` is what `cryptography.fernet.MultiFernet`, Airflow and the Django packages read: a list of which
the first encrypts. `key_lists` has the notations of other libraries.
"""

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType

from keyrotation_pipeline.errors import InvalidKeyError
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.material import AES_KEY_BYTES, KEY_BYTES, AesKey, KeyMaterial


class KeyEncoding(StrEnum):
    """How an application writes the bytes of a key."""

    B64URL = "b64url"
    B64 = "b64"
    HEX = "hex"


_WRITE: Mapping[KeyEncoding, Callable[[bytes], str]] = MappingProxyType(
    {
        KeyEncoding.B64URL: lambda raw: base64.urlsafe_b64encode(raw).decode(),
        KeyEncoding.B64: lambda raw: base64.b64encode(raw).decode(),
        KeyEncoding.HEX: bytes.hex,
    }
)
_IN_WORDS: Mapping[KeyEncoding, str] = MappingProxyType(
    {
        KeyEncoding.B64URL: "the URL-safe base64 of",
        KeyEncoding.B64: "the base64 of",
        KeyEncoding.HEX: "the hexadecimal digits of",
    }
)


def as_list(keys: Sequence[KeyMaterial], encoding: KeyEncoding = KeyEncoding.B64URL) -> str:
    """Formats keys as the application's list, the one that encrypts first."""
    return ",".join(_WRITE[encoding](raw_of(key)) for key in keys)


def key_in(text: str, place: str, encoding: KeyEncoding = KeyEncoding.B64URL, *, of_aes: bool = False) -> KeyMaterial:
    """Parses one key.

    Args:
        place: where it is, for messages.
        of_aes: whether it may have any length of a key of AES.

    Raises:
        InvalidKeyError: it is not one.
    """
    try:
        if encoding is KeyEncoding.HEX:
            raw = binascii.unhexlify(text)
        else:
            raw = base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
        return AesKey(raw) if of_aes and len(raw) != KEY_BYTES else KeyMaterial(raw)
    except (binascii.Error, ValueError, InvalidKeyError):
        pass
    # Raised here, so that its context holds nothing of the text.
    what = "a key" if of_aes else "a Fernet key"
    lengths = " or ".join(map(str, AES_KEY_BYTES)) if of_aes else KEY_BYTES
    derived = "" if of_aes else ", or say with [format] derivation how the application derives its keys from that"
    raise InvalidKeyError(f"{place} is not {what}; give {_IN_WORDS[encoding]} {lengths} bytes{derived}")
