"""What keys a Pod has: by the annotation of the template that it was started from, or by what its processes prove.

The annotation says which keys the Secret held when the template was made, the primary, and the Secret's revision.
Kubernetes copies it to each Pod that it starts from that template. What a Pod or a restarted container really reads
is what the Secret holds *then*; so the annotation counts only while the Secret has the revision that it names.
Afterwards only a proof of possession by every Pod does.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from keyrotation_pipeline.adapters.rollouts import templates
from keyrotation_pipeline.adapters.rollouts.progress import container_statuses
from keyrotation_pipeline.errors import InvalidKeyError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.fleet import Instance, Pod, RolloutTarget
from keyrotation_pipeline.model.keys import StoredKeys

ANNOTATION = "keyrotation/keys"
_REVISION = " secret="
Json = dict[str, Any]


def described(keys: StoredKeys, revision: str) -> str:
    """Returns the text of the annotation.

    Args:
        revision: the resource version of the Secret.
    """
    live = (f"{each}={key.fingerprint[:16]}" for each, key in keys.live.items() if isinstance(key, KeyMaterial))
    return " ".join((*live, f"primary={keys.primary}")) + _REVISION + revision


def annotated(thing: Json) -> str:
    """Returns the annotation of a Pod or of a template; empty: it has none."""
    return str((thing["metadata"].get("annotations") or {}).get(ANNOTATION) or "")


def names_same_keys(one: str, other: str) -> bool:
    """Returns whether two annotations differ at most in the Secret's revision."""
    return one.partition(_REVISION)[0] == other.partition(_REVISION)[0]


def instance_of(pod: Json, keys: StoredKeys, now: datetime) -> Instance:
    """Returns what a Pod was started with, as far as its annotation says."""
    # It does not show how its processes choose their primary.
    unknown = Instance(str(pod["metadata"]["name"]), (), None, now, names_primary=False)
    try:
        named = dict(part.split("=", 1) for part in annotated(pod).partition(_REVISION)[0].split())
        primary = KeyVersion.parse(named.pop("primary"))
        prints = {KeyVersion.parse(version): fingerprint for version, fingerprint in named.items()}
    except (InvalidKeyError, KeyError, ValueError):
        return unknown
    reads = (version for version, fingerprint in prints.items() if not _is_another(keys, version, fingerprint))
    return replace(unknown, reads=tuple(sorted(reads)), writes=primary)


def _is_another(keys: StoredKeys, version: KeyVersion, fingerprint: str) -> bool:
    """Returns whether the store holds another key under a version than the Pod was started with."""
    entry = keys.live.get(version)
    return isinstance(entry, KeyMaterial) and entry.fingerprint[:16] != fingerprint


# A report may be from before the container restarted, as long as the clocks of node and database may differ.
CLOCKS_DIFFER = timedelta(seconds=10)


def are_proven(pods: Sequence[Json], secret: str, instances: Sequence[Instance], target: RolloutTarget) -> bool:
    """Returns whether every Pod has reached a target by its own proof of possession, whatever the Secret held.

    Args:
        pods: all of a workload.
        instances: those that report themselves, among others.
    """
    return bool(pods) and all(_is_proven(pod, secret, instances, target) for pod in pods)


def _is_proven(pod: Json, secret: str, instances: Sequence[Instance], target: RolloutTarget) -> bool:
    """A report says nothing of another container, nor of a process that was started since."""
    own = Pod(str(pod["metadata"]["namespace"]), str(pod["metadata"]["uid"]))
    reports = [each for each in instances if each.pod == own and not each.silent]
    states = {str(each["name"]): (each.get("state") or {}).get("running") or {} for each in container_statuses(pod)}
    started = [datetime.fromisoformat(each["startedAt"]) for each in states.values() if each.get("startedAt")]
    readers = [each for each in templates.users(pod["spec"], secret) if states.get(each)]
    return (
        len(readers) == 1
        and all(target.met_by(each) for each in reports)
        and any(each.reported_at > max(started) + CLOCKS_DIFFER for each in reports)
    )
