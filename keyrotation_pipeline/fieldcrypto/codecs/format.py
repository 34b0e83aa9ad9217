"""Defines what the engine needs of a value format, and finds the code of a declared one and of its layout.

Our own format, in both generations, is `grammar`, `cipher`, `batch` and `codec.c`, put together here.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Protocol

from keyrotation_pipeline.fieldcrypto import cipher
from keyrotation_pipeline.fieldcrypto.batch import Labels, Rewriter, ValueRewriter
from keyrotation_pipeline.fieldcrypto.binding import Row, associated_data, divided
from keyrotation_pipeline.fieldcrypto.codecs import cloak_47ng
from keyrotation_pipeline.fieldcrypto.codecs.cloak_47ng import CloakEnvelope
from keyrotation_pipeline.fieldcrypto.codecs.cloak_ecto import CloakEctoEnvelope
from keyrotation_pipeline.fieldcrypto.codecs.derived_keys import new_passphrase
from keyrotation_pipeline.fieldcrypto.codecs.fernet import FernetFormat
from keyrotation_pipeline.fieldcrypto.codecs.fernet_keyed_wrapper import KeyedWrapperEnvelope
from keyrotation_pipeline.fieldcrypto.codecs.laravel_crypt import CIPHERS, LaravelPayload
from keyrotation_pipeline.fieldcrypto.codecs.layout import Layout
from keyrotation_pipeline.fieldcrypto.codecs.marked import MarkedFormat
from keyrotation_pipeline.fieldcrypto.codecs.rails_ar_encryption import RailsEnvelope
from keyrotation_pipeline.fieldcrypto.codecs.tink import TinkEnvelope
from keyrotation_pipeline.fieldcrypto.codecs.unmarked import UnmarkedFormat
from keyrotation_pipeline.fieldcrypto.codecs.value_format import (
    AES_GCM,
    CLOAK_47NG,
    CLOAK_ECTO,
    FERNET,
    KEYED_WRAPPER,
    LARAVEL,
    NATIVE,
    RAILS,
    TINK,
    VAULT_TRANSIT,
    Derivation,
    ValueFormat,
)
from keyrotation_pipeline.fieldcrypto.codecs.vault_transit import TransitFormat
from keyrotation_pipeline.fieldcrypto.grammar import SECOND, KeyVersion, parsed
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KEY_BYTES, AesKey, KeyMaterial
from keyrotation_pipeline.fieldcrypto.native import NativeCodec, native_codec
from keyrotation_pipeline.fieldcrypto.reads import Defect


@lru_cache(maxsize=512)
def layout_of(text: str) -> Layout:
    """Returns a parsed layout; see `Layout`."""
    return LaravelPayload(text) if text in CIPHERS else Layout(text)


class NativeFormat:
    """`Format` for values that name their key version.

    Args:
        since: the number of the first version whose values are bound to their row; each value is then read with the key
            of its row. 0: there is none.
    """

    def __init__(self, since: int = 0) -> None:
        self._since = since

    def rewriter(self, ring: KeyRing, target: KeyVersion, labels: Labels = ()) -> Rewriter:
        """See `Format.rewriter`."""
        return Rewriter(ring, target, labels, self._since)

    def native_codec(self, ring: KeyRing, target: KeyVersion, labels: Labels = ()) -> NativeCodec | None:
        """See `Format.native_codec`; None also where a column has no label that the second generation needs."""
        second = next((version for version in ring.versions if version.generation == SECOND), None)
        if second is None:
            return native_codec(ring, target, since=self._since)
        if not labels or None in labels:
            return None
        bound = [associated_data(second, label) or b"" for label in labels]
        return native_codec(ring, target, bound=bound, since=self._since)

    def opened_by(
        self, ring: KeyRing, stored: bytes, label: str | None = None
    ) -> tuple[KeyVersion, KeyVersion | None] | None:
        """See `Format.opened_by`."""
        stored, row = self._divided(stored)
        value = parsed(_text(stored))
        return None if value is None else (value.version, cipher.opened_by(ring, value, label, row))

    def plaintext(self, ring: KeyRing, stored: bytes, label: str | None = None) -> bytes | Defect:
        """See `Format.plaintext`."""
        stored, row = self._divided(stored)
        return cipher.plaintext(ring, _text(stored), label, row)

    def _divided(self, stored: bytes) -> tuple[bytes, Row | None]:
        return divided(stored, self._since) if self._since else (stored, None)


def _text(stored: bytes) -> str:
    # What is not ASCII is no value, whatever its characters are.
    return stored.decode("latin-1")


class Format(Protocol):
    """The code of one value format."""

    def rewriter(self, ring: KeyRing, target: KeyVersion, labels: Labels = ()) -> ValueRewriter:
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


_FORMATS: Mapping[str, Callable[[ValueFormat], Format]] = MappingProxyType(
    {
        NATIVE.name: lambda declared: NativeFormat(declared.row_from if declared.row else 0),
        FERNET.name: lambda declared: FernetFormat(keep_time=declared.keep_time, derivation=declared.derivation),
        AES_GCM.name: lambda declared: UnmarkedFormat(
            layout_of(declared.layout), bound=bool(declared.aad), derivation=declared.derivation
        ),
        LARAVEL.name: lambda declared: UnmarkedFormat(layout_of(declared.layout)),
    }
)


def _rails(declared: ValueFormat) -> MarkedFormat:
    derivation = declared.derivation or Derivation.PBKDF2_SHA256
    envelope = RailsEnvelope(derivation.digest, declared.salt, deterministic=declared.deterministic)
    return MarkedFormat(envelope, envelope.compiled)


_MARKED: Mapping[str, Callable[[ValueFormat], MarkedFormat | TransitFormat]] = MappingProxyType(
    {
        RAILS.name: _rails,
        CLOAK_47NG.name: lambda _declared: MarkedFormat(CloakEnvelope(), cloak_47ng.COMPILED),
        CLOAK_ECTO.name: lambda declared: MarkedFormat(CloakEctoEnvelope(layout_of(declared.layout))),
        TINK.name: lambda declared: MarkedFormat(TinkEnvelope(layout_of(declared.layout)), bound=bool(declared.aad)),
        KEYED_WRAPPER.name: lambda _declared: MarkedFormat(KeyedWrapperEnvelope()),
        VAULT_TRANSIT.name: lambda declared: TransitFormat(declared.transit),
    }
)


def format_of(declared: ValueFormat) -> Format:
    """Returns the code of a declared format."""
    marked = marked_format_of(declared)
    return _FORMATS[declared.name](declared) if marked is None else marked


def column_rewriters(code: Format, ring: KeyRing, target: KeyVersion, labels: Labels) -> list[ValueRewriter]:
    """Returns what re-encrypts each column of a table alone.

    Args:
        labels: of every column.
    """
    return [code.rewriter(ring, target, (label,)) for label in labels]


def marked_format_of(declared: ValueFormat) -> MarkedFormat | TransitFormat | None:
    """Returns the code of a declared format whose values name their key by a marker; None: they do not."""
    found = _MARKED.get(declared.name)
    return None if found is None else found(declared)


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
    of_present = KEY_BYTES if present is None or declared.name != AES_GCM.name else len(raw_of(present))
    size = declared.key_bytes or CIPHERS.get(declared.layout) or of_present
    return KeyMaterial.generate() if size == KEY_BYTES else AesKey(os.urandom(size))
