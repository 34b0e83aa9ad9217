"""Validating admission policies, as far as those of deploy/kubernetes go: CEL over who does what to which object."""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import celpy
from celpy.adapter import json_to_cel
from celpy.celtypes import MapType, StringType
from celpy.evaluation import CELEvalError

from keyrotation_pipeline_tests.kubernetes_standin.objects import KINDS, Json, RefusedError, merged

GROUP = "admissionregistration.k8s.io/v1"
POLICIES, BINDINGS = "validatingadmissionpolicies", "validatingadmissionpolicybindings"
CLUSTER_KINDS = {POLICIES: "ValidatingAdmissionPolicy", BINDINGS: "ValidatingAdmissionPolicyBinding"}


@dataclass
class Admission:
    """The policies and bindings of the cluster, by name."""

    kept: dict[str, dict[str, Json]] = field(default_factory=lambda: {plural: {} for plural in CLUSTER_KINDS})

    def act(self, method: str, plural: str, name: str | None, content: Json | None) -> Json:
        """Create, get, change or delete a policy or a binding; one of the cluster has no namespace."""
        if plural not in self.kept:
            raise RefusedError(404, "NotFound", "the server could not find the requested resource")
        every = self.kept[plural]
        if method == "POST" and content is not None:
            content["metadata"].pop("namespace", None)
            return every.setdefault(content["metadata"]["name"], content)
        if str(name) not in every:
            raise RefusedError(404, "NotFound", f'{plural} "{name}" not found')
        if method == "DELETE":
            return every.pop(str(name))
        if method == "PATCH":
            every[str(name)] = merged(every[str(name)], content, by_name=True)
        return every[str(name)]

    def require(self, user: str, where: tuple[str, str], content: Json | None, old: Json | None) -> None:
        """Refuse what a policy denies.

        Args:
            where: plural and namespace.
            content: as it is wanted; None of a deletion.
            old: as it is; None of a creation.
        """
        plural, namespace = where
        operation = "DELETE" if content is None else "CREATE" if old is None else "UPDATE"
        about = (content or old or {})["metadata"]
        request = {"userInfo": {"username": user}, "namespace": namespace, "operation": operation}
        request |= {"name": about["name"], "resource": {"resource": plural}}
        known = {
            name: json_to_cel(value) for name, value in (("request", request), ("object", content), ("oldObject", old))
        }
        for policy in self._bound():
            spec = policy["spec"]
            failing = spec.get("failurePolicy", "Fail") == "Ignore"
            if not any(_concerns(rule, plural, operation) for rule in spec["matchConstraints"]["resourceRules"]):
                continue
            if not all(_holds(each["expression"], known, failing=False) for each in spec.get("matchConditions", ())):
                continue
            declared = {each["name"]: each["expression"] for each in spec.get("variables", ())}
            found = MapType()
            for each in spec["validations"]:
                found = _needed(each["expression"], declared, found, known)
                if not _holds(each["expression"], {**known, "variables": found}, failing=failing):
                    name = policy["metadata"]["name"]
                    raise RefusedError(422, "Invalid", f"ValidatingAdmissionPolicy '{name}' denied: {each['message']}")

    def _bound(self) -> Iterator[Json]:
        for binding in self.kept[BINDINGS].values():
            if "Deny" not in binding["spec"]["validationActions"]:  # it only warns, or is only noted
                continue
            if (policy := self.kept[POLICIES].get(binding["spec"]["policyName"])) is not None:
                yield policy


def _concerns(rule: Json, plural: str, operation: str) -> bool:
    group = KINDS[plural][0].rpartition("/")[0]
    return plural in rule["resources"] and operation in rule["operations"] and group in rule["apiGroups"]


def _needed(expression: str, declared: dict[str, str], found: MapType, known: dict[str, Any]) -> MapType:
    """The variables so far, and those that an expression names, which are only evaluated then."""
    for name in re.findall(r"variables\.(\w+)", expression):
        if name in declared and StringType(name) not in found:
            found = _needed(declared[name], declared, found, known)
            with suppress(CELEvalError):  # whatever needs it cannot be evaluated then
                value = _value(declared[name], {**known, "variables": found})
                found = MapType({**found, StringType(name): value})
    return found


def _value(expression: str, known: dict[str, Any]) -> Any:  # noqa: ANN401 - of CEL
    return _program(expression).evaluate(known)


@cache
def _program(expression: str) -> celpy.Runner:
    environment = celpy.Environment()
    return environment.program(environment.compile(expression), functions={"replace": _replace})


def _replace(text: StringType, old: StringType, new: StringType) -> StringType:
    """Of the strings that Kubernetes adds to CEL."""
    return StringType(text.replace(old, new))


def _holds(expression: str, known: dict[str, Any], *, failing: bool) -> bool:
    """Whether an expression is true.

    Args:
        failing: what one is that cannot be evaluated: false by `failurePolicy: Fail`, true by `Ignore`.
    """
    try:
        return bool(_value(expression, known))
    except CELEvalError:
        return failing
