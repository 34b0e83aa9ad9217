"""Active Record Encryption: a value names its key in the header ``i`` where `store_key_references` is true.

A value is ``{"p":payload,"h":{"iv":…,"at":…[,"k":…][,"i":…][,"c":true]}}`` in base64, AES-256-GCM with a nonce of 12
bytes and a tag of 16. The key is derived from a passphrase, one of the application's list, by PBKDF2-HMAC; its id, the
marker, is the first four hex digits of its SHA-1. A compressed payload (``c``) stays compressed, and other headers are
kept; it is inflated only to see whether it is a value again.

Envelope encryption (``k``): the payload is under a random key of this value's own, the data key, and ``k`` is a message
that holds it under the derived key. A value that is re-encrypted gets another data key, as when Rails saves it: whoever
had the old key may have kept the old data key.

Source: ActiveRecord::Encryption of Rails 7.2 (MessageSerializer, Cipher::Aes256Gcm, Key, KeyGenerator,
EnvelopeEncryptionKeyProvider).
"""

import hashlib
import hmac
import json
import re
import secrets
import string
import zlib
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Collection, Sequence
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyrotation_pipeline.errors import DeterministicValueError
from keyrotation_pipeline.fieldcrypto.codecs.format import Codec
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import (
    KeyEncoding,
    KeyNotation,
    entries_by_commas,
    parsed_or_refused,
)
from keyrotation_pipeline.fieldcrypto.codecs.marked import Envelope, MarkedFormat, MarkedValue
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.rails_ar_encryption import PBKDF2_SHA256
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.material import (
    KEY_BYTES,
    LONGEST_PASSPHRASE,
    SHORTEST_PASSPHRASE,
    KeyMaterial,
    Passphrase,
)
from keyrotation_pipeline.fieldcrypto.native import CompiledEncoding, CompiledFormat, Nonces

NONCE_BYTES, TAG_BYTES = 12, 16
ROUNDS = 2**16
ID_DIGITS = 4

BEGINS = '{"p":"'
AFTER_PAYLOAD = '","h":{"iv":"'
REFERENCE = '"i":"'
# Python and PostgreSQL read these the same way. Headers that are not ours hold no quote, so that text which looks like
# a header is one.
_HEADER = r',"(?!(?:i|iv|at|k|p|h)")[A-Za-z0-9_-]+":(?:"[A-Za-z0-9+/=]*"|true|false|null|-?[0-9]+)'
_MARKER = r"[A-Za-z0-9+/]{5}[AQgw]=="
MARKER_CHARS = 8
_NONCE = r'"iv":"([A-Za-z0-9+/]{16})"'
_TAG = r'"at":"([A-Za-z0-9+/]{21}[AQgw]==)"'
_DATA_KEY = r"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]="
# Of which groups, in this order: payload, nonce, tag, headers; of the encrypted data key, its nonce, tag and headers;
# marker, headers. The payload is canonical base64 if its length is divisible by four as well. Headers follow a group of
# headers only with something between them: there would be as many ways to divide a million headers, all to be tried.
VALUE_PATTERN = (
    r'\{"p":"((?:[A-Za-z0-9+/]+(?:[AEIMQUYcgkosw048]=|[AQgw]==)?)?)"'
    rf',"h":\{{{_NONCE},{_TAG}((?:{_HEADER})*)'
    rf'(?:(?=,"[ki]":)(?:,"k":\{{"p":"({_DATA_KEY})","h":\{{{_NONCE},{_TAG}((?:{_HEADER})*)\}}\}})?'
    rf'(?:,"i":"({_MARKER})")?((?:{_HEADER})*))?\}}\}}'
)
_VALUE = re.compile(VALUE_PATTERN.encode())
_GROUPS = (
    (CompiledEncoding.PADDED_B64, b"c", AFTER_PAYLOAD.encode()),
    (CompiledEncoding.PADDED_B64, b"n", b'","at":"'),
    (CompiledEncoding.PADDED_B64, b"t", b'",' + REFERENCE.encode()),
    (CompiledEncoding.RAW, b"m", b'"}}'),
)
_COMPRESSED = b',"c":'
_IS_COMPRESSED = _COMPRESSED + b"true"
# Of a payload that begins like a value, in bytes.
LONGEST_INFLATED = 1 << 26


class RailsEnvelope(Envelope):
    """`Envelope` for Active Record Encryption.

    Args:
        digest: of PBKDF2, as hashlib names it: sha1 up to the defaults of Rails 7.0, sha256 since those of 7.1.
        salt: the application's `key_derivation_salt`.
        deterministic: whether the nonce is made of the payload, as Rails makes it, so that its queries find the value.
    """

    def __init__(self, digest: str, salt: str, *, deterministic: bool = False) -> None:
        self._digest, self._salt, self._deterministic = digest, salt, deterministic

    @property
    def compiled(self) -> CompiledFormat:
        """The values without further headers, which are not compressed, as the compiled codec takes them."""
        nonces = Nonces.OF_THE_TEXT if self._deterministic else Nonces.NOT_OF_THE_TEXT
        layout = (BEGINS.encode(), NONCE_BYTES, _GROUPS, False, nonces)
        return CompiledFormat("marked", layout=layout, key=self._key_and_marker)

    def _key_and_marker(self, material: KeyMaterial) -> tuple[bytes, bytes]:
        key = self.key(material)
        return key.raw, key.marker

    def parsed(self, value: bytes) -> MarkedValue | None:
        """See `Envelope.parsed`."""
        match = _VALUE.fullmatch(value)
        if match is None or len(match[1]) % 4:
            return None
        payload, nonce, tag, before, *of_key, marker, after = match.groups()
        data_key = None if of_key[0] is None else _message(None, *of_key)
        return _message(marker, payload, nonce, tag, before, after or b"", data_key=data_key)

    def holds_a_value(self, text: bytes, old: MarkedValue, markers: Collection[bytes]) -> bool:  # noqa: ARG002
        """See `Envelope.holds_a_value`. Rails compresses texts of more than 140 bytes: every value is longer."""
        if not any(_IS_COMPRESSED in part for part in old.kept):
            return self.parsed(text) is not None
        inflating = zlib.decompressobj()
        try:
            begins = inflating.decompress(text, len(BEGINS))
            if begins != BEGINS.encode():
                return False
            rest = inflating.decompress(inflating.unconsumed_tail, LONGEST_INFLATED)
        except zlib.error:
            return False  # what Rails cannot read either
        # What begins like a value and does not fit into memory is for people to look at.
        return bool(inflating.unconsumed_tail) or self.parsed(begins + rest) is not None

    def key(self, material: KeyMaterial) -> "RailsKey":
        """See `Envelope.key`."""
        return RailsKey(derived(material, self._digest, self._salt), deterministic=self._deterministic)

    def generate(self, taken: Collection[str] = ()) -> Passphrase:  # noqa: ARG002
        """See `Envelope.generate`: as `bin/rails db:encryption:init`, but never what YAML takes for a number."""
        return Passphrase.generate()


class RailsKey:
    """`MarkedKey` of a derived key."""

    def __init__(self, key: bytes, *, deterministic: bool = False) -> None:
        self.raw, self._deterministic = key, deterministic
        # The application's own id of a key, which is no digest that anything rests on.
        identity = hashlib.sha1(key, usedforsecurity=False).hexdigest()[:ID_DIGITS]
        self.marker = b2a_base64(identity.encode(), newline=False)
        self._cipher = AESGCM(key)

    def opened(self, value: MarkedValue) -> bytes | None:
        """See `MarkedKey.opened`.

        Raises:
            DeterministicValueError: queries look for the value, and another nonce would hide it from them.
        """
        try:
            text = self._cipher_for(value).decrypt(value.nonce, value.body, None)
        except InvalidTag:
            return None
        if not self._deterministic and hmac.compare_digest(value.nonce, self._nonce_of(text)):
            raise DeterministicValueError
        return text

    def sealed(self, text: bytes, old: MarkedValue) -> bytes:
        """See `MarkedKey.sealed`."""
        before, after = old.kept
        if old.marker is None and (at := before.find(_COMPRESSED)) >= 0:
            before, after = before[:at], before[at:]  # where Rails writes the header
        reference = b',"i":"%b"' % self.marker
        if old.data_key is None:
            nonce = self._nonce_of(text) if self._deterministic else secrets.token_bytes(NONCE_BYTES)
            return _written(self._cipher, nonce, text, before + reference + after)
        data_key = secrets.token_bytes(KEY_BYTES)
        wrapped = _written(self._cipher, secrets.token_bytes(NONCE_BYTES), data_key, *old.data_key.kept)
        headers = before + b',"k":' + wrapped + reference + after
        return _written(AESGCM(data_key), secrets.token_bytes(NONCE_BYTES), text, headers)

    def _cipher_for(self, value: MarkedValue) -> AESGCM:
        if (wrapped := value.data_key) is None:
            return self._cipher
        return AESGCM(self._cipher.decrypt(wrapped.nonce, wrapped.body, None))

    def _nonce_of(self, payload: bytes) -> bytes:
        return hmac.digest(self.raw, payload, "sha256")[:NONCE_BYTES]


@lru_cache(maxsize=64)
def derived(material: KeyMaterial, digest: str, salt: str) -> bytes:
    """Returns the key that Rails derives from a passphrase, as ActiveSupport::KeyGenerator does."""
    return hashlib.pbkdf2_hmac(digest, raw_of(material), salt.encode(), ROUNDS, KEY_BYTES)


def _message(
    marker: bytes | None, payload: bytes, nonce: bytes, tag: bytes, *kept: bytes, data_key: MarkedValue | None = None
) -> MarkedValue:
    return MarkedValue(marker, a2b_base64(nonce), _decoded(payload) + a2b_base64(tag), kept, data_key=data_key)


def _written(cipher: AESGCM, nonce: bytes, text: bytes, headers: bytes) -> bytes:
    """Encrypts, and writes the message with what follows its own headers."""
    body = cipher.encrypt(nonce, text, None)
    return b'{"p":"%b","h":{"iv":"%b","at":"%b"%b}}' % (
        _text(body[:-TAG_BYTES]), _text(nonce), _text(body[-TAG_BYTES:]), headers
    )  # fmt: skip


def _decoded(payload: bytes) -> bytes:
    try:
        return a2b_base64(payload)
    except Base64Error:  # not with what the pattern and the length let through
        return b""


def _text(raw: bytes) -> bytes:
    return b2a_base64(raw, newline=False)


# What YAML and JSON never need to escape.
_PASSPHRASE = frozenset(string.ascii_letters + string.digits + "!$()*+-./:;<=>?@^_|~")
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def _in_yaml(text: str) -> Sequence[str]:
    stripped = text.strip()
    return entries_by_commas(stripped[1:-1] if stripped.startswith("[") and stripped.endswith("]") else stripped)


def _passphrase(text: str, place: str) -> KeyMaterial:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    passphrase = text[1:-1] if quoted else text
    return parsed_or_refused(
        lambda: Passphrase(passphrase.encode()) if _PASSPHRASE.issuperset(passphrase) else None,
        f"{place} is not a passphrase that can be listed here: {SHORTEST_PASSPHRASE} to {LONGEST_PASSPHRASE} "
        "characters, without commas, quotes, brackets and white space",
    )


def _as_yaml(keys: Sequence[KeyMaterial]) -> str:
    # Without quotes where YAML needs none, since a shell that reads the file would take them away.
    texts = (raw_of(key).decode() for key in keys)
    return f"[{','.join(text if _PLAIN.fullmatch(text) else json.dumps(text) for text in texts)}]"


class _Codec(Codec):
    def format(self, declared: ValueFormat) -> MarkedFormat:
        digest = (declared.derivation or PBKDF2_SHA256).name.removeprefix("pbkdf2-")
        envelope = RailsEnvelope(digest, declared.salt, deterministic=declared.deterministic)
        return MarkedFormat(envelope, envelope.compiled)

    def notation(self, declared: ValueFormat, encoding: KeyEncoding) -> KeyNotation:  # noqa: ARG002
        return KeyNotation(_in_yaml, _passphrase, _as_yaml, "last", passphrases=True)


CODEC = _Codec()
