"""Validating admission policies, as far as those of deploy/kubernetes go: CEL over who does what to which object."""

from collections.abc import Iterator
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

    def require(
        self, user: str, operation: str, where: tuple[str, str], content: Json | None, old: Json | None
    ) -> None:
        """Refuse what a policy denies.

        Args:
            where: plural and namespace.
            content: as it is wanted; None of a deletion.
            old: as it is.
        """
        plural, namespace = where
        request = {"userInfo": {"username": user}, "namespace": namespace, "operation": operation}
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
            variables = MapType()
            for each in spec.get("variables", ()):  # one may name those before it
                found = _value(each["expression"], {**known, "variables": variables})
                variables = MapType({**variables, StringType(each["name"]): found})
            for each in spec["validations"]:
                if not _holds(each["expression"], {**known, "variables": variables}, failing=failing):
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


def _value(expression: str, known: dict[str, Any]) -> Any:  # noqa: ANN401 - of CEL
    return _program(expression).evaluate(known)


@cache
def _program(expression: str) -> celpy.Runner:
    environment = celpy.Environment()
    return environment.program(environment.compile(expression))


def _holds(expression: str, known: dict[str, Any], *, failing: bool) -> bool:
    """Whether an expression is true.

    Args:
        failing: what one is that cannot be evaluated: false by `failurePolicy: Fail`, true by `Ignore`.
    """
    try:
        return bool(_value(expression, known))
    except CELEvalError:
        return failing
