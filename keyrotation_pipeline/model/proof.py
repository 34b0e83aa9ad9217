"""Evidence that nothing under an old key version is left."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated

from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy
from keyrotation_pipeline.model.audit import counted
from keyrotation_pipeline.model.progress import Rewritten
from keyrotation_pipeline.model.records import UNLESS_EMPTY, read
from keyrotation_pipeline.model.requests import Step, Walk
from keyrotation_pipeline.model.tables import EncryptedTable, TableCount


@dataclass(frozen=True, slots=True)
class MissedValue:
    """A value that searches miss, by its row's primary key and its column.

    Args:
        is_unindexed: whether there is no search index under its key; else there is that of another text.
    """

    key: str
    column: str
    is_unindexed: bool


@dataclass(frozen=True, slots=True)
class DecryptedCount:
    """Outcome of decrypting every value of one table: `failures` counts values that did not decrypt.

    Args:
        values: neither NULL nor ``''``, including those that did not decrypt.
        by_column: how many values of each declared column decrypt under each version.
        empty: stored ``''`` in all columns.
        began_at: by the server's clock; later writes may have been missed.
        unencrypted: by column, how many values are not of the table's format: failures, or plaintext that a rotation
            is to encrypt.
        wrongly_indexed: by column, how many values have the search index of another text.
        unindexed: by column, how many values have no search index under their key.
        missed: some of either.
        plaintext: texts that a rotation is to encrypt, which are neither failures nor among `values`.
    """

    table: str
    rows: int
    values: int
    failures: int
    by_column: Mapping[str, Mapping[KeyVersion, int]]
    empty: int
    began_at: datetime
    unencrypted: Mapping[str, int] = field(default_factory=dict)
    wrongly_indexed: Mapping[str, int] = field(default_factory=dict)
    unindexed: Mapping[str, int] = field(default_factory=dict)
    missed: tuple[MissedValue, ...] = ()
    plaintext: int = 0

    def of_table(
        self, table: EncryptedTable, unreadable: int = 0, fenced_against: tuple[KeyVersion, ...] = ()
    ) -> TableCount:
        """The count of the table that this is, where nothing else counts its values."""
        totals = sum((Counter(dict(each)) for each in self.by_column.values()), Counter[KeyVersion]())
        return TableCount(
            table=table,
            rows=self.rows,
            values_by_version=dict(sorted(totals.items())),
            empty=self.empty,
            unencrypted=sum(self.unencrypted.values()),
            near_misses=0,
            unreadable=unreadable,
            fenced_against=fenced_against,
            counted_at=self.began_at,
            by_column={column: dict(held) for column, held in self.by_column.items()},
            unencrypted_by_column=dict(self.unencrypted),
        )

    @property
    def wrong_indexes(self) -> str:
        """Which values have the search index of another text, so that searches miss them."""
        rows = [each.key for each in self.missed if not each.is_unindexed]
        return self._missed("with the search index of another text", self.wrongly_indexed, rows)

    @property
    def missing_indexes(self) -> str:
        """Which values have no search index, so that searches miss them."""
        rows = [each.key for each in self.missed if each.is_unindexed]
        return self._missed("without a search index under its key", self.unindexed, rows)

    def _missed(self, what: str, numbers: Mapping[str, int], rows: Sequence[str]) -> str:
        columns = ", ".join(f"column {column}: {number}" for column, number in numbers.items())
        return (
            f"table {self.table}: {counted(sum(numbers.values()), 'value')} {what} ({columns}; rows "
            f"{', '.join(dict.fromkeys(rows))} among them); have the application save them again"
        )


@dataclass(frozen=True, slots=True)
class MemberPosition:
    """The same moment, in another database: see `SnapshotPosition`."""

    xid: int
    lsn: str


@dataclass(frozen=True, slots=True)
class SnapshotPosition:
    """A moment of the database: every transaction that began earlier has a lower `xid`, and its WAL is before `lsn`.

    Args:
        xid: a full transaction id (64 bits).
        lsn: a WAL position, as PostgreSQL prints it.
        members: the position of each member of a fleet, by its name; `xid` and `lsn` are of the home's own database.
    """

    xid: int
    lsn: str
    members: Annotated[Mapping[str, MemberPosition], UNLESS_EMPTY] = field(default_factory=dict, hash=False)

    def of(self, member: str) -> "SnapshotPosition | None":
        """The position of one member alone; None: it was no member then."""
        at = self.members.get(member)
        return None if at is None else SnapshotPosition(at.xid, at.lsn)


@dataclass(frozen=True, slots=True)
class Proven:
    """What the proof step found: nothing under `retired` was left, and nobody can write it after `moment`.

    Args:
        moment: taken after the fences were validated.
        retired: the versions fenced out.
        swept_rows: rows that the last sweeps rewrote, by table.
        values_decrypted: every value of every declared column.
        old_values: counted under `retired`; zero, since otherwise there is no proof.
        identified_by: how the key of a value was identified.
    """

    moment: SnapshotPosition
    retired: tuple[KeyVersion, ...]
    swept_rows: Mapping[str, int]
    values_decrypted: int
    old_values: int = 0
    identified_by: IdentifiedBy = NATIVE.identified_by


@dataclass(frozen=True, slots=True)
class Searched:
    """What was searched without findings before the retiring transaction, so that it need not read everything again.

    It exists only in the memory of the process that made it, and is never stored.

    Args:
        values: counted in each declared table, by its name.
        identities: by oid of each relation that was read, a value that differs after any change of its definition or
            a rewrite.
        pages: how many its heap had when the search began.
        labels: the name of each.
        began_at: by the server's clock.
        since: by table whose keys only decrypting identifies, the transaction id from which on rows must be read again.
        plaintext: see `ZeroOldRows`.
        members: the same of each member of a fleet, by its name.
    """

    values: Mapping[str, int]
    identities: Mapping[int, str]
    pages: Mapping[int, int]
    labels: Mapping[int, str]
    began_at: datetime
    since: Mapping[str, int] = field(default_factory=dict)
    plaintext: int = 0
    members: Mapping[str, "Searched"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AccountedReplica:
    """A standby, subscriber or slot that was seen since the request, and why it can no longer show old values.

    Args:
        name: as in error messages and `[database] gone_replicas`.
        first_seen_at, last_seen_at: None for a configured standby that was queried directly.
        replayed: a WAL position; None if it is declared gone.
    """

    name: str
    kind: str
    first_seen_at: datetime | None
    last_seen_at: datetime | None
    replayed: str | None


@dataclass(frozen=True, slots=True)
class MemberState:
    """What identifies a database of a fleet, and with it everything that its evidence rests on.

    It differs as soon as a declared table or its fence was altered, dropped or made anew, a relation was created or
    changed, the server is another one, or was restored, or a standby was promoted in its place.

    Args:
        place: name of the database, system identifier and schema, as officers signed it.
        timeline: of the server's WAL.
        fences: by declared table and partition: oid and file node of the relation, oid and transaction of its fence.
        relations: SHA-256, in hex, over the identities of all relations that are searched.
    """

    place: str
    timeline: int
    fences: Mapping[str, str]
    relations: str

    def has_lost_fence(self, now: "MemberState") -> bool:
        """Whether the same database has another fence, or another file of a table."""
        return (now.place, now.timeline) == (self.place, self.timeline) and now.fences != self.fences

    def differences(self, now: "MemberState") -> Iterator[str]:
        """What is not the same any more, in words."""
        if now.place != self.place:
            yield f"it is {now.place} instead of {self.place}"
        if now.timeline != self.timeline:
            yield f"it is on timeline {now.timeline} instead of {self.timeline}"
        if changed := sorted(k for k in {*self.fences, *now.fences} if self.fences.get(k) != now.fences.get(k)):
            yield f"the fence or the file of {', '.join(changed)} is another one"
        if now.relations != self.relations:
            yield "a relation was created, changed or dropped"


@dataclass(frozen=True, slots=True)
class ZeroOldRows:
    """Evidence gathered in one transaction for one key version over every declared table.

    It exists only if every piece holds: validated fences, a count of zero that the planner could not derive from them,
    discovery without findings, an empty quarantine and no old snapshot.

    Args:
        not_read_again: relations too large to be read under the lock: later writes into their older pages,
            unencrypted or in an undeclared column, were not seen.
        plaintext: values in columns that held plaintext, counted and let pass as what a rollback leaves.
        relations: SHA-256 over the identities of all relations that are searched; "": nothing was read before.
        state: of the home's own database in a fleet, read with this and compared again before the commit; None: the
            tables stay locked until then.
    """

    version: KeyVersion
    tables: tuple[str, ...]
    old_values: int
    values: int
    fence_lsn: str
    proven_at: datetime
    replicas: tuple[AccountedReplica, ...] = ()
    not_read_again: tuple[str, ...] = ()
    plaintext: int = 0
    relations: str = ""
    state: MemberState | None = None


@dataclass(frozen=True, slots=True)
class MemberEvidence:
    """The evidence that a member of a fleet gave in a transaction of its own; see `ZeroOldRows`.

    Args:
        member: its name.
        state: read in that transaction, and compared again just before the retirement is committed.
        lsn: the WAL position of that transaction; a member whose WAL is behind it was restored.
        searched_from: when the search before it began; None: everything was read in the transaction.
        not_searched, not_seen: what it does not cover.
        plaintext: values in an old form, which a rollback leaves.
    """

    member: str
    state: MemberState
    tables: tuple[str, ...]
    old_values: int
    values: int
    fence_lsn: str
    lsn: str
    proven_at: datetime
    replicas: tuple[AccountedReplica, ...] = ()
    not_read_again: tuple[str, ...] = ()
    searched_from: datetime | None = None
    not_searched: tuple[str, ...] = ()
    not_seen: tuple[str, ...] = ()
    plaintext: Annotated[int, UNLESS_EMPTY] = 0


# Rows, sessions or instances in one sentence.
NAMED_AT_MOST = 5


def not_encrypted(table: str, column: str, number: int, rows: Sequence[str]) -> str:
    """Which values of a column are not encrypted, by the keys of their rows, as far as these are known."""
    named = ", ".join(rows[:NAMED_AT_MOST])
    among = " among them" if number > min(len(rows), NAMED_AT_MOST) else ""
    where = f" ({'row' if len(rows) == 1 else 'rows'} {named}{among})" if rows else ""
    return f"table {table}, column {column}: {counted(number, 'unencrypted value')}{where}"


def records_reencrypted(rotation: Walk) -> int:
    """Rows that the walk and the sweeps after it rewrote; a row that both rewrote counts twice."""
    walked, proof = rotation.done(Step.ROWS), rotation.done(Step.ZERO_OLD_ROWS_PROOF)
    rows = read(Rewritten, walked.facts).rows if walked is not None else 0
    return rows + (sum(read(Proven, proof.facts).swept_rows.values()) if proof is not None else 0)
