"""What `status` says of backups and recovery tests."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from keyrotation_pipeline.errors import BackupError
from keyrotation_pipeline.model.audit import AuditEvent, EventKind, Note
from keyrotation_pipeline.model.backup_events import BackupIncomplete
from keyrotation_pipeline.model.backups import BackupStatus, CertificateStatus, KeyBackup
from keyrotation_pipeline.model.key_events import RecoveryTestDue, RecoveryTestFailed
from keyrotation_pipeline.monitoring.backup_status import protection
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline_tests.fakes import START, V2, FakeWorld, fake_pipeline
from keyrotation_pipeline_tests.unit.rotation.requests import approved, before_any_rotation


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
def test_what_is_wrong_is_one_sentence_each(
    world: FakeWorld, events: list[Callable[[FakeWorld], None]], days: int, said: list[str]
) -> None:
    for event in events:
        event(world)
        world.clock.at += timedelta(seconds=1)
    world.clock.at += timedelta(days=days)
    sentences = seen(world)
    assert len(sentences) == len(said)
    assert all(part in sentence for part, sentence in zip(said, sentences, strict=True))


@pytest.mark.parametrize(
    ("events", "passed_at", "failed_at"),
    [
        pytest.param([], None, None, id="never tested"),
        pytest.param([passed], 0, None, id="passed"),
        pytest.param([failed], None, 0, id="failed"),
        pytest.param([passed, failed], 0, 60, id="failed after it passed"),
        pytest.param([failed, passed], 60, None, id="passed after it failed"),
    ],
)
def test_a_test_that_failed_since_the_last_one_passed_is_known_as_such(
    world: FakeWorld, events: list[Callable[[FakeWorld], None]], passed_at: int | None, failed_at: int | None
) -> None:
    for event in events:
        event(world)
        world.clock.at += timedelta(seconds=60)
    found = protection(world.pipeline, world.ledger.keys(), world.clock.now())
    moments = [None if each is None else START + timedelta(seconds=each) for each in (passed_at, failed_at)]
    assert [found.last_recovery_test, found.recovery_test_failed] == moments


def test_sets_of_another_pipeline_are_red(world: FakeWorld) -> None:
    world.vault.stands = BackupStatus(START, "x", unknown=("the bucket has sets of another pipeline",))
    assert seen(world) == ("the bucket has sets of another pipeline",)


def test_the_newest_set_that_is_not_visible_any_more_is_red_and_what_was_not_examined_amber(world: FakeWorld) -> None:
    world.vault.stands = BackupStatus(START, "x", changed=("y was complete",), unexamined=("no right",))
    found = protection(world.pipeline, world.ledger.keys(), world.clock.now())
    assert (found.attention, found.warnings) == (("y was complete",), ("no right",))


def test_a_live_key_without_a_backup_is_named(world: FakeWorld) -> None:
    del world.vault.backups[V2]
    assert seen(world) == ("v2 has no intact backup; run `keyrotation backup`",)


def test_a_place_that_does_not_answer_does_not_hide_the_status(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*_: object) -> KeyBackup:
        raise BackupError("the bucket does not answer; check the network")

    for question in ("key_backup", "status"):
        monkeypatch.setattr(world.vault, question, refusing)
    found = protection(replace(world.pipeline, vault=world.vault), world.ledger.keys(), world.clock.now())
    assert (found.last_backup, found.attention) == (None, ("the bucket does not answer; check the network",))


def test_a_place_that_does_not_answer_is_waited_for_once(world: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refusing(question: str) -> Callable[..., None]:
        def refuse(*_: object) -> None:
            asked.append(question)
            raise BackupError("the bucket does not answer; check the network")

        return refuse

    for question in ("key_backup", "status"):
        monkeypatch.setattr(world.vault, question, refusing(question))
    seen(world)
    assert asked == ["status"]


def incomplete(world: FakeWorld) -> None:
    world.ledger.append(
        BackupIncomplete("backup-20260105-090000-efa1f375.json", ("pg_dump ended with 3; see the log",))
    )


def complete(world: FakeWorld) -> None:
    world.ledger.append(Note(EventKind.BACKUP_MADE, {"dump": "database-20260105-090000-efa1f375.dump.gpg"}))


def keys_alone(world: FakeWorld) -> None:
    world.ledger.append(Note(EventKind.BACKUP_MADE, {"dump": None}))


NEVER = BackupStatus(None)


@pytest.mark.parametrize(
    ("events", "stands", "hours", "red", "amber"),
    [
        pytest.param([incomplete], None, 1, [], ["was incomplete (pg_dump ended with 3"], id="amber at once"),
        pytest.param(
            [incomplete], None, 27, ["the last backup is of", "was incomplete (pg_dump"], [], id="red after a day"
        ),
        pytest.param([incomplete, complete], None, 1, [], [], id="complete again"),
        pytest.param([incomplete, keys_alone], None, 1, [], ["pg_dump ended with 3"], id="then keys alone"),
        pytest.param([], NEVER, 1, [], ["no backup of keys and database is complete"], id="none yet"),
        pytest.param([incomplete], NEVER, 1, [], ["pg_dump ended with 3"], id="none yet, and why"),
        pytest.param([], NEVER, 27, ["no backup of keys and database is complete"], [], id="none for a day"),
        pytest.param(
            [], BackupStatus(START, "x", ("d is missing in s3",)), 1, [], ["d is missing in s3"], id="damaged"
        ),
    ],
)
def test_an_incomplete_backup_is_amber_at_once_and_red_after_a_day(
    world: FakeWorld,
    events: list[Callable[[FakeWorld], None]],
    stands: BackupStatus | None,
    hours: int,
    red: list[str],
    amber: list[str],
) -> None:
    for event in events:
        event(world)
    world.vault.stands = stands or world.vault.stands
    world.clock.at += timedelta(hours=hours)
    found = protection(world.pipeline, world.ledger.keys(), world.clock.now())
    for said, wanted in ((found.attention, red), (found.warnings, amber)):
        assert len(said) == len(wanted)
        assert all(part in sentence for part, sentence in zip(wanted, said, strict=True))


def test_of_many_backups_the_audit_is_read_back_to_the_newest_one_only(
    world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    for event in (complete, complete, keys_alone):
        event(world)
    read, every, newest = list[int](), world.ledger.events, world.ledger.newest
    monkeypatch.setattr(world.ledger, "newest", lambda *kinds: noted(newest(*kinds), read))
    monkeypatch.setattr(
        world.ledger, "events", lambda *kinds, **which: noted(every(*kinds, **which), read if kinds else [])
    )
    found = protection(world.pipeline, world.ledger.keys(), world.clock.now())
    head = world.ledger.head().seq
    assert (found.attention, read) == ((), [head, head - 1])


def noted(events: Iterable[AuditEvent], into: list[int]) -> Iterator[AuditEvent]:
    """Notes which events are read."""
    for event in events:
        into.append(event.seq)
        yield event


@pytest.mark.parametrize(
    ("begun", "event", "hours", "red", "amber"),
    [
        pytest.param(timedelta(0), None, 0, 0, 0, id="begun in the second of the finish"),
        pytest.param(timedelta(seconds=-1), None, 0, 0, 1, id="amber while it is expected"),
        pytest.param(timedelta(seconds=-1), incomplete, 0, 1, 0, id="red once it failed"),
        pytest.param(timedelta(seconds=-1), keys_alone, 0, 0, 1, id="keys alone are none"),
        pytest.param(timedelta(seconds=-1), None, 2, 1, 0, id="red after an hour"),
        pytest.param(None, None, 2, 1, 0, id="there is none at all"),
        pytest.param(timedelta(hours=1), incomplete, 2, 0, 0, id="made again"),
    ],
)
def test_the_backup_after_a_rotation_is_asked_for_until_it_is_there(
    begun: timedelta | None, event: Callable[[FakeWorld], None] | None, hours: int, red: int, amber: int
) -> None:
    world = before_any_rotation()
    walk = approved(world)
    world.clock.at += timedelta(minutes=7, milliseconds=500)
    for _ in runner.run(world.pipeline, walk.id, world.report):
        pass
    finished = world.clock.now().replace(microsecond=0)
    world.vault.stands = BackupStatus(None if begun is None else finished + begun)
    world.clock.at += timedelta(minutes=1)
    if event is not None:
        event(world)
    world.clock.at += timedelta(hours=hours)
    found = protection(world.pipeline, world.ledger.keys(), world.clock.now())
    said = [
        sum(f"rotate {walk.id} to v2 finished 2026-01-05 09:07 UTC" in each for each in sentences)
        for sentences in (found.attention, found.warnings)
    ]
    assert said == [red, amber]


@pytest.mark.parametrize(
    ("certificate", "red", "amber"),
    [
        pytest.param(CertificateStatus("c", encrypts=True, ends_at=None), 0, 0, id="never ends"),
        pytest.param(CertificateStatus("c", encrypts=True, ends_at=START + timedelta(days=61)), 0, 0, id="later"),
        pytest.param(CertificateStatus("c", encrypts=True, ends_at=START + timedelta(days=60)), 0, 1, id="soon"),
        pytest.param(CertificateStatus("c", encrypts=False, ends_at=START), 0, 1, id="an officer's, soon"),
        pytest.param(CertificateStatus("c", True, START, "c has expired"), 1, 0, id="recipient, over"),
        pytest.param(CertificateStatus("c", False, START, "c has expired"), 0, 0, id="officer: no backup lacks it"),
    ],
)
def test_a_certificate_that_ends_within_sixty_days_warns(
    world: FakeWorld, certificate: CertificateStatus, red: int, amber: int
) -> None:
    world.signatures.standings = (certificate,)
    found = protection(world.pipeline, world.ledger.keys(), world.clock.now())
    assert (len(found.attention), len(found.warnings)) == (red, amber)
