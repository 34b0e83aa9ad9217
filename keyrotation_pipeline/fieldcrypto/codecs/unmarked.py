"""Re-encrypts values that name no key: only decryption tells which it is.

GCM does not commit to its key: who knows two keys can make a value that both open. So every key of the ring is tried,
and a value that more than one opens is not touched.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag

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
from keyrotation_pipeline.fieldcrypto.binding import data_and_value
from keyrotation_pipeline.fieldcrypto.codecs.derived_keys import column_rings, derived_ring
from keyrotation_pipeline.fieldcrypto.codecs.layout import AeadCipher, Layout, Sealed
from keyrotation_pipeline.fieldcrypto.format_spec import Derivation
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KEY_BYTES
from keyrotation_pipeline.fieldcrypto.native import NativeCodec, native_codec
from keyrotation_pipeline.fieldcrypto.reads import NOT_A_VALUE, UNDER_NO_KEY, Defect, DefectKind


class UnmarkedFormat:
    """`Format` for values of one layout.

    Args:
        bound: each value is read with its associated data, as `binding.joined` joins them.
        derivation: how the application derives its keys; None: they are those of the ring.
    """

    def __init__(self, layout: Layout, *, bound: bool = False, derivation: Derivation | None = None) -> None:
        self._layout, self._bound, self._derivation = layout, bound, derivation

    def reencryptor(self, ring: KeyRing, target: KeyVersion, labels: Labels = ()) -> "UnmarkedReencryptor":
        """See `Format.reencryptor`."""
        keys, own = self._keys(ring, labels)
        return UnmarkedReencryptor(keys, target, self._layout, bound=self._bound, own=own)

    def native_codec(self, ring: KeyRing, target: KeyVersion, labels: Labels = ()) -> NativeCodec | None:
        """See `Format.native_codec`."""
        ring.material(target)  # raises where there is none
        compiled, (keys, own) = self._layout.compiled(bound=self._bound), self._keys(ring, labels)
        if any(len(raw_of(keys.material(version))) != KEY_BYTES for version in keys.versions):
            return None  # it knows AES-256 alone
        return None if compiled is None else native_codec(keys, target, compiled, own=own)

    def _keys(self, ring: KeyRing, labels: Labels) -> tuple[KeyRing, Sequence[KeyRing]]:
        """Returns the keys of every column, and those of each where each has its own."""
        own = column_rings(self._derivation, ring, labels)
        return (own[0] if own else derived_ring(self._derivation, ring)), own

    def opened_by(
        self, ring: KeyRing, stored: bytes, label: str | None = None
    ) -> tuple[KeyVersion, KeyVersion | None] | None:
        """See `Format.opened_by`."""
        opened = self.reencryptor(ring, ring.primary, (label,)).opened(stored)
        match opened:
            case Defect(DefectKind.NOT_A_VALUE):
                return None
            case Defect(version=version):  # only of one that is encrypted twice
                return version or ring.primary, version
            case version, _:
                return version, version

    def plaintext(self, ring: KeyRing, stored: bytes, label: str | None = None) -> bytes | Defect:
        """See `Format.plaintext`."""
        opened = self.reencryptor(ring, ring.primary, (label,)).opened(stored)
        return opened if isinstance(opened, Defect) else opened[1]


_Ciphers = Mapping[KeyVersion, AeadCipher]


@dataclass(frozen=True, slots=True)
class _Opened:
    version: KeyVersion
    sealed: Sealed
    text: bytes
    data: bytes | None


class UnmarkedReencryptor:
    """Re-encrypts values to one key version, whichever key of the ring they are under; see `batch.Reencryptor`.

    Values under the target, empty strings and NULLs are left unchanged. So is a value that no key of the ring opens or
    that more than one does, and one whose plaintext a key opens again: an application that could not decrypt has
    encrypted the ciphertext. A new value has the length, the padding and the case of digits of the old one. Every new
    value is taken apart and decrypted again, and compared, before it is returned.

    Args:
        bound: each value comes with its associated data; new values are returned without it.
        own: the keys of each column, where columns have keys of their own; else all have those of `ring`.
    """

    def __init__(
        self, ring: KeyRing, target: KeyVersion, layout: Layout, *, bound: bool = False, own: Sequence[KeyRing] = ()
    ) -> None:
        ring.material(target)  # raises where there is none
        self._of_columns = [
            {version: layout.cipher(raw_of(each.material(version))) for version in each.versions}
            for each in own or (ring,)
        ]
        self._own, self._version = bool(own), target
        self._layout = layout
        self._bound = bound

    def reencrypt(self, columns: Sequence[Sequence[Value]]) -> ReencryptedBatch:
        """Re-encrypts one batch; see `ValueReencryptor.reencrypt`."""
        failures: list[Failure] = []
        size = self._layout.nonce_bytes
        return ReencryptedBatch(
            [
                list(self._rewritten(n, values, _cut(nonces, size), failures))
                for n, (values, nonces) in enumerate(zip(columns, nonces_of(columns, size), strict=True))
            ],
            failures,
        )

    def check(self, columns: Sequence[Sequence[Value]]) -> tuple[list[Held], list[Failure]]:
        """Decrypts every value; see `ValueReencryptor.check`."""
        failures: list[Failure] = []
        return [self._held(n, values, failures) for n, values in enumerate(columns)], failures

    def opened(self, value: bytes) -> tuple[KeyVersion, bytes] | Defect:
        """Returns the version that a value of the first column is under, and its plaintext."""
        opened = self._open(value, self._ciphers(0))
        return opened if isinstance(opened, Defect) else (opened.version, opened.text)

    def _rewritten(
        self, column: int, values: Sequence[Value], nonces: Iterator[bytes], failures: list[Failure]
    ) -> Iterator[Value]:
        ciphers = self._ciphers(column)
        for row, value in enumerate(values):
            if not value:
                yield None
                continue
            opened = self._open(value, ciphers)
            if isinstance(opened, Defect):
                failures.append(Failure(row, column, opened))
                yield None
            else:
                target = ciphers[self._version]
                yield None if opened.version == self._version else self._sealed(opened, target, next(nonces))

    def _held(self, column: int, values: Sequence[Value], failures: list[Failure]) -> Held:
        held: Held = Counter()
        ciphers = self._ciphers(column)
        for row, value in enumerate(values):
            if not value:
                held[None] += value is not None
                continue
            opened = self._open(value, ciphers)
            if isinstance(opened, Defect):
                failures.append(Failure(row, column, opened))
            else:
                held[opened.version] += 1
        return +held

    def _ciphers(self, column: int) -> _Ciphers:
        return self._of_columns[column if self._own else 0]

    def _open(self, value: bytes, ciphers: _Ciphers) -> _Opened | Defect:
        data, value = data_and_value(value) if self._bound else (None, value)
        sealed = self._layout.split(value)
        if sealed is None:
            return NOT_A_VALUE
        found = [] if self._bound and data is None else _under(ciphers, sealed, data)
        if not found:
            return UNDER_NO_KEY
        if len(found) > 1:
            return Defect(DefectKind.SEVERAL_KEYS)
        ((version, text),) = found
        inner = self._layout.within(text)
        if inner is not None and _under(ciphers, inner, data):
            return Defect(DefectKind.ENCRYPTED_TWICE, version)
        return _Opened(version, sealed, text, data)

    def _sealed(self, opened: _Opened, target: AeadCipher, nonce: bytes) -> bytes:
        body = target.encrypt(nonce, opened.text, opened.data)
        value = self._layout.join(nonce, body, opened.sealed)
        again = self._layout.split(value)
        if again is None or _decrypted(target, again, opened.data) != opened.text:
            raise KeyRotationError(FAULTY_MACHINE)
        return value


def _under(ciphers: _Ciphers, sealed: Sealed, data: bytes | None) -> list[tuple[KeyVersion, bytes]]:
    """Returns every version whose key opens a value, with the plaintext."""
    found = []
    for version, cipher in ciphers.items():
        text = _decrypted(cipher, sealed, data)
        if text is not None:
            found.append((version, text))
    return found


def _decrypted(cipher: AeadCipher, sealed: Sealed, data: bytes | None) -> bytes | None:
    try:
        return cipher.decrypt(sealed.nonce, sealed.body, data)
    except InvalidTag:
        return None


def _cut(nonces: bytes, size: int) -> Iterator[bytes]:
    return (nonces[start : start + size] for start in range(0, len(nonces), size))
