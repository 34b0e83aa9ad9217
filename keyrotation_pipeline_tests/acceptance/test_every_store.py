"""The keys of one clinic in each store that production has: rotated by the conductor, lost, restored, taken back."""

import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.defs.code_location import build_definitions
from keyrotation_pipeline.defs.resources import PipelineResource
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.encrypted_type import EncryptedType, attest
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.fieldcrypto.cipher import encrypt
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.ports.keys import KeyStore
from keyrotation_pipeline.requests.approvals import add_approval
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline_tests.applications import engine_of
from keyrotation_pipeline_tests.archives_in_aws import TestArchivedInAws
from keyrotation_pipeline_tests.aws_secrets import TestSecret
from keyrotation_pipeline_tests.clusters import TestKeySecrets
from keyrotation_pipeline_tests.conducting import Conducted
from keyrotation_pipeline_tests.contract.key_store import shape
from keyrotation_pipeline_tests.contract.test_alert_channels import http_server
from keyrotation_pipeline_tests.fleets import TestFleet
from keyrotation_pipeline_tests.key_places import AwsPlace, KeyPlace, KubernetesPlace, Seen, SplitPlace
from keyrotation_pipeline_tests.servers import Server
from keyrotation_pipeline_tests.waiting import eventually

V1 = KeyVersion(1)
ROWS = 12
CONFIGURATION = """
database.url = "{url}"
reencryption.shards = 1
format.generation = {generation}
alerts.webhook_url = {{ file = "webhook" }}
backup.recipients = ["{recovery}", "{security}"]
{place}
[[tables]]
name = "clients"
columns = ["name"]
[[approvals.officers]]
name = "Security Officer"
certificate = "{security}"
[[approvals.officers]]
name = "Privacy Officer"
certificate = "{privacy}"
"""


@dataclass(frozen=True)
class SnapshotPosition:
    """What was there just before a change of the keys went out."""

    live: tuple[KeyVersion, ...]
    primary: KeyVersion | None
    instances: list[Seen]
    rows: Counter[KeyVersion]


@dataclass
class Clinic:
    """A folder, a database with rows under v1, and a place that has the key. What a command prints is kept."""

    path: Path
    url: str
    place: KeyPlace
    officers: tuple[DemoOfficer, DemoOfficer]
    recovery: DemoOfficer
    key: KeyMaterial
    generation: int
    alerts: list[dict[str, Any]] = field(default_factory=list)
    printed: list[str] = field(default_factory=list)

    @cached_property
    def store(self) -> KeyStore:
        return self.place.open()

    def version(self, number: int) -> KeyVersion:
        """What a rotation of this clinic makes; v1 was there before."""
        return KeyVersion(number, self.generation)

    @property
    def file(self) -> Path:
        return self.path / "keyrotation.toml"

    def run(self, *arguments: str, refused: str = "") -> str:
        """One command, in this process: a new one takes seconds to start."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # typer, of the click that it uses
            from typer.testing import CliRunner  # noqa: PLC0415

            from keyrotation_pipeline.cli.commands import app  # noqa: PLC0415
        result = CliRunner().invoke(app, [*arguments, "--config", str(self.file)])
        self.printed += [result.stdout, result.stderr]
        if refused:
            assert isinstance(result.exception, KeyRotationError), result.output
            self.printed.append(str(result.exception))
            assert re.search(refused, str(result.exception))
        else:
            assert result.exit_code == 0, (arguments, result.exception, result.output)
        return result.stdout

    def attention(self) -> list[str]:
        return list(json.loads(self.run("status", "--json"))["attention"])

    def signed(self, *command: str) -> str:
        """A request by a command that prints its id, with both signatures."""
        request = self.run(*command).strip()
        with open_pipeline(settings.load(self.file), actor="test") as pipeline:
            text = pipeline.ledger.approval_text(request)
            for officer in self.officers:
                add_approval(pipeline, pipeline.ledger.request(request), officer.sign(text))
        return request

    def walk(self, request: str, through: Step | None = None) -> None:
        with open_pipeline(settings.load(self.file), actor="test") as pipeline:
            for _ in runner.run(pipeline, request, lambda _progress: None, through):
                pass

    def restore_keys(self, *versions: KeyVersion) -> None:
        self.run("restore-key", *map(str, versions), "--key", str(self.path / "recovery.asc"))

    def moment(self) -> SnapshotPosition:
        with psycopg.connect(self.url) as connection:
            values = connection.execute("SELECT split_part(name, ':', 1) FROM clients").fetchall()
        stored = self.store.read()
        rows = Counter(KeyVersion.parse(version) for (version,) in values)
        return SnapshotPosition(tuple(stored.live), stored.primary, self.place.instances(self.url), rows)

    def knows_of(self, instance: str) -> bool:
        with psycopg.connect(self.url) as connection:
            query = "SELECT FROM keyrotation.instance_reports WHERE instance = %s"
            return connection.execute(query, (instance,)).fetchone() is not None

    def held(self) -> tuple[object, ...]:
        stored = self.store.read()
        return (*shape(stored), *(stored.material(each) for each in stored.versions))


@contextmanager
def in_aws(request: pytest.FixtureRequest) -> Iterator[KeyPlace]:
    new_secret: Callable[[], TestSecret] = request.getfixturevalue("new_secret")
    yield AwsPlace(new_secret())


@contextmanager
def in_kubernetes(request: pytest.FixtureRequest) -> Iterator[KeyPlace]:
    new_key_secrets: Callable[[], TestKeySecrets] = request.getfixturevalue("new_key_secrets")
    fleet = TestFleet(new_key_secrets())
    fleet.start(replicas=2)
    fleet.start()
    yield KubernetesPlace(fleet)
    fleet.stop()


@contextmanager
def split(request: pytest.FixtureRequest) -> Iterator[KeyPlace]:
    new_split_secrets: Callable[[], TestArchivedInAws] = request.getfixturevalue("new_split_secrets")
    secrets = new_split_secrets()
    fleet = TestFleet(secrets)
    fleet.start(replicas=2)
    yield SplitPlace(fleet, secrets=secrets)
    fleet.stop()


@pytest.fixture(
    params=[(in_aws, 1), (in_kubernetes, 1), (split, 1), (split, 2)],
    ids=["AWS", "Kubernetes", "Kubernetes, archive in AWS", "Kubernetes, archive in AWS, second generation"],
)
def clinic(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    already_migrated: str,
    database_url: str,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    recovery_officer: DemoOfficer,
) -> Iterator[Clinic]:
    key = KeyMaterial.generate()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE clients (id int PRIMARY KEY, name text)")
        for row in range(ROWS):
            connection.execute("INSERT INTO clients VALUES (%s, %s)", (row, encrypt(KeyRing({V1: key}, V1), "Zoe")))
    with ExitStack() as stack:
        make, generation = request.param
        place = stack.enter_context(make(request))
        place.give(key)
        alerts: list[dict[str, Any]] = []
        (tmp_path / "webhook").write_text(stack.enter_context(http_server(200, alerts)))
        (tmp_path / "recovery.asc").write_bytes(recovery_officer.gpg("--armor", "--export-secret-keys"))
        made = Clinic(
            tmp_path,
            database_url,
            place,
            (security_officer, privacy_officer),
            recovery_officer,
            key,
            generation,
            alerts,
        )
        made.file.write_text(
            CONFIGURATION.format(
                url=database_url,
                generation=generation,
                place=place.configuration(),
                recovery=recovery_officer.certificate,
                security=security_officer.certificate,
                privacy=privacy_officer.certificate,
            )
        )
        stack.enter_context(place.running(database_url))
        yield made


@pytest.fixture
def dagster(clinic: Clinic) -> Iterator[Conducted]:
    resource = PipelineResource(config_file=str(clinic.file))
    declared = settings.load(clinic.file)
    definitions = build_definitions(declared.encrypted_tables, declared.reencryption.shards, resource)
    with dg.DagsterInstance.ephemeral() as instance:
        yield Conducted(definitions, instance, resource)


@pytest.mark.extended
def test_the_keys_of_a_clinic(clinic: Clinic, dagster: Conducted, server: Server) -> None:
    """One clinic all the way: to make another for each claim would take a minute."""
    clinic.run("init", *clinic.place.init_options)
    clinic.run("init")
    for source, target in ((V1, clinic.version(2)), (clinic.version(2), clinic.version(3))):
        conducts_with_every_reader_before_a_writer(clinic, dagster, source, target)
    sees_an_old_instance_that_comes_back(clinic, dagster)
    misses_lost_keys_and_restores_them(clinic)
    clinic.run("backup")
    clinic.run("recovery-test", "--key", str(clinic.path / "recovery.asc"))
    destroys_the_first_key(clinic)
    reconciles_a_restored_database(clinic, server)
    takes_a_rotation_back(clinic, dagster)
    clinic.run("verify")
    clinic.run("audit", "verify")
    keys = [clinic.key, *clinic.store.read().live.values()]
    assert not [key for key in keys if isinstance(key, KeyMaterial) and base64_of(key) in "".join(clinic.printed)]


def conducts_with_every_reader_before_a_writer(
    clinic: Clinic, dagster: Conducted, source: KeyVersion, target: KeyVersion
) -> None:
    clinic.signed("request", "--reason", "yearly rotation")
    moments: list[SnapshotPosition] = []
    with clinic.place.watching(lambda: moments.append(clinic.moment())):
        jobs = dagster.conduct()
    assert jobs == ["introduce_key", "reencrypt_rows", "retire_key", "backup"]
    moments.append(clinic.moment())
    [promoting] = [one for one, next_one in pairwise(moments) if (one.primary, next_one.primary) == (source, target)]
    assert promoting.instances
    assert all(target in reads and writes == source for reads, writes in promoting.instances)
    assert promoting.rows == {source: ROWS}
    [withdrawing] = [one for one, next_one in pairwise(moments) if source in one.live and source not in next_one.live]
    assert withdrawing.instances
    assert all(writes == target for _, writes in withdrawing.instances)
    assert withdrawing.rows == {target: ROWS}
    last = moments[-1]
    assert last.instances
    assert all(seen == (frozenset({target}), target) for seen in last.instances)
    assert clinic.attention() == []


def sees_an_old_instance_that_comes_back(clinic: Clinic, dagster: Conducted) -> None:
    present = clinic.store.read()
    for ring, name, sentence in (
        (KeyRing({V1: clinic.key}, V1), "old-pod", f"writes v1 while {clinic.version(3)} is the primary"),
        (
            KeyRing({V1: clinic.key, clinic.version(3): present.material(clinic.version(3))}, clinic.version(3)),
            "batch",
            "decrypted values of v1 after every",
        ),
    ):
        EncryptedType(ring).process_result_value(encrypt(KeyRing({V1: clinic.key}, V1), "from an export"), None)  # type: ignore[arg-type]
        engine = engine_of(clinic.url)
        attestation = attest(engine, ring, instance=name, every_seconds=0.1)
        try:
            assert eventually(partial(clinic.knows_of, attestation.instance))
            assert any(attestation.instance in each and sentence in each for each in clinic.attention())
            dagster.tick("alert_delivery")
        finally:
            attestation.stop()
            engine.dispose()
        assert any(f"instance {name}/" in alert["text"] and sentence in alert["text"] for alert in clinic.alerts)
    assert clinic.attention() == []


def misses_lost_keys_and_restores_them(clinic: Clinic) -> None:
    place, before = clinic.place, clinic.held()
    losses: list[tuple[Callable[[], None], tuple[KeyVersion, ...], str]] = [
        (
            lambda: place.lose_live(clinic.version(3)),
            (clinic.version(3),),
            f"the key store holds no {clinic.version(3)}; put it back",
        ),
        (lambda: place.lose_archived(V1), (V1,), "the key store holds no v1; put it back"),
        (
            place.lose_everything,
            (V1, clinic.version(2), clinic.version(3)),
            "there is no [Ss]ecret .* restore its keys with `keyrotation restore-key",
        ),
    ]
    for lose, versions, sentence in losses:
        lose()
        assert any(re.search(sentence, each) for each in clinic.attention())
        clinic.restore_keys(*versions)
        assert clinic.held() == before
        assert clinic.attention() == []
    if isinstance(place, AwsPlace):
        secret = place.secret
        secret.client.delete_secret(SecretId=secret.name, RecoveryWindowInDays=7)
        assert any(
            f"aws secretsmanager restore-secret --secret-id {secret.name}" in each for each in clinic.attention()
        )
        clinic.run(
            "restore-key", str(clinic.version(3)), "--key", str(clinic.path / "recovery.asc"), refused="restore-secret"
        )
        secret.client.restore_secret(SecretId=secret.name)
        assert clinic.attention() == []


def destroys_the_first_key(clinic: Clinic) -> None:
    clinic.signed("destroy", "v1", "--reason", "kept for ten years")
    clinic.run("destroy", "v1")
    assert shape(clinic.store.read()) == ((clinic.version(3),), (clinic.version(2),), clinic.version(3))
    assert clinic.attention() == []
    clinic.run("restore-key", "v1", "--key", str(clinic.path / "recovery.asc"), refused="v1 is destroyed permanently")


def reconciles_a_restored_database(clinic: Clinic, server: Server) -> None:
    name = str(conninfo_to_dict(clinic.url)["dbname"])
    with psycopg.connect(server.url(), autocommit=True) as admin:
        copy(admin, name, f"{name}_earlier")
        clinic.walk(clinic.signed("request", "--reason", "yearly rotation"))
        copy(admin, f"{name}_earlier", name)
        admin.execute(f"DROP DATABASE {name}_earlier WITH (FORCE)")
    assert any("this database was restored" in each for each in clinic.attention())
    clinic.run("request", "--reason", "too early", refused="run `keyrotation reconcile`")
    clinic.signed("reconcile")
    clinic.run("reconcile")
    assert shape(clinic.store.read()) == (
        (clinic.version(3), clinic.version(4)),
        (clinic.version(2),),
        clinic.version(4),
    )
    assert clinic.attention() == []


def copy(admin: "psycopg.Connection[tuple[object, ...]]", source: str, target: str) -> None:
    """Make a database what another one is; whoever is connected to either has to connect again."""
    admin.execute(f"DROP DATABASE IF EXISTS {target} WITH (FORCE)")
    admin.execute(f"ALTER DATABASE {source} ALLOW_CONNECTIONS false")
    admin.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (source,))
    admin.execute(f"CREATE DATABASE {target} TEMPLATE {source} STRATEGY FILE_COPY")
    admin.execute(f"ALTER DATABASE {source} ALLOW_CONNECTIONS true")


def takes_a_rotation_back(clinic: Clinic, dagster: Conducted) -> None:
    rotation = clinic.signed("request", "--reason", "after the restore")
    clinic.walk(rotation, Step.ROWS)
    clinic.signed("rollback", rotation, "--reason", "reports are slow")
    dagster.conduct()
    now = clinic.moment()
    assert (now.primary, now.live, now.rows) == (clinic.version(4), (clinic.version(4),), {clinic.version(4): ROWS})
    assert all(seen == (frozenset({clinic.version(4)}), clinic.version(4)) for seen in now.instances)
    assert clinic.version(5) in clinic.store.read().archived
    assert clinic.attention() == []
