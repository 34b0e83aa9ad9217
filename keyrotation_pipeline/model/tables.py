"""Declared tables, the places of their values, and what is found and counted in them."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Self

from keyrotation_pipeline.errors import InvalidBindingError
from keyrotation_pipeline.fieldcrypto.binding import default_label, parsed_template
from keyrotation_pipeline.fieldcrypto.blind_index import BlindIndexForm
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE, SEARCH_INDEX
from keyrotation_pipeline.fieldcrypto.formats.sources import NEVER_ENCRYPTED, SourceForm, parsed
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.reads import Defect
from keyrotation_pipeline.fieldcrypto.search_index import IndexForm
from keyrotation_pipeline.model.visible_text import plain_name

MEMBER_NAME = "[a-z][a-z0-9_]{0,30}"
# Covers every member whose name it matches.
NAME_RULE = r"[a-z][a-z0-9_]{0,30}\*[a-z0-9_*]{0,30}"
_OF_MEMBER = re.compile(f"({MEMBER_NAME}):(.+)", re.ASCII | re.DOTALL)


def of_member(database: str, name: str) -> str:
    """The name of something in a member of a fleet, such as ``north:clients``; in the home's own database unchanged."""
    return f"{database}:{name}" if database else name


@dataclass(frozen=True, order=True, slots=True)
class TableName:
    """A table as PostgreSQL stores its name: no quoting, case kept.

    Args:
        schema: for example ``public``.
        table: for example ``clients``.
        database: the member of a fleet that it is in; "": the home's own database.
    """

    schema: str
    table: str
    database: str = ""

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read ``clients`` (schema ``public``), ``billing.Invoices``, or as recorded ``north:billing.Invoices``."""
        member = _OF_MEMBER.fullmatch(name)
        database, name = ("", name) if member is None else member.groups()
        schema, dot, table = name.partition(".")
        return cls(schema, table, database) if dot else cls("public", name, database)

    @property
    def in_any_database(self) -> "TableName":
        """The table of this name, in whichever databases of a fleet it is."""
        return replace(self, database="")

    def __str__(self) -> str:
        return of_member(self.database, self.table if self.schema == "public" else f"{self.schema}.{self.table}")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the encrypted values of a table are: in a column, in its JSON documents, or in its arrays.

    Args:
        path: keys from the document's root to the value, as the operator ``#>>`` takes them; (): not in a document.
        elements: each element of the column's arrays is a value.
        when: a boolean column of the same row; where it is not true, other text is no value, and stays as it is.
        iv: the column of the value's nonce, where it has one of its own; "": it has none.
        source: the form that values had before: ``plaintext``, or what a `SourceForm` says; a rotation encrypts what
            still has it. "": they have no form but the table's format.
        source_key: under which name the key of such a source was imported; "": plaintext has none.
        given_back: the primary under which a walk gives values that old form again; None: it encrypts what has it.
    """

    column: str
    path: tuple[str, ...] = ()
    elements: bool = False
    when: str = ""
    iv: str = ""
    source: str = ""
    source_key: str = ""
    given_back: KeyVersion | None = None

    @property
    def form(self) -> SourceForm | None:
        """Of which other library the old values are; None: there are none, or they are plaintext."""
        return parsed(self.source) if self.source_key else None

    @property
    def beside(self) -> tuple[str, ...]:
        """The columns that hold a part of each value of such a source, such as its nonce; they are only read."""
        return () if self.form is None else self.form.columns

    @property
    def is_column(self) -> bool:
        """Whether the whole column is the value."""
        return not self.path and not self.elements

    @property
    def stored_columns(self) -> tuple[str, ...]:
        """The columns that are written with a new value."""
        return (self.column, self.iv) if self.iv else (self.column,)

    @property
    def is_declared_alone(self) -> bool:
        """Whether the name of the column says everything."""
        return self.is_column and not self.when and not self.iv and not self.source

    @property
    def declaration(self) -> str:
        """The name, with what decides which texts in the column are values, or what they were before."""
        if self.source:
            key = f" under {self.source_key}" if self.source_key else ""
            return f"{self.name} from {self.source}{key}"
        return f"{self.name} when {plain_name(self.when)}" if self.when else self.name

    @property
    def name(self) -> str:
        """``email``, ``payload.secrets.token``, ``tags[]`` or ``ssn+ssn_iv``; what could be misread is as in JSON."""
        if self.iv:
            return "+".join(json.dumps(each) if "+" in each else _key(each) for each in self.stored_columns)
        if self.is_column:
            return self.column
        return ".".join(map(_key, (self.column, *self.path))) + ("[]" if self.elements else "")

    def element(self, subscript: str) -> str:
        """The name of one element, such as ``tags[3]``."""
        return f"{_key(self.column)}{subscript}"


@dataclass(frozen=True, slots=True)
class SearchIndex:
    """A search index (blind index) of an encrypted column, and the two columns that hold it.

    Args:
        of: the encrypted column.
        odd: the column for indexes under keys with an odd number.
        even: the column for the others.
    """

    of: str
    odd: str
    even: str
    form: IndexForm | BlindIndexForm

    @property
    def columns(self) -> tuple[str, str]:
        """Both columns."""
        return self.odd, self.even

    def signed(self, table: TableName) -> str:
        """The index in a signed text."""
        of, odd, even = map(plain_name, (f"{table}.{self.of}", *self.columns))
        return f"search index of {of} in {odd} and {even}: {self.form.signed(plain_name)}"


@dataclass(frozen=True, slots=True)
class EncryptedTable:
    """One declared table, where its encrypted values are, and their format.

    Args:
        columns: names of places, each once; most are simply columns.
        places: those of them that are more than that.
        bindings: names of places with a declared label (`fieldcrypto.binding`), and these labels, in order.
        indexes: search indexes of some of the columns.
    """

    name: TableName
    columns: tuple[str, ...]
    format: ValueFormat = NATIVE
    places: tuple[Place, ...] = ()
    bindings: tuple[tuple[str, str], ...] = ()
    indexes: tuple[SearchIndex, ...] = ()

    @classmethod
    def of(cls, name: TableName, places: Sequence[Place], format: ValueFormat = NATIVE) -> Self:  # noqa: A002
        """A table whose values are in these places."""
        return cls(
            name, tuple(each.name for each in places), format, tuple(p for p in places if not p.is_declared_alone)
        )

    def place(self, name: str) -> Place:
        """The place of one of the names in `columns`."""
        return next((each for each in self.places if each.name == name), Place(name))

    @property
    def stored_columns(self) -> tuple[str, ...]:
        """The columns that the places are in, each once."""
        return tuple(dict.fromkeys(column for name in self.columns for column in self.place(name).stored_columns))

    @property
    def bound_to(self) -> tuple[str, ...]:
        """The columns of the same row that associated data is made of; they are only read."""
        if self.format.row:
            return (self.format.row,)
        return parsed_template(self.format.aad).row_columns if self.format.is_read_with_data else ()

    @property
    def conditions(self) -> tuple[str, ...]:
        """The columns that say which texts are values, each once."""
        return tuple(dict.fromkeys(each.when for each in self.places if each.when))

    @property
    def begun(self) -> tuple[str, ...]:
        """The places whose values are encrypted for the first time, or come from another library."""
        return tuple(each.name for each in self.places if each.source)

    @property
    def gives_back(self) -> bool:
        """Whether values in these places get their old form again, instead of what has it a value."""
        return any(each.given_back is not None for each in self.places)

    def giving_back(self, target: KeyVersion) -> Self:
        """The table for a walk to this key that gives the values in these places their old form again."""
        return replace(
            self, places=tuple(replace(each, given_back=target) if each.source else each for each in self.places)
        )

    @property
    def held_plaintext(self) -> tuple[str, ...]:
        """Those of them that were never encrypted."""
        return tuple(each.name for each in self.places if each.source and each.form is None)

    @property
    def old_form(self) -> str:
        """What the values in these places are so far, as a sentence has it after "in"."""
        forms = dict.fromkeys(
            NEVER_ENCRYPTED if p.form is None else f"the form of {p.form.name}" for p in self.places if p.source
        )
        return " or ".join(forms)

    @property
    def read_columns(self) -> tuple[str, ...]:
        """The columns that the places are in, and those of the same rows that are read with them."""
        beside = [column for each in self.places for column in each.beside]
        return tuple(dict.fromkeys([*self.stored_columns, *self.conditions, *self.bound_to, *beside]))

    @property
    def index_columns(self) -> tuple[str, ...]:
        """The columns of search indexes."""
        return tuple(column for index in self.indexes for column in index.columns)

    @property
    def written_columns(self) -> tuple[str, ...]:
        """All columns that are written with a new value."""
        return (*self.stored_columns, *self.index_columns)

    @property
    def of_indexes(self) -> Self:
        """The columns of search indexes as a table of their own, which is counted and fenced as any other."""
        return type(self)(self.name, self.index_columns, SEARCH_INDEX)

    @property
    def labels(self) -> tuple[str | None, ...]:
        """What values of the second generation, or of one column, are bound to; None: nothing unambiguous."""
        return tuple(self.label(column) for column in self.columns)

    def label(self, column: str) -> str | None:
        """The label of one column: the declared one, else the default."""
        if (declared := dict(self.bindings).get(column)) is not None:
            return declared
        if self.format.aad and not self.format.is_read_with_data:
            pieces = parsed_template(self.format.aad).pieces(self.name.table, self.place(column).column)
            return "".join(each.text for each in pieces)
        try:
            return default_label(self.name.schema, self.name.table, column)
        except InvalidBindingError:
            return None


@dataclass(frozen=True, slots=True)
class Shard:
    """One slice, by physical page range, of a declared table: shard `index` of `of`."""

    table: EncryptedTable
    index: int
    of: int

    @property
    def key(self) -> str:
        """Partition key of the shard dimension: ``00``, ``01`` and so on."""
        return f"{self.index:02d}"


@dataclass(frozen=True, slots=True)
class TableCount:
    """The content of one table (with its partitions or children), in values over all declared columns.

    `empty` counts stored ``''``; `unencrypted` every other value outside the grammar, including near-misses (``v01:``
    …), which `near_misses` counts separately. `unreadable` is the number of values in quarantine. Of more than twenty
    versions that were never registered, only some are in `values_by_version`: the others' values are near-misses.
    `by_column` is the same as `values_by_version`, per column.
    """

    table: EncryptedTable
    rows: int
    values_by_version: dict[KeyVersion, int]
    empty: int
    unencrypted: int
    near_misses: int
    unreadable: int
    fenced_against: tuple[KeyVersion, ...]
    counted_at: datetime
    by_column: dict[str, dict[KeyVersion, int]] = field(default_factory=dict)
    unencrypted_by_column: dict[str, int] = field(default_factory=dict)

    @property
    def plaintext(self) -> int:
        """How many of the unencrypted values a rotation is to encrypt; the others block retirement."""
        return sum(number for column, number in self.unencrypted_by_column.items() if column in self.table.begun)


@dataclass(frozen=True, slots=True)
class FoundColumn:
    """An undeclared column that holds values of our grammar (or near-misses of it); never their content."""

    relation: str
    column: str
    values: int
    near_misses: int
    versions: tuple[KeyVersion, ...]
    reason: str = "undeclared column holds encrypted values"
    materialized: bool = False

    def blocks(self, retired: Sequence[KeyVersion]) -> bool:
        """Whether the key of one of `retired` must stay because of it.

        A materialized view cannot be re-encrypted, only refreshed: one without these versions does not block.
        """
        refreshed = self.materialized and not self.near_misses and not set(self.versions) & set(retired)
        return not refreshed


@dataclass(frozen=True, slots=True)
class QuarantinedValue:
    """One value that the engine left unchanged. Named by table, primary key and column, never by content."""

    table: TableName
    key: str
    column: str
    defect: Defect

    @property
    def reason(self) -> str:
        """Why it was left unchanged, in words."""
        return str(self.defect)


@dataclass(frozen=True, slots=True)
class OldRows:
    """What a sweep still found: rows with old values, and how many of them were written since promotion.

    Args:
        unindexed: rows with a value that has no search index under its own version.
        plaintext: rows with plaintext in a column that is encrypted for the first time; a rollback leaves it.
    """

    rows: int
    written_since_promotion: int
    unindexed: int = 0
    plaintext: int = 0

    @property
    def any(self) -> bool:
        """Whether something is left to sweep."""
        return self.rows > 0 or self.unindexed > 0 or self.plaintext > 0

    @property
    def without_plaintext(self) -> Self:
        """The same for a rollback."""
        return replace(self, plaintext=0)


def _key(name: str) -> str:
    """A part of a place's name."""
    return plain_name(name) if set(name).isdisjoint(".[]\\") and name else json.dumps(name).replace(",", "\\u002c")
