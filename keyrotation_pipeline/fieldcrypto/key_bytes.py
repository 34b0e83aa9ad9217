"""Where the bytes of a key are read and written: whoever needs them imports this module, which few may do.

The rest of the house passes `KeyMaterial` on, knows it by its fingerprint, and never sees what is in it.
"""

import base64
import binascii

from keyrotation_pipeline.errors import InvalidKeyError
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial


def raw_of(material: KeyMaterial) -> bytes:
    """The 32 bytes, for a cipher object and nothing else."""
    return material._raw  # noqa: SLF001  the one place


def base64_of(material: KeyMaterial) -> str:
    """The form in which stores and backups hold a key."""
    return base64.b64encode(raw_of(material)).decode()


def key_from_base64(text: str) -> KeyMaterial:
    """Read standard base64 (white space around it is ignored, as the seed's files may end with a newline).

    Raises:
        InvalidKeyError: not base64, or not 32 bytes.
    """
    try:
        raw = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidKeyError("a key is not valid base64; give the base64 of 32 bytes") from None
    return KeyMaterial(raw)
