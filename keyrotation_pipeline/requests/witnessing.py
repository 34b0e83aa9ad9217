"""Has witnesses outside sign that the audit only grows, so that a cut or rewritten audit is detected.

It blocks nothing: a witness that does not sign is recorded, shown by `status` after a day, and asked again. Whoever has
the database, the home and its key can still write what the rules allow, but not take back what a witness has signed.

The answer of a witness is recorded after it has signed. A process that dies in between loses nothing: the next one is
told how far the witness has come, proves that the audit continues that, and records a newer signature.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta

from keyrotation_pipeline.audit.events import entries, entry_of
from keyrotation_pipeline.audit.witnessed import Witnessed, witnessed
from keyrotation_pipeline.errors import AtWorkError, BackupError, WitnessConflictError, WitnessError
from keyrotation_pipeline.model.audit import EventKind, utc_minute
from keyrotation_pipeline.model.backup_events import CheckpointRefused, CheckpointWitnessed
from keyrotation_pipeline.model.checkpoints import Checkpoint, SignedCheckpoint, VerifierKey
from keyrotation_pipeline.model.merkle import EventTree
from keyrotation_pipeline.model.request_events import StatusChanged
from keyrotation_pipeline.model.requests import RequestStatus
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline, Sign
from keyrotation_pipeline.ports.witnesses import CheckpointWitness
from keyrotation_pipeline.requests import time_stamping

LOCK = "witness"
# Without anything that is witnessed at once; so that a whole day never passes.
DUE_AFTER = timedelta(hours=20)
LATE_AFTER = timedelta(days=1)
# Of themselves they are no news to witness.
_OWN = frozenset({
    EventKind.CHECKPOINT_WITNESSED, EventKind.CHECKPOINT_REFUSED,
    EventKind.AUDIT_TIMESTAMPED, EventKind.TIMESTAMP_FAILED,
})  # fmt: skip
# Besides the end of a request. A report has the audit witnessed before it is written, so that a pack is the newest.
_AT_ONCE = (EventKind.BACKUP_MADE, EventKind.RECOVERY_TEST_PASSED, EventKind.RECOVERY_TEST_FAILED)


def show_outside(pipeline: Pipeline) -> None:
    """Has the audit time-stamped and witnessed, after what decides something was committed."""
    time_stamping.stamp(pipeline)
    witness(pipeline)


def witness(pipeline: Pipeline) -> tuple[str, ...]:
    """Has each witness sign the audit, unless nothing has happened since the last time; returns what failed."""
    if not pipeline.witnesses:
        return ()
    try:
        with pipeline.ledger.lock(LOCK):
            return tuple(_witness(pipeline))
    except AtWorkError:
        return ()  # another process is doing it


def witness_if_due(pipeline: Pipeline) -> tuple[str, ...]:
    """Like `witness`, but only if something has ended since the last time, or it is almost a day ago."""
    now = pipeline.clock.now()
    return witness(pipeline) if any(_is_due(pipeline.ledger, each, now) for each in witnessed(pipeline.ledger)) else ()


def unwitnessed(ledger: Ledger, now: datetime) -> Iterator[str]:
    """A sentence for each witness that officers have signed and that contradicts the audit, or has not signed it."""
    for each in witnessed(ledger):
        oldest = _oldest_since(ledger, each.size)
        if each.signed is not None and each.failing is not None:
            yield each.failing[1]
        elif oldest is not None and now - max(oldest, each.pinned_at) > LATE_AFTER:
            why = "" if each.failing is None else f": {each.failing[1]}"
            yield (
                f"{each.witness.name} has not witnessed the audit since {utc_minute(max(oldest, each.pinned_at))}"
                f"{why or '; run `keyrotation audit witness`'}"
            )


def home_key(pipeline: Pipeline) -> VerifierKey | None:
    """The key that the operator of a witness must add for this audit; None: there is none yet."""
    origin = pipeline.ledger.replayed().origin
    if origin is None or pipeline.sign is None:
        return None
    try:
        return VerifierKey.of_home(origin, pipeline.sign(b"")[0])
    except BackupError:
        return None


def signed_checkpoint(sign: Sign | None, origin: str, tree: EventTree) -> SignedCheckpoint:
    """The checkpoint of a tree, as this home signs it.

    Raises:
        WitnessError: there is no key here.
    """
    checkpoint = Checkpoint.of(origin, tree)
    try:
        if sign is not None:
            return SignedCheckpoint.by_home(checkpoint, *sign(checkpoint.text.encode()))
    except BackupError as error:
        raise WitnessError(str(error)) from None
    raise WitnessError("this home has no key that signs checkpoints; run `keyrotation init`")


def _witness(pipeline: Pipeline) -> Iterator[str]:
    for known in witnessed(pipeline.ledger):
        # One that officers have signed and the configuration does not name any more is not asked; `status` says so.
        asked = next((each for each in pipeline.witnesses if each.witness == known.witness), None)
        if asked is not None and _oldest_since(pipeline.ledger, known.size) is not None:
            yield from _ask(pipeline, asked, known)


def _ask(pipeline: Pipeline, asked: CheckpointWitness, known: Witnessed) -> Iterator[str]:
    tree = EventTree(pipeline.ledger.replayed().hashes)
    try:
        note = asked.sign(signed_checkpoint(pipeline.sign, known.origin, tree), tree, known.size)
    except WitnessError as error:
        signed = error.signed if isinstance(error, WitnessConflictError) else None
        # Once, and again only where it says something else: it may be down for weeks.
        if known.failing is None or (signed is not None and signed != known.signed):
            pipeline.ledger.append(CheckpointRefused(str(known.witness), known.origin, str(error), signed))
        yield str(error)
    else:
        pipeline.ledger.append(CheckpointWitnessed(str(known.witness), str(note)))


def _is_due(ledger: Ledger, known: Witnessed, now: datetime) -> bool:
    oldest = _oldest_since(ledger, known.size)
    if oldest is None:
        return False
    if now - oldest > DUE_AFTER:
        return True
    for entry in entries(ledger, EventKind.STATUS_CHANGED, *_AT_ONCE, after_seq=known.size):
        fact = entry.fact()
        if not isinstance(fact, StatusChanged) or fact.after is RequestStatus.FINISHED:
            return True
    return False


def _oldest_since(ledger: Ledger, seq: int) -> datetime | None:
    """When the first event after this one happened; None: there is none, but for those about witnesses and stamps."""
    events = ledger.events(after_seq=seq)
    return next((entry_of(each).at for each in events if each.kind not in _OWN), None)
