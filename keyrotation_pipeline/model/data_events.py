"""Audit events of what was read of the encrypted data: counts, decryptions, and searches of what is not declared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Self

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import EventKind, Fact
from keyrotation_pipeline.model.proof import DecryptedCount
from keyrotation_pipeline.model.tables import EncryptedTable, FoundColumn, TableCount


@dataclass(frozen=True, slots=True)
class CountedTable:
    """A `TableCount` in the audit; versions are names."""

    table: str
    columns: tuple[str, ...]
    rows: int
    values_by_version: Mapping[str, int]
    empty: int
    unencrypted: int
    near_misses: int
    unreadable: int
    fenced_against: tuple[KeyVersion, ...]
    by_column: Mapping[str, Mapping[str, int]]
    unencrypted_by_column: Mapping[str, int]
    counted_at: datetime

    @classmethod
    def of(cls, count: TableCount) -> Self:
        """The same as the audit has it."""
        return cls(
            table=str(count.table.name),
            columns=count.table.columns,
            rows=count.rows,
            values_by_version={str(version): number for version, number in count.values_by_version.items()},
            empty=count.empty,
            unencrypted=count.unencrypted,
            near_misses=count.near_misses,
            unreadable=count.unreadable,
            fenced_against=count.fenced_against,
            by_column={
                column: {str(version): number for version, number in values.items()}
                for column, values in count.by_column.items()
            },
            unencrypted_by_column=count.unencrypted_by_column,
            counted_at=count.counted_at,
        )


@dataclass(frozen=True, slots=True)
class Counted(Fact):
    """The last count of each declared table, of which at least one is new.

    Args:
        not_counted: declared tables that were never counted.
    """

    kind: ClassVar = EventKind.COUNTED
    tables: tuple[CountedTable, ...] = ()
    not_counted: tuple[str, ...] = ()

    @classmethod
    def of(cls, counts: Sequence[TableCount], not_counted: Sequence[EncryptedTable]) -> Self:
        """The same as the audit has it."""
        return cls(tuple(map(CountedTable.of, counts)), tuple(str(table.name) for table in not_counted))


@dataclass(frozen=True, slots=True)
class CountSkipped(Fact):
    """A pack was made without the count of all tables. Its certificates state that."""

    kind: ClassVar = EventKind.COUNT_SKIPPED


@dataclass(frozen=True, slots=True)
class DecryptedTable:
    """One table whose every value was decrypted; `failures` of its values were not."""

    table: str
    rows: int
    values: int
    failures: int
    began_at: datetime


@dataclass(frozen=True, slots=True)
class ValuesDecrypted(Fact):
    """Every value of the declared tables was read, and decrypted with the keys of the applications."""

    kind: ClassVar = EventKind.VALUES_DECRYPTED
    tables: tuple[DecryptedTable, ...]

    @classmethod
    def of(cls, counts: tuple[DecryptedCount, ...]) -> Self:
        """The same as the audit has it."""
        return cls(tuple(DecryptedTable(c.table, c.rows, c.values, c.failures, c.began_at) for c in counts))


@dataclass(frozen=True, slots=True)
class UndeclaredValues:
    """Values of our format in a column that is not declared."""

    relation: str
    column: str
    values: int
    near_misses: int
    versions: tuple[KeyVersion, ...]


@dataclass(frozen=True, slots=True)
class UndeclaredColumnsSearched(Fact):
    """Everything that is not declared was searched.

    Args:
        began_at: what was written later may have been missed.
        not_searched: in words.
    """

    kind: ClassVar = EventKind.UNDECLARED_COLUMNS_SEARCHED
    began_at: datetime
    findings: tuple[UndeclaredValues, ...]
    not_searched: tuple[str, ...]

    @classmethod
    def of(cls, began_at: datetime, findings: tuple[FoundColumn, ...], not_searched: tuple[str, ...]) -> Self:
        """The same as the audit has it."""
        found = tuple(UndeclaredValues(f.relation, f.column, f.values, f.near_misses, f.versions) for f in findings)
        return cls(began_at, found, not_searched)
