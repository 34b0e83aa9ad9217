"""Rolls out the state that a step needs to every application instance, and reports what is pending.

No instance seen is not every instance: where none reports, or one is silent, an officer confirms it by signature.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from keyrotation_pipeline.errors import BlockedError, KeyRotationError, KeyStoreError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import AuditHead, EventKind
from keyrotation_pipeline.model.fleet import (
    Confirmation,
    Instance,
    RolloutMode,
    RolloutTarget,
    TargetKind,
    missing_for,
    pending_sentence,
)
from keyrotation_pipeline.model.keys import StoredKeys
from keyrotation_pipeline.model.progress import Progress, Report
from keyrotation_pipeline.model.requests import RequestStatus, Step, Walk
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.ports.rollout import Rollout
from keyrotation_pipeline.requests.confirming import awaits_named_primary, confirmation_of, goal_at
from keyrotation_pipeline.requests.key_list import has_key_list, note_delivery
from keyrotation_pipeline.requests.takeover import lineage

# The instances, if the caller has read them, or the error; None: they are read now.
Reports = Sequence[Instance] | KeyRotationError | None
# These steps wait for applications; the retirement checks once more those that write.
STEPS = frozenset({Step.DUAL_KEY_ROLLOUT, Step.PRIMARY_KEY_ROLLOUT, Step.RETIRED_KEY, Step.ARCHIVED_KEY})

# The newest of these is what the view `report_nonce` has reports name. Each comes after the change that it records.
NAMED_IN_REPORTS = (
    EventKind.REQUEST_OPENED,
    EventKind.PRIMARY_CHANGED,
    EventKind.KEY_RETIRED,
    EventKind.KEY_RESTORED,
)


def roll_out(
    pipeline: Pipeline, rotation: Walk, goal: RolloutTarget, step: Step, report: Report
) -> tuple[Instance, ...]:
    """Rolls out a goal to every application instance, and waits until each is seen or confirmed to have reached it.

    Raises:
        BlockedError: timed out, with the sentence that says what is pending; or the request was paused or cancelled.
    """
    _deliver_again(pipeline, rotation)
    wait = _Wait(pipeline, rotation, goal)

    def forward(done: int, total: int, note: str) -> None:
        report(Progress(step, str(goal), done, total, "instances", note))

    return pipeline.rollout.roll_out(goal, wait.pending, forward)


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
                "somebody had changed the application's list of keys, and it is delivered again; have every instance "
                "restarted with the list, and an officer confirm that, whatever was confirmed before: `keyrotation "
                f"confirm {rotation.id}`"
            )


def delivered_again(pipeline: Pipeline, stored: StoredKeys, primary: KeyVersion, request: str | None) -> StoredKeys:
    """Has the store write the application's list again. What was confirmed until now may be of the changed one."""
    note_delivery(pipeline.ledger, primary, request)
    return pipeline.keys.set_primary(primary, stored.revision)


def seen_facts(instances: Sequence[Instance]) -> dict[str, Any]:
    """What a step records of the instances that ended its wait, and how many of them proved what they hold."""
    proven = sum(each.nonce is not None and not each.unproven for each in instances)
    return {"instances": len(instances), "names": sorted(each.name for each in instances), "proven": proven}


def pending_reason(pipeline: Pipeline, rotation: Walk, goal: RolloutTarget, instances: Reports = None) -> str | None:
    """What a rollout is waiting for now, and what to type; None: it is done."""
    if isinstance(instances, KeyRotationError):
        return str(instances)
    instances = pipeline.rollout.instances() if instances is None else instances
    confirmation, nonces = confirmation_of(pipeline, rotation, goal), _nonces(pipeline, rotation, goal)
    message = _judged(pipeline.rollout, rotation, goal, instances, confirmation, nonces)
    return message and (_lost_target(pipeline, rotation) or message)


def _lost_target(pipeline: Pipeline, rotation: Walk) -> str | None:
    """Why instances cannot get the rotation's key, whatever they do; None: they can."""
    made = next((each for each in pipeline.ledger.keys() if each.version == rotation.target), None)
    try:
        if made is not None:
            pipeline.keys.read().registered(made)
    except KeyStoreError as error:
        return str(error)
    return None


def pending_reason_at(pipeline: Pipeline, rotation: Walk, step: Step, instances: Reports = None) -> str | None:
    """What a due step waits for in the applications; None: nothing, or the step does not depend on them."""
    if step is Step.KEY_VERSION:
        return unnamed_primary(pipeline, rotation, instances)
    return pending_reason(pipeline, rotation, goal_at(pipeline, rotation), instances) if step in STEPS else None


def waits_for_others(pipeline: Pipeline, rotation: Walk, step: Step, instances: Reports = None) -> str | None:
    """The same, but only where starting the step is useless: a signature is missing, or no key may be made yet."""
    begins_in_vain = step is Step.KEY_VERSION or pipeline.rollout.mode is RolloutMode.CONFIRM
    return pending_reason_at(pipeline, rotation, step, instances) if begins_in_vain else None


def unnamed_primary(pipeline: Pipeline, rotation: Walk, instances: Reports = None) -> str | None:
    """Why the rotation's key may not be made yet; None: it may.

    An application that chooses its key itself writes under a new one as soon as it gets it. An emergency cannot be
    rolled back from that, since the old key never becomes the primary again; so the rule is the same.
    """
    if not awaits_named_primary(pipeline, rotation):
        return None
    return pending_reason(pipeline, rotation, goal_at(pipeline, rotation), instances)


def require_named_primary(pipeline: Pipeline, rotation: Walk) -> None:
    """Refuses to make a key that an application may write under before it is the primary.

    Raises:
        BlockedError: no instance reports, or one does not name its primary, and no officer has confirmed it.
    """
    if message := unnamed_primary(pipeline, rotation):
        raise BlockedError(message)


@dataclass
class _Wait:
    """One wait: stops on a pause, and reads confirmations only when the audit has grown."""

    pipeline: Pipeline
    rotation: Walk
    goal: RolloutTarget
    _head: AuditHead | None = None
    _confirmation: Confirmation = field(default_factory=Confirmation)
    _nonces: Collection[str] | None = ()

    def pending(self, instances: Sequence[Instance]) -> str | None:
        _obey(self.pipeline.ledger, self.rotation)
        head = self.pipeline.ledger.head()
        if head != self._head:
            self._head, self._confirmation = head, confirmation_of(self.pipeline, self.rotation, self.goal)
            self._nonces = _nonces(self.pipeline, self.rotation, self.goal)
            if self._confirmation.gone:  # so that no later rollout asks about them again
                self.pipeline.rollout.forget(self._confirmation.gone)
        return _judged(self.pipeline.rollout, self.rotation, self.goal, instances, self._confirmation, self._nonces)


def _judged(
    rollout: Rollout,
    rotation: Walk,
    goal: RolloutTarget,
    instances: Sequence[Instance],
    confirmation: Confirmation,
    nonces: Collection[str] | None,
) -> str | None:
    missing = missing_for(goal, rollout.mode, instances, confirmation, nonces)
    return pending_sentence(missing, goal, rotation.id) if missing else None


def _nonces(pipeline: Pipeline, rotation: Walk, goal: RolloutTarget) -> Collection[str] | None:
    """What an instance's own report names if it was prepared since the rollout began; None: any report counts.

    An instance reads the keys when it likes, so a report from before the key store changed says nothing of what it has
    read since: after a rollback's change it may write the primary that is undone. Order is that of the audit, since
    clocks differ. Before a key is made, any report says how an application chooses its primary.
    """
    if goal.aim is TargetKind.NAMES:
        return None
    # A retirement may have withdrawn the key after the request, without an event of its own, where it died.
    began = {(EventKind.REQUEST_OPENED, rotation.id), (EventKind.KEY_RESTORED, rotation.id)}
    if goal.aim is TargetKind.WRITES:
        began |= {(EventKind.PRIMARY_CHANGED, each.id) for each in lineage(pipeline, rotation)}
    elif goal.aim is TargetKind.WITHOUT:
        began.add((EventKind.KEY_RETIRED, rotation.id))
    named = list(pipeline.ledger.events(*NAMED_IN_REPORTS))
    since = max((each.seq for each in named if (each.kind, each.request) in began), default=0)
    return frozenset(each.hash for each in named if each.seq >= since)


def _obey(ledger: Ledger, rotation: Walk) -> None:
    status = ledger.walk(rotation.id).status
    if status is RequestStatus.PAUSED:
        raise BlockedError(f"rotation {rotation.id} was paused; continue with `keyrotation resume {rotation.id}`")
    if status is RequestStatus.CANCELLED:
        raise BlockedError(f"rotation {rotation.id} was cancelled; open the next one with `keyrotation request`")
