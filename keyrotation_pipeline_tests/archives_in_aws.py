"""A Kubernetes Secret whose archived keys are in AWS, for tests."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.fieldcrypto.seal import UNSEALED, Seal
from keyrotation_pipeline.ports.clock import Clock
from keyrotation_pipeline_tests import aws_secrets
from keyrotation_pipeline_tests.aws_secrets import TestSecret, watched
from keyrotation_pipeline_tests.clusters import CHANGING, TestKeySecrets, exchanging
from keyrotation_pipeline_tests.fakes import ProcessKilled

if TYPE_CHECKING:
    from keyrotation_pipeline.adapters.keystores.kubernetes import KubernetesKeyStore


@dataclass(frozen=True)
class TestArchivedInAws(TestKeySecrets):
    """A Secret, and in AWS the secrets whose names begin with that of `aws` and a hyphen."""

    __test__ = False
    aws: TestSecret = field(kw_only=True)

    @property
    def index(self) -> str:
        return f"{self.aws.prefix}index"

    def open(self, clock: Clock | None = None, seal: Seal = UNSEALED) -> "KubernetesKeyStore":
        from keyrotation_pipeline.adapters.cluster import Access  # noqa: PLC0415
        from keyrotation_pipeline.adapters.keystores.kubernetes import KeySecrets, KubernetesKeyStore  # noqa: PLC0415
        from keyrotation_pipeline.adapters.keystores.kubernetes_archives import InAws  # noqa: PLC0415
        from keyrotation_pipeline.adapters.keystores.kubernetes_secrets import SecretName  # noqa: PLC0415

        live = SecretName(self.cluster.namespace, self.name)
        archived = InAws(self.aws.prefix, SystemClock(), self.aws.region, self.aws.url)
        secrets = KeySecrets(live, archived, Access(self.kubeconfig), self.key_list(live), seal)
        return KubernetesKeyStore(secrets, clock or SystemClock())

    def archives(self) -> list[str]:
        return self.aws.archives()

    @contextmanager
    def dying(self, moment: int) -> Iterator[None]:
        calls = iter(range(1, moment))

        def count(what: str) -> None:
            if next(calls, None) is None:
                raise ProcessKilled(what)

        def in_kubernetes(_pool: Any, method: str, path: str, send: Callable[[], Any]) -> Any:  # noqa: ANN401 - urllib3's
            if method in CHANGING and path.startswith("/api"):
                count(path)
            return send()

        def in_aws(operation: str) -> None:
            if operation in aws_secrets.CHANGING:
                count(operation)

        with exchanging(in_kubernetes), watched(in_aws):
            yield

    @contextmanager
    def unavailable(self) -> Iterator[None]:
        with self.aws.unavailable():
            yield


@pytest.fixture
def new_split_secrets(
    new_key_secrets: Callable[[], TestKeySecrets], new_secret: Callable[[], TestSecret]
) -> Callable[[], TestArchivedInAws]:
    """Makes another such pair, without a key, at each call."""

    def new() -> TestArchivedInAws:
        plain = new_key_secrets()
        plain.delete(plain.archive)
        made = TestArchivedInAws(plain.cluster, plain.name, plain.kubeconfig, plain.variable, aws=new_secret())
        made.open().create()
        return made

    return new
