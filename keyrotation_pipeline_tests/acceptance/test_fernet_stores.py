"""A Fernet application whose list of keys is in AWS or in a Kubernetes Secret, rotated by the commands."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import psycopg
import pytest
from cryptography.fernet import Fernet, MultiFernet

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline_tests.acceptance.test_fernet import (
    CONFIRM,
    Application,
    Home,
    finished,
    refusal,
    two_keys,
    written_home,
)
from keyrotation_pipeline_tests.aws_secrets import TestSecret
from keyrotation_pipeline_tests.clusters import TestKeySecrets
from keyrotation_pipeline_tests.fleets import TestFleet
from keyrotation_pipeline_tests.key_places import AwsPlace, KubernetesPlace

VARIABLE = "FIELD_KEYS"


@pytest.fixture
def key_list() -> str:
    return VARIABLE


@dataclass
class InPods(Application):
    """An instance in each Pod of a Deployment: it has what the Secret held when its Pod was first seen."""

    fleet: TestFleet = field(kw_only=True)
    started: dict[str, MultiFernet] = field(default_factory=dict)
    lists: list[str] = field(default_factory=list)

    def _step(self, connection: psycopg.Connection, row: int) -> None:
        uids = [pod["metadata"]["uid"] for pod in self.fleet.pods(self.fleet.workloads[0])]
        for uid in uids:
            if uid not in self.started:
                self.lists.append(self.delivered())
                self.started[uid] = MultiFernet([Fernet(key) for key in self.listed()])
        if uids:
            self.keys = self.started[Random(self.writes).choice(uids)]
            super()._step(connection, row)


Officers = tuple[DemoOfficer, DemoOfficer]


@pytest.fixture
def officers(security_officer: DemoOfficer, privacy_officer: DemoOfficer, already_migrated: str) -> Officers:
    return security_officer, privacy_officer


@pytest.fixture
def keys() -> list[str]:
    return two_keys()


@pytest.fixture
def aws(
    new_secret: Callable[[], TestSecret],
    tmp_path: Path,
    database_url: str,
    officers: Officers,
    keys: list[str],
) -> tuple[Home, TestSecret]:
    """An application whose secret has its list, and something else, and nothing of ours."""
    secret = new_secret()
    secret.overwrite(json.dumps({VARIABLE: ",".join(keys), "DATABASE": "db"}))
    application = Application(database_url, lambda: secret.listed() or "", MultiFernet(list(map(Fernet, keys))))
    return written_home(tmp_path, officers, keys, application, CONFIRM + AwsPlace(secret).configuration()), secret


@pytest.fixture
def pods(
    new_key_secrets: Callable[[], TestKeySecrets],
    tmp_path: Path,
    database_url: str,
    officers: Officers,
    keys: list[str],
) -> Iterator[tuple[Home, TestKeySecrets]]:
    """The same in a Secret, which the Pods of a Deployment get."""
    secrets = new_key_secrets()
    secrets.overwrite({VARIABLE: ",".join(keys), "DATABASE": "db"})
    fleet = TestFleet(secrets)
    fleet.start(replicas=2)
    application = InPods(
        database_url, lambda: secrets.listed() or "", MultiFernet(list(map(Fernet, keys))), fleet=fleet
    )
    yield (
        written_home(tmp_path, officers, keys, application, KubernetesPlace(fleet).configuration()),
        secrets,
    )
    fleet.stop()


def test_a_rotation_and_its_rollback_with_the_list_in_aws(aws: tuple[Home, TestSecret]) -> None:
    home, secret = aws
    application, lists = home.application, [home.application.listed()]
    (old, older) = home.keys
    home.typed("init")
    assert application.listed() == [old, older]
    with application.at_work():
        request = home.typed("request", "--reason", "yearly").splitlines()[-1]
        home.sign(request)
        home.walk(request, lambda: lists.append(application.listed()))
        new = application.listed()[0]
        assert "key version v2 is retired" in refusal(home, old)
        finished(home, "rollback", request)
    assert (application.wrong, application.writes > 10) == ([], True)
    assert lists == [[old, older], [old, new, older], [new, old, older], [new]]
    assert application.listed() == [old]
    assert application.read_with(old) == application.expected
    assert "key version v3 is retired" in refusal(home, new)
    assert json.loads(secret.text())["DATABASE"] == "db"
    (table,) = home.shown("status")["tables"]
    assert table["values_by_version"] == {"v1": 0, "v2": len(application.expected), "v3": 0}


@pytest.mark.extended
def test_a_rotation_and_its_rollback_with_the_list_in_a_secret_of_kubernetes(
    pods: tuple[Home, TestKeySecrets],
) -> None:
    home, secrets = pods
    application = home.application
    assert isinstance(application, InPods)
    (old, older) = home.keys
    with application.fleet.controlled():
        home.typed("init")
        assert application.listed() == [old, older]
        with application.at_work():
            request = home.typed("request", "--reason", "yearly").splitlines()[-1]
            home.sign(request)
            home.typed("rotate", request)
            new = application.listed()[0]
            assert "key version v2 is retired" in refusal(home, old)
            back = home.typed("rollback", request).splitlines()[-1]
            home.sign(back)
            home.typed("rotate", back)
    assert (application.wrong, application.writes > 10) == ([], True)
    seen = list(dict.fromkeys(application.lists))
    forwards = [[old, older], [old, new, older], [new, old, older], [new]]
    assert [each.split(",") for each in seen][:4] == forwards
    assert seen[-1] == old == secrets.listed()
    assert application.read_with(old) == application.expected
    assert secrets.entries()["DATABASE"] == "db"
