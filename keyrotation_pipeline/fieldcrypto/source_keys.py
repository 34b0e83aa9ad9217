"""Opens and seals the values of a library that reads one key, so that they can be brought into our own format."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from typing import Any, cast

from keyrotation_pipeline.errors import ConfigurationError, InvalidKeyError
from keyrotation_pipeline.fieldcrypto.codecs.source import ClosedError, Source
from keyrotation_pipeline.fieldcrypto.formats.sources import SourceForm
from keyrotation_pipeline.fieldcrypto.grammar import any_value_in
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import SourceKey


class CheckedSource:
    """A source of texts, of which each value is looked at twice."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def opened(self, stored: bytes) -> bytes:
        """Decrypts a value to a text in UTF-8 that is itself neither a value of the source nor one of ours.

        Raises:
            ClosedError: it is not one, under another key, or encrypted twice.
        """
        text = self._source.opened(stored)
        try:
            text.decode()
        except UnicodeDecodeError:
            raise ClosedError from None
        if any_value_in([text]) or self._opens(text):
            raise ClosedError
        return text

    def sealed(self, text: bytes) -> bytes:
        """Encrypts a text; what the source then reads otherwise is refused.

        Raises:
            ClosedError: nobody could read it as it was.
        """
        stored = self._source.sealed(text)
        if self.opened(stored) != text:
            raise ClosedError
        return stored

    def _opens(self, text: bytes) -> bool:
        try:
            self._source.opened(text).decode()
        except ValueError:
            return False
        return True


def require_possible(form: SourceForm) -> None:
    """Checks what a form says, without a key.

    Raises:
        InvalidKeyError: no library writes values so.
    """
    if form.spec.options_may_clash:
        _code(form).require_possible(form.name, dict(form.options))


def possible_others(form: SourceForm) -> Iterator[SourceForm]:
    """Yields the other forms of the same source in which values can be."""
    for other in form.others:
        with suppress(InvalidKeyError):
            require_possible(other)
            yield other


def _code(form: SourceForm) -> Any:  # noqa: ANN401  a module
    return import_module(f"{form.spec.package}.codec")


def source_of(form: SourceForm, key: SourceKey) -> CheckedSource:
    """Returns a source under one key."""
    code = _code(form)
    return CheckedSource(cast("Source", code.source(form.name, raw_of(key), dict(form.options))))


def source_in(ring: KeyRing, form: SourceForm, name: str) -> Source:
    """Returns a source under the key of this name in a ring; without it, as in a backup from later, nothing opens."""
    found = ring.sources.get(name)
    return _NoKey() if found is None else source_of(form, found[1])


def opener_in(ring: KeyRing, form: SourceForm | None, name: str) -> Callable[[bytes], bytes]:
    """Returns what opens the values that a place held before ours, or raises `ClosedError`; plaintext is its own text.

    Args:
        form: None: it was never encrypted.
        name: of the source's key.
    """
    return bytes if form is None else source_in(ring, form, name).opened


class _NoKey:
    def opened(self, stored: bytes) -> bytes:  # noqa: ARG002
        raise ClosedError

    def sealed(self, text: bytes) -> bytes:  # noqa: ARG002
        raise ClosedError


class LegacyKey:
    """The one key with which an application's former library encrypted a column; for `EncryptedType(legacy=[…])`.

    Args:
        format: such as ``"sqlalchemy-utils-aes"``, as `from` in keyrotation.toml has it.
        key: as the library takes it.
        options: what the library does not say in its values, such as ``padding="naive"``, as in keyrotation.toml.

    Raises:
        InvalidKeyError: no such format, an option of another one, or no key.
    """

    def __init__(self, format: str, key: str | bytes, **options: str) -> None:  # noqa: A002
        try:
            form = SourceForm.of(format, options)
        except ConfigurationError as error:
            raise InvalidKeyError(f"LegacyKey: {error}") from None
        if form.columns:
            raise InvalidKeyError(
                f"LegacyKey: values of {format} are in several columns, and EncryptedType reads one; read both in the "
                "application's own code"
            )
        material = SourceKey(key.encode() if isinstance(key, str) else key, "legacy")
        self.form = form
        self.description = f"{form}: {material.fingerprint}"
        self.source = source_of(form, material)

    def __repr__(self) -> str:
        return f"LegacyKey({self.description[:-48]})"
