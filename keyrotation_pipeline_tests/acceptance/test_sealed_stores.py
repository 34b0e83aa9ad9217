"""Whole walks in AWS and Kubernetes under a seal: keys that were there before are sealed, rotated, and rolled back."""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import dagster as dg
import psycopg
import pytest
from cryptography.fernet import Fernet

from keyrotation_pipeline import settings
from keyrotation_pipeline.adapters.keystores.file import APPLICATION_FILE
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.defs.code_location import build_definitions
from keyrotation_pipeline.defs.resources import PipelineResource
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.encrypted_type import EnvironmentKeyRing, SecretsManagerKeyRing, attest
from keyrotation_pipeline.fieldcrypto import seal as sealing
from keyrotation_pipeline.fieldcrypto.cipher import encrypt
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.requests.policy import change_policy
from keyrotation_pipeline_tests.acceptance.test_every_store import CONFIGURATION, ROWS, V1, Clinic
from keyrotation_pipeline_tests.acceptance.test_sealed_keys import files_with
from keyrotation_pipeline_tests.applications import engine_of
from keyrotation_pipeline_tests.cards import LIBRARY
from keyrotation_pipeline_tests.clusters import TestKeySecrets
from keyrotation_pipeline_tests.conducting import Conducted
from keyrotation_pipeline_tests.fleets import TestFleet
from keyrotation_pipeline_tests.key_places import AwsPlace, KeyPlace, KubernetesPlace
from keyrotation_pipeline_tests.tokens import PIN, Tokens, needs_softhsm
from keyrotation_pipeline_tests.waiting import eventually
from keyrotation_pipeline_tests.wrapping_keys import Kms

pytestmark = pytest.mark.extended


class SecretKeyRing(EnvironmentKeyRing):
    """As a Pod reads its Secret, where it is mounted and updated."""

    def __init__(self, secrets: TestKeySecrets) -> None:
        super().__init__()
        self._secrets = secrets

    def _read(self) -> KeyRing:
        return KeyRing.from_environment(self._secrets.entries())


def aws(request: pytest.FixtureRequest) -> tuple[AwsPlace, Any]:
    secret = request.getfixturevalue("new_secret")()
    return AwsPlace(secret), SecretsManagerKeyRing(secret.client, secret.name, every_seconds=0)


def kubernetes(request: pytest.FixtureRequest) -> tuple[KubernetesPlace, Any]:
    secrets = request.getfixturevalue("new_key_secrets")()
    return KubernetesPlace(TestFleet(secrets)), SecretKeyRing(secrets)


def in_kms(request: pytest.FixtureRequest) -> str:
    kms: Kms = request.getfixturevalue("kms")
    return f'[keys.seal]\nkind = "aws-kms"\nkey_id = "{kms.key()}"\nendpoint_url = "{kms.url}"\n'


def in_token(request: pytest.FixtureRequest) -> str:
    tokens: Tokens = request.getfixturevalue("tokens")
    tokens.add_key()
    for name in ("HSM_PIN", "ENCRYPTION_PKCS11_PIN"):
        request.getfixturevalue("monkeypatch").setenv(name, PIN)
    request.getfixturevalue("monkeypatch").setenv("ENCRYPTION_PKCS11_MODULE", str(LIBRARY))
    return tokens.section()


@contextmanager
def reporting(clinic: Clinic, ring: Any) -> Iterator[str]:  # noqa: ANN401
    engine = engine_of(clinic.url)
    attestation = attest(engine, ring, instance="web-1", every_seconds=0.5)
    try:
        yield attestation.instance
    finally:
        attestation.stop()
        engine.dispose()


@pytest.mark.parametrize("make", [pytest.param(aws, id="AWS"), pytest.param(kubernetes, id="Kubernetes")])
@pytest.mark.parametrize(
    "seal", [pytest.param(in_kms, id="AWS KMS"), pytest.param(in_token, id="a token", marks=needs_softhsm)]
)
def test_keys_of_a_store_in_a_service_are_sealed_rotated_and_rolled_back(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    already_migrated: str,
    database_url: str,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    recovery_officer: DemoOfficer,
    make: Any,  # noqa: ANN401
    seal: Any,  # noqa: ANN401
) -> None:
    key, (place, ring) = KeyMaterial.generate(), make(request)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE clients (id int PRIMARY KEY, name text)")
        for row in range(ROWS):
            connection.execute("INSERT INTO clients VALUES (%s, %s)", (row, encrypt(KeyRing({V1: key}, V1), "Zoe")))
    place.give(key)
    officers = (security_officer, privacy_officer)
    clinic = Clinic(tmp_path, database_url, place, officers, recovery_officer, key, generation=1)
    (tmp_path / "webhook").write_text("http://127.0.0.1:9/")
    stored = re.sub(r"\[rollout\](.|\n)*", "", place.configuration())
    clinic.file.write_text(
        CONFIGURATION.format(
            url=database_url,
            generation=1,
            place=f"{stored}{seal(request)}",
            recovery=recovery_officer.certificate,
            security=security_officer.certificate,
            privacy=privacy_officer.certificate,
        )
    )
    sealing.forget_opened()
    clinic.run("init", *place.init_options)
    assert any("v1 in the key store is not under" in each for each in clinic.attention())
    clinic.run("reseal", refused="no instance has opened the canary")
    with reporting(clinic, ring) as instance:
        assert eventually(lambda: clinic.knows_of(instance))
        clinic.run("backup")
        clinic.run("reseal")
        clinic.signed("request", "--reason", "keys under a seal")
        conduct(clinic)
        further = clinic.signed("request", "--reason", "once more")
        clinic.walk(further, Step.PRIMARY_KEY_ROLLOUT)
        clinic.walk(clinic.signed("rollback", further))
        clinic.run("verify")
    status = json.loads(clinic.run("status", "--json"))
    assert status["primary"] == "v2"
    assert not [each for each in status["attention"] if "seal" in each]
    assert {each["state"] for each in status["key_versions"] if each["version"] == "v1"} == {"archived"}
    assert all(text.startswith("sealed:") for text in held_in(place))
    made = [each for each in sealing._OPENED._keys.values() if isinstance(each, KeyMaterial)]  # noqa: SLF001
    assert len({each.fingerprint for each in made}) >= 4  # v1 to v3, and the canary
    assert list((tmp_path / "dagster").rglob("*.db"))
    assert not list(files_with(made, tmp_path))


def conduct(clinic: Clinic) -> None:
    """A rotation by Dagster, whose storage is in the clinic's folder."""
    resource = PipelineResource(config_file=str(clinic.file))
    declared = settings.load(clinic.file)
    definitions = build_definitions(declared.encrypted_tables, declared.reencryption.shards, resource)
    (storage := clinic.path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(storage)) as instance:
        Conducted(definitions, instance, resource).conduct()


def test_a_library_that_reads_a_list_gets_each_key_by_exec(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    already_migrated: str,
    database_url: str,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    recovery_officer: DemoOfficer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From a list that is delivered to one that `exec` makes; the program opens every value at each moment."""
    old = Fernet.generate_key().decode()
    monkeypatch.setenv("FERNET_KEYS", old)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE clients (id int PRIMARY KEY, name text)")
        for row in range(ROWS):
            connection.execute("INSERT INTO clients VALUES (%s, %s)", (row, Fernet(old).encrypt(b"Zoe").decode()))
    officers, place = (security_officer, privacy_officer), cast("KeyPlace", None)
    clinic = Clinic(tmp_path, database_url, place, officers, recovery_officer, KeyMaterial.generate(), generation=1)
    (tmp_path / "webhook").write_text("http://127.0.0.1:9/")
    text = CONFIGURATION.replace("format.generation = {generation}\n", "").format(
        url=database_url,
        place='[format]\nname = "fernet"\nkeys = { env = "FERNET_KEYS" }\n[rollout]\nmode = "none"\n',
        recovery=recovery_officer.certificate,
        security=security_officer.certificate,
        privacy=privacy_officer.certificate,
    )
    clinic.file.write_text(text)
    clinic.run("init")
    keys = tmp_path / ".keyrotation" / "keys"
    assert (keys / APPLICATION_FILE).read_text().strip() == f"FERNET_KEYS={old}"
    clinic.file.write_text(f"{text}\n{in_kms(request)}")
    policy = clinic.signed("policy", "--reason", "keys under a seal")
    with open_pipeline(settings.load(clinic.file), actor="test") as pipeline:
        change_policy(pipeline, pipeline.ledger.request(policy))
    clinic.run("backup")
    clinic.run("reseal")
    assert not (keys / APPLICATION_FILE).exists()
    assert opened_by_exec(clinic, keys) == [old]
    rotation = clinic.signed("request", "--reason", "yearly")
    clinic.walk(rotation, Step.PRIMARY_KEY_ROLLOUT)
    new, *others = opened_by_exec(clinic, keys)
    assert others == [old]
    clinic.walk(rotation)
    assert opened_by_exec(clinic, keys) == [new]
    with psycopg.connect(database_url) as connection:
        values = [value for (value,) in connection.execute("SELECT name FROM clients")]
    assert {Fernet(new).decrypt(value.encode()) for value in values} == {b"Zoe"}
    clinic.run("verify")


def opened_by_exec(clinic: Clinic, keys: Path) -> list[str]:
    """The list that a program gets now."""
    command = ["keyrotation", "exec", "--mounted", str(keys), "--config", str(clinic.file), "--", "printenv"]
    return (
        subprocess.run([*command, "FERNET_KEYS"], capture_output=True, text=True, check=True).stdout.strip().split(",")
    )


def held_in(place: AwsPlace | KubernetesPlace) -> list[str]:
    """The texts of every key, live and archived."""
    if isinstance(place, AwsPlace):
        live = [text for name, text in json.loads(place.secret.text()).items() if re.fullmatch("v[0-9]+", name)]
        return [*live, *(place.secret.text(name) for name in place.secret.archives())]
    secrets = place.fleet.secrets
    live = [text for name, text in secrets.entries().items() if name.startswith("ENCRYPTION_MASTER_KEY")]
    return [*live, *(text for name, text in secrets.entries(secrets.archive).items() if re.fullmatch("v[0-9]+", name))]
