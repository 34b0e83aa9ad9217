"""When each member of a fleet was dumped, by the audit: in no place's files shows what they should hold."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from keyrotation_pipeline.audit.events import entries
from keyrotation_pipeline.model.audit import EventKind, utc_minute
from keyrotation_pipeline.model.backups import BackupSet, in_order, member_in, stamp_in, stamped_at
from keyrotation_pipeline.model.members import members_among
from keyrotation_pipeline.ports.ledger import Ledger


def signed_members(ledger: Ledger) -> tuple[str, ...]:
    """The names of the members that officers have signed last."""
    return tuple(members_among(ledger.replayed().hosts or ()))


def dumped(ledger: Ledger) -> Mapping[str, Sequence[str]]:
    """The stamps of the sets that have a dump of a member, oldest first, by its name."""
    stamps = defaultdict[str, list[str]](list)
    for each in entries(ledger, EventKind.BACKUP_MADE, EventKind.BACKUP_INCOMPLETE):
        for name in each.facts.get("files", ()):
            if member := member_in(name):
                stamps[member].append(stamp_in(name) or "")
    return stamps


def newest_dump(ledger: Ledger, member: str) -> str:
    """Of when the newest dump of a member is, in a phrase."""
    found = dumped(ledger).get(member)
    return f"the newest is of {utc_minute(stamped_at(found[-1]))}" if found else "there is none yet"


def never_dumped(ledger: Ledger) -> Iterator[str]:
    """A phrase for each signed member that no backup was made of."""
    members = signed_members(ledger)
    found = dumped(ledger) if members else {}
    yield from (f"no backup of database {name} was ever made" for name in members if name not in found)


def lacking(ledger: Ledger, made: BackupSet) -> Iterator[str]:
    """A phrase for each signed member that a set has no dump of, although it, or an older one, should have."""
    missing = [name for name in signed_members(ledger) if made.dump_of(name) is None]
    found = dumped(ledger) if missing else {}
    for name in missing:
        if found.get(name) and in_order(found[name][0]) <= in_order(made.stamp):
            yield f"no dump of database {name} ({newest_dump(ledger, name)})"
