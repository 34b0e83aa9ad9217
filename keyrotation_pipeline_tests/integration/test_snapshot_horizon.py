"""Who could still show an old value: each kind of holder, for real, named while it holds and not a moment longer."""

import os
import subprocess
from collections.abc import Callable, Iterator

import psycopg
import pytest

from keyrotation_pipeline.adapters.postgres.retirement import snapshot_horizon
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.model.tables import EncryptedTable, TableName
from keyrotation_pipeline_tests.servers import Server
from keyrotation_pipeline_tests.waiting import PATIENCE_SECONDS, eventually

CLIENTS = EncryptedTable(TableName("public", "clients"), ("first_name",))


@pytest.fixture
def clients(connection: Connection) -> Connection:
    connection.execute("CREATE TABLE public.clients (id int PRIMARY KEY, first_name text)")
    connection.execute("INSERT INTO public.clients VALUES (1, 'v1:')")
    return connection


def replaced(connection: Connection) -> tuple[int, str]:
    """Replace the old value; the moment after it."""
    connection.execute("UPDATE public.clients SET first_name = 'v2:'")
    return snapshot_horizon.current_xid(connection), snapshot_horizon.barrier(connection)


def until_nobody_holds(
    connection: Connection, moment: tuple[int, str], seconds: float = PATIENCE_SECONDS
) -> tuple[str, ...]:
    eventually(lambda: not snapshot_horizon.blockers(connection, *moment), seconds)
    return snapshot_horizon.blockers(connection, *moment)


def test_on_a_quiet_server_nobody_holds(clients: Connection, database_url: str) -> None:
    with connect(database_url):
        assert until_nobody_holds(clients, replaced(clients)) == ()


@pytest.mark.parametrize(
    ("opening", "holds"),
    [
        pytest.param(["BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT 1"], True, id="repeatable read"),
        pytest.param(["BEGIN", "DECLARE c CURSOR FOR TABLE public.clients", "FETCH 0 FROM c"], True, id="open cursor"),
        pytest.param(["BEGIN", "CREATE TABLE public.other ()"], True, id="unfinished write"),
        pytest.param(["BEGIN", "SELECT 1"], False, id="idle read committed"),
        pytest.param(["BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT 1", "COMMIT"], False, id="ended"),
    ],
)
def test_a_session_is_named_if_it_may_still_see_the_old_value(
    clients: Connection, database_url: str, opening: list[str], holds: bool
) -> None:
    with psycopg.connect(database_url, autocommit=True, application_name="report") as other:
        for statement in opening:
            other.execute(statement.encode())
        moment = replaced(clients)
        named = f"session {other.info.backend_pid} (report) is in a transaction"

        assert any(named in each for each in snapshot_horizon.blockers(clients, *moment)) is holds
    assert until_nobody_holds(clients, moment) == ()


def test_a_snapshot_taken_after_the_replacement_does_not_hold(clients: Connection, database_url: str) -> None:
    moment = replaced(clients)
    with psycopg.connect(database_url, autocommit=True) as other:
        other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT 1")
        assert until_nobody_holds(clients, moment) == ()


def test_a_session_of_another_database_does_not_hold(clients: Connection, server: Server) -> None:
    with psycopg.connect(server.url(), autocommit=True) as other:
        other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT 1")
        assert until_nobody_holds(clients, replaced(clients)) == ()


def test_a_prepared_transaction_from_before_is_named_until_it_ends(clients: Connection, database_url: str) -> None:
    with connect(database_url) as other:
        other.execute("BEGIN")
        other.execute("CREATE TABLE public.other ()")
        other.execute("PREPARE TRANSACTION 'nightly-2'")
    try:
        moment = replaced(clients)
        assert any("prepared transaction 'nightly-2'" in each for each in snapshot_horizon.blockers(clients, *moment))
    finally:
        clients.execute("ROLLBACK PREPARED 'nightly-2'")
    assert until_nobody_holds(clients, moment) == ()


def test_a_logical_slot_is_named_until_its_subscriber_has_the_replacement(clients: Connection) -> None:
    clients.execute("SELECT pg_create_logical_replication_slot('warehouse', 'pgoutput')")
    try:
        moment = replaced(clients)
        (named,) = snapshot_horizon.blockers(clients, *moment)
        assert "logical replication slot 'warehouse' is inactive, so its receiver may show old values" in named
        clients.execute("SELECT pg_replication_slot_advance('warehouse', pg_current_wal_flush_lsn())")
        assert until_nobody_holds(clients, moment) == ()
    finally:
        clients.execute("SELECT pg_drop_replication_slot('warehouse')")


def test_a_slot_of_another_database_does_not_hold(clients: Connection, server: Server) -> None:
    with psycopg.connect(server.url(), autocommit=True) as other:
        other.execute("SELECT pg_create_logical_replication_slot('elsewhere', 'pgoutput')")
        try:
            assert until_nobody_holds(clients, replaced(clients)) == ()
        finally:
            other.execute("SELECT pg_drop_replication_slot('elsewhere')")


def test_a_physical_slot_that_lags_is_named(clients: Connection) -> None:
    clients.execute("SELECT pg_create_physical_replication_slot('replica', true)")
    try:
        (named,) = snapshot_horizon.blockers(clients, *replaced(clients))
        assert "physical replication slot 'replica' is inactive, so its receiver may show old values" in named
    finally:
        clients.execute("SELECT pg_drop_replication_slot('replica')")


@pytest.fixture
def owner(clients: Connection, database_url: str) -> Iterator[str]:
    """A URL of a plain role that owns the database's tables and may see no other role's activity."""
    clients.execute("CREATE ROLE horizon_owner LOGIN")
    clients.execute("ALTER TABLE public.clients OWNER TO horizon_owner")
    yield database_url.replace("postgres@", "horizon_owner@")
    with connect(database_url) as admin:
        admin.execute("DROP OWNED BY horizon_owner")
        admin.execute("DROP ROLE horizon_owner")


def test_to_a_plain_role_sessions_that_it_may_not_see_are_reported(clients: Connection, owner: str) -> None:
    with connect(owner) as connection:
        moment = replaced(connection)
        assert any(
            "does not see 1 session of postgres" in each for each in snapshot_horizon.blockers(connection, *moment)
        )

        clients.execute("GRANT pg_read_all_stats TO horizon_owner")
        assert until_nobody_holds(connection, moment) == ()


def test_a_plain_role_sees_its_own_sessions_and_can_finish(clients: Connection, owner: str) -> None:
    clients.close()
    with connect(owner) as connection, connect(owner):
        assert until_nobody_holds(connection, replaced(connection)) == ()


@pytest.fixture
def standby(server: Server) -> Iterator[Server]:
    """A standby of the session's server that feeds its horizon back, by streaming alone, without a slot."""
    replica = Server(server.binaries, server.directory / "replica", server.user)
    copy = f"{server.directory}/replica/data"
    primary = f"host={server.directory} user=postgres"
    server.run("pg_basebackup", "-D", copy, "-d", primary, "-R", "-c", "fast", "-X", "stream")
    arguments = (
        f"-k {server.directory}/replica -c listen_addresses= -c hot_standby_feedback=on -c fsync=off"
        " -c wal_receiver_status_interval=1 -c max_connections=60 -c max_prepared_transactions=4"
    )
    replica.run("pg_ctl", "-D", copy, "-w", "-l", f"{copy}.log", "-o", arguments, "start")
    yield replica
    replica.run("pg_ctl", "-D", copy, "-w", "-m", "immediate", "stop")
    subprocess.run(["rm", "-rf", f"{server.directory}/replica"], check=True, env=os.environ)


def wait_until(condition: Callable[[], bool]) -> None:
    assert eventually(condition), "it did not come about"


def test_a_standby_is_named_while_it_lags_and_while_a_snapshot_is_open_on_it(
    clients: Connection, standby: Server
) -> None:
    database = str(clients.info.dbname)
    with psycopg.connect(standby.url(database), autocommit=True) as reader:
        wait_until(lambda: reader.execute("SELECT to_regclass('public.clients') IS NOT NULL").fetchone() == (True,))
        wait_until(lambda: until_nobody_holds(clients, (0, snapshot_horizon.barrier(clients)), 1) == ())

        reader.execute("SELECT pg_wal_replay_pause()")
        moment = replaced(clients)
        assert any("has not replayed" in each for each in snapshot_horizon.blockers(clients, *moment))
        reader.execute("SELECT pg_wal_replay_resume()")
        assert until_nobody_holds(clients, moment) == ()

        clients.execute("UPDATE public.clients SET first_name = 'v1:'")
        wait_until(lambda: reader.execute("SELECT first_name FROM public.clients").fetchone() == ("v1:",))
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT 1")
        wait_until(lambda: _walsender_xmin(clients) is not None)
        moment = replaced(clients)
        assert any("walreceiver" in each for each in snapshot_horizon.blockers(clients, *moment))
        assert reader.execute("SELECT first_name FROM public.clients").fetchone() == ("v1:",), "it does still show it"


def _walsender_xmin(connection: Connection) -> object:
    row = connection.execute(
        "SELECT backend_xmin::text FROM pg_stat_activity WHERE backend_type = 'walsender'"
    ).fetchone()
    return row[0] if row else None


@pytest.mark.parametrize(
    ("short", "following", "full"),
    [
        pytest.param(None, 900, None, id="none"),
        pytest.param(800, 900, 800, id="first epoch"),
        pytest.param(950, 900, 950, id="in progress, above the newest that completed"),
        pytest.param(2**32 - 5, 2**32 + 10, 2**32 - 5, id="before the wrap"),
        pytest.param(3, 2**32 - 2, 2**32 + 3, id="after the wrap, in progress"),
        pytest.param(7, 5 * 2**32 + 10, 5 * 2**32 + 7, id="fifth epoch"),
    ],
)
def test_a_short_transaction_id_is_widened_to_the_full_one_near_by(
    short: int | None, following: int, full: int | None
) -> None:
    assert snapshot_horizon.widen(short, following) == full


def test_sessions_names_lock_holders_first_and_else_who_is_connected(clients: Connection, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True, application_name="billing") as other:
        assert snapshot_horizon.sessions(clients, CLIENTS) == (f"session {other.info.backend_pid} (billing, local)",)
        other.execute("BEGIN; LOCK TABLE public.clients IN ROW EXCLUSIVE MODE")
        (named,) = snapshot_horizon.sessions(clients, CLIENTS)
        assert named.startswith(f"session {other.info.backend_pid} (billing, in a transaction for")
