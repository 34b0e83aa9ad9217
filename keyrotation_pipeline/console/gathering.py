"""Gathers what the console shows: the status, and next to it instances, signatures, keys and the newest events."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from keyrotation_pipeline.audit.events import AuditEntry, entry_of
from keyrotation_pipeline.audit.history import history
from keyrotation_pipeline.console.headline import Headline, headline, is_news
from keyrotation_pipeline.console.look import Look, one_look
from keyrotation_pipeline.console.walk_view import StepView, finished_steps, steps_of
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.model.environment import BlindSpots
from keyrotation_pipeline.model.fleet import Instance
from keyrotation_pipeline.model.fleet_summary import FleetSummary, TableInFleet, tables_in_fleet
from keyrotation_pipeline.model.requests import PendingRequest, Request, Step, Walk
from keyrotation_pipeline.model.status import RotationStatus, Status
from keyrotation_pipeline.model.tables import TableName
from keyrotation_pipeline.monitoring.members import blind_spots
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.reporting.keys_in_audit import key_lives
from keyrotation_pipeline.reporting.rendering import Timeline, timeline

NEWEST_EVENTS = 12
# Of what happens all the time, so that the rest is seen.
_OF_KEYS = (
    EventKind.KEY_REGISTERED,
    EventKind.KEY_STATE_CHANGED,
    EventKind.KEY_CREATION_INTENDED,
    EventKind.KEY_ACTIVATION_DECLARED,
    EventKind.SOURCE_KEY_IMPORTED,
)


@dataclass(frozen=True, slots=True)
class Signed:
    """One officer and an open request: when they signed; None: they have not."""

    officer: str
    at: datetime | None


@dataclass(frozen=True, slots=True)
class Share:
    """The values of one version in a table: how many, and the places of its bar in percent."""

    version: KeyVersion
    values: int
    left: float
    width: float


@dataclass(frozen=True, slots=True)
class TableBar:
    """One table as a bar: values by version when last counted, or the part that this walk has rewritten since.

    Args:
        table: in every database of a fleet that has it.
        rewritten: the share of its pages, 0 to 1, that the open walk has rewritten; None: it has not begun, or none is.
    """

    table: TableInFleet
    shares: tuple[Share, ...]
    rewritten: float | None


@dataclass(frozen=True, slots=True)
class NewEvent:
    """One of the newest events of the audit.

    Args:
        entry: None: the pipeline did not sign it, so that it counts for nothing, and nothing of what it says is shown.
    """

    seq: int
    entry: AuditEntry | None

    @property
    def about(self) -> str:
        """What it is about, in a word or two: the step, the version, the state that follows."""
        return "" if self.entry is None else self.entry.about


@dataclass(frozen=True, slots=True)
class Console:
    """What the first page shows.

    Args:
        pending: the open walk with who has signed, or else the oldest other request that is not over; None: none is.
        instances: as they report themselves; a sentence where they cannot be read.
        last: the request that ended last.
        fleet: its databases in a sentence; None: there is one.
    """

    status: Status
    headline: Headline
    steps: tuple[StepView, ...]
    pending: PendingRequest | None
    signed: tuple[Signed, ...]
    instances: tuple[Instance, ...] | str
    tables: tuple[TableBar, ...]
    keys: Timeline | None
    events: tuple[NewEvent, ...]
    blind_spots: BlindSpots
    past: tuple[Request, ...]
    fleet: str | None = None


def console(pipeline: Pipeline) -> Console:
    """Everything on the first page, from one look at the database, the key store and the backup places."""
    with one_look(pipeline) as look:
        return _console(pipeline, look)


def _console(pipeline: Pipeline, look: Look) -> Console:
    status = look.status
    rotation = status.rotation
    past = tuple(each for each in pipeline.ledger.requests() if each.is_over)
    last = past[0] if past else None
    pending = _pending(status)
    return Console(
        status=status,
        headline=headline(status, last),
        steps=_steps(status, last),
        pending=pending,
        signed=() if pending is None else tuple(signatures(pipeline.ledger, pending)),
        instances=look.instances,
        tables=tuple(_bar(table, rotation) for table in tables_in_fleet(status.tables)),
        fleet=FleetSummary.of(status).in_words if status.members else None,
        keys=_keys(pipeline.ledger, status.generated_at),
        events=tuple(_newest(pipeline.ledger, status.audit.seq)),
        blind_spots=blind_spots(pipeline.environment, status.answers.values()),
        past=past,
    )


def _steps(status: Status, last: Request | None) -> tuple[StepView, ...]:
    """Of the open walk, else of one that has just finished."""
    if (rotation := status.rotation) is not None:
        return steps_of(rotation)
    return finished_steps(last) if isinstance(last, Walk) and is_news(last, status.generated_at) else ()


def _pending(status: Status) -> PendingRequest | None:
    wanted = None if status.rotation is None else status.rotation.walk.id
    return next((each for each in status.requests if wanted in {None, each.request.id}), None)


def signatures(ledger: Ledger, pending: PendingRequest) -> Iterator[Signed]:
    """Each officer, those first who have signed, with the time in the signature."""
    at = {each.officer: each.signed_at for each in ledger.signatures(pending.request.id)}
    for name, fingerprint in zip(pending.signed_by, pending.request.approvals, strict=True):
        yield Signed(name, at.get(fingerprint))
    for name in pending.missing:
        yield Signed(name, None)


def _bar(table: TableInFleet, rotation: RotationStatus | None) -> TableBar:
    total = sum(table.values_by_version.values())
    shares: list[Share] = []
    passed = 0.0
    for version, values in table.values_by_version.items():
        width = 100 * values / total if total else 0.0
        if values:
            shares.append(Share(version, values, round(passed, 3), round(width, 3)))
        passed += width
    return TableBar(table, tuple(shares), _rewritten(table, rotation))


def _rewritten(table: TableInFleet, rotation: RotationStatus | None) -> float | None:
    if rotation is None or rotation.walk.done(Step.PRIMARY_KEY_ROLLOUT) is None:
        return None
    shares = [each.share for each in rotation.tables if TableName.parse(each.table).in_any_database == table.name]
    return sum(shares) / len(shares) if shares else None


def _keys(ledger: Ledger, now: datetime) -> Timeline | None:
    return timeline(key_lives(history(ledger, *_OF_KEYS), ledger.replayed().keys), (), now)


def _newest(ledger: Ledger, seq: int) -> Iterator[NewEvent]:
    events = tuple(ledger.events(after_seq=max(seq - NEWEST_EVENTS, 0)))
    ignored = ledger.replayed().ignored
    for event in reversed(events):
        yield NewEvent(event.seq, None if event.seq in ignored else entry_of(event))
