"""Locks of the ledger on a real server: nobody but our role takes one, and whoever is waited for is named."""

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from keyrotation_pipeline.adapters.postgres.ledger import chain, migrate, transactions
from keyrotation_pipeline.adapters.postgres.ledger.postgres_ledger import PostgresLedger
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.errors import AtWorkError, BlockedError, DatabaseUnavailableError
from keyrotation_pipeline.model.audit import EventKind, Note
from keyrotation_pipeline_tests.integration.test_ledger import ledger_on
from keyrotation_pipeline_tests.waiting import eventually

NOTE = Note(EventKind.BACKUP_MADE, {})
TABLE_LOCK_MODES = (
    "ACCESS SHARE", "ROW SHARE", "ROW EXCLUSIVE", "SHARE UPDATE EXCLUSIVE", "SHARE", "SHARE ROW EXCLUSIVE", "EXCLUSIVE",
    "ACCESS EXCLUSIVE",
)  # fmt: skip


@pytest.fixture
def ledger(migrated: Connection) -> PostgresLedger:
    return ledger_on(migrated)


@pytest.fixture
def another(database_url: str) -> Iterator[Callable[[], PostgresLedger]]:
    """`another()`: the ledger as another process has it, on a connection of its own."""
    with contextlib.ExitStack() as opened:
        yield lambda: ledger_on(opened.enter_context(connect(database_url)))


@pytest.fixture
def stranger(connection: Connection, database_url: str) -> Iterator[Connection]:
    """A role that may connect, and read the schema `keyrotation` as an auditor does."""
    role = f"stranger_of_{connection.info.dbname}"
    connection.execute(f"CREATE ROLE {role} LOGIN".encode())
    with psycopg.connect(make_conninfo(database_url, user=role), autocommit=True) as opened:
        yield opened
    connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


def hold_all_advisory_locks(stranger: Connection) -> None:
    """Take the advisory locks of these names, and each that any session of the database holds or waits for."""
    names = ("audit", "ab/rows", "backup", "migrate")
    for name in names:
        digest = hashlib.sha256(f"keyrotation/{name}".encode()).digest()
        stranger.execute("SELECT pg_advisory_lock(%s)", (int.from_bytes(digest[:8], signed=True),))
    stranger.execute(
        "SELECT pg_advisory_lock((classid::bigint << 32) | objid::bigint) FROM pg_locks"
        " WHERE locktype = 'advisory' AND objsubid = 1 AND pid <> pg_backend_pid()"
    )


def test_a_role_that_may_only_connect_holds_nothing_up(
    ledger: PostgresLedger, stranger: Connection, database_url: str
) -> None:
    hold_all_advisory_locks(stranger)
    ledger.connection.execute("SET statement_timeout = '5s'")
    assert ledger.append(NOTE).seq == 1
    with ledger.lock("ab/rows"), ledger.lock("backup"):
        held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = %s"
        assert stranger.execute(held, (ledger.connection.info.backend_pid,)).fetchone() == (0,)
    migrate.migrate(database_url)


@pytest.mark.parametrize("table", ["audit_head", "session_locks", "alembic_version"])
def test_a_role_that_may_read_our_tables_holds_nothing_up(
    ledger: PostgresLedger, stranger: Connection, database_url: str, table: str
) -> None:
    reader = stranger.info.user
    ledger.connection.execute(f"GRANT USAGE ON SCHEMA keyrotation TO {reader}".encode())
    ledger.connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA keyrotation TO {reader}".encode())
    ledger.connection.execute("SET statement_timeout = '5s'")
    for seq, mode in enumerate(TABLE_LOCK_MODES, 1):
        with stranger.transaction(force_rollback=True):
            may_read = contextlib.nullcontext() if mode == "ACCESS SHARE" else pytest.raises(psycopg.Error)
            with may_read, stranger.transaction():
                stranger.execute(f"LOCK TABLE keyrotation.{table} IN {mode} MODE".encode())
            with pytest.raises(psycopg.errors.InsufficientPrivilege), stranger.transaction():
                stranger.execute(f"SELECT FROM keyrotation.{table} FOR KEY SHARE".encode())
            assert ledger.append(NOTE).seq == seq, mode
            with ledger.lock("ab/rows"):
                migrate.migrate(database_url)


def test_whoever_has_locked_the_audit_is_named(
    ledger: PostgresLedger, another: Callable[[], PostgresLedger], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain, "LOCK", chain.LOCK.replace("30s", "50ms"))
    holder = another()
    who = rf"session {holder.connection.info.backend_pid} \(keyrotation, role postgres\) has locked the audit"
    with holder.change(), pytest.raises(BlockedError, match=who):
        ledger.append(NOTE)
    assert ledger.append(NOTE).seq == 1


def test_neither_a_reader_nor_who_waits_is_taken_for_the_holder(
    ledger: PostgresLedger, another: Callable[[], PostgresLedger]
) -> None:
    reader, holder, waiter = another(), another(), another()
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = %s"

    with reader.connection.transaction(), holder.change():
        reader.head()
        thread = threading.Thread(target=waiter.append, args=(NOTE,))
        thread.start()
        assert eventually(
            lambda: ledger.connection.execute(waits, (waiter.connection.info.backend_pid,)).fetchone() == (1,)
        )
        found = ledger.query(transactions.TABLE_HOLDER, {"table": "keyrotation.audit_head"})
    thread.join()
    assert [row["pid"] for row in found] == [holder.connection.info.backend_pid]
    assert ledger.head().seq == 1


@pytest.mark.parametrize(
    ("holders", "who"),
    [
        pytest.param([], "a session that has just ended", id="nobody any more"),
        pytest.param(
            [{"pid": None, "usename": None, "application_name": None}],
            "a prepared transaction (see pg_prepared_xacts)",
            id="prepared transaction",
        ),
        pytest.param(
            [{"pid": 7, "usename": "dba", "application_name": ""}], "session 7 (unnamed, role dba)", id="unnamed"
        ),
    ],
)
def test_who_holds_a_lock_is_described(holders: list[dict[str, object]], who: str) -> None:
    assert transactions.described(holders) == who


def test_whoever_migrates_is_named(
    ledger: PostgresLedger, another: Callable[[], PostgresLedger], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "PATIENCE", "50ms")
    other = another().connection
    who = rf"session {other.info.backend_pid} \(keyrotation, role postgres\) is migrating"
    with other.transaction():
        other.execute("LOCK TABLE keyrotation.alembic_version IN EXCLUSIVE MODE")
        with pytest.raises(DatabaseUnavailableError, match=who):
            migrate.migrate(database_url)


def test_a_lock_is_not_taken_again_by_the_session_that_holds_it(ledger: PostgresLedger) -> None:
    with ledger.lock("ab/rows"):
        with pytest.raises(AtWorkError, match="is already at ab/rows"), ledger.lock("ab/rows"):
            pass
        with pytest.raises(AtWorkError, match="is already at ab/rows"), ledger.lock("ab/rows"):
            pass


def test_of_many_sessions_that_take_a_lock_at_once_one_gets_it(
    ledger: PostgresLedger, another: Callable[[], PostgresLedger]
) -> None:
    ledgers, at_once, done = [another() for _ in range(6)], threading.Barrier(6), threading.Barrier(6)
    got: list[bool] = []

    def take(ledger: PostgresLedger) -> None:
        for _ in range(20):
            at_once.wait()
            with contextlib.ExitStack() as held:
                with contextlib.suppress(AtWorkError):
                    held.enter_context(ledger.lock("ab/rows"))
                    got.append(True)
                done.wait()

    threads = [threading.Thread(target=take, args=(ledger,)) for ledger in ledgers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 20


def test_a_lock_of_an_ended_session_is_free_though_another_has_its_process_id(
    ledger: PostgresLedger, another: Callable[[], PostgresLedger]
) -> None:
    holder = another()
    with holder.lock("ab/rows"):
        ledger.connection.execute(
            "UPDATE keyrotation.session_locks SET session_began_at = session_began_at - interval '1 day'"
        )
        with ledger.lock("ab/rows"):
            pass


def test_a_lock_taken_while_reading_is_held_at_once_and_until_its_end(
    ledger: PostgresLedger, another: Callable[[], PostgresLedger]
) -> None:
    other = another()
    with ledger.reading():
        with ledger.lock("ab/rows"):
            assert ledger.head().seq == 0
            with pytest.raises(AtWorkError), other.lock("ab/rows"):
                pass
        with other.lock("ab/rows"):
            pass
        assert ledger.head().seq == 0


def test_a_commit_that_takes_or_releases_a_lock_waits_for_no_disk(ledger: PostgresLedger) -> None:
    is_ahead = "SELECT pg_current_wal_insert_lsn() > pg_current_wal_flush_lsn() AS of_the_disk"
    taken, released = False, False
    for _ in range(20):  # the server writes by itself five times a second
        with ledger.lock("ab/rows"):
            taken = taken or ledger.query(is_ahead)[0]["of_the_disk"]
            assert ledger.query("SELECT current_setting('synchronous_commit') AS setting")[0]["setting"] == "on"
        released = released or ledger.query(is_ahead)[0]["of_the_disk"]
    assert (taken, released) == (True, True)


def test_a_lock_that_a_change_itself_does_not_get_is_not_taken_for_that_of_the_audit(ledger: PostgresLedger) -> None:
    with pytest.raises(psycopg.errors.LockNotAvailable), ledger.change():
        raise psycopg.errors.LockNotAvailable
    assert ledger.append(NOTE).seq == 1


def test_a_session_that_has_the_process_id_of_one_before_the_servers_start_holds_no_lock(
    ledger: PostgresLedger, connection: Connection, stranger: Connection, database_url: str
) -> None:
    """Of another role's session ours sees no start: in a container, process ids begin at the same numbers again."""
    role = f"pipeline_of_{connection.info.dbname}"
    connection.execute(f"CREATE ROLE {role} LOGIN".encode())
    connection.execute(f"GRANT ALL ON SCHEMA keyrotation TO {role}".encode())
    connection.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA keyrotation TO {role}".encode())
    locked = "INSERT INTO keyrotation.session_locks (name, pid, session_began_at) VALUES (%s, %s, %s)"
    before = datetime.now(UTC) - timedelta(days=1)
    connection.execute(locked, ("ab/rows", stranger.info.backend_pid, before))
    try:
        with connect(make_conninfo(database_url, user=role)) as own:
            ours = ledger_on(own)
            assert ours.held_locks("ab/") == ()
            with ours.lock("ab/rows"):
                assert ledger.held_locks("ab/") == ("ab/rows",)
    finally:
        connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())
