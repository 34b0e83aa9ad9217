"""Recognises values that are bytes, of formats that are not re-encrypted here, with what can be done about them."""

import re

from keyrotation_pipeline.fieldcrypto.format_advice import Advice
from keyrotation_pipeline.fieldcrypto.formats.fernet.recognise import VERSION, is_fernet
from keyrotation_pipeline.fieldcrypto.formats.recogniser import Recognised, from_base64, in_bytes, key_id
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy


@in_bytes(
    "django-cryptography",
    starts=(VERSION,),
    advice=Advice(
        identified_by=IdentifiedBy.MAC,
        one_key="django-cryptography",
        source="georgemarshall/django-cryptography django_cryptography/core/signing.py (0065adcb1755)",
    ),
)
def django_cryptography(raw: bytes) -> Recognised | None:
    """Recognises values of django-cryptography: the bytes of a Fernet token without its base64url, in bytea.

    They are ``0x80 ‖ u64 time ‖ iv16 ‖ AES-CBC(pickle) ‖ HMAC-SHA-256``.
    """
    return Recognised("django-cryptography") if is_fernet(raw) else None


_SALTED = b"Salted__"
_SALTED_HEAD_BYTES = _AES_BLOCK_BYTES = 16


@in_bytes(
    "cryptojs-openssl",
    starts=(_SALTED,),
    behind="U2FsdGVkX1",
    advice=Advice(
        identified_by=IdentifiedBy.DECRYPT,
        one_key="crypto-js",
        source="brix/crypto-js src/cipher-core.js (ac34a5a58433)",
    ),
)
def cryptojs_openssl(raw: bytes) -> Recognised | None:
    """Recognises what OpenSSL's ``enc`` and crypto-js write under a passphrase: ``Salted__ ‖ salt8 ‖ AES-CBC``."""
    blocks, rest = divmod(len(raw) - _SALTED_HEAD_BYTES, _AES_BLOCK_BYTES)
    return Recognised("cryptojs-openssl") if blocks >= 1 and rest == 0 else None


_CONTAINER, _CONTAINER_BYTES = b"%%%", 12
_STRUCT, _BLOCK = b'"' * 8, b'"' * 4
_PUBLIC_KEY = b"UEC2\x00\x00\x00\x2d"
_LENGTH_AT = 8 + 45 + 84
_KEY_AT = 18


@in_bytes(
    "acra",
    starts=(_BLOCK, _CONTAINER),
    advice=Advice(
        identified_by=IdentifiedBy.DECRYPT,
        steps="Acra keeps historical keys; `acra-rotate` moves the values",
        source="cossacklabs/acra acrastruct, acrablock, crypto/registry_handler.go (47f5b026f5e8)",
    ),
)
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


@in_bytes(
    "grafana",
    starts=(b"#", b"*YWVzL"),
    advice=Advice(
        identified_by=IdentifiedBy.MARKER,
        steps="rotate its data keys, then run `grafana cli admin secrets-migration re-encrypt`",
        source="grafana/grafana pkg/services/secrets/manager/manager.go (c17e1b26adca)",
    ),
)
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
