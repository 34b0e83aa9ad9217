"""Recognises Acra: AcraStruct (public key) and AcraBlock (symmetric).

AcraStruct: eight ``"``, an EC public key of 45 bytes, the wrapped key of 84, u64 length, data. AcraBlock: four ``"``,
u64 length of all that follows them, key type 0, two bytes of the key's id, data type 0, u16 length of the wrapped key.
Since 0.92 either is inside ``%%%``, u64 length of everything, a byte that says which.
Source: acrastruct, acrablock and crypto/registry_handler of Acra.
"""

from keyrotation_pipeline.fieldcrypto.formats.recogniser import Recognised

NAME = "acra"
STARTS = (b'""""', b"%%%")
_CONTAINER, _CONTAINER_BYTES = b"%%%", 12
_STRUCT, _BLOCK = b'"' * 8, b'"' * 4
_PUBLIC_KEY = b"UEC2\x00\x00\x00\x2d"
_LENGTH_AT = 8 + 45 + 84
_KEY_AT = 18


def recognise(raw: bytes) -> Recognised | None:
    """Recognises either, if its lengths are right."""
    if raw.startswith(_CONTAINER) and int.from_bytes(raw[3:11], "little") == len(raw):
        raw = raw[_CONTAINER_BYTES:]
    if raw.startswith(_STRUCT + _PUBLIC_KEY):
        fits = int.from_bytes(raw[_LENGTH_AT : _LENGTH_AT + 8], "little") == len(raw) - _LENGTH_AT - 8
        return Recognised(NAME) if fits else None
    if not raw.startswith(_BLOCK) or len(raw) < _KEY_AT or raw[12] != 0 or raw[15] != 0:
        return None
    key_bytes = int.from_bytes(raw[16:18], "little")
    fits = int.from_bytes(raw[4:12], "little") == len(raw) - len(_BLOCK) and _KEY_AT + key_bytes < len(raw)
    return Recognised(NAME, raw[13:15].hex()) if fits else None
