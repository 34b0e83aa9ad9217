"""Our own format, written from its public text (docs/guides/applications.md, second-generation.md, ADR 30 and 34)."""

import base64
import hmac
import os
import re
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

VALUE = re.compile(r"(v[1-9][0-9]*)(x?):([A-Za-z0-9+/]+=*):([A-Za-z0-9+/]+=*)")
COMMITMENT_BYTES = 32
FIRST_GENERATION_NONCE_BYTES, NONCE_BYTES = 12, 24


class NotReadableError(Exception):
    """No key of the application opens a value, or it opens in another place than its own."""


@dataclass(frozen=True)
class Where:
    """The place of a value.

    Args:
        table, column: as the application names them.
        row: the text of the row's key.
    """

    table: str
    column: str
    row: str


def seal(version: str, key: bytes, text: str, where: Where, row_from: int | None = None) -> str:
    """One value under the key of a version: `v1`, or `v2x` of the second generation."""
    if not version.endswith("x"):
        nonce = os.urandom(FIRST_GENERATION_NONCE_BYTES)
        return f"{version}:{_b64(nonce)}:{_b64(AESGCM(key).encrypt(nonce, text.encode(), None))}"
    nonce = os.urandom(NONCE_BYTES)
    sealed = AESGCM(_message_key(key, nonce)).encrypt(nonce[12:], text.encode(), _data(version, where, row_from))
    return f"{version}:{_b64(nonce)}:{_b64(sealed + _commitment(key, nonce))}"


def opened(keys: dict[str, bytes], stored: str, where: Where, row_from: int | None = None) -> str:
    """The text of a value by the key that it names."""
    parsed = VALUE.fullmatch(stored)
    if parsed is None:
        raise NotReadableError(f"{where}: is no value")
    version = parsed[1] + parsed[2]
    if version not in keys:
        raise NotReadableError(f"{where}: is under {version}, and there are {sorted(keys)}")
    key, nonce, body = keys[version], base64.b64decode(parsed[3]), base64.b64decode(parsed[4])
    try:
        if not parsed[2]:
            return AESGCM(key).decrypt(nonce, body, None).decode()
        if not hmac.compare_digest(body[-COMMITMENT_BYTES:], _commitment(key, nonce)):
            raise NotReadableError(f"{where}: is committed to another key than {version}")
        data = _data(version, where, row_from)
        return AESGCM(_message_key(key, nonce)).decrypt(nonce[12:], body[:-COMMITMENT_BYTES], data).decode()
    except InvalidTag:
        raise NotReadableError(f"{where}: does not open under {version}") from None


def index(version: str, key: bytes, text: str, label: str) -> str:
    """The search index of a text, as docs/guides/search-indexes.md has it."""
    derived = HKDF(SHA256(), 32, None, b"keyrotation-search-index-v1\0" + label.encode()).derive(key)
    return f"{version}:{_b64(hmac.digest(derived, text.encode(), 'sha256'))}"


def number(version: str) -> int:
    """1 of v1 and of v1x."""
    return int(version.strip("vx"))


def _data(version: str, where: Where, row_from: int | None) -> bytes:
    data = b"keyrotation-value-v2\0" + f"{where.table}.{where.column}".encode()
    if row_from is not None and number(version) >= row_from:
        data += b"\0" + where.row.encode()
    return data


def _message_key(key: bytes, nonce: bytes) -> bytes:
    """XAES-256-GCM (c2sp.org/XAES-256-GCM): two blocks of CMAC over `00 i 58 00` and half of the nonce."""
    return b"".join(_cmac(key, bytes([0, i, 0x58, 0]) + nonce[:12]) for i in (1, 2))


def _commitment(key: bytes, nonce: bytes) -> bytes:
    """Two blocks of CMAC over `XCMT ‖ nonce[:12]`, `nonce[12:] ‖ 00 01 00 0i` (ePrint 2025/758)."""
    return b"".join(_cmac(key, b"XCMT" + nonce[:12] + nonce[12:] + bytes([0, 1, 0, i])) for i in (1, 2))


def _cmac(key: bytes, message: bytes) -> bytes:
    mac = CMAC(AES256(key))
    mac.update(message)
    return mac.finalize()


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
