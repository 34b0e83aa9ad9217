"""What `status` says of backups and recovery tests."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from keyrotation_pipeline.assurance.protection import protection
from keyrotation_pipeline.errors import BackupError
from keyrotation_pipeline.model.backups import KeyBackup
from keyrotation_pipeline.model.events import EventKind, Note
from keyrotation_pipeline.model.key_events import RecoveryTestDue, RecoveryTestFailed
from keyrotation_pipeline_tests.fakes import START, V2, FakeWorld, fake_pipeline


def seen(world: FakeWorld) -> tuple[str, ...]:
    return protection(world.pipeline, world.ledger.keys(), world.clock.now()).attention


@pytest.fixture
def world() -> FakeWorld:
    return fake_pipeline()


def test_fresh_backups_need_no_attention(world: FakeWorld) -> None:
    found = protection(world.pipeline, world.ledger.keys(), world.clock.now())
    assert (found.last_backup, found.last_recovery_test, found.attention) == (START, None, ())


def passed(world: FakeWorld) -> None:
    world.ledger.append(Note(EventKind.RECOVERY_TEST_PASSED, {}))


def failed(world: FakeWorld) -> None:
    world.ledger.append(RecoveryTestFailed("s3", "ab", "DamagedBackupError", "the file is truncated; use another"))


def due(world: FakeWorld) -> None:
    world.ledger.append(RecoveryTestDue("2026-04-01"))


@pytest.mark.parametrize(
    ("events", "days", "said"),
    [
        pytest.param([], 1, [], id="a day old"),
        pytest.param([], 2, ["the last backup is of 2026-01-05 09:00 UTC"], id="backup is stale"),
        pytest.param([failed], 0, ["test failed: the file is truncated"], id="failed"),
        pytest.param([failed, passed], 0, [], id="passed after it failed"),
        pytest.param([passed, failed], 0, ["test failed: the file is truncated"], id="failed after it passed"),
        pytest.param([due], 0, ["due since 2026-04-01"], id="due"),
        pytest.param([due, passed], 0, [], id="done when it was due"),
        pytest.param([], 101, ["last backup", "has never been made"], id="never tested"),
        pytest.param([passed], 101, ["last backup", "was on 2026-01-05"], id="tested too long ago"),
    ],
)
def test_what_is_amiss_is_one_sentence_each(
    world: FakeWorld, events: list[Callable[[FakeWorld], None]], days: int, said: list[str]
) -> None:
    for event in events:
        event(world)
        world.clock.at += timedelta(seconds=1)
    world.clock.at += timedelta(days=days)
    sentences = seen(world)
    assert len(sentences) == len(said)
    assert all(part in sentence for part, sentence in zip(said, sentences, strict=True))


def test_a_live_key_without_a_backup_is_named(world: FakeWorld) -> None:
    del world.vault.backups[V2]
    assert seen(world) == ("v2 has no intact backup; run `keyrotation backup`",)


def test_a_place_that_does_not_answer_does_not_hide_the_status(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*_: object) -> KeyBackup:
        raise BackupError("the bucket does not answer; check the network")

    monkeypatch.setattr(world.vault, "key_backup", refusing)
    found = protection(replace(world.pipeline, vault=world.vault), world.ledger.keys(), world.clock.now())
    assert (found.last_backup, found.attention) == (None, ("the bucket does not answer; check the network",))
