"""Rolls out the state that a step needs to every application instance, and reports what is pending.

No instance seen is not every instance: where none reports, or one is silent, an officer confirms it by signature.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from keyrotation_pipeline.errors import BlockedError, KeyStoreError, PausedError, RolloutPendingError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import AuditHead, EventKind
from keyrotation_pipeline.model.fleet import (
    Confirmation,
    Instance,
    RolloutMode,
    RolloutTarget,
    TargetKind,
)
from keyrotation_pipeline.model.keys import StoredKeys
from keyrotation_pipeline.model.pending import PendingCode, PendingReason, paused_sentence, pending_rollout
from keyrotation_pipeline.model.progress import Progress, Report
from keyrotation_pipeline.model.requests import RequestStatus, Step, Walk
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.confirming import awaits_named_primary, confirmation_of, target_at
from keyrotation_pipeline.requests.key_list import has_key_list, note_delivery
from keyrotation_pipeline.requests.situation import Situation
from keyrotation_pipeline.requests.takeover import lineage

# These steps wait for applications; the retirement checks once more those that write.
STEPS = frozenset({Step.DUAL_KEY_ROLLOUT, Step.PRIMARY_KEY_ROLLOUT, Step.RETIRED_KEY, Step.ARCHIVED_KEY})

# The newest of these is what the view `report_nonce` has reports name. Each comes after the change that it records.
NAMED_IN_REPORTS = (
    EventKind.REQUEST_OPENED,
    EventKind.PRIMARY_CHANGED,
    EventKind.KEY_RETIRED,
    EventKind.KEY_RESTORED,
)


def await_instances(
    pipeline: Pipeline, rotation: Walk, target: RolloutTarget, step: Step, report: Report
) -> tuple[Instance, ...]:
    """Rolls out a target to every application instance, and waits until each is seen or confirmed to have reached it.

    Raises:
        RolloutPendingError: timed out, with the sentence that says what is pending.
        BlockedError: the request was paused or cancelled, or the cluster refuses it.
    """
    _deliver_again(pipeline, rotation)
    wait = _Wait(pipeline, rotation, target)

    def forward(done: int, total: int, reason: PendingReason | None) -> None:
        if reason is not None and pipeline.rollout.mode is RolloutMode.CONFIRM:
            return  # nobody waits here for an officer
        note = "" if reason is None else reason.while_waiting if reason.is_of_applications else reason.why
        report(Progress(step, str(target), done, total, "instances", note))

    return pipeline.rollout.roll_out(target, wait.pending, forward)


def _deliver_again(pipeline: Pipeline, rotation: Walk) -> None:
    """Has the store write the application's list again, if somebody changed that: no restart would give it the keys.

    Raises:
        BlockedError: instances are not seen, so that what officers had confirmed may be of the changed list.
    """
    if not has_key_list(pipeline.tables):
        return
    stored = pipeline.keys.read()
    if stored.undelivered is not None and stored.primary is not None:
        delivered_again(pipeline, stored, stored.primary, rotation.id)
        if pipeline.rollout.mode is RolloutMode.CONFIRM:
            raise BlockedError(
                "somebody had changed the application's list of keys, so it was delivered again; restart every "
                f"instance with it, then let an officer confirm that again: `keyrotation confirm {rotation.id}`"
            )


def delivered_again(pipeline: Pipeline, stored: StoredKeys, primary: KeyVersion, request: str | None) -> StoredKeys:
    """Has the store write the application's list again. What was confirmed until now may be of the changed one."""
    note_delivery(pipeline.ledger, primary, request)
    return pipeline.keys.set_primary(primary, stored.revision)


def seen_facts(instances: Sequence[Instance]) -> dict[str, Any]:
    """What a step records of the instances that ended its wait, and how many of them proved what they hold.

    Silent ones, which an officer confirmed to have ended, were not seen.
    """
    seen = [each for each in instances if not each.silent]
    proven = sum(each.nonce is not None and not each.unproven for each in seen)
    return {"instances": len(seen), "names": sorted(each.name for each in seen), "proven": proven}


def pending(situation: Situation, rotation: Walk, target: RolloutTarget) -> PendingReason | None:
    """What a rollout waits for now; None: it is done."""
    pipeline = situation.pipeline
    confirmation, nonces = confirmation_of(pipeline, rotation, target), _nonces(pipeline, rotation, target)
    reason = pending_rollout(target, pipeline.rollout.mode, situation.instances, confirmation, rotation.id, nonces)
    return reason and (_lost_target(situation, rotation) or reason)


def _lost_target(situation: Situation, rotation: Walk) -> PendingReason | None:
    """Why instances cannot get the rotation's key, whatever they do; None: they can."""
    made = next((each for each in situation.registered if each.version == rotation.target), None)
    try:
        if made is not None:
            situation.stored.registered(made)
    except KeyStoreError as error:
        return PendingReason.of(PendingCode.UNREACHABLE, "the key store", str(error))
    return None


def pending_at(situation: Situation, rotation: Walk, step: Step, *, to_start: bool = False) -> PendingReason | None:
    """What a due step waits for in the applications; None: nothing, or the step does not depend on them.

    Args:
        to_start: only what makes starting it useless: a signature is missing, or no key may be made yet.
    """
    if step is Step.KEY_VERSION:
        return unnamed_primary(situation, rotation)
    if step not in STEPS or (to_start and situation.pipeline.rollout.mode is not RolloutMode.CONFIRM):
        return None
    return pending(situation, rotation, target_at(situation.pipeline, rotation))


def unnamed_primary(situation: Situation, rotation: Walk) -> PendingReason | None:
    """Why the rotation's key may not be made yet; None: it may.

    An application that chooses its key itself writes under a new one as soon as it gets it. An emergency cannot be
    rolled back from that, since the old key never becomes the primary again; so the rule is the same.
    """
    if not awaits_named_primary(situation.pipeline, rotation):
        return None
    return pending(situation, rotation, target_at(situation.pipeline, rotation))


def require_named_primary(pipeline: Pipeline, rotation: Walk) -> None:
    """Refuses to make a key that an application may write under before it is the primary.

    Raises:
        RolloutPendingError: no instance reports, or one does not name its primary, and no officer has confirmed it.
    """
    if reason := unnamed_primary(Situation(pipeline), rotation):
        raise RolloutPendingError(str(reason))


@dataclass
class _Wait:
    """One wait: stops on a pause, and reads confirmations only when the audit has grown."""

    pipeline: Pipeline
    rotation: Walk
    target: RolloutTarget
    _head: AuditHead | None = None
    _confirmation: Confirmation = field(default_factory=Confirmation)
    _nonces: Collection[str] | None = ()

    def pending(self, instances: Sequence[Instance]) -> PendingReason | None:
        _obey(self.pipeline.ledger, self.rotation)
        head = self.pipeline.ledger.head()
        if head != self._head:
            self._head, self._confirmation = head, confirmation_of(self.pipeline, self.rotation, self.target)
            self._nonces = _nonces(self.pipeline, self.rotation, self.target)
            if self._confirmation.gone:  # so that no later rollout asks about them again
                self.pipeline.rollout.forget(self._confirmation.gone)
        mode, confirmation = self.pipeline.rollout.mode, self._confirmation
        return pending_rollout(self.target, mode, instances, confirmation, self.rotation.id, self._nonces)


def _nonces(pipeline: Pipeline, rotation: Walk, target: RolloutTarget) -> Collection[str] | None:
    """What an instance's own report names if it was prepared since the rollout began; None: any report counts.

    An instance reads the keys when it likes, so a report from before the key store changed says nothing of what it has
    read since: after a rollback's change it may write the primary that is undone. Order is that of the audit, since
    clocks differ. Before a key is made, any report says how an application chooses its primary.
    """
    if target.kind is TargetKind.NAMES:
        return None
    # A retirement may have withdrawn the key after the request, without an event of its own, where it died.
    began = {(EventKind.REQUEST_OPENED, rotation.id), (EventKind.KEY_RESTORED, rotation.id)}
    if target.kind is TargetKind.WRITES:
        began |= {(EventKind.PRIMARY_CHANGED, each.id) for each in lineage(pipeline, rotation)}
    elif target.kind is TargetKind.WITHOUT:
        began.add((EventKind.KEY_RETIRED, rotation.id))
    named = list(pipeline.ledger.events(*NAMED_IN_REPORTS))
    since = max((each.seq for each in named if (each.kind, each.request) in began), default=0)
    return frozenset(each.hash for each in named if each.seq >= since)


def _obey(ledger: Ledger, rotation: Walk) -> None:
    status = ledger.walk(rotation.id).status
    if status is RequestStatus.PAUSED:
        raise PausedError(paused_sentence(rotation.id))
    if status is RequestStatus.CANCELLED:
        raise BlockedError(f"rotation {rotation.id} was cancelled; open the next one with `keyrotation request`")
