"""Asks a member of a fleet what people see of it, over a connection that is closed afterwards; writes nothing there."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from keyrotation_pipeline.adapters.fleet.members import Member, Members
from keyrotation_pipeline.errors import KeyRotationError, MemberUnavailableError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.member_answers import MemberAnswer
from keyrotation_pipeline.model.tables import EncryptedTable, TableName
from keyrotation_pipeline.ports.clock import Clock
from keyrotation_pipeline.ports.database import TableFencing
from keyrotation_pipeline.ports.ledger import Ledger


@dataclass(frozen=True)
class FleetQuestions:
    """`AskMember` over several databases."""

    members: Members
    ledger: Ledger
    clock: Clock

    def __call__(self, member: str, tables: Sequence[EncryptedTable], others: Sequence[str]) -> MemberAnswer:
        """See `AskMember`."""
        now = self.clock.now()
        empty = MemberAnswer(member, now, self.ledger.head().seq)
        try:
            with self.members.once(member) as opened, opened.transaction():
                opened.require_copy()
                return replace(_answered(opened, empty, tables, others), answered_at=now)
        except MemberUnavailableError as error:
            return replace(empty, problem=str(error))


def _answered(
    member: Member, empty: MemberAnswer, tables: Sequence[EncryptedTable], others: Sequence[str]
) -> MemberAnswer:
    ports, name = member.ports, empty.member
    fences, unseen = _fences(ports.fencing, tables)
    index_fences, _ = _fences(ports.fencing, [table.of_indexes for table in tables if table.indexes])
    return replace(
        empty,
        fences=fences,
        index_fences=index_fences,
        unseen=unseen,
        undeclared=tuple(each for each in others if ports.inventory.columns(TableName.parse(each))),
        unread_since=ports.inventory.unread_since(tables),
        unsearched_since=ports.inventory.unsearched_since(),
        unsearched=tuple(replace(each, member=name) for each in ports.environment.blind_spots().unsearched),
    )


def _fences(
    fencing: TableFencing, tables: Sequence[EncryptedTable]
) -> tuple[dict[str, tuple[KeyVersion, ...]], dict[str, str]]:
    refused, unseen = dict[str, tuple[KeyVersion, ...]](), dict[str, str]()
    for table, found in fencing.all_fences(tables).items():
        if isinstance(found, KeyRotationError):
            unseen[str(table.name)] = str(found)
        else:
            refused[str(table.name)] = found
    return refused, unseen
