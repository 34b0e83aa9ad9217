"""The pages about keys in AWS and in Kubernetes, and about Dagster there, typed from top to bottom."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.fieldcrypto.cipher import encrypt
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline_tests.acceptance.command import KEYROTATION, environment
from keyrotation_pipeline_tests.aws_secrets import TestSecret
from keyrotation_pipeline_tests.clusters import TestKeySecrets
from keyrotation_pipeline_tests.fleets import TestFleet
from keyrotation_pipeline_tests.key_places import AwsPlace, KubernetesPlace
from keyrotation_pipeline_tests.pages import TOP, block
from keyrotation_pipeline_tests.programs import needs_aws, needs_kubectl

AWS, KUBECTL = shutil.which("aws"), shutil.which("kubectl")
V1 = KeyVersion(1)
ROWS = 20
pytestmark = pytest.mark.extended


@dataclass
class Desk:
    """A folder with what the page says must be there, and a key that the application uses."""

    path: Path
    url: str
    key: KeyMaterial
    gnupg_home: str

    def type(self, lines: str, *names: tuple[str, str], **variables: str) -> str:
        """Type the lines in a shell; `names` are what stands in place of the page's, in the files under deploy/ too."""
        for written, here in names:
            assert re.search(written, lines), written
            lines = re.sub(written, here, lines)
        for file in (self.path / "deploy").rglob("*.*"):
            text = file.read_text()
            for written, here in names:
                text = re.sub(written, here, text)
            file.write_text(text)
        tools = {str(Path(tool).parent) for tool in (AWS, KUBECTL) if tool}
        path = ":".join([str(KEYROTATION.parent), *sorted(tools), os.environ["PATH"]])
        known = {"KEYROTATION_DATABASE_URL": self.url, "GNUPGHOME": self.gnupg_home, "PATH": path, **variables}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", lines],
            cwd=self.path,
            env=environment(**known),
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        assert base64_of(self.key) not in f"{done.stdout}{done.stderr}"
        return done.stdout

    def values(self) -> dict[str, int]:
        query = "SELECT split_part(unnest(ARRAY[first_name, email]), ':', 1), count(*) FROM clients GROUP BY 1"
        with psycopg.connect(self.url) as connection:
            return dict(connection.execute(query).fetchall())


@pytest.fixture
def desk(
    tmp_path: Path,
    database_url: str,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    sealed_officer: DemoOfficer,
) -> Iterator[Desk]:
    key = KeyMaterial.generate()
    ring = KeyRing({V1: key}, V1)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE clients (id int PRIMARY KEY, first_name text, email text)")
        for row in range(ROWS):
            connection.execute(
                "INSERT INTO clients VALUES (%s, %s, %s)", (row, encrypt(ring, "Zoe"), encrypt(ring, "e"))
            )
    shutil.copytree(TOP / "deploy", tmp_path / "deploy")
    (tmp_path / "officers").mkdir()
    with one_gnupg_home(security_officer, privacy_officer) as home:
        known = {"security": security_officer, "privacy": privacy_officer, "sealed": sealed_officer}
        for name, officer in known.items():
            shutil.copy(officer.certificate, tmp_path / "officers" / f"{name}.asc")
        yield Desk(tmp_path, database_url, key, home)


@contextmanager
def one_gnupg_home(*officers: DemoOfficer) -> Iterator[str]:
    """Both secret keys, in a path that is short enough for the agent's socket."""
    with tempfile.TemporaryDirectory(prefix="kr-", dir="/tmp") as home:
        for officer in officers:
            secret = officer.gpg("--export-secret-keys")
            subprocess.run(
                ["gpg", "--homedir", home, "--batch", "--import"], input=secret, check=True, capture_output=True
            )
        try:
            yield home
        finally:
            subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)


@needs_aws
def test_with_the_keys_in_aws(desk: Desk, new_secret: Callable[[], TestSecret]) -> None:
    secret = new_secret()
    place = AwsPlace(secret)
    place.give(desk.key)
    names = (("pazpaz/encryption-key", secret.name), ("us-east-1", secret.region))
    where = {"AWS_ENDPOINT_URL": secret.url, "AWS_DEFAULT_REGION": secret.region, "AWS_PAGER": ""}
    with place.running(desk.url):
        reported = desk.type(block("aws"), *names, **where)
    (archive,) = secret.archives()
    assert archive in reported
    assert secret.text(archive) == base64_of(desk.key)
    held = json.loads(secret.text())
    assert (set(held), held["primary"]) == ({"v2", "primary"}, "v2")
    assert desk.values() == {"v2": 2 * ROWS}


@pytest.mark.external_kubectl
@needs_kubectl
def test_with_the_keys_in_a_kubernetes_secret(desk: Desk, new_key_secrets: Callable[[], TestKeySecrets]) -> None:
    secrets = new_key_secrets()
    secrets.delete(secrets.archive)
    fleet = TestFleet(secrets)
    place = KubernetesPlace(fleet)
    place.give(desk.key)
    workload = fleet.start(replicas=2)
    names = [("pazpaz-secrets", secrets.name), ("pazpaz-api", workload.name)]
    names.append((r"(?<![\w-])pazpaz(?![\w/-])", secrets.cluster.namespace))
    if secrets.cluster.standin is not None:  # which has no schemas for kubectl
        names.append(("kubectl apply", "kubectl apply --validate=false"))
    with ExitStack() as stack:
        stack.callback(fleet.stop)  # also after a failure: the next test may meet a real cluster
        stack.enter_context(fleet.controlled())
        reported = desk.type(block("kubernetes"), *names, KUBECONFIG=str(secrets.kubeconfig), HOME=str(desk.path))
    assert "successfully rolled out" in reported
    assert f"{workload}: rolled out" in reported
    held = secrets.entries()
    assert (set(held) - {"PEPPER"}, held["ENCRYPTION_PRIMARY_VERSION"]) == (
        {"ENCRYPTION_MASTER_KEY_V2", "ENCRYPTION_PRIMARY_VERSION"},
        "v2",
    )
    assert secrets.entries(secrets.archive) == {"v1": base64_of(desk.key)}
    assert desk.values() == {"v2": 2 * ROWS}


@pytest.mark.external_kubectl
@needs_kubectl
def test_what_dagster_needs_in_a_cluster(desk: Desk, new_key_secrets: Callable[[], TestKeySecrets]) -> None:
    cluster, namespace = new_key_secrets().cluster, f"dagster-{uuid.uuid4().hex[:6]}"
    names = [(r"(?<![\w-])pazpaz(?![\w/-])", namespace)]
    if cluster.standin is not None:  # which has no schemas for kubectl
        names.append(("kubectl apply", "kubectl apply --validate=false"))
    for file, text in (
        ("storage.env", "DAGSTER_PG_URL=postgresql+psycopg2://db/dagster\n"),
        ("database.env", f"KEYROTATION_DATABASE_URL={desk.url}\n"),
        ("recovery.asc", "of a test\n"),
        ("keyrotation.toml", "# of a test\n"),
    ):
        (desk.path / file).write_text(text)
    cluster.ask("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    try:
        known = {"KUBECONFIG": str(cluster.kubeconfig), "HOME": str(desk.path)}
        reported, again = (desk.type(block("cluster"), *names, **known) for _ in range(2))
    finally:
        cluster.ask("DELETE", f"/api/v1/namespaces/{namespace}")
    for made in (
        "secret/keyrotation-ui serverside-applied",
        "configmap/keyrotation-configuration serverside-applied",
        "deployment.apps/keyrotation-dagster created",
        "networkpolicy.networking.k8s.io/keyrotation-dagster created",
    ):
        assert made in reported
    assert " created" not in again
