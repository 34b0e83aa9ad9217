"""Who owns which field of an object, as a real API server tracks it for changes that are no server-side apply."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]
Path = tuple[str, ...]
CONTROLLERS = "kube-controller-manager"
_SYSTEM = frozenset(
    {"name", "namespace", "uid", "creationTimestamp", "resourceVersion", "generation", "managedFields"}
    | {"deletionTimestamp"}
)


def recorded(before: Json | None, after: Json, manager: str) -> list[Json]:
    """The entries after a change: what it set belongs to its manager, what it removed to nobody."""
    old = {} if before is None else dict(_leaves(_own(before)))
    new = dict(_leaves(_own(after)))
    took = {path for path, value in new.items() if path not in old or old[path] != value}
    lost = took | (old.keys() - new.keys())
    owned: dict[str, tuple[set[Path], str]] = {}
    for each in (before or {}).get("metadata", {}).get("managedFields") or ():
        owned[each["manager"]] = (set(_paths(each["fieldsV1"])) - lost, each["time"])
    if took:  # a removal alone leaves no time
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        owned[manager] = (owned.get(manager, (set(), ""))[0] | took, now)
    return [_entry(after, name, paths, at) for name, (paths, at) in owned.items() if paths]


def _entry(thing: Json, manager: str, paths: set[Path], at: str) -> Json:
    fields: Json = {}
    for path in sorted(paths):
        place = fields
        for part in path:
            place = place.setdefault(part, {})
    about = {"manager": manager, "operation": "Update", "apiVersion": thing["apiVersion"], "time": at}
    return {**about, "fieldsType": "FieldsV1", "fieldsV1": fields}


def _own(thing: Json) -> Json:
    metadata = {name: value for name, value in thing["metadata"].items() if name not in _SYSTEM}
    content = {name: value for name, value in thing.items() if name not in {"apiVersion", "kind", "status"}}
    return {**content, "metadata": metadata}


def _leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:  # noqa: ANN401 - JSON
    if isinstance(value, dict) and value:
        for name, each in value.items():
            yield from _leaves(each, (*path, f"f:{name}"))
    elif isinstance(value, list) and value and all(isinstance(each, dict) and "name" in each for each in value):
        for each in value:
            yield from _leaves(each, (*path, f'k:{{"name":"{each["name"]}"}}'))
    else:
        yield path, value


def _paths(fields: Json, path: Path = ()) -> Iterator[Path]:
    for name, each in fields.items():
        if each:
            yield from _paths(each, (*path, name))
        else:
            yield (*path, name)
