"""Checks that a Pod template gives its Pods a new key, and lets them start when an old one is gone."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import COMPROMISED_VARIABLE, PRIMARY_VARIABLE, variable_of

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Workload:
    """One of `[[rollout.workloads]]`: what runs instances of the application, and the container that gets the keys."""

    kind: str
    name: str
    container: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


@dataclass(frozen=True, slots=True)
class Fleet:
    """The workloads that get their keys from a Secret.

    Args:
        key_list: the entry from which the application reads its own list of keys; None: it reads those of versions.
    """

    namespace: str
    secret: str
    workloads: tuple[Workload, ...]
    key_list: str | None = None


def problems(
    workload: Workload, found: Json, secret: str, versions: Iterable[KeyVersion], key_list: str | None = None
) -> list[str]:
    """Returns why a rollout of a workload could not bring it to these versions, one sentence each.

    Args:
        found: the workload as the API returns it.
        secret: the name of the Secret that holds the keys.
        key_list: the entry from which the application reads its own list of keys; None: it reads those of versions.
    """
    keys = [variable_of(version) for version in versions]
    pod = found["spec"]["template"]["spec"]
    # Usually the Secret does not hold the marker, so Pods must be able to start without it.
    needed = _required(pod, secret, (*keys, COMPROMISED_VARIABLE))
    wanted = [key_list] if key_list is not None else [*keys, PRIMARY_VARIABLE, COMPROMISED_VARIABLE]
    wiring = _wiring(pod, workload, secret, wanted)
    return [f"{workload}: {each}" for each in (*_strategy(found["spec"]), *needed, *wiring)]


def uses(pod: Json, secret: str) -> bool:
    """Returns whether a Pod gets anything from a Secret.

    Args:
        pod: the ``spec`` of a Pod or of a template.
    """
    return bool(_volumes(pod, secret) or users(pod, secret))


def users(pod: Json, secret: str) -> list[str]:
    """Returns the containers of a Pod that get anything from a Secret, ephemeral ones included."""
    volumes = _volumes(pod, secret)
    return [
        str(each["name"])
        for each in _containers(pod)
        if any(_is_whole(source, secret, prefixed=True) for source in each.get("envFrom") or ())
        or any(ref["name"] == secret for _, ref in _references(each))
        or volumes.intersection(mount["name"] for mount in each.get("volumeMounts") or ())
    ]


def _volumes(pod: Json, secret: str) -> set[str]:
    return {str(each["name"]) for each in pod.get("volumes") or () if _items_of(each, secret) is not None}


def _strategy(spec: Json) -> Iterator[str]:
    if spec.get("paused"):
        yield "its rollout is paused; run `kubectl rollout resume` for it"
    strategy = spec.get("updateStrategy") or {}
    if strategy.get("type") == "OnDelete":
        yield "it replaces Pods only when somebody deletes them; give it the update strategy RollingUpdate"
    if (strategy.get("rollingUpdate") or {}).get("partition"):
        yield "its partition keeps Pods on an older template; set it to 0"


def _wiring(pod: Json, workload: Workload, secret: str, wanted: Sequence[str]) -> Iterator[str]:
    container = next((each for each in _containers(pod) if each["name"] == workload.container), None)
    if container is None:
        yield f"it has no container {workload.container}; correct [[rollout.workloads]]"
        return
    own = [each["name"] for each in container.get("env") or () if each["name"] in wanted]
    referred = [name for name, ref in _references(container) if (ref["name"], ref.get("key")) == (secret, name)]
    if foreign := [name for name in own if name not in referred]:
        yield f"container {workload.container} sets {foreign[0]} itself; take it from entry {foreign[0]} of {secret}"
    if any(_is_whole(source, secret) for source in container.get("envFrom") or ()):
        return
    # All as files or all as variables: an application reads its keys in one of the two ways.
    given = max((own, *_mounted(pod, container, secret, wanted)), key=len)
    if missing := [name for name in wanted if name not in given]:
        reference = "a secretKeyRef" if len(wanted) == 1 else "a secretKeyRef with `optional: true` for each entry"
        yield (
            f"container {workload.container} would not get {missing[0]} from {secret}; add it to its template with "
            f"envFrom, as a volume, or by {reference}"
        )


def _required(pod: Json, secret: str, keys: Sequence[str]) -> Iterator[str]:
    """Yields entries without which its Pods do not start, in any container."""
    for container in _containers(pod):
        for _, ref in _references(container):
            if ref["name"] == secret and ref.get("key") in keys and not ref.get("optional"):
                yield (
                    f"container {container['name']} does not start without {ref['key']} of {secret}; write "
                    "`optional: true` at its secretKeyRef"
                )
    for volume in pod.get("volumes") or ():
        for source in _sources(volume, secret):
            listed = [item["key"] for item in source.get("items") or () if item["key"] in keys]
            if listed and not source.get("optional"):
                yield (
                    f"volume {volume['name']} does not mount without {listed[0]} of {secret}; write "
                    "`optional: true` there, or leave `items` out"
                )


def _mounted(pod: Json, container: Json, secret: str, wanted: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yields, for each volume that a container has of the Secret, the wanted entries that it has as files."""
    whole = {mount["name"] for mount in container.get("volumeMounts") or () if not _is_part(mount)}
    for volume in pod.get("volumes") or ():
        items = _items_of(volume, secret)
        if volume["name"] in whole and items is not None:
            yield [name for name in wanted if not items or name in items]


def _is_part(mount: Json) -> bool:
    return bool(mount.get("subPath") or mount.get("subPathExpr"))


def _items_of(volume: Json, secret: str) -> set[str] | None:
    """Returns the entries of a Secret that a volume has; empty: all; None: none."""
    sources = list(_sources(volume, secret))
    if not sources:
        return None
    if any(not source.get("items") for source in sources):
        return set()
    return {item["key"] for source in sources for item in source["items"] if item["path"] == item["key"]}


def _sources(volume: Json, secret: str) -> Iterator[Json]:
    direct = volume.get("secret") or {}
    if direct.get("secretName") == secret:
        yield direct
    for source in (volume.get("projected") or {}).get("sources") or ():
        if (source.get("secret") or {}).get("name") == secret:
            yield source["secret"]


def _is_whole(source: Json, secret: str, *, prefixed: bool = False) -> bool:
    named = (source.get("secretRef") or {}).get("name") == secret
    return named and (prefixed or not source.get("prefix"))


def _references(container: Json) -> Iterator[tuple[str, Json]]:
    """Yields each variable that is an entry of a Secret, with the reference."""
    for each in container.get("env") or ():
        ref = (each.get("valueFrom") or {}).get("secretKeyRef")
        if ref and ref.get("name"):
            yield str(each["name"]), ref


def _containers(pod: Json) -> list[Json]:
    lists = ("initContainers", "containers", "ephemeralContainers")
    return [container for each in lists for container in pod.get(each) or ()]
