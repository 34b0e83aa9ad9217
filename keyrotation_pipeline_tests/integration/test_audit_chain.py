"""A superuser drops the triggers and changes the audit in the real database; the chain and its anchors tell."""

import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from keyrotation_pipeline.adapters.backups.anchors import advance_head
from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.postgres.ledger.postgres_ledger import PostgresLedger
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.audit.history import LedgerState
from keyrotation_pipeline.audit.verify import read_anchor, verify_audit
from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.model.audit import AuditHead, EventKind, Note
from keyrotation_pipeline.model.backup_events import AuditTimestamped
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline_tests.contract.ledger_suite import AT, ROSTER, V1, rotation, text_of
from keyrotation_pipeline_tests.fakes.chain import good_at_start
from keyrotation_pipeline_tests.forging import Forger

EVENTS = 9
DATABASE = "clinic@localhost, system identifier 7"


@pytest.fixture
def ledger(migrated: Connection) -> PostgresLedger:
    """Nine events, and no trigger that could keep anybody from them."""
    ledger = PostgresLedger(migrated, SystemClock(), "tester", DATABASE, good_at_start)
    for number in range(1, EVENTS + 1):
        ledger.append(Note(EventKind.BACKUP_MADE, {"number": number}))
    migrated.execute("DROP TRIGGER append_only ON keyrotation.audit_events")
    migrated.execute("DROP TRIGGER never_removed ON keyrotation.audit_head")
    migrated.execute("DROP TRIGGER moves_on_by_one ON keyrotation.audit_head")
    return ledger


CHANGE = "UPDATE keyrotation.audit_events SET body = replace(body, '\"number\":4', '\"number\":44') WHERE seq = 4"
SWAP_ROWS = """
    UPDATE keyrotation.audit_events SET seq = 1000 WHERE seq = 4;
    UPDATE keyrotation.audit_events SET seq = 4 WHERE seq = 5;
    UPDATE keyrotation.audit_events SET seq = 5 WHERE seq = 1000
"""
SWAP_BODIES = """
    UPDATE keyrotation.audit_events e SET body = o.body FROM keyrotation.audit_events o
    WHERE (e.seq, o.seq) IN ((4, 5), (5, 4))
"""
CLOSE_THE_GAP = """
    DELETE FROM keyrotation.audit_events WHERE seq = 4;
    UPDATE keyrotation.audit_events SET seq = seq - 1 WHERE seq > 4
"""


@pytest.mark.parametrize(
    ("tampering", "sentence"),
    [
        pytest.param(CHANGE, "event 4 was changed", id="changed"),
        pytest.param(
            "UPDATE keyrotation.audit_events SET body = 'x' WHERE seq = 4", "event 4 was changed", id="garbled"
        ),
        pytest.param(
            "UPDATE keyrotation.audit_events SET previous_hash = repeat('0', 64) WHERE seq = 4",
            "event 4 was changed",
            id="chained elsewhere",
        ),
        pytest.param("DELETE FROM keyrotation.audit_events WHERE seq = 4", "event 4 was removed", id="removed"),
        pytest.param(
            "DELETE FROM keyrotation.audit_events WHERE seq <= 3", "events 1 to 3 were removed", id="beginning removed"
        ),
        pytest.param(CLOSE_THE_GAP, r"event 4 was reordered \(it is event 5\)", id="removed and closed up"),
        pytest.param(SWAP_ROWS, r"event 4 was reordered \(it is event 5\), event 5 was reordered", id="rows swapped"),
        pytest.param(
            SWAP_BODIES, r"event 4 was reordered \(it is event 5\), event 5 was reordered", id="bodies swapped"
        ),
        pytest.param("DELETE FROM keyrotation.audit_events WHERE seq > 7", "events 8 to 9 were cut off", id="cut off"),
        pytest.param("DELETE FROM keyrotation.audit_events", "events 1 to 9 were cut off", id="all cut off"),
        pytest.param("DELETE FROM keyrotation.audit_head", "the audit's head was removed", id="head removed"),
        pytest.param(
            "UPDATE keyrotation.audit_head SET (seq, hash) ="
            " (SELECT seq, hash FROM keyrotation.audit_events WHERE seq = 7)",
            "event 9 was added from outside",
            id="head moved back",
        ),
    ],
)
def test_tampering_is_found_and_named(ledger: PostgresLedger, tampering: str, sentence: str) -> None:
    verify_audit(ledger)
    ledger.connection.execute(tampering)
    with pytest.raises(AuditError, match=sentence):
        verify_audit(ledger)


@pytest.mark.parametrize(
    "filed",
    [
        pytest.param("event = 'counted'", id="under another kind"),
        pytest.param("request = repeat('ab', 16)", id="under another request"),
    ],
)
def test_an_event_hidden_from_the_filter_is_found(ledger: PostgresLedger, filed: str) -> None:
    ledger.connection.execute(f"UPDATE keyrotation.audit_events SET {filed} WHERE seq = 4")
    with pytest.raises(AuditError, match="event 4 is filed under another kind or request than its own"):
        verify_audit(ledger)


def test_an_event_forged_into_the_filter_is_refused_by_whoever_asks_for_it(ledger: PostgresLedger) -> None:
    ledger.connection.execute("UPDATE keyrotation.audit_events SET event = 'key_destroyed' WHERE seq = 4")
    with pytest.raises(AuditError, match="event 4 is filed under another kind"):
        list(ledger.events(EventKind.KEY_DESTROYED))


def test_events_that_were_cut_off_stay_missing_when_others_follow(ledger: PostgresLedger) -> None:
    ledger.connection.execute("DELETE FROM keyrotation.audit_events WHERE seq > 7")
    ledger.append(Note(EventKind.RUN_FAILED, {}))
    with pytest.raises(AuditError, match="events 8 to 9 were removed"):
        verify_audit(ledger)


def forged(body: str, seq: int) -> str:
    """The fourth event says something else."""
    return body.replace('"number"', '"forged"') if seq == 4 else body


@pytest.mark.parametrize(
    ("forge", "sentence"),
    [
        pytest.param(lambda forger: forger.truncate(2), "events 8 to 9 were cut off", id="cut off with its head"),
        pytest.param(lambda forger: forger.rewrite(forged), "event 9 is not the one that an anchor", id="rewritten"),
    ],
)
def test_a_forgery_that_is_consistent_in_itself_is_found_by_an_anchor(
    ledger: PostgresLedger, forge: Callable[[Forger], None], sentence: str
) -> None:
    anchor = ledger.head()
    forge(Forger(ledger.connection))
    verify_audit(ledger)
    with pytest.raises(AuditError, match=sentence):
        verify_audit(ledger, anchor)


def test_the_head_that_officers_sign_over_reveals_a_chain_that_was_hashed_again(ledger: PostgresLedger) -> None:
    head = ledger.head()
    opened = rotation(audit_head=(head.seq, head.hash))
    ledger.open(opened, text_of(opened))
    assert LedgerState(good_at_start).apply(ledger.events()).faults == ()
    Forger(ledger.connection).rewrite(forged)
    [fault] = LedgerState(good_at_start).apply(ledger.events()).faults
    assert fault == "event 10 (request_opened) opens a request that is to be signed for another audit"


def test_an_anchor_of_another_database_does_not_verify(ledger: PostgresLedger) -> None:
    with pytest.raises(AuditError, match="event 3 is not the one"):
        verify_audit(ledger, AuditHead(3, "a" * 64))


def test_a_chain_of_more_events_than_one_page_is_read_whole(migrated: Connection) -> None:
    ledger = PostgresLedger(migrated, SystemClock(), "tester", DATABASE, good_at_start)
    with ledger.transaction():
        for number in range(1005):
            ledger.append(Note(EventKind.BACKUP_MADE, {"number": number}))
    assert verify_audit(ledger).seq == 1005
    assert [json.loads(event.body)["facts"]["number"] for event in ledger.events()] == list(range(1005))


def test_the_home_stores_the_head_that_was_committed_and_none_that_was_rolled_back(
    migrated: Connection, tmp_path: Path
) -> None:
    advance = partial(advance_head, tmp_path)
    ledger = PostgresLedger(migrated, SystemClock(), "tester", DATABASE, good_at_start, advance=advance)
    with ledger.transaction():
        ledger.pin_roster(ROSTER)
        with suppress(ZeroDivisionError), ledger.transaction():
            ledger.add_key(KeyRecord(V1, KeyState.ACTIVE, "1f" * 32, AT), None)
            raise ZeroDivisionError
    assert read_anchor((tmp_path / "audit-head.json").read_text()) == ledger.head() == AuditHead(1, ledger.head().hash)
    noted = ledger.append(Note(EventKind.RUN_FAILED, {}))
    assert read_anchor((tmp_path / "audit-head.json").read_text()) == noted
    stamped = ledger.append(AuditTimestamped(2, ledger.head().hash, AT, "an authority", "", ()))
    assert read_anchor((tmp_path / "audit-head.json").read_text()) == stamped
