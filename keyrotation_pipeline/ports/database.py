"""The application's database, by question; a function takes the port that it needs.

What do the columns hold? How are rows re-encrypted and decrypted? Which old values are left, and does a table refuse
new ones? Could anything still show an old value? Which database is this, and what about it stops or slows a rotation?
"""

from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.environment import (
    BlindSpots,
    CheckNames,
    DatabaseIdentity,
    DatabaseServer,
    Environment,
    MemberFound,
    Problem,
    Speed,
)
from keyrotation_pipeline.model.key_trial import KeyTrial, PlaceProbe
from keyrotation_pipeline.model.member_answers import MemberAnswer
from keyrotation_pipeline.model.page_reading import PageSpan
from keyrotation_pipeline.model.plaintext_outside_rows import CopiesSought, ServerFiles
from keyrotation_pipeline.model.progress import Report, Rewritten
from keyrotation_pipeline.model.proof import DecryptedCount, MemberEvidence, Searched, SnapshotPosition, ZeroOldRows
from keyrotation_pipeline.model.tables import (
    EncryptedTable,
    FoundColumn,
    OldRows,
    QuarantinedValue,
    Shard,
    TableCount,
    TableName,
)
from keyrotation_pipeline.scan.report import Finding

# A row's key, a JSON array of the texts of its columns; and the stored value of each declared column.
KeyedRow = tuple[str, tuple[bytes | None, ...]]


class TableInventory(Protocol):
    """What the declared columns hold, what was found in others, and when each page was read."""

    def count(self, tables: Sequence[EncryptedTable]) -> tuple[TableCount, ...]:
        """Counts values per version, unencrypted, near-misses, and quarantined ones, again."""

    def discover(self, tables: Sequence[EncryptedTable]) -> tuple[FoundColumn, ...]:
        """Scans every undeclared column of every user relation that can hold text for values of our grammar."""

    def other_formats(self) -> tuple[Finding, ...]:
        """Where a sample of every column certainly holds encrypted values in a format other than ours."""

    def definitions_found(self) -> tuple[FoundColumn, ...]:
        """What `discover` finds in the definitions that the catalogue keeps; reads no row."""

    def undeclared_spans(self, tables: Sequence[EncryptedTable]) -> tuple[PageSpan, ...]:
        """All pages that `discover` searches as they are now, when each was, and what was found; notes down new ones.

        Raises:
            PreflightError, BlockedError: a declared table is not there, or one is locked.
        """

    def search_spans(
        self, tables: Sequence[EncryptedTable], spans: Sequence[PageSpan], should_continue: Callable[[], bool]
    ) -> int:
        """Searches these pages as `discover` does, and notes down when and what was found; returns the number of pages.

        Args:
            should_continue: asked before each span.
        """

    def unsearched_since(self) -> datetime | None:
        """Since when something of what `discover` searches may not have been; None: nothing is noted; quick.

        Of a fleet, in the home's own database.
        """

    def rows_seen(self, table: EncryptedTable, version: KeyVersion, seconds: float) -> int | None:
        """Rows that hold any value under a version; None if they were not counted in so many seconds."""

    def key_markers(self, tables: Sequence[EncryptedTable]) -> Mapping[KeyVersion, str]:
        """Returns the text by which values name each key there was; none where the version itself stands in them."""

    def written_rows(self, tables: Sequence[EncryptedTable]) -> Mapping[str, int]:
        """Rows inserted and updated in each table, by its name, since the server's statistics began."""

    def quarantine(self, tables: Sequence[EncryptedTable]) -> tuple[QuarantinedValue, ...]:
        """Values that would not decrypt and are still as they were (entries fixed meanwhile are dropped)."""

    def page_spans(self, tables: Sequence[EncryptedTable]) -> tuple[PageSpan, ...]:
        """All pages of these tables as they are now, and when each was read; notes down new ones.

        Raises:
            PreflightError, BlockedError: a table is not there, or locked.
        """

    def unread_since(self, tables: Sequence[EncryptedTable]) -> Mapping[str, datetime]:
        """Since when something in a table may not have been read, by its name; quick, and of noted tables alone."""

    def decrypt_sample(
        self, table: EncryptedTable, ring: KeyRing, values: int, wanted: Mapping[str, Collection[KeyVersion]]
    ) -> KeyTrial:
        """Decrypts up to so many stored values of each column under each version, from all over the table.

        Nothing is kept or recorded. What the key of its own version does not open is tried with the other keys.

        Args:
            wanted: versions by column of which there are values; those that the sample misses are looked for.
        """

    def probe(self, table: EncryptedTable, ring: KeyRing, values: int) -> tuple[PlaceProbe, ...]:
        """Opens up to so many values of each place; says in which layout those open that do not in the declared one.

        Nothing is kept or recorded. Only for a format whose values nothing but decryption tells from other text.
        """

    def plaintext_copies(self, encrypted: Sequence[tuple[EncryptedTable, str]], ring: KeyRing) -> CopiesSought | None:
        """Looks for rare plaintexts of encrypted columns, all in one database, in a sample of every column of it.

        Plaintexts stay in this process's memory: none is in a statement, and nothing is kept. None: no value is rare.

        Raises:
            PreflightError, BlockedError: a table cannot be read.
            DatabaseUnavailableError: the catalogue cannot be.
        """

    def columns(self, name: TableName) -> frozenset[str]:
        """The columns of a relation; none: there is no such relation."""

    def row_key(self, table: EncryptedTable) -> tuple[str, ...]:
        """The columns of the primary key of a table and all its partitions, else of another unique key; empty: none.

        Raises:
            PreflightError, BlockedError: the table cannot be read.
        """

    def rows_by_key(self, table: EncryptedTable, key: Sequence[str]) -> Generator[KeyedRow, None, None]:
        """Yields all rows of a table and its partitions in one snapshot, in the order of the key's text by code point.

        Close it if it is not read to its end. Two rows may have the same key, if no index of the table forbids it.

        Args:
            key: column names, at least one.

        Raises:
            PreflightError, BlockedError: the table cannot be read, or not by this key.
        """


class TableRewriting(Protocol):
    """The engine: it goes through the rows of a table, to re-encrypt or to decrypt them."""

    def speed(self, tables: Sequence[EncryptedTable], ring: KeyRing, target: KeyVersion) -> tuple[Speed, ...]:
        """How fast one worker would re-encrypt each table, by a sample that is rolled back.

        Args:
            ring: reads every value, and holds a key under `target` that is used for nothing else.

        Raises:
            PreflightError, BlockedError: it cannot be measured now.
        """

    def reencrypt_shard(
        self, request: str, shard: Shard, ring: KeyRing, target: KeyVersion, report: Report
    ) -> Rewritten:
        """Walks one shard by page ranges, from where it was left, and re-encrypts to `target` what is not under it.

        Raises:
            PreflightError: the table has changed since it was checked, and can no longer be rewritten harmlessly.
        """

    def is_one_shard(self, request: str, table: EncryptedTable) -> bool:
        """Whether a table's first shard is all of it: as it was begun, else if the table is small enough for that."""

    def sweep(self, request: str, table: EncryptedTable, ring: KeyRing, target: KeyVersion, *, wait: bool) -> Rewritten:
        """Re-encrypts what was skipped anywhere in a table; `wait`: each row in its own transaction, waiting briefly.

        Raises:
            PreflightError: as `reencrypt_shard`.
        """

    def clear_indexes(self, request: str, table: EncryptedTable, target: KeyVersion, report: Report) -> int:
        """Sets every search index of a table that is not under `target` to NULL; returns the number of rows.

        Raises:
            BlockedError: rows stay locked by others.
            PreflightError: as `reencrypt_shard`.
        """

    def decrypt_all(self, table: EncryptedTable, ring: KeyRing, report: Report, request: str = "") -> DecryptedCount:
        """Decrypts every value of a table with `ring`, keeping nothing; failures go to the quarantine.

        Args:
            request: id of the rotation whose proof this is; its pausing is then obeyed.

        Raises:
            BlockedError: the rotation was paused or cancelled.
        """

    def decrypt_spans(
        self,
        table: EncryptedTable,
        spans: Sequence[PageSpan],
        ring: KeyRing,
        report: Report,
        should_continue: Callable[[], bool],
    ) -> int:
        """Decrypts what these pages of one table hold, one span after the other; returns the number of values.

        Failures go to the quarantine, from which those are dropped that are fixed. Each span is noted down as read
        when it was.

        Args:
            should_continue: asked before each span.
        """


class TableFencing(Protocol):
    """The fence of each table, the rows that keep it from being made, and the sessions that hold its locks."""

    def old_rows(self, table: EncryptedTable, versions: Sequence[KeyVersion], promotion_xid: int | None) -> OldRows:
        """Rows that hold any value under `versions`, in any declared column."""

    def fence(self, table: EncryptedTable, versions: Sequence[KeyVersion], *, wait: bool = True) -> bool:
        """Makes the table refuse exactly these versions on every declared column, and validates that.

        Args:
            wait: False: where somebody else is at the table, leave it as it is.

        Returns:
            Whether it refuses them now; False only without `wait`.

        Raises:
            BlockedError: the lock could not be taken without queueing; names who holds it.
            ProofError: validation found an old value; the fence is dropped again.
        """

    def unfence(self, table: EncryptedTable, version: KeyVersion) -> None:
        """Lets the table take values under `version` again (a rollback); repeating it changes nothing."""

    def fences(self, table: EncryptedTable) -> tuple[KeyVersion, ...]:
        """The versions that the table's validated and intact fence refuses on every declared column; reads no row.

        Raises:
            PreflightError, BlockedError: the table is not there, or locked.
        """

    def all_fences(
        self, tables: Sequence[EncryptedTable]
    ) -> Mapping[EncryptedTable, tuple[KeyVersion, ...] | KeyRotationError]:
        """The same of many tables at once, in their order: of each the versions, or why it was not seen."""

    def sessions(self, table: EncryptedTable) -> tuple[str, ...]:
        """Who holds a lock on `table` now, else every other session of the database: one phrase each."""


class RetirementEvidence(Protocol):
    """What a retirement rests on, taken from the database and not believed."""

    def barrier(self) -> str:
        """The current WAL position, as text: everything committed so far lies before it."""

    def position(self) -> SnapshotPosition:
        """Now, in every database: a transaction id, and then the WAL position, so that a lower id began before it."""

    def snapshot_blockers(self, position: SnapshotPosition) -> tuple[str, ...]:
        """Who could still show a value replaced before `position`: one sentence each.

        Sessions (backend_xmin), prepared transactions, replication slots, standbys and subscribers.
        """

    def current_xid(self) -> int:
        """A full transaction id later than every committed one (`pg_current_xact_id()`)."""

    def search(
        self, tables: Sequence[EncryptedTable], version: KeyVersion, retired: Sequence[KeyVersion], report: Report
    ) -> Searched:
        """Reads everything that `zero_old_rows` counts and searches, outside of a transaction and holding no lock.

        Raises:
            ProofError, BlockedError: an old or unencrypted value is left; names table, column and count.
        """

    def zero_old_rows(
        self,
        tables: Sequence[EncryptedTable],
        version: KeyVersion,
        retired: Sequence[KeyVersion],
        position: SnapshotPosition,
        searched: Searched | None = None,
    ) -> ZeroOldRows:
        """Takes the evidence of invariant 4 inside the ledger's running transaction, failing closed.

        `retired` are all versions that the fences must name, `version` among them; `position` was taken after they were
        validated; `searched` was read after that, and what has not changed since is not read again, unless it is small.

        Of a fleet it is of the home's own database alone, which it leaves unlocked (see `require_same`); the members
        give theirs before (`members`).

        Raises:
            ProofError, BlockedError: a piece is missing; names table, column and count, or the holder.
        """

    def members(
        self,
        tables: Sequence[EncryptedTable],
        version: KeyVersion,
        retired: Sequence[KeyVersion],
        position: SnapshotPosition,
        searched: Searched,
    ) -> Iterator[MemberEvidence]:
        """Takes the evidence of each member of a fleet in a short transaction of its own, one after the other.

        Of a single database there is none.

        Raises:
            ProofError, BlockedError, MemberUnavailableError: a piece is missing; names the member.
        """

    def require_same(
        self,
        tables: Sequence[EncryptedTable],
        position: SnapshotPosition,
        evidence: Sequence[MemberEvidence],
        own: ZeroOldRows,
        retired: Sequence[KeyVersion],
        searched: Searched,
    ) -> None:
        """Asks each member of a fleet again for what its evidence rests on, and last the home's own database.

        From then on nobody can change the own tables until the transaction ends; of members nothing stays locked. It
        reads no row, unless only decrypting tells a key: then each gives all of its evidence again, the home's own
        database last, whose writers wait until the transaction ends.

        Raises:
            FenceError: a fence is another one, or the file of a table; names the database.
            ProofError, BlockedError, MemberUnavailableError: one differs in other ways or does not answer; names it.
        """

    def plaintext_outside_rows(self, tables: Sequence[EncryptedTable], known: Collection[int]) -> ServerFiles:
        """Looks where the server may still keep plaintext that these tables have no more, in columns that are begun.

        All of them are in one database.

        Where planner statistics hold some, it runs ANALYZE first.

        Args:
            known: oids of further relations whose files are looked at.
        """


class DatabaseEnvironment(Protocol):
    """The server around the tables: its identity, the pre-flight checks, disk, standbys and blind spots."""

    def identity(self) -> DatabaseIdentity:
        """Which database this is."""

    def server(self) -> DatabaseServer:
        """Where it runs now."""

    def members(self, *, reconciling: bool = False) -> Mapping[str, MemberFound]:
        """The members of a fleet by name, as they are now; those that do not answer, or cannot be used, are left out.

        Args:
            reconciling: from now on use those, too, that officers are asked to sign: which run elsewhere than when the
                walk was requested, or whose copy of the audit holds more than the audit.
        """

    def preflight(self, tables: Sequence[EncryptedTable], target: KeyVersion) -> tuple[Problem, ...]:
        """What stops, or should be known before, a rotation of these tables to `target`."""

    def check_names(self) -> CheckNames:
        """Everything that `preflight` looks at, by names."""

    def measure(self, tables: Sequence[EncryptedTable]) -> Environment:
        """Disk, WAL and standbys around these tables.

        Raises:
            PreflightError, BlockedError: a table cannot be read now.
        """

    def blind_spots(self) -> BlindSpots:
        """What neither `TableInventory.discover` nor the look for replicas sees; quick, by the catalogue alone."""

    def own_blind_spots(self) -> BlindSpots:
        """The same of the home's own database, without the members of a fleet."""


class AskMember(Protocol):
    """Asks one member of a fleet what people see of it; over one connection, closed afterwards, and writing nothing."""

    def __call__(self, member: str, tables: Sequence[EncryptedTable], others: Sequence[str]) -> MemberAnswer:
        """Returns its answer, which says why where it does not answer or cannot be used.

        Args:
            tables: its declared ones.
            others: names of further ones that may be there.
        """


@dataclass(frozen=True)
class DatabasePorts:
    """Every port of one database."""

    inventory: TableInventory
    rewriting: TableRewriting
    fencing: TableFencing
    evidence: RetirementEvidence
    environment: DatabaseEnvironment
