"""Which columns are encrypted, and what was counted in them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Self

from keyrotation_pipeline.fieldcrypto.defect import Defect
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion


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
class EncryptedTable:
    """One declared table and its encrypted columns."""

    name: TableName
    columns: tuple[str, ...]


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
    """What one table (with its partitions or children) holds, in values over all declared columns.

    `empty` counts stored ``''``; `unencrypted` every other value outside the grammar, near-misses (``v01:`` …)
    among them, which `near_misses` counts apart. `unreadable` is the number of values in quarantine.
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
class Finding:
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

        A materialized view cannot be re-encrypted, only refreshed: one that shows none of these versions is done.
        """
        refreshed = self.materialized and not self.near_misses and not set(self.versions) & set(retired)
        return not refreshed


@dataclass(frozen=True, slots=True)
class QuarantinedValue:
    """One value that the engine left as it was. Named by table, primary key and column, never by content."""

    table: TableName
    key: str
    column: str
    defect: Defect

    @property
    def reason(self) -> str:
        """Why it was left, as people read it."""
        return str(self.defect)


@dataclass(frozen=True, slots=True)
class OldRows:
    """What a sweep still found: rows with old values, and how many of them were written since promotion."""

    rows: int
    written_since_promotion: int
