"""What later readings of the database say about keys that were retired."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from keyrotation_pipeline.audit.history import HistoryEntry
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.audit import counted
from keyrotation_pipeline.model.audit_state import AuditState
from keyrotation_pipeline.model.data_events import Counted, UndeclaredColumnsSearched, ValuesDecrypted
from keyrotation_pipeline.model.key_events import KeyRestoreIntended, KeyRetired, KeyStateChanged
from keyrotation_pipeline.model.keys import KeyRecord, KeyState, StoredKeys
from keyrotation_pipeline.model.requests import Walk

_ALIVE = frozenset({KeyState.ACTIVE, KeyState.PRE_ACTIVATION})


@dataclass(frozen=True, slots=True)
class Reading:
    """One later reading: of a table, or of everything that is not declared.

    Args:
        entry: its event.
        subject: what was read.
        found: what it found under a retired key, as a sentence; None: nothing.
    """

    entry: HistoryEntry
    subject: str
    found: str | None


@dataclass(frozen=True, slots=True)
class Retirement:
    """The newest retirement of a rotation, and what came after it.

    Args:
        later: every reading since, in the order of the audit.
        unread: what nothing has read since the retirement began, with what to type; None: nothing.
        revived: the versions that somebody has given, or begun to give, to applications again.
    """

    entry: HistoryEntry
    fact: KeyRetired
    later: tuple[Reading, ...]
    unread: str | None
    revived: tuple[str, ...]

    @property
    def found(self) -> tuple[Reading, ...]:
        """The readings that found something, unless the key is in use again."""
        return () if self.revived else tuple(each for each in self.later if each.found is not None)

    @property
    def newest(self) -> tuple[Reading, ...]:
        """The newest reading of each subject, by each kind of reading."""
        return tuple({(each.entry.kind, each.subject): each for each in self.later}.values())

    @property
    def contradicted_by(self) -> tuple[Reading, ...]:
        """Those of what was found that no newer reading of the same has found gone."""
        return tuple(each for each in self.found if each in self.newest)


def retirement_of(entries: Sequence[HistoryEntry], rotation: str) -> Retirement | None:
    """The newest retirement of a rotation by the events that count; None: it has retired no key."""
    counting = [each for each in entries if each.fault is None]
    retired = [(each, each.fact) for each in counting if each.request == rotation and isinstance(each.fact, KeyRetired)]
    if not retired:
        return None
    entry, fact = retired[-1]
    after = [each for each in counting if each.seq > entry.seq]
    searched = any(
        isinstance(each.fact, UndeclaredColumnsSearched) and each.fact.began_at >= entry.at for each in after
    )
    return Retirement(
        entry=entry,
        fact=fact,
        later=tuple(reading for each in after for reading in _readings(each, fact)),
        unread=None if searched else fact.unread,
        revived=tuple(_revived(after, fact.taken_from_applications)),
    )


def _readings(entry: HistoryEntry, retired: KeyRetired) -> Iterator[Reading]:
    versions = retired.taken_from_applications
    names = ", ".join(map(str, versions))
    match entry.fact:
        case Counted(tables=tables):
            for table in tables:
                if table.counted_at >= retired.proven_at:
                    number = sum(table.values_by_version.get(str(each), 0) for each in versions)
                    said = f"a count found {counted(number, 'value')} under {names} in {table.table}"
                    yield Reading(entry, table.table, said if number else None)
        case ValuesDecrypted(tables=decrypted):
            for each in decrypted:
                if each.began_at >= retired.proven_at:
                    said = (
                        f"`keyrotation verify` could not decrypt {counted(each.failures, 'value')} in "
                        f"{each.table}, which may be under {names}"
                    )
                    yield Reading(entry, each.table, said if each.failures else None)
        case UndeclaredColumnsSearched(findings=findings, began_at=began_at) if began_at >= retired.proven_at:
            held = [each for each in findings if set(each.versions).intersection(versions)]
            where = ", ".join(f"{each.relation}.{each.column} ({counted(each.values, 'value')})" for each in held)
            said = f"an inventory found values under {names} in undeclared columns: {where}"
            yield Reading(entry, "undeclared columns", said if held else None)


def _revived(after: Sequence[HistoryEntry], gone: Sequence[KeyVersion]) -> Iterator[str]:
    back: dict[str, None] = {}
    for each in after:
        match each.fact:
            case KeyStateChanged(version=version, after=state) if version in gone and state in _ALIVE:
                back[str(version)] = None
            case KeyRestoreIntended(version=version, place=place) if version in gone and place != "archive":
                back[str(version)] = None
    yield from back


def live_again(stored: StoredKeys, record: KeyRecord) -> Iterator[str]:
    """A sentence for each way in which applications get a retired key from the key store."""
    version = record.version
    if stored.primary == version:
        yield f"{version} is the key store's primary; find out who named it, and run `keyrotation status`"
    if version in stored.live:
        archive = f"have {stored.restore(version)} archive it"
        yield f"{version} is live in the key store; find out who put it there, and {archive}"
    for other, key in stored.live.items():
        if isinstance(key, KeyMaterial) and key.fingerprint == record.fingerprint and other != version:
            yield f"the key of {version} is live in the key store as {other}; find out who put it there"


def put_back(state: AuditState, stored: StoredKeys) -> Iterator[str]:
    """The same for each key that was retired, unless a walk that is under way brings it back."""
    under_way = (each for each in state.requests.values() if isinstance(each, Walk) and not each.is_over)
    brought = {version for walk in under_way for version in (walk.source, walk.target)}
    for record in state.keys.values():
        is_out = record.state is KeyState.COMPROMISED and record.version in state.retired
        if (is_out or record.state is KeyState.ARCHIVED) and record.version not in brought:
            yield from live_again(stored, record)
