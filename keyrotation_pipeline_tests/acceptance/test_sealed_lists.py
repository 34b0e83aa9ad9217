"""Applications with a library's list of keys under a seal, which `exec` starts: by store, and by kind of rollout."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.fernet import Fernet, MultiFernet

from keyrotation_pipeline.fieldcrypto import seal as sealing
from keyrotation_pipeline_tests.acceptance.test_fernet import (
    CONFIRM,
    Application,
    Home,
    finished,
    two_keys,
    written_home,
)
from keyrotation_pipeline_tests.acceptance.test_fernet_stores import VARIABLE, InPods, Officers, key_list, officers  # noqa: F401
from keyrotation_pipeline_tests.aws_secrets import TestSecret
from keyrotation_pipeline_tests.clusters import TestKeySecrets
from keyrotation_pipeline_tests.fleets import TestFleet
from keyrotation_pipeline_tests.key_places import AwsPlace, KubernetesPlace
from keyrotation_pipeline_tests.wrapping_keys import Kms

pytestmark = pytest.mark.extended
Where = TestSecret | TestKeySecrets


def started(where: Where, file: Path) -> str:
    """The list that a program gets which `exec` starts now."""
    environment, options = dict(os.environ), list[str]()
    if isinstance(where, TestSecret):
        environment["AWS_ENDPOINT_URL_SECRETS_MANAGER"], options = where.url, ["--secret", where.name]
    else:
        environment |= where.entries()
    command = ["keyrotation", "exec", *options, "--config", str(file), "--", "printenv", VARIABLE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(params=["AWS", "Kubernetes", "Kubernetes, by its workloads"])
def kept(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    database_url: str,
    officers: Officers,  # noqa: F811
    new_secret: Callable[[], TestSecret],
    new_key_secrets: Callable[[], TestKeySecrets],
) -> Iterator[tuple[Home, Where]]:
    """A home whose application has its list in a store, as it was before there was a seal."""
    keys, file = two_keys(), tmp_path / "keyrotation.toml"
    given, ring = ",".join(keys), MultiFernet(list(map(Fernet, keys)))
    where: Where = new_secret() if request.param == "AWS" else new_key_secrets()

    def delivered() -> str:
        return where.listed() or started(where, file)

    if isinstance(where, TestSecret):
        where.overwrite(json.dumps({VARIABLE: given}))
        parts = CONFIRM + AwsPlace(where).configuration()
        home = written_home(tmp_path, officers, keys, Application(database_url, delivered, ring), parts)
        home.typed("init")
        yield home, where
        return
    where.overwrite({VARIABLE: given})
    fleet = TestFleet(where)
    if request.param == "Kubernetes":
        parts = KubernetesPlace(fleet).configuration().replace('"kubernetes"', '"confirm"')
        home = written_home(tmp_path, officers, keys, Application(database_url, delivered, ring), parts)
        home.typed("init")
        yield home, where
        return
    fleet.start(replicas=2)
    application = InPods(database_url, delivered, ring, fleet=fleet)
    home = written_home(tmp_path, officers, keys, application, KubernetesPlace(fleet).configuration())
    with fleet.controlled():
        home.typed("init")
        yield home, where
    fleet.stop()


def test_exec_gives_a_program_the_list_of_each_moment(kept: tuple[Home, Where], kms: Kms) -> None:
    (home, where), application = kept, kept[0].application
    sealing.forget_opened()
    section = f'[keys.seal]\nkind = "aws-kms"\nkey_id = "{kms.key()}"\nendpoint_url = "{kms.url}"\n'
    home.file.write_text(home.file.read_text() + section)
    policy = home.typed("policy", "--reason", "keys under a seal").splitlines()[-1]
    home.sign(policy)
    home.typed("policy")
    home.typed("backup")
    home.typed("reseal")
    assert where.listed() is None
    assert application.listed() == home.keys
    with application.at_work():
        request = carried_out(home, "request", "--reason", "yearly")
        (new,) = application.listed()
        carried_out(home, "rollback", request)
    assert (application.wrong, application.writes > 0) == ([], True)  # each start by `exec` takes a second
    assert application.listed() == home.keys[:1] != [new]
    assert application.read_with(home.keys[0]) == application.expected
    assert where.listed() is None
    home.typed("verify")


def carried_out(home: Home, *arguments: str) -> str:
    """A request that was signed and carried out; what no cluster restarts, officers confirm."""
    if not isinstance(home.application, InPods):
        return finished(home, *arguments)
    request = home.typed(*arguments).splitlines()[-1]
    home.sign(request)
    home.typed("rotate", request)
    return request
