"""Defines the SQLAlchemy type of the two columns of a search index, and the condition that finds rows by them."""

import string
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy import Column, FromClause, Table, cast, event, func, inspect, or_
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import Mapper
from sqlalchemy.orm.attributes import flag_modified
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.types import Text, TypeDecorator, TypeEngine

from keyrotation_pipeline.encrypted_type.column import EncryptedType, checked_provider, current_ring
from keyrotation_pipeline.encrypted_type.expressions import clause_of
from keyrotation_pipeline.encrypted_type.failures import unwrapped
from keyrotation_pipeline.errors import (
    EncryptedComparisonError,
    InvalidBindingError,
    KeyRotationError,
    PlaintextTypeError,
)
from keyrotation_pipeline.fieldcrypto.binding import checked_label, default_label
from keyrotation_pipeline.fieldcrypto.cipher import utf8_of
from keyrotation_pipeline.fieldcrypto.codecs.source import ClosedError
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.search_index import (
    FULL_BYTES,
    SHORTEST_BYTES,
    Indexer,
    IndexForm,
    Normalisation,
    newest,
)
from keyrotation_pipeline.fieldcrypto.source_keys import LegacyKey

_ALLOWED = frozenset({operators.eq, operators.in_op, operators.is_, operators.is_not})


class _EqualOnly(TypeDecorator.Comparator[Any]):
    """Allows a query to look for equal texts, and nothing else."""

    __slots__ = ()

    def operate(self, op: operators.OperatorType, *other: object, **kwargs: object) -> ColumnElement[Any]:
        if op not in _ALLOWED:
            operation = getattr(op, "__name__", "an operator").removesuffix("_op")
            raise EncryptedComparisonError(
                f"{self.expr} is a search index and cannot be used with {operation!r}: it only shows which texts are "
                "equal; use matches()"
            )
        return super().operate(op, *other, **kwargs)


class SearchIndex(TypeDecorator[str]):
    """One of the two columns of a search index (blind index): takes the text, and stores an HMAC of it.

    Each index has two columns, one for keys with an odd number and one for the others. Both are written with the
    encrypted column, each under the newest key of the ring that it is for, or NULL. While two keys are in use a row so
    has an index under both, and unique constraints on both columns hold at every moment of a rotation. Setting the
    attribute of the encrypted column sets both; statements must name all three, with one text. Search with `matches`.

    Equal texts have equal indexes: whoever reads the table sees which rows are equal, and whoever has the key can test
    guesses.

    Args:
        key_ring: as the encrypted column's.
        of: the name of the encrypted column, in the same table.
        odd: whether it is the column for keys with an odd number.
        normalise: what is done to a text first, in order: ``"strip"``, ``"lower"``, ``"nfc"``. As in keyrotation.toml.
        size_bytes: how much of the 32 bytes is kept. With few, searches find other texts, too. As in keyrotation.toml.
        binding: as the encrypted column's, where that has one.

    Raises (in statements):
        PlaintextTypeError: neither a string nor None.
        InvalidBindingError: the type is no table's column, and has no `binding`.
        KeyRingUnavailableError: `key_ring` raised an error of its own.
    """

    impl: TypeEngine[Any] | type[TypeEngine[Any]] = Text
    cache_ok = True
    comparator_factory = _EqualOnly

    def __init__(
        self,
        key_ring: KeyRing | Callable[[], KeyRing],
        of: str,
        *,
        odd: bool,
        normalise: Sequence[str] = (),
        size_bytes: int = FULL_BYTES,
        binding: str | None = None,
    ) -> None:
        checked_provider(key_ring, "SearchIndex")
        if not SHORTEST_BYTES <= size_bytes <= FULL_BYTES:
            raise ValueError(f"SearchIndex(size_bytes=…) is {SHORTEST_BYTES} to {FULL_BYTES}; correct it")
        super().__init__()
        self.key_ring = key_ring
        self.of = of
        self.odd = odd
        self.normalise = tuple(map(Normalisation, normalise))
        self.size_bytes = size_bytes
        self.binding = None if binding is None else checked_label(binding)
        self._declares_binding = binding is not None
        self._indexer: Indexer | None = None

    def bound_to(self, schema: str | None, table: str) -> "SearchIndex":
        """Returns the type for a column of one table: the same where a label was declared."""
        if self._declares_binding:
            return self
        bound = self.copy()
        try:
            bound.binding = default_label(schema, table, self.of)
        except InvalidBindingError:  # said when a text is indexed
            bound.binding = None
        return bound

    def process_bind_param(self, value: object, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Computes the index of one text on its way to the database."""
        if value is None:
            return None
        try:
            indexer = self._current_indexer()
            version = newest(indexer.ring.versions, odd=self.odd)
            return None if version is None else indexer.under(version, _utf8(value))
        except KeyRotationError as error:
            raise unwrapped(error) from None

    def _current_indexer(self) -> Indexer:
        ring, known = current_ring(self.key_ring), self._indexer
        if known is None or known.ring is not ring or known.form.label != self.binding:
            if self.binding is None:
                raise InvalidBindingError(
                    f"a search index of {self.of} is bound to its column, which is not known here; use "
                    'SearchIndex in a table\'s column, or give it binding="table.column"'
                )
            known = self._indexer = Indexer(IndexForm(self.binding, self.normalise, self.size_bytes), ring)
        return known


def matches(column: Any, text: str) -> ColumnElement[bool]:  # noqa: ANN401
    """Returns the condition that an encrypted column holds a text, by its search index.

    Where `size_bytes` is small, compare what is found after reading it. Of a column with `encrypted_from`, what is
    plaintext yet is compared as it is, `strip` and `lower` by the database; `nfc` is left out. Of a former library only
    values that equal texts have in common are found.

    Args:
        column: an encrypted column, or its attribute of a class or an alias.

    Raises:
        EncryptedComparisonError: the column has no search index.
        PlaintextTypeError: `text` is no string; use ``is_(None)`` for NULL.
    """
    _utf8(text)
    element = clause_of(column)
    indexes = indexes_of(element.table, element.name)
    if not indexes:
        raise EncryptedComparisonError(
            f"{element} has no search index; give its table two columns of the type SearchIndex"
        )
    return or_(*(each == text for each in indexes), *_not_yet_encrypted(element, text, indexes[0]))


def _not_yet_encrypted(
    element: ColumnElement[Any], text: str, index: ColumnElement[Any]
) -> Iterator[ColumnElement[bool]]:
    """Yields what finds a text in the form that the column has so far."""
    type_ = element.type
    if not isinstance(type_, EncryptedType) or type_.encrypted_from is None or type_.bytea:
        return
    stored = cast(element, Text)
    if isinstance(former := type_.legacy, LegacyKey):
        if former.form.spec.deterministic:
            with suppress(ClosedError):
                yield stored == former.source.sealed(utf8_of(text)).decode()
        return
    yield stored == text
    form: Any = index.type
    if form.normalise:
        normalised: ColumnElement[Any] = stored
        for each in form.normalise:
            if each is Normalisation.STRIP:
                normalised = func.trim(normalised, string.whitespace)
            elif each is Normalisation.LOWER:
                normalised = func.lower(normalised)
        yield normalised == IndexForm("", form.normalise, form.size_bytes).normalised(text)


def indexes_of(table: FromClause, name: str) -> list[ColumnElement[Any]]:
    """Returns the columns of a table that hold the search index of one of its columns."""
    return [each for each in table.c if isinstance(each.type, SearchIndex) and each.type.of == name]


def names_indexed(table: FromClause) -> list[str]:
    """Returns the names of the columns of a table that have a search index."""
    return list(dict.fromkeys(each.type.of for each in table.c if isinstance(each.type, SearchIndex)))


@event.listens_for(Column, "after_parent_attach")
def _bind(column: Column[Any], parent: object) -> None:
    if isinstance(parent, Table) and isinstance(column.type, SearchIndex):
        column.type = column.type.bound_to(parent.schema, parent.name)


@event.listens_for(Mapper, "mapper_configured")
def _set_together(mapper: Mapper[Any], class_: type[Any]) -> None:
    """Has the attribute of an encrypted column set those of its search index."""
    indexes: dict[tuple[FromClause | None, str], list[str]] = {}
    for attribute in mapper.column_attrs:
        column = attribute.columns[0]
        if isinstance(column.type, SearchIndex):
            indexes.setdefault((column.table, column.type.of), []).append(attribute.key)
    for attribute in mapper.column_attrs:
        for column in attribute.columns:
            if isinstance(column, Column) and (column.table, column.name) in indexes:
                _follow(class_, attribute.key, indexes[column.table, column.name])


def _follow(class_: type[Any], key: str, followers: list[str]) -> None:
    def follow(target: object, value: object, _before: object, _initiator: object) -> None:
        for each in followers:
            setattr(target, each, value)

    # What was loaded of an index is no text: an object that is merged, or added again, would have it indexed.
    def written(_mapper: object, _connection: object, target: object) -> None:
        follow(target, getattr(target, key), None, None)
        for each in (key, *followers):  # a statement names all three
            flag_modified(target, each)

    def inserted(mapper: object, connection: object, target: object) -> None:
        if key in inspect(target, raiseerr=True).dict:  # else its default is stored, or nothing
            written(mapper, connection, target)

    def updated(mapper: object, connection: object, target: object) -> None:
        attributes = inspect(target, raiseerr=True).attrs
        if any(attributes[each].history.has_changes() for each in (key, *followers)):
            written(mapper, connection, target)

    event.listen(getattr(class_, key), "set", follow)
    event.listen(class_, "before_insert", inserted)
    event.listen(class_, "before_update", updated)


def _utf8(text: object) -> bytes:
    if not isinstance(text, str):
        raise PlaintextTypeError(
            f"a search index takes str or None, not {type(text).__name__}; convert the value to str first"
        )
    return utf8_of(text)
