"""Where production has its keys, for tests that ask the same of every such place: the store, and who gets its keys."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import psycopg

from keyrotation_pipeline.encrypted_type import SecretsManagerKeyRing, attest
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.keyring import variable_of
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.ports.keys import KeyStore
from keyrotation_pipeline_tests.applications import engine_of
from keyrotation_pipeline_tests.archives_in_aws import TestArchivedInAws
from keyrotation_pipeline_tests.aws_secrets import TestSecret, watched
from keyrotation_pipeline_tests.buckets import REGION
from keyrotation_pipeline_tests.clusters import exchanging
from keyrotation_pipeline_tests.fleets import TestFleet

# What an application instance reads, and what it writes, as far as it says.
Seen = tuple[frozenset[KeyVersion], KeyVersion | None]


class KeyPlace(Protocol):
    """A store with one key that applications use already, and the applications."""

    init_options: tuple[str, ...]

    def open(self) -> KeyStore: ...

    def configuration(self) -> str:
        """`[keys]` and `[rollout]`."""

    def give(self, key: KeyMaterial) -> None:
        """Put v1 there as the source procedure has it."""

    def running(self, url: str) -> Any:  # noqa: ANN401 - a context
        """Inside, applications run on a database, and get what is in the place."""

    def instances(self, url: str) -> list[Seen]:
        """Every instance that runs."""

    def watching(self, look: Callable[[], None]) -> Any:  # noqa: ANN401 - a context
        """Inside, `look` is called before each request of this process goes out that changes keys."""

    def lose_live(self, version: KeyVersion) -> None: ...

    def lose_archived(self, version: KeyVersion) -> None: ...

    def lose_everything(self) -> None: ...


@dataclass
class AwsPlace:
    """Secrets Manager, read by one instance."""

    secret: TestSecret
    init_options: tuple[str, ...] = ("--convert",)

    def open(self) -> KeyStore:
        return self.secret.open()

    def configuration(self) -> str:
        return (
            '[keys]\nstore = "aws-secrets-manager"\n[keys.aws-secrets-manager]\n'
            f'secret_id = "{self.secret.name}"\narchive_prefix = "{self.secret.prefix}"\n'
            f'endpoint_url = "{self.secret.url}"\nregion_name = "{REGION}"\n'
        )

    def give(self, key: KeyMaterial) -> None:
        self.secret.overwrite(base64_of(key))

    @contextmanager
    def running(self, url: str) -> Iterator[None]:
        engine, keys = engine_of(url), SecretsManagerKeyRing(self.secret.client, self.secret.name, every_seconds=0)
        attestation = attest(engine, keys, instance="web-1", every_seconds=0.5)
        try:
            yield
        finally:
            attestation.stop()
            engine.dispose()

    def instances(self, url: str) -> list[Seen]:
        with psycopg.connect(url) as connection:
            rows = connection.execute(
                "SELECT DISTINCT ON (instance) report FROM keyrotation.instance_reports ORDER BY instance, id DESC"
            ).fetchall()
        last = [content for (report,) in rows if not (content := json.loads(report))["farewell"]]
        return [(frozenset(map(KeyVersion.parse, each["reads"])), KeyVersion.parse(each["writes"])) for each in last]

    @contextmanager
    def watching(self, look: Callable[[], None]) -> Iterator[None]:
        with watched(lambda operation: look() if operation == "UpdateSecretVersionStage" else None):
            yield

    def lose_live(self, version: KeyVersion) -> None:
        entries = json.loads(self.secret.text())
        self.secret.overwrite(json.dumps({name: text for name, text in entries.items() if name != str(version)}))

    def lose_archived(self, version: KeyVersion) -> None:
        for name in self.secret.archives():
            if f"{version}-archived" in name:
                self.secret.client.delete_secret(SecretId=name, ForceDeleteWithoutRecovery=True)

    def lose_everything(self) -> None:
        for name in (self.secret.name, *self.secret.archives()):
            self.secret.client.delete_secret(SecretId=name, ForceDeleteWithoutRecovery=True)


@dataclass
class KubernetesPlace:
    """A Secret, and the Pods of Deployments that get it."""

    fleet: TestFleet
    init_options: tuple[str, ...] = ()

    def open(self) -> KeyStore:
        return self.fleet.secrets.open()

    def configuration(self) -> str:
        secrets = self.fleet.secrets
        workloads = "".join(
            f'[[rollout.workloads]]\nkind = "{each.kind}"\nname = "{each.name}"\ncontainer = "{each.container}"\n'
            for each in self.fleet.workloads
        )
        return (
            '[keys]\nstore = "kubernetes-secret"\n[keys.kubernetes-secret]\n'
            f'namespace = "{secrets.cluster.namespace}"\nname = "{secrets.name}"\nkubeconfig = "{secrets.kubeconfig}"\n'
            f'[rollout]\nmode = "kubernetes"\n{workloads}'
        )

    def give(self, key: KeyMaterial) -> None:
        self.fleet.secrets.overwrite({variable_of(KeyVersion(1)): base64_of(key), "PEPPER": "x"})

    @contextmanager
    def running(self, url: str) -> Iterator[None]:  # noqa: ARG002 - a place has all that its protocol has
        with self.fleet.controlled():
            yield

    def instances(self, url: str) -> list[Seen]:  # noqa: ARG002 - as above
        return [_reported_by(pod) for each in self.fleet.workloads for pod in self.fleet.pods(each)]

    @contextmanager
    def watching(self, look: Callable[[], None]) -> Iterator[None]:
        live = f"/secrets/{self.fleet.secrets.name}"

        def looked(_pool: Any, method: str, path: str, send: Callable[[], Any]) -> Any:  # noqa: ANN401 - urllib3's
            if method == "PATCH" and path.partition("?")[0].endswith(live):
                look()
            return send()

        with exchanging(looked):
            yield

    def lose_live(self, version: KeyVersion) -> None:
        self.fleet.secrets.overwrite({variable_of(version): None})

    def lose_archived(self, version: KeyVersion) -> None:
        self.fleet.secrets.overwrite({str(version): None}, self.fleet.secrets.archive)

    def lose_everything(self) -> None:
        for name in (self.fleet.secrets.name, self.fleet.secrets.archive):
            self.fleet.secrets.delete(name)


@dataclass
class SplitPlace(KubernetesPlace):
    """A Secret and its Pods, and archived keys in AWS.

    Args:
        secrets: those of the fleet.
    """

    secrets: TestArchivedInAws = field(kw_only=True)

    def configuration(self) -> str:
        aws = self.secrets.aws
        return (
            f'{super().configuration()}[keys.kubernetes-secret.aws-archive]\nprefix = "{aws.prefix}"\n'
            f'endpoint_url = "{aws.url}"\nregion_name = "{REGION}"\n'
        )

    def lose_archived(self, version: KeyVersion) -> None:
        for name in self.secrets.archives():
            if f"{version}-archived" in name:
                self._delete(name)

    def lose_everything(self) -> None:
        self.secrets.delete()
        for name in (self.secrets.index, *self.secrets.archives()):
            self._delete(name)

    def _delete(self, name: str) -> None:
        self.secrets.aws.client.delete_secret(SecretId=name, ForceDeleteWithoutRecovery=True)


def _reported_by(pod: dict[str, Any]) -> Seen:
    """A Pod from before the first rollout says nothing of itself."""
    text = (pod["metadata"].get("annotations") or {}).get("keyrotation/keys", "")
    named = dict(_pairs(text))
    primary, _revision = named.pop("primary", None), named.pop("secret", None)
    return frozenset(map(KeyVersion.parse, named)), None if primary is None else KeyVersion.parse(primary)


def _pairs(text: str) -> list[tuple[str, str]]:
    return [(name, value) for name, _, value in (each.partition("=") for each in text.split())]
