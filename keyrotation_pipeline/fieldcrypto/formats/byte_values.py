"""Recognises values that are bytes, as bytea holds them or base64 and hex decode to them."""

import re

from keyrotation_pipeline.fieldcrypto.formats.recogniser import Recognised, from_base64, in_bytes, key_id
from keyrotation_pipeline.fieldcrypto.formats.text_values import FERNET_VERSION, is_fernet

_LABEL = re.compile(rb"[A-Za-z0-9][\w.:-]{1,63}\Z", re.ASCII)
# The labels of Cloak's documentation, which nearly everybody keeps, are evidence in themselves.
_USUAL_LABEL = re.compile(rb"AES\.(?:GCM|CTR)\.V\d{1,4}\Z")
# iv12 and tag16 · iv16 and one byte
_SHORTEST_GCM_BYTES, _SHORTEST_CTR_BYTES = 28, 17


@in_bytes("cloak-ecto", "cloak-ecto-ctr", starts=(b"\x01",))
def cloak_ecto(raw: bytes) -> Recognised | None:
    """Recognises Cloak (Elixir): ``0x01 ‖ length ‖ label ‖ iv ‖ [tag16 ‖] ciphertext``; the label names the key.

    CTR is told by the label, or by a payload too short for GCM.
    """
    if len(raw) < 2 + _SHORTEST_CTR_BYTES or raw[0] != 1:
        return None
    label, payload_bytes = raw[2 : 2 + raw[1]], len(raw) - 2 - raw[1]
    if payload_bytes < _SHORTEST_CTR_BYTES or not _LABEL.match(label):
        return None
    ctr = b"CTR" in label or payload_bytes < _SHORTEST_GCM_BYTES
    name, usual = "cloak-ecto-ctr" if ctr else "cloak-ecto", _USUAL_LABEL.match(label) is not None
    return Recognised(name, label.decode("ascii"), weak=not usual, body=b"" if usual else raw[2 + len(label) :])


@in_bytes("django-cryptography", starts=(FERNET_VERSION,))
def django_cryptography(raw: bytes) -> Recognised | None:
    """Recognises values of django-cryptography: the bytes of a Fernet token without its base64url, in bytea.

    They are ``0x80 ‖ u64 time ‖ iv16 ‖ AES-CBC(pickle) ‖ HMAC-SHA-256``.
    """
    return Recognised("django-cryptography") if is_fernet(raw) else None


_SALTED = b"Salted__"
_SALTED_HEAD_BYTES = _AES_BLOCK_BYTES = 16


@in_bytes("cryptojs-openssl", starts=(_SALTED,))
def cryptojs_openssl(raw: bytes) -> Recognised | None:
    """Recognises what OpenSSL's ``enc`` and crypto-js write under a passphrase: ``Salted__ ‖ salt8 ‖ AES-CBC``."""
    blocks, rest = divmod(len(raw) - _SALTED_HEAD_BYTES, _AES_BLOCK_BYTES)
    return Recognised("cryptojs-openssl") if blocks >= 1 and rest == 0 else None


_CONTAINER, _CONTAINER_BYTES = b"%%%", 12
_STRUCT, _BLOCK = b'"' * 8, b'"' * 4
_PUBLIC_KEY = b"UEC2\x00\x00\x00\x2d"
_LENGTH_AT = 8 + 45 + 84
_KEY_AT = 18


@in_bytes("acra", starts=(_BLOCK, _CONTAINER))
def acra(raw: bytes) -> Recognised | None:
    """Recognises Acra: AcraStruct (public key) and AcraBlock (symmetric).

    AcraStruct: eight ``"``, an EC public key of 45 bytes, the wrapped key of 84, u64 length, data. AcraBlock: four
    ``"``, u64 length of all that follows them, key type 0, two bytes of the key's id, data type 0, u16 length of the
    wrapped key. Since 0.92 either is inside ``%%%``, u64 length of everything, a byte that says which.
    Source: acrastruct, acrablock and crypto/registry_handler of Acra.
    """
    if raw.startswith(_CONTAINER) and int.from_bytes(raw[3:11], "little") == len(raw):
        raw = raw[_CONTAINER_BYTES:]
    if raw.startswith(_STRUCT + _PUBLIC_KEY):
        fits = int.from_bytes(raw[_LENGTH_AT : _LENGTH_AT + 8], "little") == len(raw) - _LENGTH_AT - 8
        return Recognised("acra") if fits else None
    if not raw.startswith(_BLOCK) or len(raw) < _KEY_AT or raw[12] != 0 or raw[15] != 0:
        return None
    key_bytes = int.from_bytes(raw[16:18], "little")
    fits = int.from_bytes(raw[4:12], "little") == len(raw) - len(_BLOCK) and _KEY_AT + key_bytes < len(raw)
    return Recognised("acra", raw[13:15].hex()) if fits else None


# salt8 and the iv16 of AES-CFB, or the nonce12 of AES-GCM
_SHORTEST_GRAFANA_BYTES = 8 + 12
_GRAFANA = re.compile(rb"(?:#([A-Za-z0-9+/]{4,180})#)?\*YWVzL(?:WNmYg|Wdjb[Q])\*")


@in_bytes("grafana", starts=(b"#", b"*YWVzL"))
def grafana(raw: bytes) -> Recognised | None:
    """Recognises Grafana's secrets: ``#<base64 of the data key's id>#*<base64 of the cipher>*`` before the payload.

    Source: pkg/services/secrets/manager, pkg/services/encryption. Values from before 9.0 have no marker.
    """
    head = _GRAFANA.match(raw)
    if head is None or len(raw) - head.end() < _SHORTEST_GRAFANA_BYTES:
        return None
    encoded = (head[1] or b"").decode("ascii")
    name = from_base64(encoded + "=" * (-len(encoded) % 4)) or b""
    return Recognised("grafana", key_id(name.decode("latin-1")))


_TINK_PREFIX_BYTES = 5
# AES-SIV: 16 bytes of synthetic iv, no tag; AES-GCM: iv12 and tag16
_SHORTEST_TINK_BYTES = 17


@in_bytes("tink", starts=(b"\x01",))
def tink(raw: bytes) -> Recognised | None:
    """Recognises Google Tink with the TINK prefix: ``0x01 ‖ u32 key id ‖ iv12 ‖ ciphertext ‖ tag16``.

    Five bytes are little: one key id in nearly all values, and no order in the bytes after it, make them evidence. Key
    ids are decimal, as keysets write them.
    """
    if len(raw) < _TINK_PREFIX_BYTES + _SHORTEST_TINK_BYTES:
        return None
    key, body = int.from_bytes(raw[1:_TINK_PREFIX_BYTES], "big"), raw[_TINK_PREFIX_BYTES:]
    return Recognised("tink", str(key), weak=True, body=body)
