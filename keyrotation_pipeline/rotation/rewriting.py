"""Stored values brought from whatever key version they are under to the target version: pure, a batch at a time."""

import os
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag

from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.fieldcrypto.grammar import NONCE_BYTES, TAG_BYTES, KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing

Value = bytes | None

_SHORTEST_BYTES = NONCE_BYTES + TAG_BYTES
_COLON_AT = NONCE_BYTES // 3 * 4
_COLON = ord(":")

# Reasons for the quarantine. A value whose reason names no version is outside the grammar.
NOT_A_VALUE = "not encrypted, or damaged: not of the form of an encrypted value"
UNKNOWN_VERSION = "under key version {version}, which is not in the key ring"
NOT_AUTHENTIC = "fails authentication under key version {version}"

_FAULTY_MACHINE = (
    "a new ciphertext did not decrypt to what was encrypted, and nothing of its batch was written; "
    "the processor or memory of this machine is faulty: run `keyrotation rotate` again on another one"
)


class UnusableValueError(KeyRotationError):
    """A stored value that cannot be decrypted; the message is the reason, as the quarantine keeps it."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A value that was left as it is: its row and column in the batch, and why."""

    row: int
    column: int
    reason: str


@dataclass(frozen=True, slots=True)
class RewrittenBatch:
    """New stored values by column, None where the value stays as it is; and what could not be rewritten."""

    columns: list[list[Value]]
    failures: list[Failure]


class Rewriter:
    """Re-encrypts stored values to one key version, each under the key that it names.

    Values under the target, empty strings and NULLs stay as they are. Every new value is decrypted again and compared
    before it is given out.

    Args:
        ring: holds `target` and every version that is to be read.
    """

    def __init__(self, ring: KeyRing, target: KeyVersion) -> None:
        self._decrypt = {str(version).encode(): ring.cipher(version).decrypt for version in ring.versions}
        self._target = ring.cipher(target)
        self._prefix = target.prefix.encode()

    def rewrite(self, columns: Sequence[Sequence[Value]]) -> RewrittenBatch:
        """Re-encrypt one batch.

        Args:
            columns: stored values as the database's bytes, one sequence a column, all of the same length.
        """
        # One call for the whole batch; the buffer is used once, whatever becomes of the batch.
        size = sum(map(len, columns)) * NONCE_BYTES
        buffer = os.urandom(size)
        nonces = iter([buffer[start : start + NONCE_BYTES] for start in range(0, size, NONCE_BYTES)])
        failures: list[Failure] = []
        rewritten = [self._rewrite_column(number, values, nonces, failures) for number, values in enumerate(columns)]
        return RewrittenBatch(rewritten, failures)

    def check(self, columns: Sequence[Sequence[Value]]) -> tuple[int, list[Failure]]:
        """Decrypt every value, keeping nothing: how many there are, and which do not decrypt."""
        values = 0
        failures: list[Failure] = []
        for number, column in enumerate(columns):
            for row, value in enumerate(column):
                if value:
                    values += 1
                    try:
                        self._open(value)
                    except UnusableValueError as error:
                        failures.append(Failure(row, number, str(error)))
        return values, failures

    def _rewrite_column(
        self, number: int, values: Sequence[Value], nonces: Iterable[bytes], failures: list[Failure]
    ) -> list[Value]:
        # The hot loop: a value costs 2 µs here, of which three AES calls are one. Names are local for that reason.
        prefix, read, encrypt, decrypt = self._prefix, self._open, self._target.encrypt, self._target.decrypt
        rewritten: list[Value] = []
        for row, (value, nonce) in enumerate(zip(values, nonces, strict=False)):
            if not value or value.startswith(prefix):
                rewritten.append(None)
                continue
            try:
                plaintext = read(value)
            except UnusableValueError as error:
                rewritten.append(None)
                failures.append(Failure(row, number, str(error)))
                continue
            body = encrypt(nonce, plaintext, None)
            if decrypt(nonce, body, None) != plaintext:
                raise KeyRotationError(_FAULTY_MACHINE)
            rewritten.append(
                b"".join((prefix, b2a_base64(nonce, newline=False), b":", b2a_base64(body, newline=False)))
            )
        return rewritten

    def _open(self, value: bytes) -> bytes:
        """Decrypt a stored value under the version that it names, accepting exactly the value grammar."""
        version, _, encoded = value.partition(b":")
        # A nonce of 12 bytes fills its 16 characters, so that both parts are one base64 text but for the colon.
        joined = encoded.replace(b":", b"", 1)
        raw = _decoded(joined)
        # Encoded again, it is the same only if it was canonical: no white space, other alphabet or stray bits.
        if len(raw) < _SHORTEST_BYTES or encoded[_COLON_AT] != _COLON or b2a_base64(raw, newline=False) != joined:
            raise UnusableValueError(NOT_A_VALUE)
        decrypt = self._decrypt.get(version)
        if decrypt is None:
            raise UnusableValueError(_unknown(version))
        try:
            return decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], None)
        except InvalidTag:
            pass
        raise UnusableValueError(NOT_AUTHENTIC.format(version=version.decode()))


def _decoded(text: bytes) -> bytes:
    try:
        return a2b_base64(text)
    except Base64Error:
        return b""


def _unknown(version: bytes) -> str:
    try:
        return UNKNOWN_VERSION.format(version=KeyVersion.parse(version.decode("ascii")))
    except (KeyRotationError, UnicodeDecodeError):
        return NOT_A_VALUE
