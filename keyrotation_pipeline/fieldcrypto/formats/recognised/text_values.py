"""Recognises values that are texts, of formats that are not re-encrypted here, with what can be done about them."""

import re

from keyrotation_pipeline.fieldcrypto.format_advice import Advice
from keyrotation_pipeline.fieldcrypto.formats.recogniser import (
    ADVICE,
    BLOCK_BYTES,
    GCM_IV_BYTES,
    SHORTEST_GCM_BYTES,
    TAG_BYTES,
    Recognised,
    from_base64,
    from_base64url,
    from_hex,
    in_text,
    json_object,
    key_id,
)
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy

_DECRYPT, _MARKER = IdentifiedBy.DECRYPT, IdentifiedBy.MARKER

_HEX32 = r"[0-9a-f]{64}"
_IRON = re.compile(
    rf"Fe26\.[12]\*(\w{{0,64}})\*{_HEX32}\*[\w-]{{22}}\*([\w-]++)\*\d{{0,16}}\*{_HEX32}\*[\w-]{{43}}\Z", re.ASCII
)


@in_text(
    "iron",
    starts=("Fe26.",),
    behind=r"Fe26\.",
    advice=Advice(
        identified_by=_DECRYPT,
        steps="give `unseal` both passwords by id, then seal every value again",
        source="hapijs/iron lib/index.js (02d7b780fae6)",
    ),
)
def iron(text: str) -> Recognised | None:
    """Recognises sealed objects of @hapi/iron: ``Fe26.2*<id>*<salt>*<iv>*<ciphertext>*<expiry>*<hmac salt>*<hmac>``.

    The id of the password may be empty.
    """
    whole = _IRON.match(text)
    body = from_base64url(whole[2]) if whole else None
    return Recognised("iron", whole[1] or None) if whole and body is not None and len(body) % BLOCK_BYTES == 0 else None


# nonce24 and a MAC of BLAKE2b · nonce24 and tag16 · HMAC-SHA-384, HKDF salt and nonce
_CIPHERSWEET_BYTES = {"brng": 24 + 32, "nacl": 24 + 16, "fips": 48 + 32 + 16}


@in_text(
    "ciphersweet-brng",
    "ciphersweet-nacl",
    "ciphersweet-fips",
    starts=("brng:", "nacl:", "fips:"),
    behind="(?:brng|nacl|fips):",
    advice=Advice(
        identified_by=_DECRYPT,
        one_key="CipherSweet",
        source="paragonie/ciphersweet src/Backend (06cbd57f5d0a)",
    ),
)
def ciphersweet(text: str) -> Recognised | None:
    """Recognises CipherSweet's three back ends: ``brng:``, ``nacl:`` and ``fips:`` before base64url."""
    back_end, _, encoded = text.partition(":")
    raw = from_base64url(encoded)
    return (
        Recognised(f"ciphersweet-{back_end}") if raw is not None and len(raw) >= _CIPHERSWEET_BYTES[back_end] else None
    )


_JWE_PARTS = 5
_LONGEST_JWE_HEADER_CHARS = 16_384
_JWE_IV_BYTES, _JWE_TAG_BYTES = (12, 16), (16, 24, 32)


@in_text(
    "jwe",
    starts=("ey",),
    behind="eyJ",
    advice=Advice(
        identified_by=_DECRYPT,
        steps="keep both keys in the key set by `kid`, then encrypt every value again",
        source="RFC 7516",
    ),
)
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


@in_text(
    "magento",
    starts=tuple("0123456789"),
    advice=Advice(
        identified_by=_MARKER,
        steps="Magento reads older keys by their number, so save every value again under the new one",
        source="magento/magento2 lib/internal/Magento/Framework/Encryption/Encryptor.php (4dbca70e7295)",
    ),
)
def magento(text: str) -> Recognised | None:
    """Recognises Magento's values: ``<key version>:3:<base64>`` (ChaCha20-Poly1305), ``<key version>:2:<iv>:<base64>``.

    The second is of Rijndael-256; the key is named by its number. Source: the Encryptor of Magento Framework.
    """
    head = _MAGENTO.match(text)
    raw = from_base64(text[head.end() :]) if head else None
    if head is None or raw is None:
        return None
    fits = len(raw) >= SHORTEST_GCM_BYTES if head[2] else len(raw) % _RIJNDAEL_BLOCK_BYTES == 0
    return Recognised("magento", head[1], weak=True, in_base64=True, body=raw) if fits else None


HANDMADE_HEX_COLON = "handmade-hex-colon"
_HANDMADE = re.compile(r"([0-9a-f]{24}|[0-9a-f]{32}):(?:([0-9a-f]{32}):([0-9a-f]++)|([0-9a-f]++):([0-9a-f]{32}))\Z")


@in_text(
    HANDMADE_HEX_COLON,
    contains=":",
    least=2 * GCM_IV_BYTES + 1 + 2 * TAG_BYTES + 1 + 2,
    advice=Advice(
        identified_by=_DECRYPT,
        one_key="hand-written code as a rule",
        source="written by hand; no library",
    ),
)
def handmade_hex_colon(text: str) -> Recognised | None:
    """Recognises the commonest hand-written form of Node: ``iv:tag:ciphertext`` in hex, or with the tag at the end.

    It is of AES-GCM; the iv has 12 or 16 bytes. Nothing but sizes tells it from other hex, so it takes several values
    whose ciphertexts vary in length.
    """
    if _HANDMADE.match(text) is None or (raw := from_hex(text.replace(":", ""))) is None:
        return None
    return Recognised(HANDMADE_HEX_COLON, weak=True, by_size=True, body=raw)


_GCM_PARTS, _CBC_PARTS = 3, 2
# SHA-1, SHA-256, SHA-512
_DIGEST_BYTES = (20, 32, 64)


@in_text(
    "rails-message-encryptor",
    contains="--",
    least=2 + 2 + 16 + 2 + 22,
    advice=Advice(
        identified_by=_DECRYPT,
        steps="`rotate` the old key in the encryptor, then save every value again",
        source="rails/rails activesupport/lib/active_support/message_encryptor.rb (2a2db1e8d6d1)",
    ),
)
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
    body = b"".join(map(_decoded, parts)) if len(parts) == _GCM_PARTS else b""
    return Recognised("rails-message-encryptor", in_base64=body != b"", body=body) if fits else None


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


_LAMINAS_HEX_CHARS = 64
# The MAC, an iv and a block.
_SHORTEST_LAMINAS_CHARS = _LAMINAS_HEX_CHARS + 44


@in_text(
    "laminas-block-cipher",
    starts=tuple("0123456789abcdef"),
    least=_SHORTEST_LAMINAS_CHARS,
    advice=Advice(
        identified_by=_DECRYPT,
        one_key="Laminas' BlockCipher",
        source="laminas/laminas-crypt src/BlockCipher.php (6f291fe90c84)",
    ),
)
def laminas_block_cipher(text: str) -> Recognised | None:
    """Recognises Laminas' BlockCipher: ``<HMAC-SHA-256 in hex><base64 of iv16 ‖ AES-CBC>``.

    Nothing else marks it, so it takes several values whose ciphertexts vary in length.
    """
    if text.islower() or text.isupper() or len(text) % 4:  # all of it may be hex
        return None
    mac, body = from_hex(text[:_LAMINAS_HEX_CHARS]), from_base64(text[_LAMINAS_HEX_CHARS:])
    if mac is None or body is None or len(body) % BLOCK_BYTES:
        return None
    return Recognised("laminas-block-cipher", weak=True, by_size=True, body=mac + body)


# Of what nothing marks but the names of its columns.
ADVICE["attr_encrypted"] = Advice(
    identified_by=_DECRYPT,
    one_key="attr_encrypted",
    source="attr-encrypted/attr_encrypted lib/attr_encrypted.rb (6d8928b68453)",
)
