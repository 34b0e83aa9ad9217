"""Laravel's Crypt and its `encrypted` casts: base64 of ``{"iv":…,"value":…,"mac":…,"tag":…}``, each in base64.

Nothing in a value names its key, and the MAC of CBC is made with the very key that encrypts: only decryption tells.
Under AES-CBC, `mac` is the HMAC-SHA-256 of `iv` and `value` as they are written, and `tag` is empty or, in values of
older versions, not there; under AES-GCM, `mac` is empty. What PHP serialised before it was encrypted stays as it is.

Source: `Illuminate/Encryption/Encrypter.php` of Laravel 10 to 13.
"""

import hmac
import re
from base64 import b64encode
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from keyrotation_pipeline.errors import InvalidLayoutError
from keyrotation_pipeline.fieldcrypto.codecs.format import Codec, layout_of
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import (
    KeyEncoding,
    KeyNotation,
    as_list,
    entries_by_commas,
    key_in,
    parsed_or_refused,
)
from keyrotation_pipeline.fieldcrypto.codecs.layout import TAG_BYTES, AeadCipher, Layout, Sealed
from keyrotation_pipeline.fieldcrypto.codecs.unmarked import UnmarkedFormat
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.native import CompiledFormat

# What `cipher` of config/app.php may be, with the bytes of a key.
CIPHERS: Mapping[str, int] = MappingProxyType(
    {"AES-256-CBC": 32, "AES-256-GCM": 32, "AES-128-CBC": 16, "AES-128-GCM": 16}
)
_CBC_IV_BYTES, _GCM_IV_BYTES, _MAC_BYTES, _BLOCK_BYTES = 16, 12, 32, 16
_B64 = rb"[A-Za-z0-9+/\\]*={0,2}"
_PAYLOAD = re.compile(
    rb'\{"iv":"(%b)","value":"(%b)","mac":"((?:[0-9a-f]{64})?)"(?:,"tag":"(%b)")?\}' % (_B64, _B64, _B64)
)
_SERIALISED = re.compile(rb's:[0-9]+:"(.*)";', re.DOTALL)
# Of a value of older versions, and of the one that replaces it.
_NO_TAG = b"no tag"


class LaravelPayload(Layout):
    """Takes payloads of one cipher apart and puts them together; knows no key.

    Args:
        cipher: one of `CIPHERS`.
    """

    def __init__(self, cipher: str) -> None:
        self.text, self.key_bytes = cipher, CIPHERS[cipher]
        self._is_gcm = cipher.endswith("GCM")
        self.nonce_bytes = _GCM_IV_BYTES if self._is_gcm else _CBC_IV_BYTES
        self._end_bytes = TAG_BYTES if self._is_gcm else _MAC_BYTES
        self.is_pair = self.is_binary = False

    @property
    def head(self) -> bytes:
        """See `Layout.head`: of the JSON, in base64."""
        return b"eyJpdiI6"

    @property
    def pattern(self) -> str:
        """See `Layout.pattern`."""
        return f"{self.head.decode()}([A-Za-z0-9+/]*={{0,2}})"

    @property
    def shortest_bytes(self) -> int:
        """See `Layout.shortest_bytes`."""
        content, like = (0, None) if self._is_gcm else (_BLOCK_BYTES, _OLD)
        return len(self.join(bytes(self.nonce_bytes), bytes(content + self._end_bytes), like))

    def compiled(self, *, bound: bool = False) -> CompiledFormat | None:  # noqa: ARG002
        """See `Layout.compiled`."""
        return None

    def cipher(self, key: bytes) -> AeadCipher:
        """See `Layout.cipher`."""
        return super().cipher(key) if self._is_gcm else _CbcWithMac(key)

    def split(self, value: bytes) -> Sealed | None:
        """See `Layout.split`. Older versions escape slashes in JSON."""
        payload = _decoded(value)
        match = None if payload is None or b64encode(payload) != value else _PAYLOAD.fullmatch(payload)
        if payload is None or match is None:
            return None
        iv, content, tag = (_decoded((each or b"").replace(b"\\/", b"/")) for each in match.group(1, 2, 4))
        if iv is None or content is None or tag is None:
            return None
        end = tag if self._is_gcm else bytes.fromhex(match[3].decode())
        sealed = Sealed(iv, content + end, (_NO_TAG,) if match[4] is None else ())
        is_whole = self._is_gcm or (content and len(content) % _BLOCK_BYTES == 0)
        if not is_whole or (len(iv), len(end)) != (self.nonce_bytes, self._end_bytes):
            return None
        return sealed if self._written(iv, sealed.body, sealed) == payload.replace(b"\\/", b"/") else None

    def join(self, nonce: bytes, body: bytes, like: Sealed | None = None) -> bytes:
        """See `Layout.join`. It is as long as the old value, or shorter by what that escapes."""
        return b64encode(self._written(nonce, body, like))

    def _written(self, nonce: bytes, body: bytes, like: Sealed | None) -> bytes:
        at = len(body) - self._end_bytes
        mac, tag = (b"", b64encode(body[at:])) if self._is_gcm else (body[at:].hex().encode(), b"")
        parts = b'{"iv":"%b","value":"%b","mac":"%b"' % (b64encode(nonce), b64encode(body[:at]), mac)
        return parts + (b"}" if like is not None and _NO_TAG in like.written else b',"tag":"%b"}' % tag)

    def within(self, text: bytes) -> Sealed | None:
        """See `Layout.within`: a text that PHP serialised, too."""
        serialised = _SERIALISED.fullmatch(text)
        return self.split(serialised[1] if serialised else text)


class _CbcWithMac:
    """AES-CBC, and an HMAC of what is written, by one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:  # noqa: ARG002
        padder = PKCS7(8 * _BLOCK_BYTES).padder()
        encryptor = Cipher(algorithms.AES(self._key), modes.CBC(nonce)).encryptor()
        content = encryptor.update(padder.update(data) + padder.finalize()) + encryptor.finalize()
        return content + self._mac(nonce, content)

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:  # noqa: ARG002
        """Raises `InvalidTag`, as AEAD functions do."""
        content, mac = data[:-_MAC_BYTES], data[-_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(nonce, content)):
            raise InvalidTag
        try:
            decryptor = Cipher(algorithms.AES(self._key), modes.CBC(nonce)).decryptor()
            unpadder = PKCS7(8 * _BLOCK_BYTES).unpadder()
            return unpadder.update(decryptor.update(content) + decryptor.finalize()) + unpadder.finalize()
        except ValueError:  # by the MAC, whoever has the key made it so
            raise InvalidTag from None

    def _mac(self, nonce: bytes, content: bytes) -> bytes:
        return hmac.digest(self._key, b64encode(nonce) + b64encode(content), "sha256")


_OLD = Sealed(b"", b"", (_NO_TAG,))


def _decoded(text: bytes) -> bytes | None:
    try:
        return a2b_base64(text)
    except Base64Error:
        return None


_KEY_BEGINS = "base64:"


def _app_key(text: str, place: str, size: int) -> KeyMaterial:
    def parse() -> KeyMaterial | None:
        key = key_in(text.removeprefix(_KEY_BEGINS), place, KeyEncoding.B64, of_aes=True)
        return key if text.startswith(_KEY_BEGINS) and len(raw_of(key)) == size else None

    return parsed_or_refused(
        parse,
        f"{place} is not an APP_KEY of this cipher; write {_KEY_BEGINS} and the base64 of {size} bytes, as "
        "`php artisan key:generate --show` prints it",
    )


def _as_app_keys(keys: Sequence[KeyMaterial]) -> str:
    return ",".join(_KEY_BEGINS + as_list([key], KeyEncoding.B64) for key in keys)


class _Codec(Codec):
    def format(self, declared: ValueFormat) -> UnmarkedFormat:
        return UnmarkedFormat(layout_of(declared))

    def notation(self, declared: ValueFormat, encoding: KeyEncoding) -> KeyNotation:  # noqa: ARG002
        key = partial(_app_key, size=CIPHERS[declared.layout])
        return KeyNotation(entries_by_commas, key, _as_app_keys)

    def layout(self, text: str) -> LaravelPayload:
        if text not in CIPHERS:
            raise InvalidLayoutError(f"{text!r} is no cipher of Laravel; write one of {', '.join(CIPHERS)}")
        return LaravelPayload(text)


CODEC = _Codec()
