"""What the real ledger does beyond its port's suite: other processes, lost connections, and what it never takes."""

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.postgres.ledger.postgres_ledger import PostgresLedger
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.audit.verify import verify_audit
from keyrotation_pipeline.errors import AuditError, BlockedError, DatabaseUnavailableError, PreflightError, RequestError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.audit import EventKind, Note, hash_of
from keyrotation_pipeline.model.key_events import KeyReplaced
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.model.requests import RequestStatus, RotationType
from keyrotation_pipeline_tests.contract.ledger_suite import AT, ROSTER, TEXT, V1, open_signed, rotation, text_of
from keyrotation_pipeline_tests.fakes.chain import good_at_start
from keyrotation_pipeline_tests.forging import Forger, owner_of

Another = Callable[[], PostgresLedger]


def ledger_on(connection: Connection) -> PostgresLedger:
    return PostgresLedger(
        connection, SystemClock(), "dba@clinic", "clinic@localhost, system identifier 7", good_at_start
    )


@pytest.fixture
def ledger(migrated: Connection) -> PostgresLedger:
    return ledger_on(migrated)


@pytest.fixture
def another(ledger: PostgresLedger, database_url: str) -> Iterator[Another]:
    """`another()`: the ledger as another process has it, on a connection of its own."""
    with contextlib.ExitStack() as opened:
        yield lambda: ledger_on(opened.enter_context(connect(database_url)))


def test_an_event_holds_who_did_what_when_and_where(ledger: PostgresLedger) -> None:
    ledger.append(
        Note(EventKind.BACKUP_MADE, {"version": V1, "at": AT, "names": ("a", "b"), "state": KeyState.ACTIVE}), "ab" * 16
    )
    (event,) = ledger.events()
    reported = json.loads(event.body)
    assert datetime.fromisoformat(reported.pop("at")).tzinfo == UTC
    assert reported == {
        "actor": "dba@clinic",
        "database": "clinic@localhost, system identifier 7",
        "event": "backup_made",
        "facts": {"version": "v1", "at": AT.isoformat(), "names": ["a", "b"], "state": "active"},
        "request": "ab" * 16,
        "seq": 1,
    }
    assert event.hash == hash_of("0" * 64, event.body)


@pytest.mark.parametrize(
    "secret",
    [
        pytest.param(os.urandom(32), id="bytes"),
        pytest.param(KeyMaterial.generate(), id="key material"),
        pytest.param({"inside": [b"bytes"]}, id="bytes inside"),
        pytest.param(float("nan"), id="not a number"),
        pytest.param(datetime(2026, 1, 1), id="time without a zone"),  # noqa: DTZ001
    ],
)
def test_facts_that_are_not_plain_json_are_never_stored(ledger: PostgresLedger, secret: object) -> None:
    with pytest.raises(TypeError, match=r"the fact leak.* is of type") as refused:
        ledger.append(Note(EventKind.BACKUP_MADE, {"leak": secret}))
    assert ledger.head().seq == 0
    assert repr(secret) not in str(refused.value)


def test_concurrent_events_of_many_processes_form_one_chain_without_gaps(another: Another) -> None:
    ledgers = [another() for _ in range(4)]

    def append(ledger: PostgresLedger) -> None:
        for number in range(25):
            ledger.append(Note(EventKind.BACKUP_MADE, {"number": number}))

    threads = [threading.Thread(target=append, args=(each,)) for each in ledgers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verify_audit(ledgers[0]).seq == 100
    assert [event.seq for event in ledgers[0].events()] == list(range(1, 101))


def test_only_the_events_since_the_savepoint_go_with_it(ledger: PostgresLedger) -> None:
    with ledger.transaction():
        ledger.append(Note(EventKind.BACKUP_MADE, {"number": 1}))
        with contextlib.suppress(ZeroDivisionError), ledger.transaction():
            ledger.append(Note(EventKind.BACKUP_MADE, {"number": 2}))
            raise ZeroDivisionError
        ledger.append(Note(EventKind.BACKUP_MADE, {"number": 3}))
    assert [json.loads(event.body)["facts"]["number"] for event in ledger.events()] == [1, 3]


def test_appending_leaves_the_sessions_lock_timeout_as_it_was(ledger: PostgresLedger) -> None:
    with ledger.transaction():
        ledger.append(Note(EventKind.BACKUP_MADE, {}))
        assert ledger.query("SELECT current_setting('lock_timeout') AS wait")[0]["wait"] == "1s"


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE keyrotation.audit_events SET body = body",
        "DELETE FROM keyrotation.audit_events",
        "TRUNCATE keyrotation.audit_events",
        "DELETE FROM keyrotation.audit_head",
        "UPDATE keyrotation.audit_head SET seq = 0",
    ],
)
def test_the_database_itself_refuses_to_change_the_audit(ledger: PostgresLedger, tampering: str) -> None:
    ledger.append(Note(EventKind.BACKUP_MADE, {}))
    with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
        ledger.connection.execute(tampering)


def test_an_event_slipped_in_from_outside_is_refused_and_found(ledger: PostgresLedger) -> None:
    ledger.append(Note(EventKind.BACKUP_MADE, {}))
    ledger.connection.execute(
        "INSERT INTO keyrotation.audit_events"
        " SELECT 2, replace(body, '\"seq\":1', '\"seq\":2'), hash, repeat('a', 64), event FROM keyrotation.audit_events"
    )
    with pytest.raises(AuditError, match="event 2 after its head"):
        ledger.append(Note(EventKind.BACKUP_MADE, {}))
    with pytest.raises(AuditError, match="event 2 was changed"):
        verify_audit(ledger)


def test_a_lock_of_another_process_names_its_session(ledger: PostgresLedger, another: Another) -> None:
    holder = another()
    with holder.lock("ab/rows"):
        with ledger.lock("ab/other rows"):
            pass
        who = rf"session {holder.connection.info.backend_pid} \(keyrotation, role postgres\)"
        refusal = pytest.raises(BlockedError, match=rf"{who} is already at ab/rows")
        with refusal, ledger.lock("ab/rows"):
            pass


def test_a_lock_dies_with_its_process(ledger: PostgresLedger, another: Another) -> None:
    holder = another()
    with contextlib.suppress(DatabaseUnavailableError), holder.lock("ab/rows"):
        holder.connection.close()
    # The server notices in its own time, but at once when it is told to end the session.
    ledger.connection.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE application_name = 'keyrotation' AND pid <> pg_backend_pid()"
    )
    with ledger.lock("ab/rows"):
        pass


def test_of_two_requests_at_once_one_is_refused_by_a_sentence(another: Another) -> None:
    first, second = another(), another()
    refused: list[RequestError] = []
    started = threading.Event()

    def open_second() -> None:
        started.set()
        try:
            second.open(rotation(2), text_of(rotation(2)))
        except RequestError as error:
            refused.append(error)

    thread = threading.Thread(target=open_second)
    with first.transaction():
        first.open(rotation(1), TEXT)
        thread.start()
        started.wait()
    thread.join()
    assert [each.id for each in first.requests()] == [rotation(1).id]
    assert "another rotation is not finished" in str(refused[0])


@pytest.mark.parametrize(
    ("beginning", "sentence"),
    [
        pytest.param("abcde", "the first six or more", id="too short"),
        pytest.param("zzzzzzzz", "the first six or more", id="not hex"),
        pytest.param("%%%%%%", "the first six or more", id="a pattern"),
        pytest.param("abcdef", "2 requests begin with abcdef; give more digits: abcdef", id="ambiguous"),
        pytest.param("abcdef9", "there is no request", id="unknown"),
    ],
)
def test_a_beginning_that_names_no_single_rotation_is_refused(
    ledger: PostgresLedger, beginning: str, sentence: str
) -> None:
    for last in "01":
        opened = rotation(id="abcdef" + last.zfill(26))
        ledger.open(opened, text_of(opened))
        ledger.set_status(opened.id, RequestStatus.CANCELLED)
    with pytest.raises(RequestError, match=sentence):
        ledger.walk(beginning)


ROTATION = """
    SELECT id, type, action, source_version, source_fingerprint, target_version, reason, incident, requested_by,
           requested_at, start_by, finish_by, audit_seq, audit_hash, approval_text, status, started_at, finished_at,
           promotion_xid, blocked_by, supersedes, not_before, source, target
    FROM keyrotation.rotations WHERE id = %s
"""
KEYS = "SELECT version, state, fingerprint, created_at, name FROM keyrotation.key_versions ORDER BY version"


@pytest.mark.parametrize(
    "statuses",
    [
        pytest.param((), id="requested"),
        pytest.param((RequestStatus.RUNNING, RequestStatus.PAUSED), id="paused"),
        pytest.param((RequestStatus.RUNNING, RequestStatus.PAUSED, RequestStatus.RUNNING), id="resumed"),
        pytest.param((RequestStatus.RUNNING, RequestStatus.FINISHED), id="finished"),
    ],
)
def test_the_view_of_rotations_shows_what_the_replay_says(
    ledger: PostgresLedger, statuses: tuple[RequestStatus, ...]
) -> None:
    ledger.pin_roster(ROSTER)
    ledger.open(rotation(2), text_of(rotation(2)))
    ledger.set_status(rotation(2).id, RequestStatus.CANCELLED)
    opened = rotation(
        supersedes=rotation(2).id,
        not_before=AT,
        type=RotationType.EMERGENCY,
        incident="INC-2026-001",
        target=KeyVersion(2, 2),
    )
    open_signed(ledger, opened)
    for xid in (4711, 4712):
        ledger.set_promotion(opened.id, xid)
    for status in statuses:
        ledger.set_status(opened.id, status)
    ledger.block(rotation().id, "web-1 lags")
    ledger.block(rotation().id, None)
    ledger.block(rotation().id, "web-2 lags \N{EN DASH} restart it")
    [seen] = ledger.query(ROTATION, (rotation().id,))
    reported = ledger.walk(rotation().id)
    expected = {name: getattr(reported, name) for name in seen if hasattr(reported, name)} | {
        "source_version": reported.source.number,
        "target_version": reported.target.number,
        "source": "v1",
        "target": "v2x",
        "audit_seq": reported.audit_head[0],
        "audit_hash": reported.audit_head[1],
        "approval_text": text_of(opened).decode(),
    }
    assert seen == expected


def test_the_view_of_key_versions_shows_what_the_replay_says(ledger: PostgresLedger) -> None:
    ledger.pin_roster(ROSTER)
    for version in (V1, KeyVersion(2, 2)):
        fingerprint = f"{version.number}f" * 32
        ledger.add_key(KeyRecord(version, KeyState.PRE_ACTIVATION, fingerprint, AT), None)
    open_signed(ledger, rotation())
    for state in (KeyState.ACTIVE, KeyState.DEACTIVATED):
        ledger.set_key_state(V1, state, rotation().id)
    records = ledger.keys()
    expected = [(key.version.number, key.state, key.fingerprint, key.created_at, str(key.version)) for key in records]
    assert [each[-1] for each in expected] == ["v1", "v2x"]
    assert [tuple(row.values()) for row in ledger.query(KEYS)] == expected
    with owner_of(ledger.connection.info.dsn) as owner:  # signed by nobody, as the view does not ask
        Forger(owner).append(KeyReplaced(KeyVersion(2, 2), "2f" * 32, "3f" * 32), rotation().id)
    assert [row["fingerprint"] for row in ledger.query(KEYS)] == ["1f" * 32, "3f" * 32]


def test_progress_adds_up_the_walks_of_a_shards_relations(ledger: PostgresLedger) -> None:
    for relation, start, here, end in (("a", 0, 10, 20), ("b", 5, 6, 15)):
        ledger.connection.execute(
            "INSERT INTO keyrotation.shard_walks (request, table_name, shard, relation, filenode, first_page,"
            " next_page, end_page, rows, seconds, updated_at)"
            " VALUES (%s, 'clients', 1, %s, 1, %s, %s, %s, 30, 0.5, now())",
            (rotation().id, relation, start, here, end),
        )
    (progress,) = ledger.shard_progress(rotation().id)
    assert (progress.table, progress.shard, progress.done_pages, progress.total_pages) == ("clients", 1, 11, 30)
    assert (progress.rows, progress.rows_per_second) == (60, 60.0)


def test_the_rate_of_a_shard_is_that_of_its_workers_together(ledger: PostgresLedger) -> None:
    for worker, here in ((0, 10), (1, 12), (2, 20)):  # the last one is done
        ledger.connection.execute(
            "INSERT INTO keyrotation.shard_walks (request, table_name, shard, slice, relation, filenode, first_page,"
            " next_page, end_page, rows, seconds, updated_at)"
            " VALUES (%s, 'clients', 1, %s, 'a', 1, 0, %s, 20, 30, 0.5, now())",
            (rotation().id, worker, here),
        )
    (progress,) = ledger.shard_progress(rotation().id)
    assert (progress.rows, progress.seconds, progress.workers, progress.rows_per_second) == (90, 1.5, 2, 120.0)


def test_the_source_procedures_row_is_begun_at_the_start_and_completed_once(ledger: PostgresLedger) -> None:
    ledger.open(rotation(), TEXT)
    started = replace(rotation(), started_at=AT)
    ledger.write_rotation_audit(started, "Ada", 0, None)
    ledger.write_rotation_audit(started, "Ada", 41, datetime(2026, 3, 1, 13, 0, tzinfo=UTC))
    ledger.write_rotation_audit(started, "Ada", 99, datetime(2026, 3, 9, tzinfo=UTC))
    rows = ledger.query(
        "SELECT rotation_date, old_key_version, new_key_version, rotation_type, initiated_by, completion_date,"
        " records_reencrypted, notes FROM keyrotation.key_rotation_audit"
    )
    assert [tuple(row.values()) for row in rows] == [
        (AT.replace(tzinfo=None), "v1", "v2", "routine", "Ada", datetime(2026, 3, 1, 13, 0), 41, "yearly")  # noqa: DTZ001
    ]


def test_a_lost_connection_is_one_sentence(ledger: PostgresLedger, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute("SELECT pg_terminate_backend(%s, 5000)", (ledger.connection.info.backend_pid,))
    for _ in range(2):
        with pytest.raises(DatabaseUnavailableError, match="was lost; check that the server runs"):
            ledger.append(Note(EventKind.BACKUP_MADE, {}))


def test_a_connection_lost_in_the_middle_of_a_transaction_is_the_same_sentence(
    ledger: PostgresLedger, database_url: str
) -> None:
    def lose() -> None:
        with ledger.transaction():
            ledger.append(Note(EventKind.BACKUP_MADE, {}))
            with psycopg.connect(database_url, autocommit=True) as admin:
                admin.execute("SELECT pg_terminate_backend(%s, 5000)", (ledger.connection.info.backend_pid,))
            ledger.append(Note(EventKind.BACKUP_MADE, {}))

    with pytest.raises(DatabaseUnavailableError, match="was lost; check that the server runs"):
        lose()
    with connect(database_url) as again:
        assert ledger_on(again).head().seq == 0


def test_a_right_that_is_revoked_within_a_look_is_what_the_look_ends_with(ledger: PostgresLedger) -> None:
    role = f"revoked_in_{ledger.connection.info.dbname}"
    ledger.connection.execute(f"CREATE ROLE {role}")

    def look() -> None:
        with ledger.snapshot():
            ledger.connection.execute(f"SET LOCAL ROLE {role}")
            with suppress(PreflightError):  # as each part of a status shows its own failure
                ledger.head()
            ledger.connection.execute("SELECT 1")

    try:
        with pytest.raises(PreflightError, match="may not use the schema keyrotation"):
            look()
        assert ledger.head().seq == 0
    finally:
        ledger.connection.execute(f"DROP ROLE {role}")


def test_to_a_role_without_rights_on_the_schema_the_error_names_the_right_one(ledger: PostgresLedger) -> None:
    role = f"stranger_of_{ledger.connection.info.dbname}"
    ledger.connection.execute(f"CREATE ROLE {role}")
    ledger.connection.execute(f"SET ROLE {role}")
    try:
        with pytest.raises(PreflightError, match="may not use the schema keyrotation"):
            ledger.head()
    finally:
        ledger.connection.execute("RESET ROLE")
        ledger.connection.execute(f"DROP ROLE {role}")


def test_reading_sees_what_is_new_holds_no_snapshot_and_is_one_transaction(
    ledger: PostgresLedger, another: Another
) -> None:
    other, session = another(), ledger.connection.info.backend_pid
    with ledger.reading(), ledger.reading():
        began = ledger.query("SELECT now()")
        assert ledger.head().seq == 0
        other.append(Note(EventKind.COUNTED, {}))
        assert ledger.head().seq == 1
        assert ledger.query("SELECT now()") == began
        held = "SELECT backend_xmin, backend_xid, state FROM pg_stat_activity WHERE pid = %s"
        assert other.connection.execute(held, (session,)).fetchone() == (None, None, "idle in transaction")
    assert ledger.connection.info.transaction_status is TransactionStatus.IDLE


def test_reading_continues_after_a_failed_statement_and_after_a_snapshot(ledger: PostgresLedger) -> None:
    isolation = "SELECT current_setting('transaction_isolation') AS level"
    with ledger.reading():
        with pytest.raises(psycopg.errors.DivisionByZero):
            ledger.query("SELECT 1 / 0")
        assert ledger.head().seq == 0
        with ledger.snapshot():
            assert ledger.query(isolation)[0]["level"] == "repeatable read"
        assert ledger.query(isolation)[0]["level"] == "read committed"
        assert ledger.connection.info.transaction_status is TransactionStatus.INTRANS
    assert ledger.append(Note(EventKind.COUNTED, {})).seq == 1


def test_a_change_while_reading_is_committed_at_once(ledger: PostgresLedger, another: Another) -> None:
    with ledger.reading():
        ledger.append(Note(EventKind.COUNTED, {}))
        assert another().head().seq == ledger.head().seq == 1


def test_a_connection_that_is_lost_while_reading_is_said_so(ledger: PostgresLedger, another: Another) -> None:
    def lose() -> None:
        with ledger.reading():
            another().query("SELECT pg_terminate_backend(%s, 5000)", (ledger.connection.info.backend_pid,))
            ledger.head()

    with pytest.raises(DatabaseUnavailableError, match="was lost"):
        lose()


def test_what_another_thread_reads_after_a_snapshot_began_is_not_taken_for_lost(
    migrated: Connection, database_url: str
) -> None:
    """The threads of a process share what it has read of an audit, by the identity of its database."""
    identity = f"{migrated.info.dbname}@localhost, system identifier 8"
    with connect(database_url) as connection:
        ledger, other = (
            PostgresLedger(each, SystemClock(), "dba@clinic", identity, good_at_start)
            for each in (migrated, connection)
        )
        ledger.append(Note(EventKind.BACKUP_MADE, {"n": 1}))
        assert ledger.replayed().lost is None
        with ledger.snapshot():
            assert ledger.head().seq == 1
            other.append(Note(EventKind.BACKUP_MADE, {"n": 2}))
            assert other.replayed().head.seq == 2
            seen = ledger.replayed()
            assert (seen.head.seq, seen.lost) == (1, None)
        assert (ledger.replayed().head.seq, ledger.replayed().lost) == (2, None)
