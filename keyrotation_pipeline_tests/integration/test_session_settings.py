"""Settings of roles and databases, and encodings of databases, that must not reach our sessions."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import psycopg
import pytest

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.postgres.ledger.migrate import migrate
from keyrotation_pipeline.adapters.postgres.ledger.postgres_ledger import PostgresLedger
from keyrotation_pipeline.adapters.postgres.server import connection as server_connection
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.audit.verify import verify_audit
from keyrotation_pipeline.errors import DatabaseUnavailableError, PreflightError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.approval import Officer, Roster
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.model.proof import SnapshotPosition
from keyrotation_pipeline.model.requests import Step, StepRecord
from keyrotation_pipeline.model.tables import EncryptedTable, Shard, TableName
from keyrotation_pipeline_tests.contract.ledger_suite import open_signed, rotation
from keyrotation_pipeline_tests.fakes.chain import good_at_start
from keyrotation_pipeline_tests.integration.encrypted_rows import PostgresPorts, opened, ring_of, sealed
from keyrotation_pipeline_tests.servers import EMBEDDED_18, Server, discard, loopback_address, start_server
from keyrotation_pipeline_tests.waiting import eventually

V1, V2 = KeyVersion(1), KeyVersion(2)
CLIENTS = EncryptedTable(TableName("public", "clients"), ("Name", "email"))
AT = datetime(2026, 3, 31, 12, 0, 0, 123456, tzinfo=UTC)


@contextmanager
def hostile(server: Server, name: str, options: str, *settings: str) -> Iterator[str]:
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 {options}".encode())
        for setting in settings:
            admin.execute(f"ALTER DATABASE {name} SET {setting}".encode())
        try:
            yield server.url(name)
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def rotate(url: str, between: Callable[[], None] = lambda: None) -> None:
    """What a rotation does in the database, from the schema to the evidence."""
    migrate(url)
    ring = ring_of(1, 2)
    with connect(url) as connection:
        ledger = PostgresLedger(
            connection, SystemClock(), "tester", "clinic@localhost, system identifier 7", good_at_start
        )
        ledger.add_key(KeyRecord(V1, KeyState.PRE_ACTIVATION, "1f" * 32, AT), None)
        (record,) = ledger.keys()
        assert record.created_at == AT
        connection.execute('CREATE TABLE public.clients (id numeric PRIMARY KEY, "Name" text, email varchar(200))')
        rows = [(f"{number}.5", sealed(ring, 1, "Ada"), sealed(ring, 1, "a@x")) for number in range(50)]
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO public.clients VALUES (%s, %s, %s)", rows)
        ports = PostgresPorts(url, connection)
        between()
        ports.rewriting.reencrypt_shard("0f" * 16, Shard(CLIENTS, 0, 1), ring, V2, lambda _: None)
        (counted,) = ports.inventory.count([CLIENTS])
        assert counted.values_by_version == {V2: 100}
        assert counted.counted_at.utcoffset() is not None
        assert ports.rewriting.decrypt_all(CLIENTS, ring, lambda _: None).failures == 0
        ports.fencing.fence(CLIENTS, [V1])
        assert ports.fencing.fences(CLIENTS) == (V1,)
        moment = SnapshotPosition(ports.evidence.current_xid(), ports.evidence.barrier())
        with ledger.transaction():
            between()
            assert ports.evidence.zero_old_rows([CLIENTS], V1, [V1], moment).values == 100
        stored = connection.execute('SELECT "Name" FROM public.clients LIMIT 1').fetchall()[0][0]
        assert opened(ring, str(stored)) == ("v2", "Ada")


@pytest.mark.parametrize("setting", [
    "DateStyle = 'German, DMY'", "IntervalStyle = 'sql_standard'", "TimeZone = 'Asia/Kathmandu'",
    "extra_float_digits = -15", "quote_all_identifiers = on", "client_encoding = 'LATIN1'",
    "client_encoding = 'SQL_ASCII'", "standard_conforming_strings = off", "array_nulls = off",
    "bytea_output = 'escape'", "transform_null_equals = on", "statement_timeout = '300ms'",
    "default_transaction_isolation = 'serializable'",
])  # fmt: skip
def test_a_setting_of_the_database_does_not_reach_our_sessions(server: Server, setting: str) -> None:
    with hostile(server, "hostile_setting", "", setting) as url:
        rotate(url)


DECOYS = """
CREATE SCHEMA decoy;
CREATE FUNCTION decoy.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS 'BEGIN RAISE ''called''; END';
CREATE FUNCTION decoy.to_regclass(text) RETURNS regclass LANGUAGE plpgsql AS 'BEGIN RAISE ''called''; END';
CREATE FUNCTION decoy.equals(text, text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE ''called''; END';
CREATE OPERATOR decoy.= (LEFTARG = text, RIGHTARG = text, FUNCTION = decoy.equals)
"""


def test_no_function_or_operator_that_the_search_path_of_the_database_leads_to_is_called(server: Server) -> None:
    with hostile(server, "hostile_path", "", "search_path = decoy, pg_catalog") as url:
        with psycopg.connect(url, autocommit=True) as owner:
            owner.execute(DECOYS)
        rotate(url)


@pytest.mark.parametrize(
    "setting",
    [
        "idle_session_timeout = '300ms'",
        "transaction_timeout = '300ms'",
        "idle_in_transaction_session_timeout = '300ms'",
    ],
)
def test_no_time_limit_of_the_database_ends_our_sessions(server: Server, setting: str) -> None:
    with hostile(server, "hostile_limit", "", setting) as url:
        rotate(url, between=lambda: time.sleep(0.5))


@pytest.mark.parametrize("setting", ["transaction_timeout", "idle_in_transaction_session_timeout"])
def test_a_time_limit_that_ends_a_session_before_it_is_lifted_is_a_refusal(
    server: Server, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of a millisecond, say; otherwise whoever sets it for a member of a fleet would end every command."""
    monkeypatch.setattr(server_connection, "_require_direct", lambda *_: time.sleep(0.5))
    with (
        hostile(server, "hostile_limit", "", f"{setting} = '1ms'") as url,
        pytest.raises(
            DatabaseUnavailableError,
            # At a moment when the server has gone already, nobody gets its reason.
            match=r"^cannot connect to hostile_limit@\S+: the (.*transaction timeout of role or|server ended the conn)",
        ),
    ):
        connect(url)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "EUC_JP", "UTF8"])
def test_a_database_of_another_encoding_is_rotated(server: Server, encoding: str) -> None:
    with hostile(server, "hostile_encoding", f"ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'") as url:
        rotate(url)


def test_a_commit_of_ours_is_on_disk_even_where_the_database_does_not_ask_for_it(server: Server) -> None:
    show = "SHOW synchronous_commit"
    for setting, expected in (("off", "on"), ("remote_apply", "remote_apply")):
        with (
            hostile(server, "hostile_commit", "", f"synchronous_commit = {setting}") as url,
            connect(url) as connection,
        ):
            assert connection.execute(show.encode()).fetchone() == (expected,)


@pytest.mark.parametrize("encoding", ["LATIN1", "WIN1251", "EUC_JP"])
def test_texts_that_an_encoding_lacks_are_kept_as_they_are(server: Server, encoding: str) -> None:
    text = r"Größe – ‘年次’, Łukasz … \u{41} \u0041"
    roster = Roster(2, (Officer("Zoë Łukasz", "A" * 40), Officer("Ben–", "B" * 40)), ("F" * 40,))
    with hostile(server, "hostile_texts", f"ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'") as url:
        migrate(url)
        with connect(url) as connection:
            ledger = PostgresLedger(
                connection, SystemClock(), "Łukasz", f"clinic@{encoding}, system identifier 7", good_at_start
            )
            ledger.pin_roster(roster)
            assert ledger.pinned_roster() == roster
            opened = rotation(reason=text, requested_by=text)
            open_signed(ledger, opened, roster)
            ledger.block(opened.id, text)
            ledger.note_wait(opened.id, text, text)
            ledger.finish_step(opened.id, StepRecord(Step.KEY_VERSION, text, None, AT, {text: [text]}))
            ledger.write_rotation_audit(opened, "Ada", 0, None)
            walk = ledger.walk(opened.id)
            assert (walk.reason, walk.requested_by, walk.steps[0].facts) == (text, text, {text: [text]})
            assert [(each.place, each.waiting_for) for each in ledger.waits(opened.id)] == [(text, text)]
            assert ledger.rotation_audit()[0][1].notes == text
            verify_audit(ledger)
            [shown] = ledger.query("SELECT reason FROM keyrotation.rotations")
            assert shown["reason"].startswith(text.partition("…")[0])


def test_names_and_keys_that_are_no_utf8_are_one_sentence(server: Server) -> None:
    ring = ring_of(1, 2)
    with hostile(server, "hostile_bytes", "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'") as url:
        migrate(url)
        with psycopg.connect(url, autocommit=True, client_encoding="LATIN1") as latin, connect(url) as connection:
            latin.execute('CREATE TABLE public.clients (id text PRIMARY KEY, "Name" text, email text)')
            latin.execute("INSERT INTO public.clients VALUES ('é', %s)", (sealed(ring, 1, "x")[:-8] + "AAAAAAA=",))
            ports = PostgresPorts(url, connection)
            assert [each for each in ports.environment.preflight([CLIENTS], V2) if each.fatal] == []
            with pytest.raises(PreflightError, match="the key of a row to be named is not"):
                ports.rewriting.sweep("0f" * 16, CLIENTS, ring, V2, wait=False)
            latin.execute('CREATE TABLE public."größe" (a text)')
            reported = "the catalog cannot be read, since a name or text in it is not valid UTF-8"
            assert any(reported in each.message for each in ports.environment.preflight([CLIENTS], V2) if each.fatal)
            with pytest.raises(PreflightError, match=reported):
                ports.inventory.discover([CLIENTS])


def test_a_connection_that_could_not_be_set_up_is_closed(
    connection: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_connection, "SESSION_SETTINGS", "SET statement_timeout = 20; SELECT pg_sleep(5)")
    refusals = []
    for _ in range(3):
        with pytest.raises(DatabaseUnavailableError) as refusal:  # its traceback keeps what was opened
            connect(database_url)
        refusals.append(refusal)
    left = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    assert eventually(lambda: connection.execute(left.encode()).fetchone() == (0,), 10)


@pytest.fixture(scope="module")
def over_tcp() -> Iterator[str]:
    """The URL of a server that listens on TCP."""
    address = loopback_address(3)
    server = start_server(EMBEDDED_18, f"listen_addresses={address}")
    yield f"postgresql://postgres@{address}/postgres"
    discard(server)


def test_a_side_that_vanishes_is_noticed_by_the_other_within_a_minute(over_tcp: str) -> None:
    with connect(over_tcp) as connection:
        settings = "SELECT name, setting FROM pg_settings WHERE name LIKE 'tcp\\_%' ORDER BY name"
        assert connection.execute(settings.encode()).fetchall() == [
            ("tcp_keepalives_count", "3"),
            ("tcp_keepalives_idle", "30"),
            ("tcp_keepalives_interval", "10"),
            ("tcp_user_timeout", "30000"),
        ]
        assert ours(connection) == [30, 10, 3, 30_000]
    with connect(f"{over_tcp}?keepalives_idle=77&tcp_user_timeout=90000") as connection:
        assert ours(connection) == [77, 10, 3, 90_000]


def ours(connection: Connection) -> list[int]:
    names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
    with socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM) as held:
        return [held.getsockopt(socket.IPPROTO_TCP, name) for name in names]


_READING = """
import sys
from keyrotation_pipeline.adapters.postgres.server.connection import connect
connection = connect(sys.argv[1])
print(connection.info.backend_pid, flush=True)
connection.execute("SELECT repeat('x', 1000) FROM generate_series(1, 100000000)")
"""


@pytest.mark.extended
def test_a_process_that_is_frozen_in_a_reading_keeps_its_snapshot_for_half_a_minute_at_most(over_tcp: str) -> None:
    held = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND backend_xmin IS NOT NULL"
    with (
        psycopg.connect(over_tcp, autocommit=True) as watching,
        subprocess.Popen([sys.executable, "-c", _READING, over_tcp], stdout=subprocess.PIPE, text=True) as reader,
    ):
        assert reader.stdout is not None
        pid = int(reader.stdout.readline())
        assert eventually(lambda: watching.execute(held, (pid,)).fetchone() == (1,))
        reader.send_signal(signal.SIGSTOP)
        try:
            assert eventually(lambda: watching.execute(held, (pid,)).fetchone() == (0,), seconds=60)
        finally:
            reader.kill()
