"""Derives the key of each column from a master key, and the notation of these.

Source: Lockbox 1.3 (`KeyGenerator#attribute_key`).
"""

from functools import partial

from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keyrotation_pipeline.fieldcrypto.codecs.key_lists import (
    KeyEncoding,
    KeyNotation,
    as_list,
    entries_by_commas,
    key_in,
    parsed_or_refused,
)
from keyrotation_pipeline.fieldcrypto.material import KEY_BYTES, KeyMaterial

_INFO = b"\xb4" * 32


def of_column(master: bytes, table: str, attribute: str) -> bytes:
    """HKDF-SHA384 of a master key, by the names of the table and the column."""
    return HKDF(SHA384(), KEY_BYTES, salt=table.encode(), info=_INFO + attribute.encode()).derive(master)


def _master_key(text: str, place: str) -> KeyMaterial:
    return parsed_or_refused(
        lambda: key_in(text, place, KeyEncoding.HEX),
        f"{place} is not a master key of Lockbox; give its {2 * KEY_BYTES} hexadecimal digits, as Lockbox.generate_key "
        "makes them",
    )


NOTATION = KeyNotation(entries_by_commas, _master_key, partial(as_list, encoding=KeyEncoding.HEX))
