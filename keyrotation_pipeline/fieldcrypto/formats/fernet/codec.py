"""Fernet tokens, re-encrypted in place: a key is identified by the token's MAC, and the application keeps its library.

A token is the URL-safe base64 of ``0x80 ‖ time (8 B, seconds, big-endian) ‖ IV (16 B) ‖ AES-128-CBC ciphertext (PKCS 7)
‖ HMAC-SHA256 of all before it``. A key is 32 bytes: the first half signs, the second encrypts.

Source: https://github.com/fernet/spec, version 0x80.
"""

import hmac
import time
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections import Counter
from collections.abc import Iterator, Sequence

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.ciphers.modes import CBC

from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.fieldcrypto.batch import (
    FAULTY_MACHINE,
    Failure,
    Held,
    Labels,
    ReencryptedBatch,
    Value,
    nonces_of,
)
from keyrotation_pipeline.fieldcrypto.codecs.derived_keys import derived_ring
from keyrotation_pipeline.fieldcrypto.codecs.format import Codec
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import KeyEncoding, KeyNotation, by_commas, listed_derived
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.format_spec import Derivation
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.native import CompiledFormat, NativeCodec, native_codec
from keyrotation_pipeline.fieldcrypto.reads import NOT_A_VALUE, UNDER_NO_KEY, Defect, DefectKind

VERSION_BYTE = b"\x80"
HALF_BYTES, TIME_BYTES, IV_BYTES, MAC_BYTES, BLOCK_BYTES = 16, 8, 16, 32, 16
HEAD_BYTES = len(VERSION_BYTE) + TIME_BYTES + IV_BYTES
# Everything but the ciphertext, which has at least one block.
FRAME_BYTES = HEAD_BYTES + MAC_BYTES
SHORTEST_CHARS = (FRAME_BYTES + BLOCK_BYTES + 2) // 3 * 4
# What a canonical token matches whose length is divisible by four; PostgreSQL reads it the same way. The first twelve
# bits are those of 0x80 and the upper half of the time's first byte.
SHAPE_PATTERN = r"g[A-P][A-Za-z0-9_-]+(?:[AEIMQUYcgkosw048]=|[AQgw]==)?"

_SHA256_BLOCK_BYTES = 64
_INNER_PAD, _OUTER_PAD = 0x36, 0x5C
_TO_STANDARD, _TO_URL_SAFE = bytes.maketrans(b"-_", b"+/"), bytes.maketrans(b"+/", b"-_")


class FernetFormat:
    """`Format` for Fernet tokens.

    Args:
        keep_time: whether a new token gets the time of the old one, as readers with a TTL need it; else the present.
        derivation: how the application derives its keys; None: they are those of the ring.
    """

    def __init__(self, *, keep_time: bool = False, derivation: Derivation | None = None) -> None:
        self._keep_time, self._derivation = keep_time, derivation

    def reencryptor(self, ring: KeyRing, target: KeyVersion, labels: Labels = ()) -> "FernetReencryptor":  # noqa: ARG002
        """See `Format.reencryptor`."""
        return FernetReencryptor(derived_ring(self._derivation, ring), target, keep_time=self._keep_time)

    def native_codec(self, ring: KeyRing, target: KeyVersion, labels: Labels = ()) -> NativeCodec | None:  # noqa: ARG002
        """See `Format.native_codec`."""
        compiled = CompiledFormat("fernet", 0 if self._keep_time else TIME_BYTES)
        return native_codec(derived_ring(self._derivation, ring), target, compiled)

    def opened_by(
        self,
        ring: KeyRing,
        stored: bytes,
        label: str | None = None,  # noqa: ARG002
    ) -> tuple[KeyVersion, KeyVersion | None] | None:
        """See `Format.opened_by`."""
        token = parsed(stored)
        if token is None:
            return None
        keys = _keys(derived_ring(self._derivation, ring))
        opener = next((key.version for key in keys if key.opened(token) is not None), None)
        return opener or ring.primary, opener

    def plaintext(self, ring: KeyRing, stored: bytes, label: str | None = None) -> bytes | Defect:  # noqa: ARG002
        """See `Format.plaintext`."""
        return FernetReencryptor(derived_ring(self._derivation, ring), ring.primary).plaintext(stored)


class FernetReencryptor:
    """Re-encrypts tokens to one key version, whichever key of the ring they are under; see `batch.Reencryptor`.

    Tokens under the target, empty strings and NULLs are left unchanged. So is a token that no key of the ring
    authenticates, and one whose plaintext is itself a token: an application that could not decrypt has encrypted the
    ciphertext again. Every new token is decrypted again and compared before it is returned.
    """

    def __init__(self, ring: KeyRing, target: KeyVersion, *, keep_time: bool = False) -> None:
        ring.material(target)  # raises where there is none
        self._keys = _keys(ring)
        self._target = next(key for key in self._keys if key.version == target)
        self._keep_time = keep_time

    def reencrypt(self, columns: Sequence[Sequence[Value]]) -> ReencryptedBatch:
        """Re-encrypts one batch; see `ValueReencryptor.reencrypt`."""
        failures: list[Failure] = []
        now = int(time.time()).to_bytes(TIME_BYTES, "big")
        return ReencryptedBatch(
            [
                list(self._rewritten(n, values, now, _cut(ivs), failures))
                for n, (values, ivs) in enumerate(zip(columns, nonces_of(columns, IV_BYTES), strict=True))
            ],
            failures,
        )

    def _rewritten(
        self, column: int, values: Sequence[Value], now: bytes, ivs: Iterator[bytes], failures: list[Failure]
    ) -> Iterator[Value]:
        for row, value in enumerate(values):
            opened = self._open(value) if value else None
            if isinstance(opened, Defect):
                failures.append(Failure(row, column, opened))
            if opened is None or isinstance(opened, Defect) or opened[0] is self._target:
                yield None
                continue
            _, token, text = opened
            yield self._sealed(text, token[1 : 1 + TIME_BYTES] if self._keep_time else now, next(ivs))

    def check(self, columns: Sequence[Sequence[Value]]) -> tuple[list[Held], list[Failure]]:
        """Decrypts every value; see `ValueReencryptor.check`."""
        failures: list[Failure] = []
        return [self._held(number, column, failures) for number, column in enumerate(columns)], failures

    def plaintext(self, value: bytes) -> bytes | Defect:
        """Decrypts one value."""
        opened = self._open(value)
        return opened if isinstance(opened, Defect) else opened[2]

    def _held(self, column: int, values: Sequence[Value], failures: list[Failure]) -> Held:
        held: Held = Counter()
        for row, value in enumerate(values):
            if not value:
                held[None] += value is not None
                continue
            opened = self._open(value)
            if isinstance(opened, Defect):
                failures.append(Failure(row, column, opened))
            else:
                held[opened[0].version] += 1
        return +held

    def _open(self, value: bytes) -> "tuple[_Key, bytes, bytes] | Defect":
        """Returns the key of a token, its bytes and its plaintext."""
        token = parsed(value)
        if token is None:
            return NOT_A_VALUE
        key = next((key for key in self._keys if key.signed(token)), None)
        if key is None:
            return UNDER_NO_KEY
        if key is not self._keys[0]:  # most tokens of a batch are under the same key
            self._keys.remove(key)
            self._keys.insert(0, key)
        text = key.decrypted(token)
        if text is None:
            return Defect(DefectKind.NOT_AUTHENTIC, key.version)
        if parsed(text) is not None:
            return Defect(DefectKind.ENCRYPTED_TWICE, key.version)
        return key, token, text

    def _sealed(self, text: bytes, stamp: bytes, iv: bytes) -> bytes:
        sealed = encoded(self._target.sealed(text, stamp, iv))
        token = parsed(sealed)
        if token is None or self._target.opened(token) != text:
            raise KeyRotationError(FAULTY_MACHINE)
        return sealed


class FernetKey:
    """One key with its two halves ready for use."""

    def __init__(self, material: KeyMaterial) -> None:
        raw = raw_of(material)
        self._signing, self._cipher = raw[:HALF_BYTES], AES128(raw[HALF_BYTES:])

    def signed(self, token: bytes) -> bool:
        """Returns whether the MAC of a token is right."""
        return hmac.compare_digest(self._mac(token[:-MAC_BYTES]), token[-MAC_BYTES:])

    def decrypted(self, token: bytes) -> bytes | None:
        """Returns the plaintext of a token whose MAC is right; None: its padding is not, so nobody has written it."""
        decryptor = Cipher(self._cipher, CBC(token[HEAD_BYTES - IV_BYTES : HEAD_BYTES])).decryptor()
        padded = decryptor.update(token[HEAD_BYTES:-MAC_BYTES]) + decryptor.finalize()
        size = padded[-1]
        return padded[:-size] if 1 <= size <= BLOCK_BYTES and padded.endswith(bytes([size]) * size) else None

    def opened(self, token: bytes) -> bytes | None:
        """Returns the plaintext of a token; None: it is not authentic."""
        return self.decrypted(token) if self.signed(token) else None

    def sealed(self, text: bytes, stamp: bytes, iv: bytes) -> bytes:
        """Returns the bytes of a token."""
        size = BLOCK_BYTES - len(text) % BLOCK_BYTES
        encryptor = Cipher(self._cipher, CBC(iv)).encryptor()
        ciphertext = encryptor.update(text + bytes([size]) * size) + encryptor.finalize()
        body = b"".join((VERSION_BYTE, stamp, iv, ciphertext))
        return body + self._mac(body)

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self._signing, body, "sha256")


class _Key(FernetKey):
    """The same with its version."""

    def __init__(self, version: KeyVersion, material: KeyMaterial) -> None:
        super().__init__(material)
        self.version = version


def _cut(ivs: bytes) -> Iterator[bytes]:
    return (ivs[start : start + IV_BYTES] for start in range(0, len(ivs), IV_BYTES))


def _keys(ring: KeyRing) -> list[_Key]:
    return [_Key(version, ring.material(version)) for version in ring.versions]


def parsed(value: bytes) -> bytes | None:
    """Returns the bytes of a canonical token; None for anything else.

    The library also reads a token with ``+`` or ``/``, white space or stray bits, but never writes one; such a value is
    a finding. No part of a token is secret, so nothing here needs constant time.
    """
    if len(value) < SHORTEST_CHARS or len(value) % 4 or not value.startswith(b"g"):
        return None
    try:
        token = a2b_base64(value.translate(_TO_STANDARD))
    except Base64Error:
        return None
    whole = token.startswith(VERSION_BYTE) and len(token) > FRAME_BYTES
    return token if whole and (len(token) - FRAME_BYTES) % BLOCK_BYTES == 0 and encoded(token) == value else None


def encoded(token: bytes) -> bytes:
    """Returns a token as it is stored."""
    return b2a_base64(token, newline=False).translate(_TO_URL_SAFE)


def signing_blocks(material: KeyMaterial) -> tuple[bytes, bytes]:
    """Returns what SQL needs to recognise a key's tokens: the signing key under HMAC's inner and outer pad, 64 B each.

    ``sha256(outer ‖ sha256(inner ‖ token without its MAC))`` is the MAC. They decrypt nothing, but whoever reads them
    can forge tokens: only those of a key that encrypts nowhere any more may leave this process.
    """
    half = raw_of(material)[:HALF_BYTES].ljust(_SHA256_BLOCK_BYTES, b"\0")
    return bytes(byte ^ _INNER_PAD for byte in half), bytes(byte ^ _OUTER_PAD for byte in half)


class _Codec(Codec):
    def format(self, declared: ValueFormat) -> FernetFormat:
        return FernetFormat(keep_time=declared.keep_time, derivation=declared.derivation)

    def notation(self, declared: ValueFormat, encoding: KeyEncoding) -> KeyNotation:  # noqa: ARG002
        if declared.derivation is not None:
            return listed_derived(declared.derivation)
        return by_commas(KeyEncoding.B64URL, of_aes=False, what="a Fernet key")

    def mac_blocks(self, material: KeyMaterial) -> tuple[bytes, bytes]:
        return signing_blocks(material)


CODEC = _Codec()
