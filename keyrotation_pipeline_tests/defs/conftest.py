"""Definitions over in-memory ports, an ephemeral Dagster instance, and somebody who does what the conductor asks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.storage import event_log, runs

from keyrotation_pipeline.adapters.backups.directory import BackupDirectory
from keyrotation_pipeline.adapters.backups.signing_key import SigningKey
from keyrotation_pipeline.backups.catalog import BackupContext, Objectives
from keyrotation_pipeline.defs.code_location import build_definitions
from keyrotation_pipeline.defs.resources import PipelineResource
from keyrotation_pipeline.incidents.access import AccessAudit
from keyrotation_pipeline.incidents.alerts import Channels
from keyrotation_pipeline.model.backups import BackupStatus
from keyrotation_pipeline.model.incidents import Incident, KeyRead
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.requests import Step, Walk
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline.ports.backups import ManifestSigner
from keyrotation_pipeline.ports.heartbeats import Heartbeats
from keyrotation_pipeline.ports.incidents import FlagSource
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.approvals import add_approval
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline.rotation.rotate import open_request
from keyrotation_pipeline_tests.conducting import Conducted
from keyrotation_pipeline_tests.fakes import V1, V2, FakeFiles, FakeWorld, Making, fake_manifest_trust, fake_pipeline
from keyrotation_pipeline_tests.web_server import pages, served  # noqa: F401

ROWS: dict[str, list[dict[str, str | None]]] = {
    "clients": [{"first_name": "v1:Ada", "email": "v1:ada@example.org"}, {"first_name": "v1:Ben", "email": None}],
    "billing.Invoices": [{"first_name": "v1:Cy", "email": ""}],
}
worlds: dict[str, FakeWorld] = {}
places: dict[str, Path] = {}
channels: dict[str, Channels] = {}
dump_failures: list[str] = []


@dataclass(frozen=True)
class FakePipelineResource(PipelineResource):
    """Opens the fakes that a test registered under `config_file`."""

    @contextmanager
    def open(self, actor: str) -> Iterator[Pipeline]:
        assert actor.startswith("dagster ")
        ledger = worlds[self.config_file or ""].ledger
        before, ledger.actor = ledger.actor, actor
        try:
            yield worlds[self.config_file or ""].pipeline
        finally:
            ledger.actor = before

    @contextmanager
    def open_backups(self, actor: str) -> Iterator[BackupContext]:
        """The clinic's backups, in a directory of the test; nothing is encrypted or restored."""
        assert actor.startswith("dagster ")
        pipeline = worlds[self.config_file or ""].pipeline
        nothing: Any = None
        place = BackupDirectory(places[self.config_file or ""])
        trust = fake_manifest_trust(pipeline.ledger, pipeline.signatures)
        files = FakeFiles(place, dump_failures)
        keys, dumps, configurations = (Making(make) for make in (files.key, files.dump, files.configuration))
        objectives = Objectives(14400, 90000)
        yield BackupContext(pipeline, place, keys, trust, (), dumps, configurations, nothing, 2, 7, objectives)

    def keep_server(self) -> None:
        """There is none."""

    def heartbeats(self) -> Heartbeats:
        return worlds[self.config_file or ""].pipeline.heartbeats

    def has_recovery_key(self) -> bool:
        return False

    def signer(self) -> ManifestSigner:
        """A real key, next to the backups."""
        key = SigningKey(places[self.config_file or ""].with_name("signing-key.pem"))
        key.create()
        return key

    def channels(self, _opened: Pipeline) -> Channels:
        return channels["test"]

    def flag_sources(self) -> tuple[FlagSource, ...]:
        return ()

    def access_audit(self, incident: Incident, opened: Pipeline) -> AccessAudit:
        read = KeyRead("id-1", incident.discovered_at, "arn:…/*web*", "10.0.0.1", "GetSecretValue", "key", "Boto3")
        return AccessAudit(incident.discovered_at, opened.clock.now(), (read,), None)


@dataclass
class Dagster(Conducted):
    """Our definitions on an instance, and the fakes below them."""

    world: FakeWorld

    def materialize(self, *asset: str, partition: str | dg.MultiPartitionKey) -> dg.ExecuteInProcessResult:
        """What a person does in the UI."""
        self.instance.add_dynamic_partitions("key_version", ["v2", "v3", "v9"])
        return self.definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=self.instance,
            partition_key=partition,
            asset_selection=[dg.AssetKey(list(asset))],
            raise_on_error=False,
        )

    def check_run(self, **tags: str) -> dg.ExecuteInProcessResult:
        """The job that evaluates every check."""
        return self.definitions.resolve_job_def("evidence").execute_in_process(instance=self.instance, tags=tags)

    def check(self, name: str, asset: str, **tags: str) -> dg.AssetCheckEvaluation:
        """One check's evaluation."""
        key = dg.AssetCheckKey(dg.AssetKey(asset.split("/")), name)
        job = self.definitions.resolve_job_def("evidence").get_subset(
            asset_selection=set(), asset_check_selection={key}
        )
        [evaluation] = job.execute_in_process(instance=self.instance, tags=tags).get_asset_check_evaluations()
        return evaluation


def sentences(value: object) -> str:
    """What a page shows, with its lines joined."""
    return " ".join(str(getattr(value, "value", value)).split())


def shard_of(partition: str, shard: int) -> dg.MultiPartitionKey:
    """The partition of a shard."""
    return dg.MultiPartitionKey({"key_version": partition, "shard": f"{shard:02d}"})


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    """The sentence of the failed step."""
    [event] = [event for event in result.all_events if event.is_step_failure]
    failure = event.step_failure_data.user_failure_data
    assert failure is not None, event
    return str(failure.description)


@pytest.fixture
def now() -> datetime:
    """What the clock says when the world is made: Dagster's own; a test of other days names another time."""
    return datetime.now(UTC)


@pytest.fixture
def dagster(tmp_path: Path, now: datetime) -> Iterator[Dagster]:
    """A clinic under v1, with no rotation yet."""
    with opened(fake_pipeline(ROWS), tmp_path, now) as made:
        yield made


@contextmanager
def opened(world: FakeWorld, folder: Path, now: datetime) -> Iterator[Dagster]:
    """A world whose only key is v1, and Dagster over it."""
    world.clock.at = world.signatures.signed_at = now
    world.vault.stands = BackupStatus(world.clock.at)
    world.keys.live.pop(V2)
    world.keys.primary_version = V1
    world.vault.backups.pop(V2)
    world.keys_are({V1: KeyState.ACTIVE})
    worlds["test"] = world
    places["test"] = folder / "backups"
    channels["test"] = Channels()
    dump_failures.clear()
    with dg.DagsterInstance.ephemeral() as instance:
        definitions, resource = definitions_of(world.pipeline.tables, world.pipeline.shards)
        yield Dagster(definitions, instance, resource, world)


@cache
def definitions_of(tables: tuple[EncryptedTable, ...], shards: int) -> tuple[dg.Definitions, FakePipelineResource]:
    """Built once: they hold no state, and to build and resolve them takes longer than most tests."""
    resource = FakePipelineResource(config_file="test")
    return build_definitions(tables, shards, resource, installed=datetime(2026, 1, 1, tzinfo=UTC)), resource


@pytest.fixture(scope="session", autouse=True)
def unstamped() -> Iterator[None]:
    """Nobody migrates an instance in memory: to note the revision of its schema takes most of the time to make one."""
    with pytest.MonkeyPatch.context() as patch:
        for storage in (runs.in_memory, event_log.in_memory):
            patch.setattr(storage, "stamp_alembic_rev", lambda *_: None)
        yield


@pytest.fixture
def requested(dagster: Dagster) -> Walk:
    """An open request that nobody has approved."""
    return open_request(dagster.world.pipeline, reason="yearly", requested_by="test")


@pytest.fixture
def approved(dagster: Dagster, requested: Walk) -> Walk:
    """A rotation that may begin."""
    world = dagster.world
    text = world.ledger.approval_text(requested.id)
    for officer in world.signatures.configured.officers:
        add_approval(world.pipeline, world.ledger.walk(requested.id), world.signatures.sign(officer.fingerprint, text))
    return world.ledger.walk(requested.id)


@pytest.fixture
def walked(dagster: Dagster, approved: Walk) -> Callable[[Step | None], Walk]:
    """Walk on the command line's path, through a step or to the end."""

    def through(step: Step | None = None) -> Walk:
        for _ in runner.run(dagster.world.pipeline, approved.id, dagster.world.report, step):
            pass
        return dagster.world.ledger.walk(approved.id)

    return through
