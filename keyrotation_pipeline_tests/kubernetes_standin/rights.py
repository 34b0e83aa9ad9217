"""RBAC as far as Roles and RoleBindings of a namespace go: who a token is, and what that account may do."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from keyrotation_pipeline_tests.kubernetes_standin.objects import KINDS, Objects, RefusedError


@dataclass
class Rights:
    """Tokens of ServiceAccounts, and the rules that Roles give these."""

    objects: Objects
    accounts: dict[str, tuple[str, str]] = field(default_factory=dict)

    def token(self, namespace: str, account: str) -> str:
        """A new token of an account."""
        self.objects.get("serviceaccounts", namespace, account)
        token = str(uuid.uuid4())
        self.accounts[token] = (namespace, account)
        return token

    def require(self, token: str, verb: str, where: Mapping[str, Any]) -> None:
        """Refuse what no Role allows."""
        if token not in self.accounts:
            raise RefusedError(401, "Unauthorized", "Unauthorized")
        plural, name = str(where.get("plural", "namespaces")), where.get("name")
        resource = f"{plural}/{where['part']}" if "part" in where else plural
        group = KINDS.get(plural, ("v1", ""))[0].rpartition("/")[0]
        for rule in self._rules(self.accounts[token], str(where.get("namespace", ""))):
            names = rule.get("resourceNames") or [name]
            if verb in rule["verbs"] and resource in rule["resources"] and group in rule["apiGroups"] and name in names:
                return
        raise RefusedError(403, "Forbidden", f'{plural} "{name}" is forbidden: cannot {verb} resource "{resource}"')

    def _rules(self, account: tuple[str, str], namespace: str) -> list[Mapping[str, Any]]:
        bound = {
            binding["roleRef"]["name"]
            for binding in self.objects.every("rolebindings", namespace)
            for subject in binding.get("subjects") or ()
            if (subject.get("namespace"), subject["name"]) == account and subject["kind"] == "ServiceAccount"
        }
        roles = self.objects.every("roles", namespace)
        return [rule for role in roles if role["metadata"]["name"] in bound for rule in role["rules"]]
