"""A replay that is resumed says what the whole replay says, or the whole replay is made."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest

from keyrotation_pipeline.audit import history
from keyrotation_pipeline.audit.history import Checkpoint, LedgerState
from keyrotation_pipeline.audit.replay_cache import forget, ledger_state
from keyrotation_pipeline.audit.rules import COUNTING
from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.model.audit import AuditEvent, EventKind, Note, hash_of
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.model.requests import RequestStatus
from keyrotation_pipeline_tests.contract.ledger_suite import AT, ROSTER, TEXT, V1, rotation, sign, step
from keyrotation_pipeline_tests.fakes import FakeLedger
from keyrotation_pipeline_tests.fakes.chain import good_at_start

DATABASE = "checkpoint@localhost"


@dataclass
class Kept:
    """`Checkpoints` in memory."""

    made: Checkpoint | None = None

    def load(self) -> Checkpoint | None:
        return self.made

    def keep(self, checkpoint: Checkpoint) -> None:
        self.made = checkpoint


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> FakeLedger:
    """Notes, and events that count, in turns."""
    monkeypatch.setattr(history, "FEWEST_EVENTS", 5)
    ledger = FakeLedger()
    ledger.pin_roster(ROSTER)
    ledger.add_key(KeyRecord(V1, KeyState.PRE_ACTIVATION, "1f" * 32, AT), None)
    noted(ledger)
    ledger.open(rotation(), TEXT)
    sign(ledger)
    noted(ledger)
    ledger.set_status(rotation().id, RequestStatus.RUNNING)
    noted(ledger)
    return ledger


def noted(ledger: FakeLedger) -> None:
    for number in range(3):
        ledger.append(Note(EventKind.BACKUP_MADE, {"number": number}))


def asked(ledger: FakeLedger, kept: Kept | None) -> LedgerState:
    """What another process makes of it."""
    forget(DATABASE)
    return ledger_state(DATABASE, ledger.events, good_at_start, checkpoints=kept)


@pytest.fixture
def kept(ledger: FakeLedger) -> Kept:
    kept = Kept()
    asked(ledger, kept)
    return kept


def whole(ledger: FakeLedger) -> LedgerState:
    return LedgerState(good_at_start).apply(ledger.events())


def test_a_resumed_replay_says_what_the_whole_one_says_and_reads_no_note_again(
    ledger: FakeLedger, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    until = ledger.head().seq
    ledger.finish_step(rotation().id, step())
    noted(ledger)
    expected, read, events = whole(ledger), list[AuditEvent](), ledger.events

    def reading(*kinds: EventKind, after_seq: int = 0) -> Iterator[AuditEvent]:
        for event in events(*kinds, after_seq=after_seq):
            read.append(event)
            yield event

    monkeypatch.setattr(ledger, "events", reading)
    assert replace(asked(ledger, kept), lost=None) == expected
    assert {event.kind for event in read if event.seq < until} <= set(COUNTING)


def test_a_short_audit_and_one_with_faults_leave_no_checkpoint(ledger: FakeLedger) -> None:
    kept = Kept()
    asked(FakeLedger(), kept)
    ledger.append(replace_status(), rotation(2).id)
    assert asked(ledger, kept).faults
    assert kept.made is None


def replace_status() -> Note:
    return Note(EventKind.UNBLOCKED, {})


def body_changed(events: list[AuditEvent], index: int) -> None:
    events[index] = replace(events[index], body=events[index].body.replace("test", "else"))


def hashed_again(events: list[AuditEvent]) -> None:
    """As whoever owns the database can: another body, and right hashes from there on."""
    previous = events[0].previous
    for index, event in enumerate(events):
        body = event.body.replace("1f1f", "2f2f")
        events[index] = replace(event, body=body, previous=previous, hash=hash_of(previous, body))
        previous = events[index].hash


OPENED, STARTED = 5, 11


@pytest.mark.parametrize(
    "tamper",
    [
        pytest.param(lambda events: body_changed(events, OPENED), id="changed"),
        pytest.param(lambda events: events.pop(OPENED), id="removed"),
        pytest.param(
            lambda events: events.__setitem__(OPENED, replace(events[OPENED], kind="counted")), id="filed elsewhere"
        ),
        pytest.param(
            lambda events: events.__setitem__(STARTED, replace(events[STARTED], kind="backup_made")),
            id="filed elsewhere, and nothing else rests on it",
        ),
        pytest.param(hashed_again, id="hashed again"),
        pytest.param(lambda events: events.__delitem__(slice(8, None)), id="restored to an earlier state"),
    ],
)
def test_an_event_that_counted_and_is_another_now_is_noticed_in_spite_of_a_checkpoint(
    ledger: FakeLedger, kept: Kept, tamper: Callable[[list[AuditEvent]], object]
) -> None:
    tamper(ledger.state.events)
    try:
        expected: LedgerState | None = whole(ledger)
    except AuditError:
        expected = None
    if expected is None:
        with pytest.raises(AuditError):
            asked(ledger, kept)
    else:
        assert replace(asked(ledger, kept), lost=None) == expected


def test_an_event_that_changed_nothing_and_is_another_now_is_noticed_by_whoever_reads_everything(
    ledger: FakeLedger, kept: Kept
) -> None:
    body_changed(ledger.state.events, 2)
    asked(ledger, kept)
    with pytest.raises(AuditError):
        asked(ledger, None)


@pytest.mark.parametrize(
    "forge",
    [
        pytest.param(lambda made: replace(made, counted=made.counted[1:]), id="an event left out"),
        pytest.param(lambda made: replace(made, counted=(*made.counted, 13)), id="an event too many"),
        pytest.param(lambda made: replace(made, hashes=made.hashes[:-32]), id="an earlier one"),
        pytest.param(lambda made: replace(made, hashes=made.hashes + bytes(32)), id="a later one"),
        pytest.param(lambda made: replace(made, hashes=bytes(len(made.hashes))), id="of another audit"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_passed_over(
    ledger: FakeLedger, kept: Kept, forge: Callable[[Checkpoint], Checkpoint]
) -> None:
    assert kept.made is not None
    kept.made = forge(kept.made)
    assert replace(asked(ledger, kept), lost=None) == whole(ledger)


def test_a_checkpoint_is_read_back_as_it_was_written(kept: Kept) -> None:
    assert kept.made is not None
    assert Checkpoint.decode(kept.made.encode()) == kept.made


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}\n" + bytes(32),
        b"[]\n" + bytes(32),
        b'{"counted": 1, "latest": "2026-01-01T00:00:00+00:00"}\n' + bytes(32),
        b'{"counted": [], "latest": "2026-01-01T00:00:00"}\n' + bytes(32),
        Checkpoint(bytes(33), (), datetime(2026, 1, 1, tzinfo=UTC)).encode(),
        Checkpoint(b"", (), datetime(2026, 1, 1, tzinfo=UTC)).encode(),
        bytes(range(256)),
    ],
)
def test_a_damaged_checkpoint_is_none(content: bytes) -> None:
    assert Checkpoint.decode(content) is None


def test_a_process_accepts_no_audit_that_lost_what_it_has_read(ledger: FakeLedger) -> None:
    database = "lost@localhost"
    before = ledger_state(database, ledger.events, good_at_start)
    del ledger.state.events[-2:]
    after = ledger_state(database, ledger.events, good_at_start)
    assert (before.lost, after.lost) == (None, before.head)
    noted(ledger)
    assert ledger_state(database, ledger.events, good_at_start).lost == before.head


def test_what_a_transaction_appended_and_rolled_back_is_not_lost(ledger: FakeLedger) -> None:
    database = "rolled-back@localhost"
    ledger_state(database, ledger.events, good_at_start)
    noted(ledger)
    ledger_state(database, ledger.events, good_at_start, committed=False)
    del ledger.state.events[-3:]
    assert ledger_state(database, ledger.events, good_at_start).lost is None
