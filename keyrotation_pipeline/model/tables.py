"""Declared tables and columns, and their surroundings: database, standbys, disk and blind spots."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Self

from keyrotation_pipeline.errors import InvalidBindingError
from keyrotation_pipeline.fieldcrypto.binding import default_label
from keyrotation_pipeline.fieldcrypto.codecs.associated_data import associated_data
from keyrotation_pipeline.fieldcrypto.codecs.value_format import NATIVE, SEARCH_INDEX, ValueFormat
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.reads import Defect
from keyrotation_pipeline.fieldcrypto.search_index import IndexForm
from keyrotation_pipeline.model.visible_text import is_hidden


@dataclass(frozen=True, order=True, slots=True)
class TableName:
    """A table as PostgreSQL stores its name: no quoting, case kept.

    Args:
        schema: for example ``public``.
        table: for example ``clients``.
    """

    schema: str
    table: str

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read ``clients`` (schema ``public``) or ``billing.Invoices``."""
        schema, dot, table = name.partition(".")
        return cls(schema, table) if dot else cls("public", name)

    def __str__(self) -> str:
        return self.table if self.schema == "public" else f"{self.schema}.{self.table}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the encrypted values of a table are: in a column, in its JSON documents, or in its arrays.

    Args:
        path: keys from the document's root to the value, as the operator ``#>>`` takes them; (): not in a document.
        elements: each element of the column's arrays is a value.
        when: a boolean column of the same row; where it is not true, other text is no value, and stays as it is.
        iv: the column of the value's nonce, where it has one of its own; "": it has none.
    """

    column: str
    path: tuple[str, ...] = ()
    elements: bool = False
    when: str = ""
    iv: str = ""

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
        return self.is_column and not self.when and not self.iv

    @property
    def declaration(self) -> str:
        """The name, with what decides which texts in the column are values."""
        return f"{self.name} when {_plain(self.when)}" if self.when else self.name

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
    form: IndexForm

    @property
    def columns(self) -> tuple[str, str]:
        """Both columns."""
        return self.odd, self.even

    def signed(self, table: TableName) -> str:
        """The index in a signed text."""
        after = f" after {', '.join(self.form.normalise)}" if self.form.normalise else ""
        return (
            f"search index of {table}.{self.of} in {self.odd} and {self.even}: {self.form.size_bytes} bytes of "
            f"HMAC-SHA-256 of the text{after}, under the key of its value, bound as {self.form.label}"
        )


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
        return associated_data(self.format.aad).row_columns if self.format.is_read_with_data else ()

    @property
    def conditions(self) -> tuple[str, ...]:
        """The columns that say which texts are values, each once."""
        return tuple(dict.fromkeys(each.when for each in self.places if each.when))

    @property
    def read_columns(self) -> tuple[str, ...]:
        """The columns that the places are in, and those of the same rows that are read with them."""
        return tuple(dict.fromkeys([*self.stored_columns, *self.conditions, *self.bound_to]))

    @property
    def index_columns(self) -> tuple[str, ...]:
        """The columns of search indexes."""
        return tuple(column for index in self.indexes for column in index.columns)

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
            pieces = associated_data(self.format.aad).pieces(self.name.table, self.place(column).column)
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
    """

    rows: int
    written_since_promotion: int
    unindexed: int = 0

    @property
    def any(self) -> bool:
        """Whether something is left to sweep."""
        return self.rows > 0 or self.unindexed > 0


@dataclass(frozen=True, slots=True)
class DatabaseIdentity:
    """The connected database.

    Args:
        address: ``name@host``, without a password. The host is informational: a failover changes it.
        system_identifier: of the cluster.
        superuser: our role, if it is a superuser, which officers should know before they sign.
        schema: of the home's records, unless it is the default one; a database may have several homes.
    """

    address: str
    system_identifier: str
    superuser: str | None = None
    schema: str | None = None

    def __str__(self) -> str:
        return f"{self.address}{self._which}"

    @property
    def name(self) -> str:
        """What is shown to people: the address, and the schema where it is not the default one."""
        return f"{self.address}{self._schema}"

    def signed(self) -> str:
        """The database in the signed text: only what stays the same, however it is reached."""
        power = "" if self.superuser is None else f", as superuser {self.superuser}, so that code in it has all power"
        return f"{self.place}{power}"

    @property
    def place(self) -> str:
        """The database without its host, which stays the same however it is reached."""
        return f"{self.address.rpartition('@')[0]}{self._which}"

    @property
    def _which(self) -> str:
        return f", system identifier {self.system_identifier}{self._schema}"

    @property
    def _schema(self) -> str:
        return "" if self.schema is None else f", schema {self.schema}"


@dataclass(frozen=True, slots=True)
class Problem:
    """A finding of the pre-flight: `fatal` ones stop the rotation, others warn. One sentence that says what to do.

    Args:
        check: the check that found it, named by the truth wanted.
    """

    sentence: str
    fatal: bool
    check: str = "database_is_ready"


@dataclass(frozen=True, slots=True)
class CheckNames:
    """The checks of a pre-flight: of the server, and of each declared table that can be read."""

    server: tuple[str, ...]
    tables: tuple[str, ...]


DISK_IS_LARGE_ENOUGH = "disk_is_large_enough"
TABLES_ARE_READABLE = "tables_are_readable"


# Measured on tables of 300 thousand and 3 million rows, with the vacuums of the engine.
GROWTH, WAL_PER_BYTE = 0.1, 3.0


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system of the server's data directory, seen from this host."""

    directory: str
    free_bytes: int


@dataclass(frozen=True, slots=True)
class UnseenDisk:
    """Nothing is known about the server's disk.

    Args:
        why: a phrase.
        do: what to type or to do instead.
    """

    why: str
    do: str = "check it there"


@dataclass(frozen=True, slots=True)
class Wal:
    """The write-ahead log.

    Args:
        max_bytes: `max_wal_size`, its approximate size by checkpoints.
        kept_by: what retains more of it: failing archiving, unread slots; one phrase each.
    """

    max_bytes: int
    kept_by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Standby:
    """A standby or subscriber that is connected now, and how late it replays; None: hidden, or nothing is under way."""

    name: str
    late_seconds: float | None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The surroundings of the tables.

    Args:
        table_bytes: heaps and TOAST of all declared tables.
        prints_rows: the server's log shows the whole row where one is refused.
    """

    table_bytes: int
    disk: Disk | UnseenDisk
    wal: Wal
    standbys: tuple[Standby, ...]
    prints_rows: bool

    @property
    def growth_bytes(self) -> int:
        """The minimum growth of the tables."""
        return int(GROWTH * self.table_bytes)

    @property
    def wal_bytes(self) -> int:
        """The total WAL that is written."""
        return int(WAL_PER_BYTE * self.table_bytes)

    @property
    def needed_bytes(self) -> int:
        """Growth, plus the WAL that is retained at a time."""
        return self.growth_bytes + (self.wal_bytes if self.wal.kept_by else min(self.wal_bytes, self.wal.max_bytes))


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast one worker re-encrypts a table, by a sample that was written in a transaction and rolled back.

    Args:
        sampled_rows: how many there were; 0: the table is empty.
        failed_values: values in them that did not decrypt, and were left unchanged.
        rows_per_second: within the configured limits.
    """

    table: str
    sampled_rows: int
    rows_per_second: float
    failed_values: int = 0


NOT_SEARCHED, NOT_SEEN, DECLARED_GONE = "Not searched", "Not seen", "Replicas declared gone"
LINES = (NOT_SEARCHED, NOT_SEEN, DECLARED_GONE)


@dataclass(frozen=True, slots=True)
class Unsearched:
    """A kind of place that no search reads.

    Args:
        what: in words.
        names: its instances in this database now; none: it is in every database, or not visible from here.
        fleeting: the names are transient, so officers sign the kind without them.
    """

    what: str
    names: tuple[str, ...] = ()
    fleeting: bool = False

    def __str__(self) -> str:
        return f"{self.what} ({', '.join(map(_plain, self.names))})" if self.names else self.what

    def signed(self) -> str:
        """The kind in the signed text."""
        return self.what if self.fleeting else str(self)


# In every database.
NEVER_SEARCHED = (
    Unsearched("values that are compressed, further encrypted, divided among cells, or encoded (base64, hex, UTF-16)"),
    Unsearched("samples in the planner's statistics until the next ANALYZE"),
    Unsearched("temporary tables, and the pipeline's own tables"),
    Unsearched("dead row versions, WAL, temporary files and logs of the server"),
    Unsearched("whatever has left the database: backups, exports, caches, search indexes"),
)

NEVER_SEEN = (
    "standbys behind standbys, unless [database] standbys names them",
    "standbys and subscribers that do not connect between request and retirement, an old primary among them",
    "subscribers of other databases",
    "sessions of standbys without hot_standby_feedback, unless [database] standbys names these",
    "copies outside PostgreSQL",
)


@dataclass(frozen=True, slots=True)
class BlindSpots:
    """Everything that is not checked in one database.

    Args:
        unsearched: by the search for undeclared values.
        unseen: by the search for replicas.
        gone: replicas that the configuration says no longer exist; this is not checked.
    """

    unsearched: tuple[Unsearched, ...]
    unseen: tuple[str, ...] = NEVER_SEEN
    gone: tuple[str, ...] = ()

    def lines(self) -> tuple[tuple[str, str], ...]:
        """Names and values of the lines that officers sign."""
        return (
            (NOT_SEARCHED, "; ".join(each.signed() for each in self.unsearched)),
            (NOT_SEEN, "; ".join(self.unseen)),
            (DECLARED_GONE, ", ".join(map(_plain, sorted(self.gone))) or "none"),
        )


def lines_as_signed(fields: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The same lines, from the fields of a signed text."""
    return tuple((name, fields[name]) for name in LINES if name in fields)


def gone_as_signed(fields: Mapping[str, str], gone: tuple[str, ...]) -> tuple[str, ...]:
    """The replicas declared gone that the officers signed as gone."""
    signed = fields.get(DECLARED_GONE, "").split(", ")
    return tuple(name for name in gone if _plain(name) in signed)


def _key(name: str) -> str:
    """A part of a place's name."""
    return _plain(name) if set(name).isdisjoint(".[]\\") and name else json.dumps(name).replace(",", "\\u002c")


def _plain(name: str) -> str:
    """A name that cannot be misread: quoted if it has characters that could hide or end it."""
    odd = name != name.strip() or is_hidden(name) or not set(name).isdisjoint(',;()"')
    return json.dumps(name).replace(",", "\\u002c") if odd else name
