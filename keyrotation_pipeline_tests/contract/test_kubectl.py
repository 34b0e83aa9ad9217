"""The real kubectl next to our adapters: what an administrator types, and what kubectl leaves in a Secret."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.keyring import PRIMARY_VARIABLE
from keyrotation_pipeline_tests.clusters import LAST_APPLIED, TestKeySecrets
from keyrotation_pipeline_tests.contract.key_store import V1, V2, add, archive, key, set_primary, shape
from keyrotation_pipeline_tests.contract.rollout_suite import READ_V2
from keyrotation_pipeline_tests.contract.test_kubernetes_rights import documents
from keyrotation_pipeline_tests.contract.test_kubernetes_rollout import Stage
from keyrotation_pipeline_tests.fleets import TestFleet
from keyrotation_pipeline_tests.programs import needs_kubectl

KUBECTL = shutil.which("kubectl")
pytestmark = [pytest.mark.external_kubectl, needs_kubectl]
FIRST, SECOND = "ENCRYPTION_MASTER_KEY", "ENCRYPTION_MASTER_KEY_V2"


@pytest.fixture
def secrets(new_key_secrets: Callable[[], TestKeySecrets]) -> TestKeySecrets:
    return new_key_secrets()


@pytest.fixture
def kubectl(secrets: TestKeySecrets, tmp_path: Path) -> Callable[..., str]:
    def run(*arguments: str, text: str | None = None) -> str:
        asked = [str(KUBECTL), "--kubeconfig", str(secrets.kubeconfig), "--namespace", secrets.cluster.namespace]
        done = subprocess.run(
            [*asked, "--cache-dir", str(tmp_path), *arguments], input=text, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def stage(secrets: TestKeySecrets) -> Iterator[Stage]:
    fleet = TestFleet(secrets)
    yield Stage(fleet)
    fleet.stop()


def manifest(secrets: TestKeySecrets, **entries: str) -> str:
    about = {"name": secrets.name, "namespace": secrets.cluster.namespace}
    return json.dumps({"apiVersion": "v1", "kind": "Secret", "metadata": about, "stringData": entries})


def test_what_kubectl_applies_in_addition_to_us(secrets: TestKeySecrets, kubectl: Callable[..., str]) -> None:
    """Its copy of the old key goes with the key, and a manifest without keys leaves those that we keep."""
    apply = ("apply", "--validate=false", "--filename", "-")
    secrets.delete()
    kubectl(*apply, text=manifest(secrets, **{FIRST: base64_of(key(1)), "PEPPER": "x"}))
    store = secrets.open()
    set_primary(store, V1)
    add(store, V2, key(2))
    set_primary(store, V2)
    assert base64_of(key(1)) in secrets.secret()["metadata"]["annotations"][LAST_APPLIED]
    archive(store, V1)
    assert LAST_APPLIED not in (secrets.secret()["metadata"].get("annotations") or {})

    kubectl(*apply, text=manifest(secrets, PEPPER="other"))
    assert secrets.entries() == {SECOND: base64_of(key(2)), PRIMARY_VARIABLE: "v2", "PEPPER": "other"}
    assert shape(store.read()) == ((V2,), (V1,), V2)


def test_the_files_are_applied_and_the_archive_keeps_its_keys(
    secrets: TestKeySecrets, kubectl: Callable[..., str], tmp_path: Path
) -> None:
    secrets.delete(secrets.archive)
    path = tmp_path / "pipeline.yaml"
    path.write_text(yaml.safe_dump_all(documents("pipeline.yaml", secrets, "api")))
    apply = ("apply", "--validate=false", "--filename", str(path))
    assert kubectl(*apply).count(" created") == 10
    store = secrets.open()
    for version, number in ((V1, 1), (V2, 2)):
        add(store, version, key(number))
    archive(store, V1)
    kubectl(*apply)
    assert shape(store.read())[:2] == ((V2,), (V1,))


def test_a_rollout_of_ours_is_one_for_kubectl_too(
    stage: Stage, secrets: TestKeySecrets, kubectl: Callable[..., str]
) -> None:
    store = secrets.open()
    add(store, V1, key(1))
    set_primary(store, V1)
    workload = stage.fleet.start(replicas=2)
    add(store, V2, key(2))
    with stage.fleet.controlled():
        stage.roll_out(READ_V2)
        assert "successfully rolled out" in kubectl("rollout", "status", str(workload).lower(), "--timeout=30s")
