"""Defines what the engine needs of a value format, and finds the code of a declared one: its `codec.py`."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import lru_cache
from importlib import import_module
from typing import Protocol, cast

from keyrotation_pipeline.fieldcrypto.batch import Labels, ValueReencryptor
from keyrotation_pipeline.fieldcrypto.codecs.derived_keys import new_passphrase
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import KeyEncoding, KeyNotation, by_commas
from keyrotation_pipeline.fieldcrypto.codecs.layout import Layout
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KEY_BYTES, AesKey, KeyMaterial
from keyrotation_pipeline.fieldcrypto.native import NativeCodec
from keyrotation_pipeline.fieldcrypto.reads import Defect


class Format(Protocol):
    """The code of one value format."""

    def reencryptor(self, ring: KeyRing, target: KeyVersion, labels: Labels = ()) -> ValueReencryptor:
        """Returns what re-encrypts values to a version; the ring holds it and every version to read.

        Args:
            labels: of the columns of each batch, which values may be bound to.
        """

    def native_codec(self, ring: KeyRing, target: KeyVersion, labels: Labels = ()) -> NativeCodec | None:
        """Returns the compiled codec, which does the same for batches of good values; None: there is none here."""

    def opened_by(
        self, ring: KeyRing, stored: bytes, label: str | None = None
    ) -> tuple[KeyVersion, KeyVersion | None] | None:
        """Returns the version that a value should open under, and the one whose key opens it.

        The first is the version that it names; where it names none, the second, or the primary if no key opens it.

        Args:
            label: of its column.

        Returns:
            None: it is not of this format.
        """

    def plaintext(self, ring: KeyRing, stored: bytes, label: str | None = None) -> bytes | Defect:
        """Returns the plaintext of a stored value, or what is wrong with the value."""


class NamingFormat(Format, Protocol):
    """The same where values name their key by a text of their library's own, the marker."""

    def markers(self, ring: KeyRing) -> dict[KeyVersion, str]:
        """Returns the text by which values name each key of the ring.

        Raises:
            InvalidKeyError: two keys have the same.
        """

    def marker_of(self, material: KeyMaterial) -> str:
        """Returns the text by which values name a key."""

    def generate(self, taken: Iterable[str] = ()) -> KeyMaterial:
        """Generates a key whose marker is none of those that are taken: a short one may be that of another key."""


class Codec(ABC):
    """The code of a format, which its `codec.py` has as `CODEC`."""

    @abstractmethod
    def format(self, declared: ValueFormat) -> Format:
        """Returns what reads and writes values; a `NamingFormat` where `FormatSpec.markers` says so."""

    def notation(self, declared: ValueFormat, encoding: KeyEncoding) -> KeyNotation:  # noqa: ARG002
        """Returns how the library writes several keys into one setting.

        Args:
            encoding: of each key, where the library has no notation of its own.
        """
        return by_commas(encoding)

    def layout(self, text: str) -> Layout:
        """Parses a layout."""
        return Layout(text)

    def mac_blocks(self, material: KeyMaterial) -> tuple[bytes, bytes]:
        """Returns what SQL needs to tell a key's values by their MAC: see `formats.marking.Mac`.

        Only a format whose key is told so has it.
        """
        raise NotImplementedError


def codec_of(declared: ValueFormat) -> Codec:
    """Returns the code of a declared format, which is imported by that."""
    return cast("Codec", import_module(f"{declared.spec.package}.codec").CODEC)


def format_of(declared: ValueFormat) -> Format:
    """Returns what reads and writes values of a declared format."""
    return codec_of(declared).format(declared)


def marked_format_of(declared: ValueFormat) -> NamingFormat | None:
    """Returns the same of a format whose values name their key by a marker; None: they do not."""
    return cast("NamingFormat", format_of(declared)) if declared.spec.markers else None


def layout_of(declared: ValueFormat) -> Layout:
    """Returns the parsed layout of a declared format that has one; see `Layout`."""
    return _layout(codec_of(declared), declared.layout)


@lru_cache(maxsize=512)
def _layout(codec: Codec, text: str) -> Layout:
    return codec.layout(text)


def notation_of(declared: ValueFormat, encoding: KeyEncoding = KeyEncoding.B64URL) -> KeyNotation:
    """Returns the notation of a declared format's library; see `Codec.notation`."""
    return codec_of(declared).notation(declared, encoding)


def column_reencryptors(code: Format, ring: KeyRing, target: KeyVersion, labels: Labels) -> list[ValueReencryptor]:
    """Returns what re-encrypts each column of a table alone.

    Args:
        labels: of every column.
    """
    return [code.reencryptor(ring, target, (label,)) for label in labels]


def new_key(
    declared: ValueFormat,
    taken: Iterable[str] = (),
    present: KeyMaterial | None = None,
    held: Iterable[KeyMaterial] = (),
    *,
    replaces_all: bool = False,
) -> KeyMaterial:
    """Generates a key from the operating system's CSPRNG that the application's library can be given.

    Args:
        taken: the texts by which values name other keys, and must not name this one.
        present: the key that it replaces, whose length it has unless another is declared; None: there is none.
        held: keys in the key store, whose texts are taken whatever a database says.
        replaces_all: keep nothing of the present key that the application may use for other purposes too, either.
    """
    if (marked := marked_format_of(declared)) is not None:
        return marked.generate([*taken, *map(marked.marker_of, held)])
    if declared.derivation is not None and declared.derivation.is_of_passphrases:
        return new_passphrase(declared.derivation, None if replaces_all else present)
    of_present = len(raw_of(present)) if present is not None and declared.spec.takes("key_bytes") else KEY_BYTES
    size = declared.key_bytes or (layout_of(declared).key_bytes if declared.layout else 0) or of_present
    return KeyMaterial.generate() if size == KEY_BYTES else AesKey(os.urandom(size))
