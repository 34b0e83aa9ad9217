"""What kubectl asks before it does anything: which kinds the server has, and where."""

from typing import Any

from keyrotation_pipeline_tests.kubernetes_standin.admission import CLUSTER_KINDS, GROUP
from keyrotation_pipeline_tests.kubernetes_standin.objects import KINDS

Json = dict[str, Any]
VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]


def documents() -> dict[str, Json]:
    """The answer at each path."""
    every = {**KINDS, **{plural: (GROUP, kind) for plural, kind in CLUSTER_KINDS.items()}}
    groups = sorted({group for group, _ in every.values()})
    answers: dict[str, Json] = {
        "/version": {"major": "1", "minor": "32", "gitVersion": "v1.32.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": [_group(each) for each in groups if "/" in each],
        },
    }
    for group in groups:
        answers[f"/apis/{group}" if "/" in group else f"/api/{group}"] = {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": group,
            "resources": [_resource(plural, kind) for plural, (of, kind) in every.items() if of == group],
        }
    return answers


def _group(group: str) -> Json:
    name, _, version = group.partition("/")
    served = {"groupVersion": group, "version": version}
    return {"name": name, "versions": [served], "preferredVersion": served}


def _resource(plural: str, kind: str) -> Json:
    return {"name": plural, "singularName": kind.lower(), "namespaced": plural in KINDS, "kind": kind, "verbs": VERBS}
