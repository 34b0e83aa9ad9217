"""What the audit records of its witnesses, and whether it holds: the newest checkpoint that each has signed.

An earlier checkpoint need not be looked at: a witness signs only what continues the last one.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from keyrotation_pipeline.audit.event_signatures import EventSignature, VerifyEvent
from keyrotation_pipeline.audit.history import HistoryEntry, history
from keyrotation_pipeline.errors import ApprovalError
from keyrotation_pipeline.model.approval import hosts_in, signed_fields
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.model.audit_state import AuditState
from keyrotation_pipeline.model.backup_events import CheckpointRefused, CheckpointWitnessed
from keyrotation_pipeline.model.checkpoints import SignedCheckpoint
from keyrotation_pipeline.model.merkle import EventTree
from keyrotation_pipeline.model.request_events import DatabaseReconciled, HostsPinned, StatusChanged
from keyrotation_pipeline.model.requests import RequestStatus
from keyrotation_pipeline.model.witnesses import Witness, witnesses_in
from keyrotation_pipeline.ports.ledger import Ledger

KINDS = (
    EventKind.HOSTS_PINNED,
    EventKind.STATUS_CHANGED,
    EventKind.DATABASE_RECONCILED,
    EventKind.CHECKPOINT_WITNESSED,
    EventKind.CHECKPOINT_REFUSED,
)
# A witness's clock may differ from ours.
RECORDED_WITHIN = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Witnessed:
    """The last that one witness has said of one tree.

    Args:
        witness: as officers have signed it.
        origin: the name of the tree.
        pinned_at: since when it is a witness of this audit.
        is_signed: whether a text that enough officers have signed names it, and not `init` alone.
        seq, at: of the event with its newest checkpoint; None: it has signed none.
        note: that checkpoint, with its signatures; None: it is none.
        home: the key that signed that event, base64 of its SubjectPublicKeyInfo.
        failing: since when it signs nothing, and why; None: it does.
        signed: how many events it says to have signed that are not the first ones of this audit; None: it does not.
    """

    witness: Witness
    origin: str
    pinned_at: datetime
    is_signed: bool = False
    seq: int | None = None
    at: datetime | None = None
    note: SignedCheckpoint | None = None
    home: str = ""
    failing: tuple[datetime, str] | None = None
    signed: int | None = None

    @property
    def size(self) -> int:
        """How many events it has signed."""
        return 0 if self.note is None else self.note.checkpoint.size

    def signed_at(self, verify: VerifyEvent) -> datetime | None:
        """When it signed, by its own clock; of a locked object, when that was recorded; None: it did not."""
        return self.at if self.witness.key is None and self.note is not None else self.cosigned_at(verify)

    def cosigned_at(self, verify: VerifyEvent) -> datetime | None:
        """When it signed, by its own clock; None: no signature of its verifies."""
        key = self.witness.key
        return None if self.note is None or key is None else self.note.cosigned_at(key, verify)


def witnessed(ledger: Ledger) -> tuple[Witnessed, ...]:
    """The witnesses that officers have signed last, each with what it said of the present tree."""
    state = ledger.replayed()
    signed = set(witnesses_in(state.hosts or ()))
    every = witnessed_in(history(ledger, *KINDS), state) if signed else ()
    return tuple(each for each in every if each.witness in signed and each.origin == state.origin)


def witnessed_in(entries: Iterable[HistoryEntry], state: AuditState) -> tuple[Witnessed, ...]:
    """Each tree of an audit with each witness that was one of it; `entries` has at least those of `KINDS`, in order."""
    if state.origin is None:
        return ()
    found: dict[tuple[Witness, str], Witnessed] = {}
    pinned: dict[Witness, datetime] = {}
    trees, begun, signed = iter((*state.trees, state.origin)), set[str | None](), set[Witness]()
    origin = next(trees)
    for entry in entries:
        match entry.fact if entry.fault is None else None:
            case HostsPinned() as fact:
                pinned = _pinned(pinned, fact.hosts, entry.at)
            case StatusChanged(after=RequestStatus.RUNNING) if entry.request not in begun:
                begun.add(entry.request)
                pinned = _pinned(pinned, _hosts_of(entry), entry.at)
                signed.update(pinned)
            case DatabaseReconciled(left_tree=left) if left is not None:
                origin = next(trees, origin)
            case CheckpointWitnessed() | CheckpointRefused() as fact:
                witness = Witness.parse(fact.witness)
                if witness in pinned and (before := found.get((witness, origin))) is not None:
                    found[witness, origin] = _after(before, entry, fact)
            case _:
                continue
        for witness, at in pinned.items():
            found.setdefault((witness, origin), Witnessed(witness, origin, at))
    return tuple(replace(each, is_signed=each.witness in signed) for each in found.values())


def faults(each: Witnessed, tree: EventTree, verify: VerifyEvent) -> Iterator[str]:
    """What is wrong with the newest checkpoint that an audit records of a witness, as phrases.

    Args:
        tree: of the audit's own events.
    """
    if each.seq is None or each.at is None:
        return
    event, note = f"event {each.seq} (checkpoint_witnessed)", each.note
    if note is None or note.checkpoint.origin != each.origin or note.checkpoint.size >= each.seq:
        yield f"{event} has no checkpoint of the events before it"
    elif not note.checkpoint.is_of(tree):
        yield f"{event} has a checkpoint of other events than those before it, which {each.witness.name} has signed"
    elif not note.is_by_home(each.home, verify):
        yield f"{event} has a checkpoint that the pipeline did not sign"
    elif each.witness.key is not None:
        at = each.cosigned_at(verify)
        if at is None:
            yield f"{event} has no signature of {each.witness.name} that verifies"
        elif abs(at - each.at) > RECORDED_WITHIN:
            yield f"{event} says another time than the signature of {each.witness.name}"


def _pinned(before: dict[Witness, datetime], hosts: Sequence[str], at: datetime) -> dict[Witness, datetime]:
    return {each: before.get(each, at) for each in witnesses_in(hosts)}


def _hosts_of(entry: HistoryEntry) -> tuple[str, ...]:
    try:
        return hosts_in(signed_fields(entry.text))
    except ApprovalError:
        return ()


def _after(before: Witnessed, entry: HistoryEntry, fact: CheckpointWitnessed | CheckpointRefused) -> Witnessed:
    if isinstance(fact, CheckpointRefused):
        since = entry.at if before.failing is None else before.failing[0]
        return replace(before, failing=(since, fact.reason), signed=fact.signed)
    signature = EventSignature.parse(entry.event.signature)
    return replace(
        before,
        seq=entry.seq,
        at=entry.at,
        note=SignedCheckpoint.parse(fact.checkpoint),
        home="" if signature is None else signature.public,
        failing=None,
        signed=None,
    )
