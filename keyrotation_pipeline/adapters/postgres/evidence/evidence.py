"""What is asked of each way of telling a key, with the answers where the server tells and counts old values."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import ClassVar, Protocol

from psycopg import sql

from keyrotation_pipeline.adapters.postgres.engine.decrypted_counts import CurrentKeys, held_in_snapshot, required
from keyrotation_pipeline.adapters.postgres.inventory import counts, relations
from keyrotation_pipeline.adapters.postgres.inventory.old_values import count_old_values, unencrypted_rows
from keyrotation_pipeline.adapters.postgres.inventory.registered_versions import leaves_plaintext
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import BackupError, FenceError, PreflightError, ProofError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.audit import counted
from keyrotation_pipeline.model.backups import TableContent
from keyrotation_pipeline.model.progress import Report
from keyrotation_pipeline.model.proof import NAMED_AT_MOST, Searched, not_encrypted
from keyrotation_pipeline.model.tables import EncryptedTable, OldRows, TableCount

FencedVersions = tuple[KeyVersion, ...] | PreflightError


class Fence(Protocol):
    """Makes tables refuse retired key versions; the modules `fence`, `mac_fence` and `login_fence` do it.

    Attributes:
        MADE: a query on relations by oid: oid, and the transactions by which the parts of its fence were made.
        IDENTITY: a subquery that identifies the fence of the relation `c`, and changes with it.
    """

    @property
    def MADE(self) -> sql.SQL: ...  # noqa: D102, N802
    @property
    def IDENTITY(self) -> sql.SQL: ...  # noqa: D102, N802

    def what(self, connection: Connection) -> str:
        """Returns what it is in the catalog, in words."""

    def fence(
        self, connection: Connection, table: EncryptedTable, versions: Sequence[KeyVersion], *, wait: bool = True
    ) -> bool:
        """Makes the table and all of its tree refuse exactly `versions`; returns whether they are refused now."""

    def unfence(self, connection: Connection, table: EncryptedTable, version: KeyVersion) -> None:
        """Lets the table accept values under `version` again."""

    def all_fences(
        self, connection: Connection, tables: Sequence[EncryptedTable]
    ) -> Mapping[EncryptedTable, FencedVersions]:
        """Returns the versions that each table refuses, none unless that is intact on its whole tree; or an error."""


@dataclass(frozen=True, slots=True)
class ReadAgain:
    """What the retiring transaction reads again of what was searched just before.

    Args:
        searched: None: nothing was, so that everything is read.
        first: by oid, the page from which on a relation is read; unlisted ones are read whole.
        changed: the oids of relations that are new, or were changed or rewritten since.
    """

    searched: Searched | None = None
    first: Mapping[int, int] = field(default_factory=dict)
    changed: frozenset[int] = frozenset()


@dataclass
class Evidence:
    """How the old values of one table are counted, refused and proved absent.

    A proof calls `prepare`, `require_zero` and `lock_out` of one object, in this order.

    Args:
        keys: for values under current keys that SQL cannot tell apart.
    """

    refusal: ClassVar[Fence]
    connection: Connection
    table: EncryptedTable
    keys: CurrentKeys | None = None
    # Counted and let pass, as what a rollback leaves, by events that nobody has verified: the caller knows which it is.
    plaintext: int = field(default=0, init=False)

    def count(self) -> TableCount:
        """Counts all values by version: here by decrypting them."""
        return replace(required(self.keys, self.table).count(self.table), fenced_against=self.fences())

    def rows_seen(self, version: KeyVersion, seconds: float) -> int | None:
        """Counts rows with a value under a version; None if that takes longer than so many seconds."""
        return required(self.keys, self.table).rows_under(self.table, (version,), seconds)

    def content(self, ring: Callable[[], KeyRing] | None) -> TableContent:
        """Counts rows and values in the connection's own snapshot.

        Args:
            ring: reads every key; None: there is none here.
        """
        if ring is None:
            raise BackupError(
                f"the values of table {self.table.name} cannot be counted here without the keys; report it"
            )
        rows, held = held_in_snapshot(self.connection, self.table, ring())
        values = {
            column: {version: each[version] for version in sorted(filter(None, each))}
            for column, each in zip(self.table.columns, held, strict=True)
        }
        return TableContent(self.table, rows, values)

    def publish(self, ring: KeyRing, target: KeyVersion) -> None:
        """Stores what SQL needs to tell the keys of a ring, before rows are re-encrypted to a target."""

    def markers(self) -> Mapping[KeyVersion, str]:
        """Returns by what values name each registered key, where that is a text of their library's own."""
        return {}

    def old_rows(self, versions: Sequence[KeyVersion], promotion_xid: int | None) -> OldRows:
        """Counts rows under old versions, those of them that were written since a promotion, and unindexed ones."""
        found = counts.old_rows(self.connection, self.table, versions, promotion_xid)
        return replace(found, unindexed=counts.unindexed_rows(self.connection, self.table))

    def search(self, versions: Sequence[KeyVersion], report: Report) -> tuple[int, int | None]:  # noqa: ARG002
        """Refuses old values anywhere in the table, holding no lock afterwards.

        Returns:
            How many values there are, and the transaction id from which on rows must be read again; None: of none.

        Raises:
            FenceError: an old value.
            ProofError: an unencrypted value.
            PreflightError, BlockedError: something cannot be read to its end.
        """
        return self._require_zero(versions), None

    def prepare(self, versions: Sequence[KeyVersion]) -> None:
        """Reads what the proof needs of the key store, which may be slow, before anything is locked."""

    def require_zero(self, versions: Sequence[KeyVersion], again: ReadAgain) -> int:
        """Refuses old values while the table is locked; returns how many values it has: as counted here or just before.

        Raises:
            As `search`.
        """
        values = self._require_zero(versions, again.first)
        tree = relations.tree(self.connection, self.table)
        if again.searched is None or not any(relation.oid in again.first for relation in tree):
            return values
        return again.searched.values[str(self.table.name)]

    def lock_out(self, again: ReadAgain) -> bool:  # noqa: ARG002
        """Lets nobody write until the transaction ends, if that is what refuses old values; returns whether it is."""
        return False

    def fence(self, versions: Sequence[KeyVersion], *, wait: bool = True) -> bool:
        """See `Fence.fence`."""
        return self.refusal.fence(self.connection, self.table, versions, wait=wait)

    def lift(self, version: KeyVersion) -> None:
        """See `Fence.unfence`."""
        self.refusal.unfence(self.connection, self.table, version)

    def fences(self) -> tuple[KeyVersion, ...]:
        """Returns the versions that the table refuses; see `Fence.all_fences`."""
        return relations.or_raise(self.refusal.all_fences(self.connection, (self.table,))[self.table])

    def refused_by(self) -> str:
        """Returns what identifies all else by which the fence refuses, and changes with it."""
        return ""

    def remade(self, place: str) -> FenceError:
        """Returns the refusal of a fence that is younger than the proof."""
        return FenceError(
            f"the fence of {place} on {', '.join(self.table.columns)} was recreated after the proof; find out who "
            "changed it"
        )

    def _require_zero(self, versions: Sequence[KeyVersion], first: Mapping[int, int] = MappingProxyType({})) -> int:
        name = str(self.table.name)
        found = count_old_values(self.connection, self.table, versions, first)
        for (column, version), number in found.old.items():
            raise FenceError(
                f"table {name}, column {column}: {counted(number, 'value')} still under {version}; find what "
                "writes under it"
            )
        for column, number in found.encrypted.items():
            raise FenceError(
                f"table {name}, column {column}: {counted(number, 'value')} encrypted again; find what wrote them"
            )
        left = self.table.begun if leaves_plaintext(self.connection, versions) else ()
        for column, number in found.unencrypted.items():
            if column in left:
                self.plaintext += number
                continue
            rows = unencrypted_rows(self.connection, self.table, column, first, NAMED_AT_MOST)
            raise ProofError(
                f"{not_encrypted(name, column, number, rows)}; encrypt or remove them (`keyrotation inventory` "
                "counts them), then run `keyrotation rotate` again"
            )
        for column, number in found.unindexed.items():
            raise FenceError(
                f"table {name}, column {column}: {counted(number, 'value')} without a search index under its key, "
                "so searches would miss that; find what writes without one"
            )
        return found.values
