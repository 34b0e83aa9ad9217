"""Defines `[[tables]]`: where encrypted values are, and what belongs to them."""

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, StrictBool, model_validator

from keyrotation_pipeline.errors import ConfigurationError, InvalidBindingError
from keyrotation_pipeline.fieldcrypto.binding import checked_label
from keyrotation_pipeline.fieldcrypto.blind_index import Algorithm, BlindIndexForm
from keyrotation_pipeline.fieldcrypto.formats.sources import NEVER_ENCRYPTED
from keyrotation_pipeline.fieldcrypto.grammar import MAX_VERSION_NUMBER
from keyrotation_pipeline.fieldcrypto.search_index import FULL_BYTES, SHORTEST_BYTES, IndexForm, Normalisation
from keyrotation_pipeline.model.tables import Place, SearchIndex
from keyrotation_pipeline.model.visible_text import is_hidden
from keyrotation_pipeline.settings.sources import SourceSettings, as_source
from keyrotation_pipeline.settings.values import Section, Text, repeated


class PlaceSettings(Section):
    """An entry of `columns`: ``"email"``, ``{ column = "payload", path = ["token"] }`` and the like.

    Args:
        column: the column that the values are in.
        path: of a jsonb column: the keys that lead to the value.
        elements: of an array: each element is a value.
        iv: the column of the value's nonce, where `[format] layout` has it in a column of its own.
        when: of a column that also holds text that is not encrypted: a boolean column of the same row, true where the
            value is encrypted. Not every format takes it.
        source: of a column that held plaintext, ``from = "plaintext"``, or values of a library that reads one key,
            ``from = { format = "sqlalchemy-utils-aesgcm", keys = { env = "OLD_KEY" } }``: a rotation encrypts what is
            left of it beside an application that reads both (`EncryptedType(encrypted_from=…)`), and then the table
            refuses it.
    """

    column: Text
    path: tuple[str, ...] = ()
    elements: StrictBool = False
    iv: Text | None = None
    when: Text | None = None
    source: Annotated[SourceSettings | None, BeforeValidator(as_source), Field(alias="from")] = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.source is not None and (self.path or self.elements):
            raise ConfigurationError(
                f"[[tables]] column {self.column} has from, which is for whole columns, and a path or elements; have "
                "the application save each value encrypted, or in a column of its own, and leave out from"
            )
        if self.source is not None and (self.iv or self.when):
            raise ConfigurationError(
                f"[[tables]] column {self.column} has from, which is for values that are the whole column, and iv or "
                "when; leave one out"
            )
        if self.iv is not None and (self.path or self.elements):
            raise ConfigurationError(
                f"[[tables]] column {self.column} has iv = {self.iv}, and a path or elements; iv is for whole columns "
                "alone, so remove one"
            )
        if self.path and self.elements:
            raise ConfigurationError(
                f"[[tables]] column {self.column} has a path and elements, and arrays in documents cannot be "
                'rotated yet; name each element, such as ["tokens", "0"]'
            )
        if self.when is not None and (self.path or self.elements):
            raise ConfigurationError(
                f"[[tables]] column {self.column} has when, which is for values that are the whole column, and path or "
                "elements; leave one out"
            )
        if self.when is not None and is_hidden(self.when):
            raise ConfigurationError(
                f"[[tables]] column {self.column} names a column in when with characters that cannot be seen, which "
                "nobody could sign; rename that column"
            )
        if any(is_hidden(key) for key in self.path):
            raise ConfigurationError(
                f"[[tables]] column {self.column} has a path with characters that cannot be seen, which nobody could "
                "sign; rename that key"
            )
        return self

    @property
    def place(self) -> Place:
        """The same as a value of the procedure."""
        place = Place(self.column, self.path, self.elements, self.when or "", self.iv or "")
        if self.source is None:
            return place
        return replace(place, source=str(self.source.form or NEVER_ENCRYPTED), source_key=self.source.key)


def _as_place(entry: object) -> object:
    if isinstance(entry, str):
        return {"column": entry}
    if not isinstance(entry, dict):
        raise ConfigurationError(
            f'[[tables]] columns has the entry {entry!r}; write "name", or {{ column = "name", path = ["key"] }}'
        )
    return entry


class IndexSettings(Section):
    """An entry of `indexes`: a search index (blind index) of an encrypted column, in two columns of the same table.

    Args:
        of: the encrypted column.
        odd: the column for indexes under keys with an odd number.
        even: the column for indexes under keys with an even number.
        normalise: what is done to a text first, in this order.
        size_bytes: how much of the 32 bytes is kept.
        algorithm: of blind_index only, with its own costs; `argon2id` if it is not given.
    """

    of: Text
    odd: Text
    even: Text
    normalise: tuple[Normalisation, ...] = ()
    size_bytes: Annotated[int, Field(ge=SHORTEST_BYTES, le=FULL_BYTES)] = FULL_BYTES
    algorithm: Algorithm | None = None

    def index(self, label: str, *, of_blind_index: bool) -> SearchIndex:
        """The same as a value of the procedure.

        Args:
            label: of the encrypted column.
            of_blind_index: whether blind_index makes it from the master key.
        """
        if of_blind_index:
            table = label.rpartition(".")[0]
            form = BlindIndexForm(table, self.odd, self.even, self.algorithm or Algorithm.ARGON2ID, self.size_bytes)
            return SearchIndex(self.of, self.odd, self.even, form)
        return SearchIndex(self.of, self.odd, self.even, IndexForm(label, self.normalise, self.size_bytes))


class RowSettings(Section):
    """`[tables.row]`: binds values of the second generation to their row; in `EncryptedType` alike.

    Args:
        key: the column with the row's key: a whole number, a UUID or a text that never changes.
        since: the number of the first version of the second generation whose values are bound to it: 3 for v3x.
    """

    key: Text
    since: Annotated[int, Field(alias="from", ge=1, le=MAX_VERSION_NUMBER)]


class TableSettings(Section):
    """One `[[tables]]`: a table with encrypted columns.

    Args:
        name: ``name`` or ``schema.name``, without quoting.
        columns: the encrypted ones, each by its name; a value in a jsonb column as ``{ column = "payload", path =
            ["secrets", "token"] }``, elements of text[] as ``{ column = "tags", elements = true }``; one in plaintext
            as ``{ column = "note", from = "plaintext" }``, another library's as `keyrotation docs plaintext` says.
        bindings: of columns whose values of the second generation are bound to another label than ``table.column``, as
            after a renaming: these labels. Search indexes are bound to them in both generations. Where a key
            is derived for each column, table and attribute by whose names it is, where they are others.
        row: binds values to their row, too, as ``{ key = "id", from = 3 }``.
        indexes: search indexes of columns, as ``{ of = "email", odd = "email_odd", even = "email_even" }``.
        databases: the names in `[[databases]]` of those that have this table, or ``"*"`` for all of them; without it,
            the one of `[database]`.
    """

    name: Text
    databases: tuple[Text, ...] | Literal["*"] | None = None
    columns: Annotated[tuple[Annotated[PlaceSettings, BeforeValidator(_as_place)], ...], Field(min_length=1)]
    bindings: dict[Text, Text] = Field(default_factory=dict)
    row: RowSettings | None = None
    indexes: tuple[IndexSettings, ...] = ()

    @property
    def places(self) -> tuple[Place, ...]:
        """Where the values are."""
        return tuple(each.place for each in self.columns)

    @model_validator(mode="after")
    def _name_and_columns(self) -> Self:
        if not all(self.name.split(".")) or self.name.count(".") > 1:
            raise ConfigurationError(f'[[tables]] {self.name} is not a table\'s name; write "name" or "schema.name"')
        if twice := repeated(each.name for each in self.places):
            raise ConfigurationError(f"column {twice} is listed twice in [[tables]] {self.name}; remove one")
        stored = Counter(column for each in self.places for column in dict.fromkeys(each.stored_columns))
        for each in self.places:
            if each.iv and (each.iv == each.column or stored[each.iv] > 1):
                raise ConfigurationError(
                    f"[[tables]] {self.name} uses {each.iv}, the nonces of column {each.column}, twice; leave "
                    "these columns out until every value has its own nonce"
                )
        paths = sorted((each.column, each.path) for each in self.places)
        for (column, outer), (same, inner) in pairwise(paths):
            if column == same and inner[: len(outer)] == outer:
                raise ConfigurationError(
                    f"[[tables]] {self.name} lists a place within another one of column {column}; remove one"
                )
        if other := sorted(set(self.bindings).difference(each.name for each in self.places)):
            raise ConfigurationError(
                f"[[tables]] {self.name} has a binding of {other[0]}, which is not among its columns; correct its name"
            )
        for label in self.bindings.values():
            try:
                checked_label(label)
            except InvalidBindingError as error:
                raise ConfigurationError(f"[[tables]] {self.name}, bindings: {error}") from None
        return self

    @model_validator(mode="after")
    def _parts_of_values(self) -> Self:
        parts = {part for each in self.places for part in each.beside}
        if inside := sorted(parts.intersection(column for each in self.places for column in each.stored_columns)):
            raise ConfigurationError(
                f"[[tables]] {self.name} lists {inside[0]} among its columns, in which another one has a part of its "
                "values; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _row(self) -> Self:
        if self.row is None:
            return self
        if inside := next((each for each in self.places if not each.is_declared_alone), None):
            raise ConfigurationError(
                f"[[tables]] {self.name} has row, which binds values that are columns of their own, and "
                f"{inside.name}, which is more than that; leave one out"
            )
        written = {each.column for each in self.places} | {c for each in self.indexes for c in (each.odd, each.even)}
        if self.row.key in written:
            raise ConfigurationError(
                f"[[tables]] {self.name} has row = {{ key = {json.dumps(self.row.key)} }}, which changes with the "
                "encryption key; name the column of the row's own key"
            )
        if is_hidden(self.row.key):
            raise ConfigurationError(
                f"[[tables]] {self.name} names a column in row with characters that cannot be seen, which nobody could "
                "sign; rename that column"
            )
        return self

    @model_validator(mode="after")
    def _indexes(self) -> Self:
        values = {each.name for each in self.places if each.is_column and not each.when and not each.iv}
        stored = {each.column for each in self.places}
        for index in self.indexes:
            if index.of not in values:
                raise ConfigurationError(
                    f"[[tables]] {self.name} has a search index of {index.of}, which is none of its whole "
                    "encrypted columns (no document, array, or part of the rows); correct `of`"
                )
            if inside := stored & {index.odd, index.even}:
                raise ConfigurationError(
                    f"[[tables]] {self.name}: column {min(inside)} is encrypted and cannot hold a search index; give "
                    "the index columns of its own"
                )
        if twice := repeated(index.of for index in self.indexes):
            raise ConfigurationError(
                f"[[tables]] {self.name} has two search indexes of {twice}, and a column has one; remove the other"
            )
        if twice := repeated(column for index in self.indexes for column in (index.odd, index.even)):
            raise ConfigurationError(
                f"[[tables]] {self.name}: column {twice} is named twice in indexes; give each index two columns "
                "of its own, for odd and for even key versions"
            )
        return self
