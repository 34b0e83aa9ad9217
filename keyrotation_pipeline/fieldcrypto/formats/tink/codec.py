"""Google Tink's AES-GCM with the TINK prefix: ``0x01 ‖ key id (4 B, big-endian) ‖ nonce12 ‖ ciphertext ‖ tag16``.

Keys come as a keyset in JSON, of which the primary encrypts, and whose other keys are tried by their id.

Source: Tink 1.16 (AesGcmKey, `json_proto_keyset_format`, output prefix type TINK).
"""

import json
import secrets
from base64 import b64decode, b64encode
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from keyrotation_pipeline.errors import InvalidKeyError
from keyrotation_pipeline.fieldcrypto.codecs.format import Codec, layout_of
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import KeyEncoding, KeyNotation
from keyrotation_pipeline.fieldcrypto.codecs.layout import Layout
from keyrotation_pipeline.fieldcrypto.codecs.marked import Envelope, MarkedFormat, MarkedValue, PrefixedKey, split
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.material import KEY_BYTES, AesKey, KeyMaterial

BEGINS = b"\x01"
PREFIX_BYTES = 5
_LARGEST_ID = 2**32 - 1
_TYPE = "type.googleapis.com/google.crypto.tink.AesGcmKey"
_FIXED = {"status": "ENABLED", "outputPrefixType": "TINK"}
# Of the message AesGcmKey, whose version is 0 and left out: field 3, bytes, of 16 or 32.
_KEY_VALUES = {bytes([0x1A, size]): size for size in (16, 32)}


class TinkEnvelope(Envelope):
    """`Envelope` for Tink.

    Args:
        layout: what follows the key id.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def parsed(self, value: bytes) -> MarkedValue | None:
        """See `Envelope.parsed`."""
        return split(value, PREFIX_BYTES, self._layout) if value.startswith(BEGINS) else None

    def holds_a_value(self, text: bytes, old: MarkedValue, markers: Collection[bytes]) -> bool:  # noqa: ARG002
        """See `Envelope.holds_a_value`: bytes may begin with 0x01, so only one under a known key is taken for one."""
        inner = self.parsed(text)
        return inner is not None and inner.marker in markers

    def key(self, material: KeyMaterial) -> PrefixedKey:
        """See `Envelope.key`."""
        number = int(material.name) if material.name.isdecimal() else 0
        return PrefixedKey(BEGINS + number.to_bytes(PREFIX_BYTES - len(BEGINS), "big"), material, self._layout)

    def generate(self, taken: Collection[str] = ()) -> KeyMaterial:  # noqa: ARG002
        """See `Envelope.generate`."""
        return AesKey(secrets.token_bytes(KEY_BYTES), str(1 + secrets.randbelow(_LARGEST_ID)))


def entries(text: str) -> Sequence[str]:
    """Returns each key of a keyset as JSON, the primary first.

    Raises:
        InvalidKeyError: it is no keyset.
    """
    try:
        keyset: Any = json.loads(text)
        primary, keys = keyset["primaryKeyId"], keyset["key"]
        first = [key for key in keys if key["keyId"] == primary]
        others = [key for key in keys if key["keyId"] != primary]
    except (ValueError, KeyError, TypeError):
        first, others = [], []
    if len(first) != 1:  # raised here, so that its context holds nothing of the text
        raise InvalidKeyError(
            'a keyset of Tink is JSON such as {"primaryKeyId":1,"key":[…]}, with a key of the primary\'s id; '
            "give it as `json_proto_keyset_format` or `tinkey` writes it, not encrypted"
        )
    return [json.dumps(each) for each in (*first, *others)]


def key_of(text: str, place: str) -> KeyMaterial:
    """Parses one key of a keyset.

    Raises:
        InvalidKeyError: it is not one that is rotated here.
    """
    entry = json.loads(text)
    key = _parsed(entry)
    if key is None:
        number, (_, _, keyset) = entry["keyId"], place.partition(" of ")  # the primary was put before the others
        named = number if isinstance(number, int) else "?"
        raise InvalidKeyError(
            f"key {named} of {keyset} is no enabled AesGcmKey with the prefix TINK; this version rotates no others: "
            "remove a disabled one from the keyset"
        )
    return key


def _parsed(key: Mapping[str, Any]) -> AesKey | None:
    try:
        data, number = key["keyData"], key["keyId"]
        value = b64decode(data["value"], validate=True)
        known = {name: key[name] for name in _FIXED} == _FIXED and data["typeUrl"] == _TYPE
    except (ValueError, KeyError, TypeError):
        return None
    is_id = isinstance(number, int) and not isinstance(number, bool) and 0 < number <= _LARGEST_ID
    if not known or not is_id or _KEY_VALUES.get(value[:2]) != len(value) - 2:
        return None
    return AesKey(value[2:], str(number))


def as_keyset(keys: Sequence[KeyMaterial]) -> str:
    """Formats keys as a keyset in one line of JSON, of which the first is the primary."""
    return json.dumps({"primaryKeyId": int(keys[0].name), "key": list(map(_written, keys))}, separators=(",", ":"))


def _written(key: KeyMaterial) -> Mapping[str, Any]:
    raw = raw_of(key)
    value = b64encode(bytes([0x1A, len(raw)]) + raw).decode()
    data = {"typeUrl": _TYPE, "value": value, "keyMaterialType": "SYMMETRIC"}
    return {"keyData": data, "status": _FIXED["status"], "keyId": int(key.name), **_FIXED}


class _Codec(Codec):
    def format(self, declared: ValueFormat) -> MarkedFormat:
        return MarkedFormat(TinkEnvelope(layout_of(declared)), bound=bool(declared.aad))

    def notation(self, declared: ValueFormat, encoding: KeyEncoding) -> KeyNotation:  # noqa: ARG002
        return KeyNotation(entries, key_of, as_keyset)


CODEC = _Codec()
