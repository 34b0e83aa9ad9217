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
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
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
from keyrotation_pipeline_tests.key_places import AwsPlace, KeyPlace, KubernetesPlace

VARIABLE = "FIELD_KEYS"
V1, V2, V3, V4 = (KeyVersion(number) for number in (1, 2, 3, 4))


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
    ring = MultiFernet(list(map(Fernet, keys)))
    application = InPods(database_url, lambda: secrets.listed() or "", ring, fleet=fleet)
    yield (
        written_home(tmp_path, officers, keys, application, KubernetesPlace(fleet).configuration()),
        secrets,
    )
    fleet.stop()


@pytest.mark.parametrize("back", [False, pytest.param(True, marks=pytest.mark.extended)], ids=["", "and back"])
def test_a_rotation_with_the_list_in_aws(aws: tuple[Home, TestSecret], back: bool) -> None:
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
        if back:
            finished(home, "rollback", request)
            assert "key version v3 is retired" in refusal(home, new)
    assert (application.wrong, application.writes > 10) == ([], True)
    assert lists == [[old, older], [old, new, older], [new, old, older], [new]]
    now, rows = old if back else new, len(application.expected)
    assert application.listed() == [now]
    assert application.read_with(now) == application.expected
    assert json.loads(secret.text())["DATABASE"] == "db"
    (table,) = home.shown("status")["tables"]
    assert table["values_by_version"] == {"v1": 0, "v2": rows * back, "v3": rows * (not back)}


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


@dataclass
class Kept:
    """A home with `[rollout] mode = "confirm"`, and where its list is."""

    home: Home
    place: KeyPlace
    list_place: TestSecret | TestKeySecrets


@pytest.fixture(params=["AWS", "Kubernetes"])
def kept(
    request: pytest.FixtureRequest, tmp_path: Path, database_url: str, officers: Officers, keys: list[str]
) -> Kept:
    given, ring = ",".join(keys), MultiFernet(list(map(Fernet, keys)))
    where: TestSecret | TestKeySecrets
    place: KeyPlace
    if request.param == "AWS":
        secret: TestSecret = request.getfixturevalue("new_secret")()
        secret.overwrite(json.dumps({VARIABLE: given}))
        where, place = secret, AwsPlace(secret)
        parts = CONFIRM + place.configuration()
    else:
        secrets: TestKeySecrets = request.getfixturevalue("new_key_secrets")()
        secrets.overwrite({VARIABLE: given})
        where, place = secrets, KubernetesPlace(TestFleet(secrets))
        parts = place.configuration().replace('"kubernetes"', '"confirm"')
    home = written_home(tmp_path, officers, keys, Application(database_url, lambda: where.listed() or "", ring), parts)
    home.typed("init")
    return Kept(home, place, where)


@pytest.mark.extended
def test_a_store_that_lost_keys_or_its_list_is_made_whole_by_the_commands(
    kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, where = kept.home, kept.list_place
    listed, given = home.application.listed, ",".join(home.keys)
    secret = tmp_path / "officer.sec.asc"
    secret.write_bytes(home.officers[0].gpg("--armor", "--export-secret-keys"))
    home.typed("backup")
    request = finished(home, "request", "--reason", "yearly")
    (new,) = listed()
    home.typed("backup")
    # Somebody brings the old list back.
    where.change_list(f"{home.keys[0]},{new}")
    assert "is not the list of the live keys" in home.typed("status")
    assert new not in home.typed("status")
    home.typed("init")
    assert listed() == [new]
    # Also while a rollout is confirmed.
    second = home.typed("request", "--reason", "again").splitlines()[-1]
    home.sign(second)
    assert "no officer has confirmed" in home.typed("rotate", second, exits=1)
    newest = listed()
    where.change_list(new)
    home.confirm(second)
    assert "somebody had changed the application's list of keys" in home.typed("rotate", second, exits=1)
    assert listed() == newest == [new, newest[1]]
    assert "no officer has confirmed" in home.typed("rotate", second, exits=1)
    home.typed("cancel", second)
    assert listed() == [new]
    # The live key is lost, and the list is not.
    kept.place.lose_live(V3)
    assert "keyrotation restore-key v3" in home.typed("status")
    home.typed("restore-key", "v3", "--key", str(secret))
    assert listed() == [new]
    # Everything is lost.
    kept.place.lose_everything()
    for version in ("v4", "v3", "v2", "v1"):
        home.typed("restore-key", version, "--key", str(secret))
    assert listed() == [new]
    stored = kept.place.open().read()
    assert (tuple(stored.live), set(stored.archived), stored.primary) == ((V3,), {V1, V2, V4}, V3)
    # A key that nobody knows stays, and is named.
    stranger = Fernet.generate_key().decode()
    where.change_list(f"{new},{stranger}")
    assert "1 key that the key store does not have" in home.typed("preflight", "--all", exits=1)
    assert "1 key that the key store does not have" in home.typed("status")
    back = finished(home, "rollback", request)
    assert listed() == [home.keys[0], stranger]
    where.change_list(home.keys[0])
    assert home.shown("history")[0]["id"] == back
    # A list that is given again, and another one.
    monkeypatch.setenv(VARIABLE, home.keys[0])
    home.typed("init")
    monkeypatch.setenv(VARIABLE, given.replace(home.keys[1], stranger))
    assert "is no imported key" in home.typed("init", exits=1)
    home.typed("verify")
    assert home.application.read_with(home.keys[0]) == home.application.expected


@pytest.mark.extended
def test_a_wrong_key_is_replaced_and_an_old_one_destroyed(
    kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, listed, right = kept.home, kept.home.application.listed, Fernet.generate_key().decode()
    with psycopg.connect(home.application.url, autocommit=True) as connection:
        connection.execute("UPDATE users SET email = %s", (Fernet(right).encrypt(b"x").decode(),))
    monkeypatch.setenv(VARIABLE, right)
    home.sign(home.typed("replace-key", "v2", "--reason", "wrong").splitlines()[-1])
    home.typed("replace-key", "v2")
    monkeypatch.delenv(VARIABLE)
    assert listed() == [right, home.keys[1]]
    finished(home, "request", "--reason", "yearly")
    (new,) = listed()
    for version in ("v1", "v2"):
        home.sign(home.typed("destroy", version, "--reason", "old").splitlines()[-1])
        home.typed("destroy", version)
    assert listed() == [new]
    stored = kept.place.open().read()
    assert (tuple(stored.live), tuple(stored.archived), stored.undelivered) == ((V3,), (), None)
    assert {each["state"] for each in home.shown("status")["key_versions"]} == {"destroyed", "active"}


def test_keys_of_another_home_in_the_secret_are_not_taken_for_those_of_the_list(
    new_secret: Callable[[], TestSecret], tmp_path: Path, database_url: str, officers: Officers, keys: list[str]
) -> None:
    """No value is there yet that could show whose they are."""
    secret = new_secret()
    text = json.dumps({"v1": base64_of(KeyMaterial.generate()), "primary": "v1", VARIABLE: ",".join(keys)})
    secret.overwrite(text)
    application = Application(database_url, lambda: secret.listed() or "", MultiFernet(list(map(Fernet, keys))))
    home = written_home(tmp_path, officers, keys, application, CONFIRM + AwsPlace(secret).configuration())
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("DELETE FROM users")
    assert "a secret of its own, or correct its list" in home.typed("init", exits=1)
    assert secret.text() == text
