"""Decides by what processes in Pods prove, where a Pod's annotation no longer says what its containers read."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from keyrotation_pipeline.adapters.rollouts import templates
from keyrotation_pipeline.adapters.rollouts.progress import container_statuses
from keyrotation_pipeline.model.fleet import Instance, Pod, RolloutTarget

Json = dict[str, Any]
# A report may be from before the container restarted, as long as the clocks of node and database may differ.
CLOCKS_DIFFER = timedelta(seconds=10)


def are_proven(pods: Sequence[Json], secret: str, instances: Sequence[Instance], goal: RolloutTarget) -> bool:
    """Returns whether every Pod has reached a goal by its own proof of possession, whatever the Secret held meanwhile.

    Args:
        pods: all of a workload.
        instances: those that report themselves, among others.
    """
    return bool(pods) and all(_is_proven(pod, secret, instances, goal) for pod in pods)


def _is_proven(pod: Json, secret: str, instances: Sequence[Instance], goal: RolloutTarget) -> bool:
    """A report says nothing of another container, nor of a process that was started since."""
    own = Pod(str(pod["metadata"]["namespace"]), str(pod["metadata"]["uid"]))
    reports = [each for each in instances if each.pod == own and not each.silent]
    states = {str(each["name"]): (each.get("state") or {}).get("running") or {} for each in container_statuses(pod)}
    started = [datetime.fromisoformat(each["startedAt"]) for each in states.values() if each.get("startedAt")]
    readers = [each for each in templates.users(pod["spec"], secret) if states.get(each)]
    return (
        len(readers) == 1
        and all(goal.met_by(each) for each in reports)
        and any(each.reported_at > max(started) + CLOCKS_DIFFER for each in reports)
    )
