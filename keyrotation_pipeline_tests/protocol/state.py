"""What a state of the protocol is: eight components, each a value that is interned to a small number.

Seven components are plain tuples. The eighth, the ledger, is a real audit chain with its real replay: of all chains
that mean the same, the first one found stands for them (`canonical`). What means the same: requests, key states,
rosters, intents and whether the home's anchor lies in the chain; not hashes, ids or times as such.
"""

import re
from bisect import bisect_right
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple

from keyrotation_pipeline.audit.events import entry_of
from keyrotation_pipeline.audit.history import LedgerState as ReplayedState
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.approval import PinnedRoster, Roster
from keyrotation_pipeline.model.audit import GENESIS, AuditEvent, AuditHead, EventKind
from keyrotation_pipeline.model.requests import Request, Step, StepRecord, Walk
from keyrotation_pipeline.rotation.rollout import NAMED_IN_REPORTS
from keyrotation_pipeline_tests.fakes.chain import LedgerState

# A key: the number of its version, and which attempt to make it made it.
Key = tuple[int, int]


class Keys(NamedTuple):
    """The key store.

    Args:
        earlier: what a late answer still shows; None where no answer is late.
    """

    live: tuple[Key, ...]
    shelf: tuple[Key, ...]
    primary: int | None
    roster: str | None
    compromised: tuple[int, ...]
    earlier: "Keys | None" = None


class Fence(NamedTuple):
    """The fence of the table: what it refuses, and whether it is younger than the newest proof."""

    refused: tuple[int, ...]
    young: bool


class Report(NamedTuple):
    """What an instance last reported.

    Args:
        nonce: the number of what the database asked it to name: of an event in `Ledger.named`, 0 before there was any.
    """

    reads: tuple[int, ...]
    writes: int
    nonce: int


class Instance(NamedTuple):
    """A running or dead process of the application.

    Args:
        ring: the keys that it holds.
        silent: it has stopped reporting.
        names: it writes the primary that is named to it; else the newest key that it holds.
    """

    number: int
    ring: tuple[Key, ...]
    primary: int
    report: Report
    silent: bool
    alive: bool
    names: bool

    @property
    def writes(self) -> int:
        """The version that it encrypts under."""
        return self.primary if self.names else max(version for version, _ in self.ring)

    def holds(self, version: int) -> bool:
        """Whether it can decrypt values of a version."""
        return any(held == version for held, _ in self.ring)


class Named(NamedTuple):
    """An event that reports may name."""

    kind: str
    request: str | None
    hash: str


class View(NamedTuple):
    """What somebody can still read of an earlier moment: a long transaction's snapshot, or a standby that lags."""

    kind: str
    versions: tuple[int, ...]
    before_proof: bool


class Store(NamedTuple):
    """The backups: keys, and for each dump of the database the versions of its values."""

    keys: tuple[Key, ...]
    dumps: tuple[tuple[int, ...], ...]


class State(NamedTuple):
    """A state: the number of each component's value."""

    ledger: int
    keys: int
    rows: int
    fence: int
    instances: int
    views: int
    store: int


UNSTAMPED = AuditHead(0, GENESIS)


@dataclass(frozen=True, slots=True)
class Ledger:
    """A real ledger, as loaded into the fakes before each action.

    Args:
        kept, roster: what the home has stored outside the database.
        stamp: the event that the key store names, of the audit of whoever changed it last.
        configured: the roster that `keyrotation.toml` has.
        expired: fingerprints of officers whose keys have expired.
        saved: the database as last backed up, and its rows and fence, if the model restores it; or the other copy of
            this home.
        copy: which of the two copies of the home this is; None: there is one.
        marks: what intents and notes of the chain say, by which later actions decide.
        named: the events that reports may name, by their numbers from 1: of each kind and request the last.
    """

    state: LedgerState
    replay: ReplayedState
    now: datetime
    kept: AuditHead | None
    roster: PinnedRoster | None
    configured: Roster
    saved: "tuple[Ledger, int, int] | None" = None
    restored: int = 0
    stamp: AuditHead = UNSTAMPED
    copy: int | None = None
    marks: frozenset[Hashable] = frozenset()
    named: tuple[Named, ...] = ()
    expired: frozenset[str] = frozenset()


MATERIALS: dict[Key, KeyMaterial] = {
    (number, attempt): KeyMaterial(bytes([number, attempt] * 16)) for number in range(1, 8) for attempt in range(8)
}
KEY_OF = {material.fingerprint: key for key, material in MATERIALS.items()}


class Interned:
    """Values by number and numbers by value."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[Hashable, int] = {}

    def number(self, value: Hashable) -> int:
        """The number of a value, a new one if it is new."""
        found = self._numbers.get(value)
        if found is None:
            found = self._numbers[value] = len(self.values)
            self.values.append(value)
        return found


@dataclass
class Ledgers:
    """The ledgers by number: the first one found of each canonical form."""

    found: list[Ledger] = field(default_factory=list)
    _numbers: dict[Hashable, int] = field(default_factory=dict)

    def number(self, ledger: Ledger) -> int:
        """The number of a ledger's canonical form."""
        form = canonical(ledger)
        number = self._numbers.get(form)
        if number is None:
            number = self._numbers[form] = len(self.found)
            self.found.append(ledger)
        return number


def canonical(ledger: Ledger) -> Hashable:
    """What of a ledger any later action can depend on."""
    state, now = ledger.state, ledger.now
    saved = None if ledger.saved is None else (canonical(ledger.saved[0]), *ledger.saved[1:])
    return (
        tuple((record.version.number, record.state, KEY_OF[record.fingerprint]) for record in state.keys.values()),
        tuple(_of_request(state, request, now) for request in state.requests.values()),
        tuple(str(roster) for begun, roster in ledger.replay.began_under.items() if not state.requests[begun].is_over),
        tuple(str(roster) for _, roster, _ in ledger.replay.rosters),
        str(ledger.configured),
        str(ledger.roster.roster) if ledger.roster else None,
        ledger.kept is None or ledger.replay.leads_through(ledger.kept),
        knows(ledger),
        ledger.saved is None or ledger.saved[0].replay.leads_through(ledger.stamp),
        ledger.copy,
        tuple(sorted(each.number for each in ledger.replay.retired)),
        tuple(sorted((each.number, request) for each, request in ledger.replay.unseen.items())),
        tuple((each.id, each.status, each.request) for each in ledger.replay.incidents.by_id.values()),
        tuple((request, row.completion_date is None) for request, row in state.audit_rows.items()),
        ledger.marks,
        tuple((each.kind, each.request) for each in ledger.named),
        ledger.restored,
        tuple(sorted(ledger.expired)),
        saved,
    )


def knows(ledger: Ledger) -> bool:
    """Whether an audit has the last change of the key store, or officers have signed that it does not."""
    return not ledger.replay.missing([ledger.stamp])


def other_copy(ledger: Ledger, rows: int, fence: int) -> tuple[Ledger, int, int]:
    """The other copy of a home, with its rows and fence; they share the key store."""
    assert ledger.saved is not None
    other, its_rows, its_fence = ledger.saved
    number = 1 - (ledger.copy or 0)
    kept = replace(ledger, saved=None, copy=1 - number)
    return replace(other, saved=(kept, rows, fence), stamp=ledger.stamp, copy=number), its_rows, its_fence


def _of_request(state: LedgerState, request: Request, now: datetime) -> Hashable:
    signed = tuple(sorted(each.officer[:1] for each in state.signatures.get(request.id, ())))
    walk = (
        (request.promotion_xid is not None, tuple(sorted(map(_of_step, request.steps))))
        if isinstance(request, Walk)
        else None
    )
    dates = () if request.is_over else (now > request.start_by, now > request.finish_by)
    return (
        request.id, request.action, request.type, request.source.number, request.target.number, request.status, signed,
        request.started_at is not None, dates, request.supersedes, _age(request, now), walk,
        _of_text(state.texts[request.id]),
    )  # fmt: skip


def _age(request: Request, now: datetime) -> int:
    return min((now - request.requested_at).days // 20, 2)


def _of_step(record: StepRecord) -> tuple[str, str, int, str]:
    facts = record.facts
    said = {
        Step.RETIRED_KEY: "taken_from_applications",
        Step.ZERO_OLD_ROWS_PROOF: "retired",
        Step.KEY_VERSION: "from_archive",
    }.get(record.step)
    shard = -1 if record.shard is None else record.shard
    return str(record.step), record.table or "", shard, str(facts.get(said)) if said else ""


_TEXTS: dict[bytes, Hashable] = {}
_KEPT_LINES = ("Authorises:", "From:", "To:", "Officers:", "Recipients:", "Reason:", "Incident:")
_HEAD = re.compile(r"event \d+ [0-9a-f]{64}( \(nor \d+ older\))?|event \d+ [0-9a-f]{16}|event \d+|\([0-9a-f]{16}\)")


def _of_text(text: bytes) -> Hashable:
    """A signed text without hashes, ids and dates."""
    if (known := _TEXTS.get(text)) is None:
        lines = text.decode().splitlines()
        known = _TEXTS[text] = tuple(_HEAD.sub("event", line) for line in lines if line.startswith(_KEPT_LINES))
    return known


def marks_of(events: Iterable[AuditEvent]) -> frozenset[Hashable]:
    """What intents and notes say, without hashes and times."""
    return frozenset(mark for event in events if (mark := _mark(event)) is not None)


_MARKED = frozenset({
    EventKind.KEY_CREATION_INTENDED, EventKind.KEY_IMPORT_INTENDED, EventKind.PRIMARY_CHANGE_INTENDED,
    EventKind.RETIREMENT_INTENDED, EventKind.CANCEL_INTENDED, EventKind.KEY_RESTORE_INTENDED, EventKind.PROVEN_AGAIN,
    EventKind.KEY_RETIRED, EventKind.DATABASE_RECONCILED, EventKind.ROLLOUT_CONFIRMED,
    EventKind.KEY_DESTRUCTION_INTENDED, EventKind.KEY_DESTROYED,
})  # fmt: skip


def _mark(event: AuditEvent) -> Hashable | None:
    if event.kind not in _MARKED:
        return None
    facts = entry_of(event).facts
    said = (facts.get(name) for name in ("version", "versions", "from", "to", "taken_from_applications", "rollout"))
    about = tuple(str(each) for each in said if each is not None)
    return str(event.kind), event.request, about, KEY_OF.get(str(facts.get("fingerprint")))


def numbers(versions: Iterable[KeyVersion]) -> tuple[int, ...]:
    """Versions as sorted numbers."""
    return tuple(sorted(version.number for version in versions))


def named_in(ledger: Ledger, events: Sequence[AuditEvent]) -> tuple[Named, ...]:
    """The events that reports may name, with those that have come since a ledger."""
    later = (each for each in events[ledger.replay.head.seq :] if each.kind in NAMED_IN_REPORTS)
    return (*ledger.named, *(Named(str(each.kind), each.request, each.hash) for each in later))


def last_named(named: Sequence[Named]) -> tuple[tuple[Named, ...], tuple[int, ...]]:
    """Of each kind and request the last event, and the new number of each number: a rollout begins with none before.

    A report that names an event that is left out is as old as one that names the last one before it that is not.
    """
    last = {(each.kind, each.request): number for number, each in enumerate(named, 1)}
    kept = sorted(last.values())
    numbers = tuple(bisect_right(kept, number) for number in range(len(named) + 1))
    return tuple(named[number - 1] for number in kept), numbers


def rewound(ledger: Ledger, saved: Ledger) -> Ledger:
    """The ledger after its database was restored to an earlier state; what is stored outside stays."""
    return replace(
        ledger, state=saved.state, replay=saved.replay, marks=saved.marks, restored=ledger.restored + 1,
        named=saved.named,
    )  # fmt: skip
