"""Which members of a fleet a recovery test takes: in turn, by the audit alone.

Each test takes the share of them that the time since the last one is of a quarter, the least recently tested first. So
each is tested once a quarter: all of them by one test a quarter, a few by each of many.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from math import ceil

from keyrotation_pipeline.audit.events import entries
from keyrotation_pipeline.backups.catalog import BackupContext, KeptSets
from keyrotation_pipeline.backups.member_dumps import dumped, signed_members
from keyrotation_pipeline.errors import BackupError
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.model.backups import (
    TEST_OVERDUE_AFTER,
    BackupSet,
    DatabaseCopy,
    manifest_name,
    stamped_at,
)
from keyrotation_pipeline.ports.ledger import Ledger

QUARTER = timedelta(days=92)
_NEVER = datetime.min.replace(tzinfo=UTC)


def last_tested(ledger: Ledger) -> Mapping[str, datetime]:
    """When each member was last tested, by its name."""
    passed = entries(ledger, EventKind.RECOVERY_TEST_PASSED)
    return {str(member["member"]): each.at for each in passed for member in each.facts.get("members", ())}


def due_members(ledger: Ledger, now: datetime) -> tuple[str, ...]:
    """The members that a test takes now, the least recently tested first; of those that were ever dumped."""
    tested, there = last_tested(ledger), dumped(ledger)
    members = sorted(
        (name for name in signed_members(ledger) if name in there), key=lambda name: (tested.get(name, _NEVER), name)
    )
    passed = now - max(tested.values(), default=_NEVER)
    return tuple(members[: max(1, ceil(len(members) * min(passed / QUARTER, 1.0)))])


def newest_dump_of(site: BackupContext, kept: KeptSets, member: str) -> tuple[BackupSet, DatabaseCopy]:
    """The newest set with a dump of a member; never skips a missing one for an older one.

    Raises:
        BackupError, RecoveryError: it is missing, damaged, or not ours.
    """
    found = next(((made, dump) for made in kept.sets if (dump := made.dump_of(member)) and not made.made_from), None)
    newest = manifest_name(dumped(site.pipeline.ledger)[member][-1])
    for name, why in kept.refused.items():
        if found is None or site.trust.is_after(name, found[0]):
            raise why
    if found is None or site.trust.is_after(newest, found[0]):
        raise BackupError(
            f"{newest}, the newest backup of database {member}, is not in {kept.place.description}"
            f"{kept.place.older.caveat}; run `keyrotation backup`, and find out who removed it"
        )
    return found


def overdue(ledger: Ledger, now: datetime) -> Iterator[str]:
    """A sentence for each member that was not tested within a quarter."""
    if not (members := signed_members(ledger)):
        return
    tested = last_tested(ledger)
    for name, stamps in dumped(ledger).items():
        at = tested.get(name)
        if name in members and now - (at or stamped_at(stamps[0])) > TEST_OVERDUE_AFTER:
            when = f"was on {at:%Y-%m-%d}" if at else "has never been made"
            yield f"the last recovery test of database {name} {when}; run `keyrotation recovery-test`"
