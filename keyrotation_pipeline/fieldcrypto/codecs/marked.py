"""Re-encrypts values that name their key by a text of another library's own making, the marker.

A marker is derived from the key or chosen by the library; it is no version of ours. Each format says how a value is
parsed, what a key's marker is, and how a value is opened and sealed; what is the same for all of them is here, and
what is the same for several: keys that have names, and keys of bytes that begin with what names the key.
"""

import re
import secrets
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyrotation_pipeline.errors import InvalidKeyError, KeyRotationError
from keyrotation_pipeline.fieldcrypto.batch import FAULTY_MACHINE, Failure, Held, Labels, ReencryptedBatch, Value
from keyrotation_pipeline.fieldcrypto.codecs.layout import Layout
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KEY_BYTES, LONGEST_NAME, AesKey, KeyMaterial
from keyrotation_pipeline.fieldcrypto.native import CompiledFormat, NativeCodec, native_codec
from keyrotation_pipeline.fieldcrypto.reads import NOT_A_VALUE, UNDER_NO_KEY, Defect, DefectKind


@dataclass(frozen=True, slots=True)
class MarkedValue:
    """A stored value split into its parts.

    Args:
        marker: of the key that it names; None: it names none.
        nonce: as the format has it.
        body: what is authenticated and decrypted, with its tag.
        kept: parts of the value that no key changes.
        bound: what it is authenticated with, where the application says so; it does not stand in the value.
        data_key: the key of this value's own, encrypted under the key that it names; None: it has none.
    """

    marker: bytes | None
    nonce: bytes
    body: bytes
    kept: tuple[bytes, ...] = ()
    bound: bytes = b""
    data_key: "MarkedValue | None" = None


class MarkedKey(Protocol):
    """One key, ready for use."""

    @property
    def marker(self) -> bytes:
        """The text by which values name it."""

    def opened(self, value: MarkedValue) -> bytes | None:
        """Returns the plaintext; None: the value is not authentic under this key."""

    def sealed(self, text: bytes, old: MarkedValue) -> bytes:
        """Returns the stored value of a plaintext; keeps of the old value what no key changes."""


class Envelope(Protocol):
    """How a format writes values that name their key."""

    def parsed(self, value: bytes) -> MarkedValue | None:
        """Splits a stored value exactly as the library writes it; None: anything else."""

    def holds_a_value(self, text: bytes, old: MarkedValue, markers: Collection[bytes]) -> bool:  # noqa: ARG002
        """Returns whether a plaintext is itself a value of this format, for an application that reads it.

        Args:
            markers: of the keys that are known, where nothing else tells a value from other bytes.
        """
        return self.parsed(text) is not None

    def key(self, material: KeyMaterial) -> MarkedKey:
        """Prepares a key."""

    def generate(self, taken: Collection[str] = ()) -> KeyMaterial:
        """Generates a key that the library can be given.

        Args:
            taken: the markers of other keys, for a library that chooses a name.
        """


class MarkedFormat:
    """`Format` for values that name their key by a marker.

    Args:
        compiled: how the compiled codec knows the format, with the marker of each key; None: it does not.
        bound: whether the label of its column is what a value is authenticated with.
    """

    def __init__(self, envelope: Envelope, compiled: CompiledFormat | None = None, *, bound: bool = False) -> None:
        self._envelope, self._compiled, self._bound = envelope, compiled, bound

    def reencryptor(self, ring: KeyRing, target: KeyVersion, labels: Labels = ()) -> "MarkedReencryptor":
        """See `Format.reencryptor`."""
        return MarkedReencryptor(self._envelope, ring, target, labels if self._bound else ())

    def native_codec(self, ring: KeyRing, target: KeyVersion, labels: Labels = ()) -> NativeCodec | None:  # noqa: ARG002
        """See `Format.native_codec`.

        Raises:
            InvalidKeyError: two keys of the ring have the same marker.
        """
        if self._compiled is None or self._bound:  # it knows no labels
            return None
        self.markers(ring)
        return native_codec(ring, target, self._compiled)

    def opened_by(
        self,
        ring: KeyRing,
        stored: bytes,
        label: str | None = None,
    ) -> tuple[KeyVersion, KeyVersion | None] | None:
        """See `Format.opened_by`."""
        value = self.reencryptor(ring, ring.primary, (label,)).parsed(stored)
        if value is None:
            return None
        keys = {version: self._envelope.key(ring.material(version)) for version in ring.versions}
        named = next((version for version, key in keys.items() if key.marker == value.marker), None)
        opener = next((version for version, key in keys.items() if key.opened(value) is not None), None)
        return named or opener or ring.primary, opener

    def plaintext(self, ring: KeyRing, stored: bytes, label: str | None = None) -> bytes | Defect:
        """See `Format.plaintext`."""
        return self.reencryptor(ring, ring.primary, (label,)).plaintext(stored)

    def markers(self, ring: KeyRing) -> dict[KeyVersion, str]:
        """Returns the text by which values name each key of the ring.

        Raises:
            InvalidKeyError: two keys have the same.
        """
        markers = {version: self.marker_of(ring.material(version)) for version in ring.versions}
        require_different(markers)
        return markers

    def generate(self, taken: Iterable[str] = ()) -> KeyMaterial:
        """Generates a key whose marker is none of those that are taken: a short one may be that of another key."""
        others = frozenset(taken)
        while (material := self._envelope.generate(others)) and self.marker_of(material) in others:
            pass
        return material

    def marker_of(self, material: KeyMaterial) -> str:
        """Returns the text by which values name a key."""
        return self._envelope.key(material).marker.decode()


class MarkedReencryptor:
    """Re-encrypts values to one key version, each under the key that it names; see `batch.Reencryptor`.

    Values that name the target, empty strings and NULLs are left unchanged. One that names no key is tried under every
    key, and gets the marker of the target, since SQL can tell no other value from it. One whose plaintext is itself a
    value is left unchanged: an application that could not decrypt has encrypted the ciphertext again. Every new value
    is parsed, decrypted and compared before it is returned.

    Args:
        labels: of the columns, where their values are authenticated with these.

    Raises:
        InvalidKeyError: two keys of the ring have the same marker.
    """

    def __init__(self, envelope: Envelope, ring: KeyRing, target: KeyVersion, labels: Labels = ()) -> None:
        ring.material(target)  # raises where there is none
        self._envelope = envelope
        self._bound = [(label or "").encode() for label in labels]
        self._keys = {version: envelope.key(ring.material(version)) for version in ring.versions}
        self._target = self._keys[target]
        self._named = {key.marker: version for version, key in self._keys.items()}
        require_different({version: key.marker.decode() for version, key in self._keys.items()})

    def reencrypt(self, columns: Sequence[Sequence[Value]]) -> ReencryptedBatch:
        """Re-encrypts one batch; see `ValueReencryptor.reencrypt`."""
        failures: list[Failure] = []
        return ReencryptedBatch(
            [
                [self._rewritten(row, column, value, failures) for row, value in enumerate(values)]
                for column, values in enumerate(columns)
            ],
            failures,
        )

    def check(self, columns: Sequence[Sequence[Value]]) -> tuple[list[Held], list[Failure]]:
        """Decrypts every value; see `ValueReencryptor.check`."""
        failures: list[Failure] = []
        return [self._held(number, column, failures) for number, column in enumerate(columns)], failures

    def parsed(self, value: bytes, column: int = 0) -> MarkedValue | None:
        """Splits a value of a column."""
        found = self._envelope.parsed(value)
        return found if found is None or not self._bound else replace(found, bound=self._bound[column])

    def plaintext(self, value: bytes) -> bytes | Defect:
        """Decrypts one value."""
        parsed = self.parsed(value)
        opened = NOT_A_VALUE if parsed is None else self._open(parsed)
        return opened if isinstance(opened, Defect) else opened[1]

    def _rewritten(self, row: int, column: int, value: Value, failures: list[Failure]) -> Value:
        if not value:
            return None
        parsed = self.parsed(value, column)
        if parsed is not None and parsed.marker == self._target.marker:
            return None
        opened = NOT_A_VALUE if parsed is None else self._open(parsed)
        if parsed is None or isinstance(opened, Defect):
            failures.append(Failure(row, column, opened if isinstance(opened, Defect) else NOT_A_VALUE))
            return None
        return self._sealed(opened[1], parsed)

    def _held(self, column: int, values: Sequence[Value], failures: list[Failure]) -> Held:
        held: Held = Counter()
        for row, value in enumerate(values):
            if not value:
                held[None] += value is not None
                continue
            parsed = self.parsed(value, column)
            opened = NOT_A_VALUE if parsed is None else self._open(parsed)
            if isinstance(opened, Defect):
                failures.append(Failure(row, column, opened))
            else:
                held[opened[0]] += 1
        return +held

    def _open(self, value: MarkedValue) -> tuple[KeyVersion, bytes] | Defect:
        """Returns the version under which a value opens, and its plaintext."""
        if value.marker is None:
            return self._open_unnamed(value)
        version = self._named.get(value.marker)
        if version is None:
            return UNDER_NO_KEY
        text = self._keys[version].opened(value)
        return Defect(DefectKind.NOT_AUTHENTIC, version) if text is None else self._once(version, text, value)

    def _open_unnamed(self, value: MarkedValue) -> tuple[KeyVersion, bytes] | Defect:
        # All keys are tried: a value that two of them open was made to be read in two ways.
        opened = [(version, text) for version, key in self._keys.items() if (text := key.opened(value)) is not None]
        if len(opened) > 1:
            return Defect(DefectKind.SEVERAL_KEYS)
        return self._once(*opened[0], value) if opened else UNDER_NO_KEY

    def _once(self, version: KeyVersion, text: bytes, value: MarkedValue) -> tuple[KeyVersion, bytes] | Defect:
        twice = self._envelope.holds_a_value(text, value, self._named)
        return Defect(DefectKind.ENCRYPTED_TWICE, version) if twice else (version, text)

    def _sealed(self, text: bytes, old: MarkedValue) -> bytes:
        sealed = self._target.sealed(text, old)
        parsed = self._envelope.parsed(sealed)
        new = None if parsed is None else replace(parsed, bound=old.bound)
        if new is None or new.marker != self._target.marker or self._target.opened(new) != text:
            raise KeyRotationError(FAULTY_MACHINE)
        return sealed


def require_different(markers: dict[KeyVersion, str]) -> None:
    """Refuses keys of which two have the same marker.

    Raises:
        InvalidKeyError: names both versions.
    """
    seen: dict[str, KeyVersion] = {}
    for version, marker in markers.items():
        if (other := seen.setdefault(marker, version)) != version:
            raise InvalidKeyError(
                f"values name the keys {other} and {version} by the same text; replace one of them in the application "
                "before `keyrotation init`"
            )


NAME_PATTERN = rf"[A-Za-z0-9._-]{{1,{LONGEST_NAME}}}"
_NUMBERED = re.compile(rf"(.*?)([0-9]{{1,{LONGEST_NAME}}})")


def next_named(taken: Collection[str], first: str) -> AesKey:
    """Generates a key whose name counts on from the highest of those that are taken; with none, it is `first`."""
    numbered = [(int(found[2]), found[1]) for each in taken if (found := _NUMBERED.fullmatch(each))]
    number, stem = max(numbered, default=(0, first[:-1]))
    return AesKey(secrets.token_bytes(KEY_BYTES), f"{stem}{number + 1}")


def split(value: bytes, size: int, layout: Layout) -> MarkedValue | None:
    """Splits a value after its prefix of so many bytes; None: what follows is too short."""
    sealed = layout.split(value[size:])
    return None if sealed is None else MarkedValue(value[:size].hex().encode(), sealed.nonce, sealed.body)


class PrefixedKey:
    """`MarkedKey` of AES-GCM.

    Args:
        layout: what follows the prefix.
        associated_data: what every value is authenticated with; empty: what it is bound to, if anything.
    """

    def __init__(self, prefix: bytes, material: KeyMaterial, layout: Layout, associated_data: bytes = b"") -> None:
        self.marker = prefix.hex().encode()
        self._prefix, self._layout, self._associated_data = prefix, layout, associated_data
        self._cipher = AESGCM(raw_of(material))

    def opened(self, value: MarkedValue) -> bytes | None:
        """See `MarkedKey.opened`."""
        if not value.nonce:
            return None
        try:
            return self._cipher.decrypt(value.nonce, value.body, self._associated_data or value.bound)
        except InvalidTag:
            return None

    def sealed(self, text: bytes, old: MarkedValue) -> bytes:
        """See `MarkedKey.sealed`."""
        nonce = secrets.token_bytes(self._layout.nonce_bytes)
        body = self._cipher.encrypt(nonce, text, self._associated_data or old.bound)
        return self._prefix + self._layout.join(nonce, body)
