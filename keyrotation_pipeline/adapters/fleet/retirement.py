"""Fences in every database of a fleet, and the evidence of each.

Each member gives its evidence in a short transaction of its own, one after the other, so that no table is locked while
another database is read. The retiring transaction is the home's own database's. It counts its own tables, unlocks them,
and ends by asking the members, a few at once, and then itself, whether everything that its evidence rests on is still
the same (ADR 44).
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial

from keyrotation_pipeline.adapters.fleet.members import Member, Members, OwnTables
from keyrotation_pipeline.errors import (
    BlockedError,
    DefinitionChangedError,
    FenceError,
    KeyRotationError,
    MemberUnavailableError,
    ProofError,
)
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.plaintext_outside_rows import ServerFiles
from keyrotation_pipeline.model.progress import Progress, Report
from keyrotation_pipeline.model.proof import (
    MemberEvidence,
    MemberPosition,
    MemberState,
    Searched,
    SnapshotPosition,
    ZeroOldRows,
)
from keyrotation_pipeline.model.tables import EncryptedTable, OldRows, of_member

# While members are asked again, nobody else appends to the audit, and the ledger's session ends if it is idle for a
# minute.
ASKED_AT_ONCE = 8
ASKED_FOR_SECONDS = 60.0
KEPT_AWAKE_SECONDS = 20.0


@dataclass(frozen=True)
class FleetFencing:
    """`TableFencing` over several databases."""

    members: Members

    def old_rows(self, table: EncryptedTable, versions: Sequence[KeyVersion], promotion_xid: int | None) -> OldRows:
        """See `TableFencing.old_rows`; the promotion's transaction id is of the home's own database alone."""
        with self.members.of(table) as at:
            return at.fencing.old_rows(table, versions, None if table.name.database else promotion_xid)

    def fence(self, table: EncryptedTable, versions: Sequence[KeyVersion], *, wait: bool = True) -> bool:
        """See `TableFencing.fence`."""
        with self.members.of(table) as at:
            return at.fencing.fence(table, versions, wait=wait)

    def unfence(self, table: EncryptedTable, version: KeyVersion) -> None:
        """See `TableFencing.unfence`."""
        with self.members.of(table) as at:
            at.fencing.unfence(table, version)

    def fences(self, table: EncryptedTable) -> tuple[KeyVersion, ...]:
        """See `TableFencing.fences`."""
        with self.members.of(table) as at:
            return at.fencing.fences(table)

    def all_fences(
        self, tables: Sequence[EncryptedTable]
    ) -> Mapping[EncryptedTable, tuple[KeyVersion, ...] | KeyRotationError]:
        """See `TableFencing.all_fences`; of a member that does not answer, that it does not."""
        found = dict[EncryptedTable, tuple[KeyVersion, ...] | KeyRotationError]()
        for name, own in self.members.grouped(tables):
            try:
                if own:
                    with self.members.at(name) as at:
                        found.update(at.fencing.all_fences(own))
            except KeyRotationError as error:
                if not name:
                    raise
                found.update(dict.fromkeys(own, error))
        return {table: found[table] for table in tables}

    def sessions(self, table: EncryptedTable) -> tuple[str, ...]:
        """See `TableFencing.sessions`."""
        with self.members.of(table) as at:
            return at.fencing.sessions(table)


@dataclass(frozen=True)
class FleetEvidence:
    """`RetirementEvidence` over several databases."""

    fleet: Members
    own: OwnTables

    def barrier(self) -> str:
        """See `RetirementEvidence.barrier`; of the home's own database."""
        return self.fleet.lead.evidence.barrier()

    def position(self) -> SnapshotPosition:
        """See `RetirementEvidence.position`."""
        positions = dict[str, MemberPosition]()
        for name in self.fleet.open:
            with self.fleet.at(name) as at:
                own = at.evidence.position()
            positions[name] = MemberPosition(own.xid, own.lsn)
        return replace(self.fleet.lead.evidence.position(), members=positions)

    def snapshot_blockers(self, position: SnapshotPosition) -> tuple[str, ...]:
        """See `RetirementEvidence.snapshot_blockers`; a member that does not answer is one."""
        found = list(self.fleet.lead.evidence.snapshot_blockers(position))
        for name in self.fleet.open:
            if position.of(name) is None:  # joined since, so that its proof comes next
                continue
            try:
                with self.fleet.at(name) as at:
                    found += _blockers(name, at.evidence.snapshot_blockers(_own(name, position)))
            except MemberUnavailableError as error:
                found.append(str(error))
        return tuple(found)

    def current_xid(self) -> int:
        """See `RetirementEvidence.current_xid`; of the home's own database."""
        return self.fleet.lead.evidence.current_xid()

    def search(
        self, tables: Sequence[EncryptedTable], version: KeyVersion, retired: Sequence[KeyVersion], report: Report
    ) -> Searched:
        """See `RetirementEvidence.search`."""
        found = dict[str, Searched]()
        for name, own in self.fleet.grouped(tables):
            with self.fleet.at(name) as at:
                found[name] = at.evidence.search(own, version, retired, partial(_in_member, name, report))
        return replace(found.pop(""), members=found)

    def zero_old_rows(
        self,
        tables: Sequence[EncryptedTable],
        version: KeyVersion,
        retired: Sequence[KeyVersion],
        position: SnapshotPosition,
        searched: Searched | None = None,
    ) -> ZeroOldRows:
        """See `RetirementEvidence.zero_old_rows`."""
        own = _own_tables(tables)
        with self.own.unlocked_after():
            zero = self.fleet.lead.evidence.zero_old_rows(own, version, retired, position, searched)
            return replace(zero, state=self.own.state(own, zero.relations))

    def members(
        self,
        tables: Sequence[EncryptedTable],
        version: KeyVersion,
        retired: Sequence[KeyVersion],
        position: SnapshotPosition,
        searched: Searched,
    ) -> Iterator[MemberEvidence]:
        """See `RetirementEvidence.members`."""
        for name, own in self.fleet.grouped(tables)[1:]:
            with self.fleet.member(name) as member:
                member.bring_up_to_date()
                # Of before the lock: what is changed in between is another one when it is compared.
                before, state = searched.members[name], member.state(own)
                with member.transaction():
                    zero = member.ports.evidence.zero_old_rows(own, version, retired, _own(name, position), before)
                lsn, unseen = member.wal_position(), member.ports.environment.blind_spots()
            yield MemberEvidence(
                member=name,
                state=state,
                tables=zero.tables,
                old_values=zero.old_values,
                values=zero.values,
                fence_lsn=zero.fence_lsn,
                lsn=lsn,
                proven_at=zero.proven_at,
                replicas=zero.replicas,
                not_read_again=tuple(of_member(name, each) for each in zero.not_read_again),
                searched_from=before.began_at if zero.not_read_again else None,
                not_searched=tuple(map(str, unseen.unsearched)),
                not_seen=unseen.unseen,
                plaintext=zero.plaintext,
            )

    def require_same(
        self,
        tables: Sequence[EncryptedTable],
        position: SnapshotPosition,
        evidence: Sequence[MemberEvidence],
        own: ZeroOldRows,
        retired: Sequence[KeyVersion],
        searched: Searched,
    ) -> None:
        """See `RetirementEvidence.require_same`."""
        by_member = dict(self.fleet.grouped(tables))
        if missing := sorted(set(self.fleet.open) - {each.member for each in evidence}):
            raise ProofError(f"database {missing[0]} gave no evidence, so nothing was retired; run this step again")

        def compare(each: MemberEvidence) -> None:
            with self.fleet.member(each.member) as member, member.limited(ASKED_FOR_SECONDS):
                _require_member_same(member, by_member[each.member], each, _own(each.member, position))

        def prove(each: MemberEvidence) -> None:
            with self.fleet.member(each.member) as member, member.limited(ASKED_FOR_SECONDS), member.transaction():
                at, before = _own(each.member, position), searched.members[each.member]
                member.ports.evidence.zero_old_rows(by_member[each.member], own.version, retired, at, before)

        self._of_each(evidence, compare, ASKED_AT_ONCE)
        # Tables are locked for this: several at once would take longer, and lock all of them for as long.
        self._of_each([each for each in evidence if _rests_on_writers(by_member[each.member])], prove, 1)
        if found := self.fleet.lead.evidence.snapshot_blockers(position):
            raise BlockedError("; ".join(found))
        self.own.lock(_own_tables(tables))
        _require_same("the home's own database", own.state, self.own.state(_own_tables(tables)))
        if _rests_on_writers(_own_tables(tables)):
            self.fleet.lead.evidence.zero_old_rows(_own_tables(tables), own.version, retired, position, searched)

    def _of_each(self, evidence: Sequence[MemberEvidence], ask: Callable[[MemberEvidence], None], at_once: int) -> None:
        """Asks a few at once, and raises what the first of them raised, in their order."""
        with ThreadPoolExecutor(at_once) as threads:
            asked = [threads.submit(ask, each) for each in evidence]
            try:
                for each in asked:
                    while wait([each], KEPT_AWAKE_SECONDS).not_done:
                        self.fleet.lead.evidence.current_xid()
                    each.result()
            finally:
                for each in asked:
                    each.cancel()

    def plaintext_outside_rows(self, tables: Sequence[EncryptedTable], known: Collection[int]) -> ServerFiles:
        """See `RetirementEvidence.plaintext_outside_rows`."""
        with self.fleet.at(tables[0].name.database) as at:
            return at.evidence.plaintext_outside_rows(tables, known)


def _own_tables(tables: Sequence[EncryptedTable]) -> list[EncryptedTable]:
    return [table for table in tables if not table.name.database]


def _rests_on_writers(tables: Sequence[EncryptedTable]) -> bool:
    """Whether what was written since the evidence shows in no fence, so that only reading it again does."""
    return any(table.format.identified_by.refuses_writers for table in tables)


def _require_member_same(
    member: Member, tables: Sequence[EncryptedTable], then: MemberEvidence, position: SnapshotPosition
) -> None:
    """Refuses one whose evidence rests on what is not the same any more, or where something may show old values."""
    member.require_copy()
    now = member.state(tables)
    if not member.has_reached(then.lsn):
        raise _changed(f"database {then.member}", "its WAL is behind, as after a restore")
    _require_same(f"database {then.member}", then.state, now)
    if found := member.ports.evidence.snapshot_blockers(position):
        raise BlockedError("; ".join(_blockers(then.member, found)))


def _require_same(database: str, then: MemberState | None, now: MemberState) -> None:
    differences = "nobody noted it" if then is None else "; ".join(then.differences(now))
    if differences and then is not None and then.has_lost_fence(now):
        raise FenceError(f"{database} has changed since it gave its evidence: {differences}")
    if differences:
        raise _changed(database, differences)


def _changed(database: str, differences: str) -> ProofError:
    return ProofError(
        f"{database} has changed since it gave its evidence: {differences}, and nothing was retired; find out who it "
        "was, then run `keyrotation rotate` again"
    )


def _own(name: str, position: SnapshotPosition) -> SnapshotPosition:
    own = position.of(name)
    if own is None:
        raise DefinitionChangedError(f"database {name} became a member after the proof")
    return own


def _in_member(name: str, report: Report, progress: Progress) -> None:
    """Declared tables carry their database, and other relations do not."""
    bare = progress.subject.removeprefix(of_member(name, ""))
    report(replace(progress, subject=of_member(name, bare)))


def _blockers(name: str, found: Sequence[str]) -> list[str]:
    return [f"database {name}: {each}" for each in found]
