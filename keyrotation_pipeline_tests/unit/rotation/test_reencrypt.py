"""The step `rows`: under which key rows may be written, and what the shards come to together."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from keyrotation_pipeline.errors import BackupError, KeyRotationError, KeyStoreError, OutOfOrderError
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.progress import Progress, Report, Rewritten
from keyrotation_pipeline.model.requests import Step, StepRecord
from keyrotation_pipeline.model.tables import Shard
from keyrotation_pipeline.rotation.reencrypt import close_rows, reencrypt_shard
from keyrotation_pipeline_tests.fakes import CLIENTS, START, V1, V2, FakeWorld, fake_pipeline, rotation_of

SHARD = Shard(CLIENTS, 0, 1)


@pytest.fixture
def world() -> FakeWorld:
    return fake_pipeline()


def calls(world: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What the step asks of the database, in place of doing it."""
    asked: list[object] = []

    def rewrite(request: str, shard: Shard, ring: object, target: object, report: object) -> Rewritten:
        asked.append((request, shard, target))
        return Rewritten(10, 20, 1, 2, 4.0)

    monkeypatch.setattr(world.pipeline.rewriting, "reencrypt_shard", rewrite)
    return asked


def test_a_shard_is_rewritten_under_the_target_and_its_facts_recorded(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, rotation = calls(world, monkeypatch), rotation_of(world, V1, V2)
    facts = reencrypt_shard(world.pipeline, rotation, SHARD, world.report)
    assert asked == [(rotation.id, SHARD, V2)]
    assert facts == {
        "rows": 10, "values": 20, "skipped": 1, "quarantined": 2, "seconds": 4.0, "rows_per_second": 2.5,
    }  # fmt: skip


def pages(done: int, total: int, note: str = "") -> Progress:
    return Progress(Step.ROWS, "clients shard 00", done, total, "pages", note)


@pytest.mark.parametrize(
    ("reported", "end"),
    [
        pytest.param([pages(42, 100, "420 rows")], [pages(100, 100, "1,000 rows")], id="ended between two reports"),
        pytest.param([pages(0, 0)], [pages(1, 1, "1,000 rows")], id="no page of it"),
        pytest.param([], [pages(1, 1, "1,000 rows")], id="nothing was reported"),
        pytest.param([pages(42, 100), pages(100, 100, "at 9 rows a second")], [], id="told to its end"),
    ],
)
def test_the_last_report_of_a_finished_shard_says_all_of_it(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch, reported: list[Progress], end: list[Progress]
) -> None:
    def rewrite(_request: str, _shard: Shard, _ring: object, _target: object, report: Report) -> Rewritten:
        for each in reported:
            report(each)
        return Rewritten(1000)

    monkeypatch.setattr(world.pipeline.rewriting, "reencrypt_shard", rewrite)
    received: list[Progress] = []
    reencrypt_shard(world.pipeline, rotation_of(world, V1, V2), SHARD, received.append)
    assert received == [*reported, *end]


def unregistered(world: FakeWorld) -> None:
    world.ledger.state.keys.clear()


def not_primary(world: FakeWorld) -> None:
    world.keys.live[V1] = KeyMaterial.generate()
    world.keys.primary_version = V1


def another_key(world: FakeWorld) -> None:
    world.keys.live[V2] = KeyMaterial.generate()


def no_backup(world: FakeWorld) -> None:
    world.vault.backups.clear()


@pytest.mark.parametrize(
    ("spoil", "error", "sentence"),
    [
        pytest.param(unregistered, OutOfOrderError, "no key v2 is registered", id="not registered"),
        pytest.param(not_primary, OutOfOrderError, "the primary is v1, not v2", id="not the primary"),
        pytest.param(another_key, KeyStoreError, "holds another v2", id="another key in the store"),
        pytest.param(no_backup, BackupError, "no intact backup of v2", id="no backup"),
    ],
)
def test_no_row_is_written_under_a_key_that_is_not_stored_registered_primary_and_backed_up(
    world: FakeWorld,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[FakeWorld], None],
    error: type[KeyRotationError],
    sentence: str,
) -> None:
    asked, rotation = calls(world, monkeypatch), rotation_of(world, V1, V2)
    spoil(world)
    with pytest.raises(error, match=sentence):
        reencrypt_shard(world.pipeline, rotation, SHARD, world.report)
    assert asked == []


def test_the_step_sums_up_its_shards_and_nothing_else(world: FakeWorld) -> None:
    facts = {"rows": 10, "values": 20, "skipped": 1, "quarantined": 2, "seconds": 4.0, "rows_per_second": 2.5}
    shards = [StepRecord(Step.ROWS, table, shard, START, facts) for table in ("a", "b") for shard in (0, 1)]
    rotation = replace(rotation_of(world, V1, V2), steps=(StepRecord(Step.KEY_VERSION, None, None, START, {}), *shards))
    assert close_rows(world.pipeline, rotation, world.report) == {
        "rows": 40, "values": 80, "skipped": 4, "quarantined": 8, "seconds": 16.0, "rows_per_second": 2.5,
    }  # fmt: skip


def test_tables_without_shards_sum_up_to_nothing(world: FakeWorld) -> None:
    facts = close_rows(world.pipeline, replace(rotation_of(world, V1, V2), steps=()), world.report)
    assert (facts["rows"], facts["rows_per_second"]) == (0, 0.0)
