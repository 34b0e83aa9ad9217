"""What an API server adds to an object, as the real one was seen to do: `recorded.json` has what it got and answered.

`python -m keyrotation_pipeline_tests.kubernetes_standin.defaults KUBECONFIG` records a server anew.
"""

import copy
import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

Json = dict[str, Any]
EACH = "[]"  # of a list, in a path
RECORDED = Path(__file__).with_name("recorded.json")
# What a server gives each object anew.
OF_ITS_OWN = ("uid", "resourceVersion", "creationTimestamp", "managedFields", "namespace", "generation")


def recorded() -> dict[str, list[dict[str, Json]]]:
    """Of each kind objects as they were sent and as they were answered, with ``{uid}`` and ``{name}``."""
    content: dict[str, list[dict[str, Json]]] = json.loads(RECORDED.read_text())
    return content


def neutral(content: Json) -> Json:
    """An answer without what is of one object alone."""
    about = content["metadata"]
    text = json.dumps({part: value for part, value in content.items() if part not in {"status", "apiVersion", "kind"}})
    made: Json = json.loads(text.replace(about["uid"], "{uid}").replace(about["name"], "{name}"))
    made["metadata"] = {part: value for part, value in made["metadata"].items() if part not in OF_ITS_OWN}
    return made


def defaulted(plural: str, wanted: Json) -> None:
    """Add to an object what a server adds, and take away the empty lists, which it does not keep."""
    about = wanted["metadata"]
    if "spec" in wanted:
        wanted["spec"] = _without_empty_lists(wanted["spec"])
    for path, text in _additions(plural):
        value = json.loads(text.replace("{uid}", about["uid"]).replace("{name}", about["name"]))
        for place in _places(wanted, path[:-1]):
            if path[-1] != "serviceAccount":
                place.setdefault(path[-1], copy.deepcopy(value))
            elif "serviceAccountName" in place:  # the older name of the same field
                place.setdefault(path[-1], place["serviceAccountName"])


def _without_empty_lists(content: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(content, list):
        return [_without_empty_lists(each) for each in content]
    if isinstance(content, dict):
        return {name: _without_empty_lists(value) for name, value in content.items() if value != []}
    return content


@cache
def _additions(plural: str) -> tuple[tuple[tuple[str, ...], str], ...]:
    """Each path that was added to, with what, as JSON; whatever is there already is left."""
    samples = recorded().get(plural, [])
    found = {path: json.dumps(value) for each in samples for path, value in _added(each["sent"], each["answered"])}
    return tuple(found.items())


def _added(sent: Any, answered: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:  # noqa: ANN401
    if isinstance(sent, dict):
        for name, value in answered.items():
            if name in sent:
                yield from _added(sent[name], value, (*path, name))
            else:
                yield (*path, name), value
    elif isinstance(sent, list):
        for one, other in zip(sent, answered, strict=True):
            yield from _added(one, other, (*path, EACH))


def _places(content: Any, path: tuple[str, ...]) -> Iterator[Json]:  # noqa: ANN401 - JSON
    """Every object at a path."""
    if not path:
        if isinstance(content, dict):
            yield content
    elif path[0] == EACH:
        for each in content if isinstance(content, list) else ():
            yield from _places(each, path[1:])
    elif isinstance(content, dict) and content.get(path[0]) is not None:
        yield from _places(content[path[0]], path[1:])


def main(kubeconfig: str) -> None:
    """Write the file."""
    from keyrotation_pipeline_tests.clusters import TestCluster  # noqa: PLC0415
    from keyrotation_pipeline_tests.kubernetes_standin.samples import answers  # noqa: PLC0415

    found = answers(TestCluster(Path(kubeconfig), "default", None))
    RECORDED.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
