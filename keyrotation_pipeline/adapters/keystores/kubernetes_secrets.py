"""Calls Kubernetes Secrets; every failure becomes one of our sentences."""

import base64
import binascii
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

from keyrotation_pipeline.adapters.cluster import SECRET, Access, Cluster, Json, RefusalError, UnreachableError
from keyrotation_pipeline.adapters.keystores import changes
from keyrotation_pipeline.errors import InvalidKeyError, KeyStoreDamagedError, KeyStoreError, KeyStoreUnavailableError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.seal import Seal
from keyrotation_pipeline.model.keys import DamagedKey, KeyEntry
from keyrotation_pipeline.ports.clock import Clock

# `kubectl apply` stores the whole text that it was given here, including keys.
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


@dataclass(frozen=True, slots=True)
class SecretName:
    """The namespace and name of a Secret."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"Secret {self.name} in namespace {self.namespace}"


class MissingSecretError(KeyStoreDamagedError):
    """The Secret does not exist."""


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """A Secret as it was read. It holds keys, and is never printed."""

    name: SecretName
    revision: str
    data: Mapping[str, str]
    annotations: Mapping[str, str]
    immutable: bool

    @classmethod
    def of(cls, name: SecretName, answer: Json) -> "Secret":
        """Reads the API's answer."""
        metadata = answer.get("metadata") or {}
        return cls(
            name,
            str(metadata.get("resourceVersion")),
            answer.get("data") or {},
            metadata.get("annotations") or {},
            immutable=answer.get("immutable") is True,
        )

    def text(self, entry: str) -> str:
        """Returns the text of an entry; a placeholder that is not a key if it is not even base64."""
        try:
            return base64.b64decode(self.data[entry], validate=True).decode("ascii")
        except (binascii.Error, ValueError):
            return ""

    def changed(self, entries: Mapping[str, str | None]) -> "Secret":
        """Returns the Secret as it will be with other entries; None removes one."""
        coded = {name: _coded(text) for name, text in entries.items() if text is not None}
        left = {name: text for name, text in self.data.items() if name not in entries}
        return replace(self, data={**left, **coded})

    def key(self, entry: str, version: KeyVersion, seal: Seal) -> KeyEntry:
        """Returns the key that an entry holds, or the error that it holds none.

        Raises:
            KeyStoreUnavailableError: it is sealed, and cannot be opened now.
        """
        try:
            return seal.key_of(version, self.text(entry))
        except InvalidKeyError as error:
            return DamagedKey.of(f"entry {entry} of {self.name}", version, error)

    def last_applied(self, entry: str) -> bool:
        """Returns whether kubectl's copy of the text holds an entry, or cannot be read."""
        try:
            applied = json.loads(self.annotations.get(LAST_APPLIED, "{}"))
            return any(entry in (applied.get(part) or ()) for part in ("data", "stringData"))
        except (ValueError, AttributeError, TypeError):
            return True


class Secrets:
    """The Secrets of one cluster."""

    def __init__(self, access: Access, clock: Clock, *, has_answered: bool) -> None:
        self._cluster = Cluster(access, clock, has_answered=has_answered)

    @property
    def has_answered(self) -> bool:
        """Whether the API server ever did."""
        return self._cluster.has_answered

    def read(self, name: SecretName) -> Secret:
        """Reads a Secret as it is now.

        Raises:
            MissingSecretError: there is none of that name.
        """
        try:
            return Secret.of(name, self._cluster.get(SECRET, name.namespace, name.name))
        except RefusalError as refusal:
            failure = _refused("read", name, refusal.status)
        except UnreachableError as error:
            failure = _unreachable(name, error)
        raise failure from None

    def hurried(self) -> AbstractContextManager[None]:
        """See `Cluster.hurried`."""
        return self._cluster.hurried()

    def make(self, name: SecretName) -> None:
        """Creates a Secret without an entry, unless it exists."""
        try:
            self._cluster.create(SECRET, name.namespace, name.name, {"type": "Opaque"})
        except RefusalError as refusal:
            failure: KeyStoreError = _not_made(name, refusal.status)
        except UnreachableError as error:
            failure = _unreachable(name, error)
        else:
            return
        raise failure from None

    def patch(self, secret: Secret, entries: Mapping[str, str | None], annotations: Mapping[str, str | None]) -> None:
        """Changes entries and annotations (None: removes) if the Secret has not changed since it was read.

        When an entry is removed, kubectl's copy of the text is removed with it, if it has any of these entries.
        """
        coded = {name: None if text is None else _coded(text) for name, text in entries.items()}
        metadata: dict[str, Any] = {"resourceVersion": secret.revision, "annotations": dict(annotations)}
        if None in entries.values() and any(map(secret.last_applied, entries)):
            metadata["annotations"][LAST_APPLIED] = None
        name = secret.name
        try:
            self._cluster.patch(SECRET, name.namespace, name.name, {"metadata": metadata, "data": coded})
        except RefusalError as refusal:
            # Either our own patch, whose answer was lost, or somebody else's.
            if refusal.status == HTTPStatus.CONFLICT and self._holds(name, coded, annotations):
                return
            failure = _refused("patch", name, refusal.status)
        except UnreachableError as error:
            failure = _unreachable(name, error)
        else:
            return
        raise failure from None

    def _holds(self, name: SecretName, coded: Mapping[str, str | None], annotations: Mapping[str, str | None]) -> bool:
        now = self.read(name)
        taken_away = [entry for entry, text in coded.items() if text is None]
        return (
            all(now.data.get(entry) == text for entry, text in coded.items())
            and all(now.annotations.get(each) == text for each, text in annotations.items())
            and not any(now.last_applied(entry) for entry in taken_away)
        )


def _coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def require_mutable(secret: Secret) -> None:
    """Refuses an immutable one."""
    if secret.immutable:
        raise KeyStoreError(
            f"{secret.name} is immutable, so no key can be added or removed; create it again from its own content "
            "without `immutable: true`"
        )


def _refused(verb: str, name: SecretName, status: int) -> KeyStoreError:
    match status:
        case HTTPStatus.NOT_FOUND:
            return MissingSecretError(
                f"there is no {name}; if it was deleted, restore its keys with `keyrotation restore-key`, else check "
                "[keys.kubernetes-secret], or let `keyrotation init` create it"
            )
        case HTTPStatus.CONFLICT:
            return changes.conflict()
        case HTTPStatus.UNPROCESSABLE_ENTITY | HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return KeyStoreError(
                f"the cluster refuses this change of {name} (HTTP {status}); check whether it became immutable, holds "
                "nearly 1 MiB, or changes-policy.yaml forbids it"
            )
    return KeyStoreUnavailableError(f"{_why(verb, name, status)}, and try again")


def _why(verb: str, name: SecretName, status: int) -> str:
    match status:
        case HTTPStatus.UNAUTHORIZED:
            return f"the cluster does not know who wants to {verb} {name}; renew the credentials"
        case HTTPStatus.FORBIDDEN:
            return (
                f"the cluster forbids this account to {verb} {name}; give it the Role in "
                "deploy/kubernetes, or see which quota or admission rule forbids it"
            )
        case HTTPStatus.TOO_MANY_REQUESTS:
            return f"the cluster throttles calls that {verb} {name}; wait a minute"
        case _:
            return f"the cluster fails to {verb} {name} (HTTP {status}); find out why"


def _not_made(name: SecretName, status: int) -> KeyStoreError:
    if status == HTTPStatus.NOT_FOUND:
        return KeyStoreDamagedError(f"there is no namespace {name.namespace}; correct [keys.kubernetes-secret]")
    return KeyStoreUnavailableError(
        f"there is no {name}, and this account cannot create it (HTTP {status}); run "
        f"`kubectl create secret generic {name.name} --namespace {name.namespace}`, and try again"
    )


def _unreachable(name: SecretName, error: UnreachableError) -> KeyStoreError:
    return KeyStoreUnavailableError(f"{name} cannot be reached: {error}, and try again")
