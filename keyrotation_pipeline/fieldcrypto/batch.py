"""Re-encrypts stored values from any key version to the target version: pure, a batch at a time."""

import os
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate, islice, pairwise, repeat
from typing import Protocol, cast

from cryptography.exceptions import InvalidTag

from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.fieldcrypto import xaes
from keyrotation_pipeline.fieldcrypto.binding import Row, associated_data, divided, is_bound_to_row
from keyrotation_pipeline.fieldcrypto.grammar import Generation, KeyVersion, any_value_in, version_named
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.reads import NOT_A_VALUE, Defect, DefectKind

Value = bytes | None
# Of columns, in order; None: a column whose names make no unambiguous label, and for which none was declared.
Labels = Sequence[str | None]
# Of values, in order; those that may be bound to their row have one with or without a key, all others None.
Rows = Sequence[Row | None]
# How many values of a column decrypt under each version; None: empty strings.
Held = Counter[KeyVersion | None]

_COLON = ord(":")

FAULTY_MACHINE = (
    "a new ciphertext did not decrypt to its text, and its batch was not written; this machine is faulty: run "
    "`keyrotation rotate` on another"
)


class UnusableValueError(KeyRotationError):
    """A stored value cannot be decrypted; says what is wrong with it."""

    def __init__(self, defect: Defect) -> None:
        self.defect = defect
        super().__init__(str(defect))


@dataclass(frozen=True, slots=True)
class Failure:
    """A value that was left unchanged: its row and column in the batch, and the reason.

    Args:
        element: the subscripts of an array's element, such as ``[3]``.
    """

    row: int
    column: int
    defect: Defect
    element: str = ""


@dataclass(frozen=True, slots=True)
class ReencryptedBatch:
    """New stored values by column, None where the value is unchanged; and the values that could not be rewritten.

    Args:
        texts: of each new value what was encrypted, by column, where the reencryptor passes it on, for search indexes.
    """

    columns: list[list[Value]]
    failures: list[Failure]
    texts: Sequence[Sequence[Value]] = field(default=(), repr=False)


class ValueReencryptor(Protocol):
    """Re-encrypts and checks batches of stored values; `Reencryptor` does it for the native format."""

    def reencrypt(self, columns: Sequence[Sequence[Value]]) -> ReencryptedBatch:
        """Re-encrypts one batch: columns of stored values, all of the same length."""

    def check(self, columns: Sequence[Sequence[Value]]) -> tuple[list[Held], list[Failure]]:
        """Decrypts every value: returns what each column holds, and which values do not decrypt."""


class Reencryptor:
    """Re-encrypts stored values to one key version, reading each under the key that it names.

    Values under the target, empty strings and NULLs are left unchanged. So is a value whose plaintext is itself one:
    an application that could not decrypt has encrypted the ciphertext again. Every new value is decrypted again and
    compared before it is returned.

    Args:
        ring: holds `target` and every version to read.
        labels: of the columns, in the order of a batch, which values of the second generation are bound to; none
            where there are no such values.
        since: of the first version whose values are bound to their row, too, the number; each value then comes with the
            key of its row, as `binding.divided` takes it, and new ones are returned without it. 0: there is none.
    """

    def __init__(self, ring: KeyRing, target: KeyVersion, labels: Labels = (), since: int = 0) -> None:
        self._versions = {str(version).encode(): version for version in ring.versions}
        self._decrypt = {name: ring.cipher(version).decrypt for name, version in self._versions.items()}
        self._target = ring.cipher(target)
        self._generation = target.generation
        self._prefix = target.prefix.encode()
        self._target_version = target
        self._labels = labels
        self._since = since

    def reencrypt(self, columns: Sequence[Sequence[Value]]) -> ReencryptedBatch:
        """Re-encrypts one batch.

        Args:
            columns: stored values as the database's bytes, one sequence a column, all of the same length.
        """
        # They are used once, whether the batch succeeds or not.
        drawn = xaes.drawn_nonces(self._generation, sum(map(len, columns)))
        nonces = _by_column(columns, self._generation.nonce_bytes, drawn)
        failures: list[Failure] = []
        rewritten = [
            self._reencrypt_column(number, *self._divided(values), each, failures)
            for number, (values, each) in enumerate(zip(columns, nonces, strict=True))
        ]
        return ReencryptedBatch([new for new, _ in rewritten], failures, [texts for _, texts in rewritten])

    def check(self, columns: Sequence[Sequence[Value]]) -> tuple[list[Held], list[Failure]]:
        """Decrypts every value: returns what each column holds, and which values do not decrypt."""
        failures: list[Failure] = []
        return [
            self._check_column(number, *self._divided(column), failures) for number, column in enumerate(columns)
        ], failures

    def _divided(self, values: Sequence[Value]) -> tuple[Sequence[Value], Rows]:
        """Returns stored values, and the row of each where it may be bound to it."""
        if not self._since:
            return values, [None] * len(values)
        parts = [divided(value, self._since) if value else (value, None) for value in values]
        return [value for value, _ in parts], [row for _, row in parts]

    def _check_column(self, number: int, column: Sequence[Value], rows: Rows, failures: list[Failure]) -> Held:
        present = [(at, value) for at, value in enumerate(column) if value]
        of_present = [rows[at] for at, _ in present]
        if self._open_all(number, [value for _, value in present], of_present) is None:
            opened = [self._try_to_open(value, rows[at], at, number, failures) for at, value in present]
            present = [each for each, plaintext in zip(present, opened, strict=True) if plaintext is not None]
        names = Counter(value.partition(b":")[0] for _, value in present)
        held: Held = Counter({self._versions[name]: count for name, count in names.items()})
        held[None] = column.count(b"")
        return +held

    def _reencrypt_column(
        self, number: int, values: Sequence[Value], rows: Rows, nonces: bytes, failures: list[Failure]
    ) -> tuple[list[Value], Sequence[Value]]:
        """Returns the new values of a column, and their plaintexts."""
        if (texts := self._open_every(number, values, rows)) is not None:  # the usual case
            return self._encrypt_all(number, texts, rows, nonces), texts
        chosen, texts = self._open_others(number, values, rows, failures)
        nonces = nonces[: len(chosen) * self._generation.nonce_bytes]
        new = self._encrypt_all(number, texts, [rows[at] for at in chosen], nonces)
        return _at(chosen, new, len(values)), _at(chosen, texts, len(values))

    def _open_others(
        self, number: int, values: Sequence[Value], rows: Rows, failures: list[Failure]
    ) -> tuple[list[int], list[bytes]]:
        """Returns the places of the values that do not stay and can be opened, in order, and their plaintexts."""
        chosen = [at for at, value in enumerate(values) if value and not value.startswith(self._prefix)]
        texts = self._open_every(number, [values[at] for at in chosen], [rows[at] for at in chosen])
        if texts is None:
            opened = [self._try_to_open(values[at], rows[at], at, number, failures) for at in chosen]
            chosen = [at for at, plaintext in zip(chosen, opened, strict=True) if plaintext is not None]
            texts = [plaintext for plaintext in opened if plaintext is not None]
        return chosen, texts

    def _open_every(self, number: int, values: Sequence[Value], rows: Rows) -> list[bytes] | None:
        """Returns all plaintexts of a column; None if some stay unchanged or the fast path cannot open one."""
        if None in values or b"" in values:
            return None
        if values and values[0] and values[0].startswith(self._prefix):
            return None
        return self._open_all(number, cast("Sequence[bytes]", values), rows)

    def _open_all(self, number: int, values: Sequence[bytes], rows: Rows) -> list[bytes] | None:
        """Returns the plaintexts if all are well-formed, authentic, under one version and encrypted once; else None.

        The hot loop, in which each step is one call over all values. While all of them are good, a value costs three
        quarters of what `_open` takes, and most of that is AES. It accepts nothing that `_open` does not.
        """
        if not values:
            return []
        version = values[0].partition(b":")[0]
        known = self._versions.get(version)
        parts = _split_values(values, version, known.generation) if known else None
        if known is None or parts is None or not all(map(self._is_known, rows)):
            return None
        try:
            plaintexts = list(map(self._decrypt[version], *parts, self._bound(number, known, rows)))
        except InvalidTag:
            return None
        return None if any_value_in(plaintexts) else plaintexts

    def _encrypt_all(self, number: int, plaintexts: list[bytes], rows: Rows, nonces: bytes) -> list[Value]:
        """Encrypts plaintexts to stored values, each decrypted again and compared."""
        each_nonce = _cut(nonces, self._generation.nonce_bytes)
        bodies = list(
            map(self._target.encrypt, each_nonce, plaintexts, self._bound(number, self._target_version, rows))
        )
        if not self._is_intact(each_nonce, bodies, plaintexts, self._bound(number, self._target_version, rows)):
            raise KeyRotationError(FAULTY_MACHINE)
        prefix = self._prefix
        # A nonce fills its base64 characters exactly, so all nonces can be encoded in one call.
        encoded_nonces = _cut(b2a_base64(nonces, newline=False), self._generation.nonce_chars)
        return [
            b"".join((prefix, nonce, b":", b2a_base64(body, newline=False)))
            for nonce, body in zip(encoded_nonces, bodies, strict=True)
        ]

    def _is_intact(
        self, nonces: list[bytes], bodies: list[bytes], plaintexts: list[bytes], bound: Iterable[bytes | None]
    ) -> bool:
        try:
            return list(map(self._target.decrypt, nonces, bodies, bound)) == plaintexts
        except InvalidTag:
            return False

    def _bound(self, column: int, version: KeyVersion, rows: Rows) -> Iterable[bytes | None]:
        """Yields what each value of a column under a version is authenticated with."""
        label = self._labels[column] if self._labels else None
        if is_bound_to_row(version, self._since):
            return [associated_data(version, label, row) for row in rows]
        return repeat(associated_data(version, label))

    def _is_known(self, row: Row | None) -> bool:
        return row is None or row.key is not None

    def _try_to_open(
        self, value: Value, row: Row | None, at: int, column: int, failures: list[Failure]
    ) -> bytes | None:
        try:
            return self._open(column, value, row) if value else None
        except UnusableValueError as error:
            failures.append(Failure(at, column, error.defect))
            return None

    def _open(self, column: int, value: bytes, row: Row | None) -> bytes:
        """Decrypts a stored value under the version that it names, accepting exactly the value grammar.

        A row without a key is none that a value could be bound to, whatever it is bound to now.
        """
        name, _, encoded = value.partition(b":")
        version = version_named(name.decode("latin-1"))
        if version is None:
            raise UnusableValueError(NOT_A_VALUE)
        nonce_bytes, nonce_chars = version.generation.nonce_bytes, version.generation.nonce_chars
        # A nonce fills its characters exactly, so without the colon both parts are one base64 text.
        joined = encoded.replace(b":", b"", 1)
        raw = _decoded(joined)
        # Encoding it again gives the same text only if it was canonical: no white space, other alphabet or stray bits.
        whole = len(raw) >= nonce_bytes + version.generation.overhead_bytes and encoded[nonce_chars] == _COLON
        if not whole or b2a_base64(raw, newline=False) != joined:
            raise UnusableValueError(NOT_A_VALUE)
        decrypt = self._decrypt.get(name)
        if decrypt is None:
            raise UnusableValueError(Defect(DefectKind.UNKNOWN_VERSION, version))
        plaintext = None
        with suppress(InvalidTag):
            if self._is_known(row):
                (bound,) = islice(self._bound(column, version, [row]), 1)
                plaintext = decrypt(raw[:nonce_bytes], raw[nonce_bytes:], bound)
        if plaintext is None or any_value_in([plaintext]):
            wrong = DefectKind.NOT_AUTHENTIC if plaintext is None else DefectKind.ENCRYPTED_TWICE
            raise UnusableValueError(Defect(wrong, version))
        return plaintext


def _at(chosen: Sequence[int], parts: Sequence[Value], count: int) -> list[Value]:
    """Puts each part at its number among `count`, None elsewhere."""
    placed: list[Value] = [None] * count
    for at, part in zip(chosen, parts, strict=True):
        placed[at] = part
    return placed


def nonces_of(columns: Sequence[Sequence[Value]], size: int) -> list[bytes]:
    """Draws random nonces of `size` bytes in one call: for each column, those of its values behind one another."""
    return _by_column(columns, size, os.urandom(size * sum(map(len, columns))))


def _by_column(columns: Sequence[Sequence[Value]], size: int, nonces: bytes) -> list[bytes]:
    """Divides nonces of `size` bytes, one for each value, among the columns; none is given out twice."""
    ends = accumulate((size * len(values) for values in columns), initial=0)
    return [nonces[start:end] for start, end in pairwise(ends)]


def _split_values(
    values: Sequence[bytes], version: bytes, generation: Generation
) -> tuple[list[bytes], list[bytes]] | None:
    """Splits values into nonces and bodies; returns None unless all are well-formed and under `version`."""
    chars = generation.nonce_chars
    head = len(version) + chars + 2
    parts = b"".join([value[:head] for value in values]).split(b":")
    encoded_nonces, encoded_bodies = parts[1::2], [value[head:] for value in values]
    if parts[:-1:2].count(version) != len(values) or set(map(len, encoded_nonces)) != {chars}:
        return None
    try:
        nonces, bodies = a2b_base64(b"".join(encoded_nonces)), list(map(a2b_base64, encoded_bodies))
    except Base64Error:
        return None
    # Encoding them again gives the same text only if they were canonical: no white space, other alphabet or stray bits.
    canonical = b2a_base64(nonces, newline=False) == b"".join(encoded_nonces)
    canonical = canonical and b"".join(map(b2a_base64, bodies)) == b"\n".join([*encoded_bodies, b""])
    return (_cut(nonces, generation.nonce_bytes), bodies) if canonical else None


def _cut(joined: bytes, size: int) -> list[bytes]:
    return [joined[start : start + size] for start in range(0, len(joined), size)]


def _decoded(text: bytes) -> bytes:
    try:
        return a2b_base64(text)
    except Base64Error:
        return b""
