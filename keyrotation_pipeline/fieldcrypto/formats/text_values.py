"""Recognises values that are texts; those that contain something come after those that begin with it.

A format whose parser is longer has a file of its own.
"""

import re

from keyrotation_pipeline.fieldcrypto.formats.recogniser import (
    Recognised,
    base64_size,
    from_base64,
    from_base64url,
    from_hex,
    in_text,
    json_object,
    key_id,
)
from keyrotation_pipeline.fieldcrypto.grammar import parsed

GCM_IV_BYTES, TAG_BYTES, BLOCK_BYTES = 12, 16, 16
SHORTEST_GCM_BYTES = GCM_IV_BYTES + TAG_BYTES

FERNET_VERSION = b"\x80"
# u64 seconds: 2001 to 2106. The first years of Fernet are later, but clocks go wrong.
_EARLIEST, _LATEST = 1_000_000_000, 1 << 32
# version, time, iv, mac
_FERNET_OVERHEAD_BYTES = 1 + 8 + BLOCK_BYTES + 32


@in_text("fernet", starts=("gAAAA",))
def fernet(text: str) -> Recognised | None:
    """Recognises Fernet tokens: base64url of ``0x80 ‖ u64 time ‖ iv16 ‖ AES-128-CBC ‖ HMAC-SHA-256``.

    Source: the Fernet specification; django-fernet-fields stores the ASCII token in bytea.
    """
    raw = from_base64url(text)
    return Recognised("fernet") if raw is not None and is_fernet(raw) else None


def is_fernet(raw: bytes) -> bool:
    """Returns whether bytes are a token that base64url was taken off."""
    blocks, rest = divmod(len(raw) - _FERNET_OVERHEAD_BYTES, BLOCK_BYTES)
    is_timed = _EARLIEST <= int.from_bytes(raw[1:9], "big") < _LATEST
    return raw.startswith(FERNET_VERSION) and blocks >= 1 and rest == 0 and is_timed


@in_text("fernet-keyed-wrapper", starts=("enc:fernet:",))
def fernet_keyed_wrapper(text: str) -> Recognised | None:
    """Recognises a Fernet token that is wrapped with its key's name: ``enc:fernet:<key id>:<base64 of the token>``.

    Source: the EncryptedField of Sentry.
    """
    _, _, named = text.partition("enc:fernet:")
    name, _, encoded = named.partition(":")
    token = from_base64(encoded)
    if token is None or fernet(token.decode("latin-1")) is None or key_id(name) is None:
        return None
    return Recognised("fernet-keyed-wrapper", name)


@in_text("native", starts=("v",))
def native(text: str) -> Recognised | None:
    """Recognises this project's own values, by the grammar itself."""
    value = parsed(text)
    return None if value is None else Recognised("native", str(value.version))


VAULT_TRANSIT = "vault-transit"
_VAULT = re.compile(r"vault:(v[1-9][0-9]{0,9}):")


@in_text(VAULT_TRANSIT, starts=("vault:v",))
def vault_transit(text: str) -> Recognised | None:
    """Recognises ciphertext of the transit engine of Vault and OpenBao: ``vault:v<N>:<base64>``.

    HMACs and signatures of the engine have the same prefix: a signature is told by its DER; an HMAC has the same length
    in every value, which only a column shows.
    """
    head = _VAULT.match(text)
    raw = from_base64(text[head.end() :]) if head else None
    if head is None or raw is None or len(raw) < SHORTEST_GCM_BYTES or _is_der_signature(raw):
        return None
    return Recognised(VAULT_TRANSIT, head[1], body=raw)


def _is_der_signature(raw: bytes) -> bool:
    return raw[0] == 0x30 and raw[1] == len(raw) - 2 and raw[2] == 0x02  # noqa: PLR2004  SEQUENCE, INTEGER


_CLOAK_47NG = re.compile(r"v1\.aesgcm256\.([0-9a-f]{8})\.[\w-]{16}\.", re.ASCII)


@in_text("cloak-47ng", starts=("v1.aesgcm256.",))
def cloak_47ng(text: str) -> Recognised | None:
    """Recognises @47ng/cloak (prisma-field-encryption): ``v1.aesgcm256.<fingerprint>.<iv>.<ciphertext ‖ tag>``."""
    head = _CLOAK_47NG.match(text)
    body = from_base64url(text[head.end() :]) if head else None
    return Recognised("cloak-47ng", head[1]) if head and body is not None and len(body) >= TAG_BYTES else None


_HEX32 = r"[0-9a-f]{64}"
_IRON = re.compile(
    rf"Fe26\.[12]\*(\w{{0,64}})\*{_HEX32}\*[\w-]{{22}}\*([\w-]++)\*\d{{0,16}}\*{_HEX32}\*[\w-]{{43}}\Z", re.ASCII
)


@in_text("iron", starts=("Fe26.",))
def iron(text: str) -> Recognised | None:
    """Recognises sealed objects of @hapi/iron: ``Fe26.2*<id>*<salt>*<iv>*<ciphertext>*<expiry>*<hmac salt>*<hmac>``.

    The id of the password may be empty.
    """
    whole = _IRON.match(text)
    body = from_base64url(whole[2]) if whole else None
    return Recognised("iron", whole[1] or None) if whole and body is not None and len(body) % BLOCK_BYTES == 0 else None


# nonce24 and tag16 · nonce24 and tag16 · HMAC-SHA-384, HKDF salt and nonce
_CIPHERSWEET_BYTES = {"brng": 24 + 16, "nacl": 24 + 16, "fips": 48 + 32 + 16}


@in_text("ciphersweet-brng", "ciphersweet-nacl", "ciphersweet-fips", starts=("brng:", "nacl:", "fips:"))
def ciphersweet(text: str) -> Recognised | None:
    """Recognises CipherSweet's three back ends: ``brng:``, ``nacl:`` and ``fips:`` before base64url."""
    back_end, _, encoded = text.partition(":")
    raw = from_base64url(encoded)
    return (
        Recognised(f"ciphersweet-{back_end}") if raw is not None and len(raw) >= _CIPHERSWEET_BYTES[back_end] else None
    )


@in_text("rails-ar-encryption", starts=("{",))
def rails_ar_encryption(text: str) -> Recognised | None:
    """Recognises Active Record Encryption: ``{"p": payload, "h": {"iv", "at"[, "i"][, "c"][, "k"]}}``, in base64.

    Source: ActiveRecord::Encryption::MessageSerializer; `store_key_references` writes ``i``, the key's id.
    """
    message = json_object(text) if '"at"' in text and '"iv"' in text else None
    if message is None or set(message) != {"p", "h"} or not isinstance(message["h"], dict):
        return None
    headers = message["h"]
    if base64_size(headers.get("iv")) != GCM_IV_BYTES or base64_size(headers.get("at")) != TAG_BYTES:
        return None
    if message["p"] != "" and base64_size(message["p"]) is None:
        return None
    return Recognised("rails-ar-encryption", _rails_reference(headers.get("i")))


def _rails_reference(encoded: object) -> str | None:
    """Decodes the header ``i``: base64 of four hex digits of the key's SHA-1."""
    raw = from_base64(encoded) if isinstance(encoded, str) else None
    return None if raw is None else key_id(raw.decode("latin-1"))


_LARAVEL_MAC_BYTES = 32


@in_text("laravel-crypt", starts=("eyJpdiI6", "eyJ2YWx1ZSI6", "eyJtYWMiOi"))
def laravel_crypt(text: str) -> Recognised | None:
    """Recognises Laravel's Crypt and its `encrypted` cast: base64 of ``{"iv", "value", "mac", "tag"}``.

    A payload is of a CBC cipher (with mac) or a GCM one (with tag).
    """
    payload = json_object(from_base64(text))
    if payload is None or not {"iv", "value", "mac"} <= set(payload) <= {"iv", "value", "mac", "tag"}:
        return None
    if base64_size(payload["value"]) is None or not isinstance(payload["mac"], str):
        return None
    iv_bytes = base64_size(payload["iv"])
    by_mac = iv_bytes == BLOCK_BYTES and len(from_hex(payload["mac"]) or b"") == _LARAVEL_MAC_BYTES
    by_tag = iv_bytes == GCM_IV_BYTES and base64_size(payload.get("tag")) == TAG_BYTES
    return Recognised("laravel-crypt") if by_mac or by_tag else None


_JWE_PARTS = 5
_LONGEST_JWE_HEADER_CHARS = 16_384
_JWE_IV_BYTES, _JWE_TAG_BYTES = (12, 16), (16, 24, 32)


@in_text("jwe", starts=("ey",))
def jwe(text: str) -> Recognised | None:
    """Recognises JWE in its compact serialization: five parts of base64url, the first a header with ``enc``.

    ``kid`` of the header names the key. Source: RFC 7516 section 3.1; RFC 7518 section 5.1 (sizes of iv and tag).
    """
    if text.count(".") != _JWE_PARTS - 1:
        return None
    encoded, wrapped_key, *rest = text.split(".")
    names_key = _jwe_key(encoded)
    iv, body, tag = (from_base64url(part) for part in rest)
    if names_key is None or iv is None or tag is None:
        return None
    if (wrapped_key and from_base64url(wrapped_key) is None) or (rest[1] and body is None):
        return None
    return Recognised("jwe", names_key or None) if len(iv) in _JWE_IV_BYTES and len(tag) in _JWE_TAG_BYTES else None


def _jwe_key(encoded: str) -> str | None:
    """Returns the header's ``kid``, empty if there is none; None if this is no header."""
    header = json_object(from_base64url(encoded)) if len(encoded) <= _LONGEST_JWE_HEADER_CHARS else None
    if header is None or not isinstance(header.get("enc"), str) or "alg" not in header:
        return None
    return key_id(header.get("kid")) or ""


_RIJNDAEL_BLOCK_BYTES = 32
_MAGENTO = re.compile(r"(0|[1-9][0-9]?):(?:(3):|2:[!-9;-~]{32}:)")


@in_text("magento", starts=tuple("0123456789"))
def magento(text: str) -> Recognised | None:
    """Recognises Magento's values: ``<key version>:3:<base64>`` (ChaCha20-Poly1305), ``<key version>:2:<iv>:<base64>``.

    The second is of Rijndael-256; the key is named by its number. Source: the Encryptor of Magento Framework.
    """
    head = _MAGENTO.match(text)
    raw = from_base64(text[head.end() :]) if head else None
    if head is None or raw is None:
        return None
    fits = len(raw) >= SHORTEST_GCM_BYTES if head[2] else len(raw) % _RIJNDAEL_BLOCK_BYTES == 0
    return Recognised("magento", head[1], weak=True, body=raw) if fits else None


HANDMADE_HEX_COLON = "handmade-hex-colon"
_HANDMADE = re.compile(r"(?:[0-9a-f]{24}|[0-9a-f]{32}):[0-9a-f]{32}:")


@in_text(HANDMADE_HEX_COLON, contains=":")
def handmade_hex_colon(text: str) -> Recognised | None:
    """Recognises the commonest hand-written form of Node: ``iv:tag:ciphertext`` in hex, for AES-GCM.

    Its iv has 12 or 16 bytes. Nothing but sizes tells it from other hex, so it takes several values whose last part
    varies in length.
    """
    head = _HANDMADE.match(text)
    if head is None or from_hex(text[head.end() :]) is None:
        return None
    return Recognised(HANDMADE_HEX_COLON, weak=True, body=bytes.fromhex(text.replace(":", "")))


_GCM_PARTS, _CBC_PARTS = 3, 2
# SHA-1, SHA-256, SHA-512
_DIGEST_BYTES = (20, 32, 64)


@in_text("rails-message-encryptor", contains="--")
def rails_message_encryptor(text: str) -> Recognised | None:
    """Recognises ActiveSupport::MessageEncryptor: ``base64--base64--base64`` (ciphertext, iv, tag), or CBC and a signature.

    The older form is ``base64(base64 ciphertext--base64 iv)--hex HMAC``. A signed message (MessageVerifier) has two
    parts, and the first is none of these.
    """  # noqa: E501  the first line stands in the reference of formats
    parts = text.split("--", _GCM_PARTS)
    if len(parts) == _GCM_PARTS:
        sizes = [_size(part) for part in parts]
        fits = sizes[0] != 0 and sizes[1:] == [GCM_IV_BYTES, TAG_BYTES]
    else:
        fits = len(parts) == _CBC_PARTS and _is_signed_cbc(*parts)
    return Recognised("rails-message-encryptor") if fits else None


def _is_signed_cbc(encoded: str, digest: str) -> bool:
    if len(from_hex(digest) or b"") not in _DIGEST_BYTES:
        return False
    inner = _decoded(encoded).decode("latin-1").split("--")
    if len(inner) != _CBC_PARTS:
        return False
    size, iv_size = map(_size, inner)
    return size > 0 and size % BLOCK_BYTES == 0 and iv_size == BLOCK_BYTES


def _size(part: str) -> int:
    return len(_decoded(part))


def _decoded(part: str) -> bytes:
    return from_base64(part) or from_base64url(part) or b""


_UUID = re.compile(r"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}):")


@in_text("n8n-keyid", contains=":")
def n8n_keyid(text: str) -> Recognised | None:
    """Recognises n8n's values with key rotation on: ``<key id, a UUID>:<base64>``.

    A user's id before a token looks the same, so it takes several values that name few keys.
    """
    head = _UUID.match(text)
    raw = from_base64(text[head.end() :]) if head else None
    if head is None or raw is None or len(raw) < SHORTEST_GCM_BYTES:
        return None
    return Recognised("n8n-keyid", head[1], weak=True, body=raw)
