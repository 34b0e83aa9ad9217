"""The fleet: which application instance reads and writes what, and who still decrypted under an old version."""

from typing import Any

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.facts import instant, names
from keyrotation_pipeline.model.instances import Instance
from keyrotation_pipeline.model.request import Step, Walk
from keyrotation_pipeline.model.stored_keys import StoredKeys
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests import superseding
from keyrotation_pipeline.requests.conductor import phase_of
from keyrotation_pipeline.rotation import performing


def fleet(pipeline: Pipeline) -> dict[str, Any]:
    """The object of `rollout --json`; `attention` has a sentence for each instance with a key that it must not have."""
    stored, walk = pipeline.keys.read(), superseding.next_up(pipeline)
    waiting = pipeline.rollout.waiting()
    return {
        "generated_at": instant(pipeline.clock.now()),
        "database": pipeline.database.identity().name,
        "mode": str(pipeline.rollout.mode),
        "primary": str(stored.primary) if stored.primary else None,
        "instances": [_document(instance) for instance in pipeline.rollout.instances()],
        "workloads": {each: waiting.get(each) for each in pipeline.rollout.workloads},
        "waiting_for": performing.waiting_for(pipeline, walk) if walk else None,
        "attention": returned(pipeline, stored, walk),
    }


def returned(pipeline: Pipeline, stored: StoredKeys, walk: Walk | None) -> list[str]:
    """A sentence for each instance that runs with a key that was taken from the applications, or writes under one.

    While a rotation brings instances from one key to the next, it says itself whom it waits for.

    Args:
        walk: the unfinished one, if any.
    """
    primary = stored.primary
    if primary is None or (walk is not None and phase_of(walk) in {Step.PRIMARY_KEY_ROLLOUT, Step.ARCHIVED_KEY}):
        return []
    registered = pipeline.ledger.keys()
    withdrawn = {record.version for record in registered if record.version not in stored.live}
    alive = (instance for instance in pipeline.rollout.instances() if not instance.silent)
    return [sentence for instance in alive if (sentence := _amiss(instance, primary, withdrawn))]


def _amiss(instance: Instance, primary: KeyVersion, withdrawn: set[KeyVersion]) -> str | None:
    if instance.writes is None:
        return None
    if instance.writes != primary:
        return (
            f"instance {instance.name} writes {instance.writes} while {primary} is the primary, so its writes are "
            "refused or have to be rotated again; restart it with the present keys"
        )
    if held := sorted(withdrawn.intersection(instance.reads)):
        return (
            f"instance {instance.name} still holds {', '.join(map(str, held))}, which was taken from the applications; "
            "restart it with the present keys"
        )
    return None


def _document(instance: Instance) -> dict[str, Any]:
    return {
        "instance": instance.name,
        "reads": names(instance.reads),
        "writes": None if instance.writes is None else str(instance.writes),
        "reported_at": instant(instance.reported_at),
        "silent": instance.silent,
        "decrypted": {
            str(each.version): {"values": each.values, "last_at": instant(each.last_at)} for each in instance.decrypted
        },
    }
