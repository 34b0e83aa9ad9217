"""Opens and seals AES-256-GCM and AES-256-CBC in an application's own layout.

A value has up to four parts: a salt, from which its key is derived, the nonce, the ciphertext and the tag. Each stands
in the layout, or in a column of its own: it is then read behind the value, ``<value>;<nonce>;<tag>;<salt>``, as text
in the layout's encoding or as PostgreSQL writes bytea.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyrotation_pipeline.errors import InvalidKeyError
from keyrotation_pipeline.fieldcrypto.codecs.block_padding import padded, unpadded
from keyrotation_pipeline.fieldcrypto.codecs.source import ClosedError, Source
from keyrotation_pipeline.fieldcrypto.codecs.value_format import BETWEEN
from keyrotation_pipeline.fieldcrypto.formats.aes_layouts import CBC
from keyrotation_pipeline.fieldcrypto.formats.aes_layouts.derivation import KeyOfValue, derivation, key_of_value
from keyrotation_pipeline.fieldcrypto.formats.aes_layouts.encoding import ENCODINGS, Encoding

_NONCE, _TAG, _SALT, _BODY = "nonce", "tag", "salt", "ct"
_OPTIONS = {"iv": _NONCE, "tag": _TAG, "salt": _SALT}
_GCM_NONCES, _CBC_NONCES, _TAG_BYTES, _SALT_BYTES, _BLOCK_BYTES = (12, 16), (16,), 16, 16, 16
_SHORTEST_SALT, _LONGEST_SALT = 8, 64
_PART = re.compile(r"(salt|nonce|tag)([1-9][0-9]?)|ct")
_BETWEEN, _COLON, _EACH = BETWEEN.encode(), b":", "-each"
_BYTES_HEAD = b"\\x"  # as PostgreSQL writes bytea


def source(name: str, key: bytes, options: Mapping[str, str]) -> Source:
    """Returns what opens and seals values in a layout under the application's key.

    Raises:
        InvalidKeyError: the options contradict each other, or it is no such key.
    """
    layout, columns = _parts(name, options)
    return _Values(layout, columns, key_of_value(key, options), is_gcm=name != CBC.name)


def require_possible(name: str, options: Mapping[str, str]) -> None:
    """Checks that the options contradict neither each other nor the cipher.

    Raises:
        InvalidKeyError: they do.
    """
    _parts(name, options)
    derivation(options)


def _parts(name: str, options: Mapping[str, str]) -> "tuple[_Layout, tuple[str, ...]]":
    layout = _layout(options["layout"])
    columns = tuple(part for option, part in _OPTIONS.items() if option in options)
    _require_parts(layout, columns, is_gcm=name != CBC.name, derives=options["kdf"] != "none")
    return layout, columns


@dataclass(frozen=True)
class _Layout:
    """Which parts a value has, with the length of each in bytes; 0: any. Each may be encoded alone."""

    encoding: Encoding
    is_each: bool
    parts: tuple[tuple[str, int], ...]

    def split(self, stored: bytes) -> dict[str, bytes]:
        if self.is_each:
            written = stored.split(_COLON)
            if len(written) != len(self.parts):
                raise ClosedError
            found = {name: self.encoding.decoded(each) for (name, _), each in zip(self.parts, written, strict=True)}
        else:
            found = self._cut(self.encoding.decoded(stored))
        if any(size and len(found[name]) != size for name, size in self.parts):
            raise ClosedError
        return found

    def join(self, parts: Mapping[str, bytes]) -> bytes:
        raw = [parts[name] for name, _ in self.parts]
        return _COLON.join(map(self.encoding.encoded, raw)) if self.is_each else self.encoding.encoded(b"".join(raw))

    def _cut(self, raw: bytes) -> dict[str, bytes]:
        found, at, rest = {}, 0, len(raw) - sum(size for _, size in self.parts)
        if rest < 0:
            raise ClosedError
        for name, size in self.parts:
            end = at + (size or rest)
            found[name], at = raw[at:end], end
        return found


def _layout(text: str) -> _Layout:
    encoding, *parts = text.split(".")
    known = ENCODINGS.get(encoding.removesuffix(_EACH))
    matches = [_PART.fullmatch(each) for each in parts]
    if known is None or not all(matches):
        raise InvalidKeyError(
            f"layout {text} is none that can be read; write it as in b64.salt16.nonce12.tag16.ct or hex-each.nonce12.ct"
        )
    return _Layout(
        known,
        encoding.endswith(_EACH),
        tuple((match[1] or _BODY, int(match[2] or 0)) for match in matches if match is not None),
    )


def _require_parts(layout: _Layout, columns: tuple[str, ...], *, is_gcm: bool, derives: bool) -> None:
    """Checks that layout and columns hold each part of a value once, in a length that the cipher has."""
    named = [*(name for name, _ in layout.parts), *columns]
    wanted = [_NONCE, _BODY, *([_TAG] if is_gcm else []), *([_SALT] if derives else [])]
    if sorted(named) != sorted(wanted):
        raise InvalidKeyError(
            f"layout and columns of a value hold {', '.join(named)}, not {', '.join(wanted)} once each; correct from "
            "in [[tables]]"
        )
    lengths = {_NONCE: _GCM_NONCES if is_gcm else _CBC_NONCES, _TAG: (_TAG_BYTES,), _BODY: (0,)}
    lengths[_SALT] = range(_SHORTEST_SALT, _LONGEST_SALT + 1)  # type: ignore[assignment]
    for name, size in layout.parts:
        if size not in lengths[name]:
            raise InvalidKeyError(f"layout has {name}{size}, which this cipher does not; correct from in [[tables]]")


class _Values:
    def __init__(self, layout: _Layout, columns: tuple[str, ...], keys: KeyOfValue, *, is_gcm: bool) -> None:
        self._layout, self._columns, self._keys, self._is_gcm = layout, columns, keys, is_gcm
        sizes = {_NONCE: _CBC_NONCES[0], _SALT: _SALT_BYTES} | dict(layout.parts)
        self._nonce_bytes, self._salt_bytes = sizes[_NONCE], sizes[_SALT]

    def opened(self, stored: bytes) -> bytes:
        value, *beside = stored.rsplit(_BETWEEN, len(self._columns)) if self._columns else [stored]
        if len(beside) != len(self._columns):
            raise ClosedError
        parts = self._layout.split(value) | dict(zip(self._columns, map(self._part, beside), strict=True))
        nonce, body, tag = parts[_NONCE], parts[_BODY], parts.get(_TAG, b"")
        if len(nonce) not in (_GCM_NONCES if self._is_gcm else _CBC_NONCES) or len(tag) != self._is_gcm * _TAG_BYTES:
            raise ClosedError
        if self._is_gcm:
            try:
                return AESGCM(self._keys(parts.get(_SALT, b""))).decrypt(nonce, body + tag, None)
            except InvalidTag:
                raise ClosedError from None
        if not body or len(body) % _BLOCK_BYTES:
            raise ClosedError
        decryptor = Cipher(algorithms.AES(self._keys(parts.get(_SALT, b""))), modes.CBC(nonce)).decryptor()
        return unpadded(decryptor.update(body) + decryptor.finalize())

    def sealed(self, text: bytes) -> bytes:
        parts = {_NONCE: os.urandom(self._nonce_bytes), _SALT: os.urandom(self._salt_bytes)}
        key = self._keys(parts[_SALT])
        if self._is_gcm:
            body = AESGCM(key).encrypt(parts[_NONCE], text, None)
            parts |= {_BODY: body[:-_TAG_BYTES], _TAG: body[-_TAG_BYTES:]}
        else:
            encryptor = Cipher(algorithms.AES(key), modes.CBC(parts[_NONCE])).encryptor()
            parts[_BODY] = encryptor.update(padded(text)) + encryptor.finalize()
        beside = [self._layout.encoding.encoded(parts[each]) for each in self._columns]
        return _BETWEEN.join([self._layout.join(parts), *beside])

    def _part(self, text: bytes) -> bytes:
        if not text.startswith(_BYTES_HEAD):
            return self._layout.encoding.decoded(text)
        try:
            return bytes.fromhex(text.removeprefix(_BYTES_HEAD).decode("ascii"))
        except ValueError:
            raise ClosedError from None
