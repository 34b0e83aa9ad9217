"""The annotation of a Pod template: the keys that the Secret held when it was made, the primary, the Secret's revision.

Kubernetes copies it to each Pod that it starts from that template. What a Pod or a restarted container really reads is
what the Secret holds *then*; so the annotation counts only while the Secret has the revision that it names.
"""

from dataclasses import replace
from datetime import datetime
from typing import Any

from keyrotation_pipeline.errors import InvalidKeyError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.fleet import Instance
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
