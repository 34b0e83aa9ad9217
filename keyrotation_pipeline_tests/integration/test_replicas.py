"""Standbys and subscribers, real ones: none that was seen is forgotten, and each must have replayed."""

import itertools
import os
import struct
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest
from psycopg import sql
from psycopg.pq import ExecStatus, PGconn

from keyrotation_pipeline.adapters.postgres.engine import limits as engine_limits
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.inventory.relations import heaps
from keyrotation_pipeline.adapters.postgres.ledger.migrate import migrate
from keyrotation_pipeline.adapters.postgres.preflight import catalog_digest, preflight
from keyrotation_pipeline.adapters.postgres.retirement import snapshot_horizon
from keyrotation_pipeline.adapters.postgres.retirement.replicas import Replicas, accounted, write_down
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.errors import BlockedError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.tables import EncryptedTable, TableName
from keyrotation_pipeline_tests.servers import DEBIAN, EMBEDDED_18, Server, discard, standby_of, start_server
from keyrotation_pipeline_tests.waiting import eventually

pytestmark = pytest.mark.slow
CLIENTS = EncryptedTable(TableName("public", "clients"), ("first_name",))
_names = (f"replicated_{os.getpid()}_{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def primary() -> Iterator[Server]:
    """A server of this module's own, since whatever replicates from a server concerns all of its databases."""
    running = start_server(DEBIAN if DEBIAN.exists() else EMBEDDED_18, "max_wal_senders=10", "max_replication_slots=10")
    yield running
    discard(running)


@pytest.fixture
def clients(primary: Server) -> Iterator[Connection]:
    """A migrated database with an old value; its replication slots go when the test ends."""
    name = next(_names)
    with psycopg.connect(primary.url(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        migrate(primary.url(name))
        with connect(primary.url(name)) as connection:
            connection.execute("CREATE TABLE public.clients (id int PRIMARY KEY, first_name text)")
            connection.execute("INSERT INTO public.clients VALUES (1, 'v1:')")
            yield connection
        admin.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active")
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def replaced(connection: Connection) -> tuple[int, str]:
    """Replace the old value; the moment after it."""
    connection.execute("UPDATE public.clients SET first_name = 'v2:'")
    return snapshot_horizon.current_xid(connection), snapshot_horizon.barrier(connection)


def holders(connection: Connection, moment: tuple[int, str], declared: Replicas | None = None) -> tuple[str, ...]:
    found = snapshot_horizon.blockers(connection, *moment, declared or Replicas())
    assert not any("pg_terminate_backend" in each for each in found if "walsender" in each or "walreceiver" in each)
    return found


def shown(standby: Server, connection: Connection) -> str:
    """What the application reads on a standby."""
    with psycopg.connect(standby.url(str(connection.info.dbname))) as reader:
        row = reader.execute("SELECT first_name FROM public.clients").fetchone()
    return str(row and row[0])


def set_on(server: Server, name: str, value: str) -> str:
    """Change a setting of a running server; gives back what it was."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        before = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
        connection.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
        connection.execute("SELECT pg_reload_conf()")
    return str(before and before[0])


def streams(connection: Connection, *names: str) -> bool:
    """Whether exactly these are connected and have told what they have replayed."""
    rows = connection.execute(
        "SELECT application_name FROM pg_stat_replication WHERE replay_lsn IS NOT NULL AND state = 'streaming'"
    ).fetchall()
    return sorted(str(name) for (name,) in rows) == sorted(names)


def test_a_standby_that_dropped_out_after_it_was_seen_is_not_forgotten(clients: Connection, primary: Server) -> None:
    with standby_of(primary, name="reports") as standby:
        assert eventually(lambda: streams(clients, "reports") and shown(standby, clients) == "v1:")
        write_down(clients)
        # Its connection goes, and it serves old values to readers all the same.
        upstream = set_on(standby, "primary_conninfo", "")
        assert eventually(lambda: streams(clients))
        moment = replaced(clients)
        (sentence,) = holders(clients, moment)
        assert "standby 'reports@local', last seen" in sentence
        assert "start it again" in sentence
        assert shown(standby, clients) == "v1:"
        set_on(standby, "primary_conninfo", upstream)
        assert eventually(lambda: holders(clients, moment) == ())
        (replica,) = accounted(clients, Replicas())
        assert (replica.name, replica.kind) == ("reports@local", "standby")
        assert clients.execute("SELECT %s::pg_lsn >= %s::pg_lsn", (replica.replayed, moment[1])).fetchone() == (True,)
        assert shown(standby, clients) == "v2:"


def test_a_standby_that_is_declared_gone_holds_nothing_and_no_other_is_meant_by_it(
    clients: Connection, primary: Server
) -> None:
    with standby_of(primary, name="reports"), standby_of(primary, name="exports"):
        assert eventually(lambda: streams(clients, "reports", "exports"))
        write_down(clients)
    moment = replaced(clients)
    assert eventually(lambda: streams(clients))
    assert len(holders(clients, moment)) == 2
    (left,) = holders(clients, moment, Replicas(gone=("reports@local",)))
    assert "'exports@local'" in left
    assert holders(clients, moment, Replicas(gone=("reports@local", "exports@local"))) == ()
    with pytest.raises(BlockedError, match="'exports@local', last seen"):
        accounted(clients, Replicas(gone=("reports@local",)))
    both = accounted(clients, Replicas(gone=("reports@local", "exports@local")))
    assert [(each.name, each.kind, each.replayed) for each in both] == [
        ("exports@local", "standby", None),
        ("reports@local", "standby", None),
    ]


def test_of_two_standbys_of_one_name_both_must_be_there(clients: Connection, primary: Server) -> None:
    with standby_of(primary, name="walreceiver"):
        with standby_of(primary, name="walreceiver"):
            assert eventually(lambda: streams(clients, "walreceiver", "walreceiver"))
            write_down(clients)
        assert eventually(lambda: streams(clients, "walreceiver"))
        moment = replaced(clients)
        assert eventually(lambda: len(holders(clients, moment)) == 1)
        assert "'walreceiver@local'" in holders(clients, moment)[0]


def test_what_a_slot_has_received_is_not_what_its_standby_has_replayed(clients: Connection, primary: Server) -> None:
    # From its start: a running server takes up a new delay some time after it was told.
    late = "recovery_min_apply_delay=1h"
    with standby_of(primary, late, slot="late", name="late") as standby:
        assert eventually(lambda: streams(clients, "late") and shown(standby, clients) == "v1:")
        moment = replaced(clients)
        passed = "SELECT restart_lsn >= %s::pg_lsn FROM pg_replication_slots WHERE slot_name = 'late'"
        assert eventually(lambda: clients.execute(passed, (moment[1],)).fetchone() == (True,))
        assert any("'late'" in each and "has not replayed" in each for each in holders(clients, moment))
        # Now it is stopped: all that is left to see is a slot that has received everything.
        standby.stop("fast")
        assert eventually(lambda: streams(clients))
        found = holders(clients, moment)
        assert any("physical replication slot 'late' is inactive" in each for each in found)
        standby.start(late)
        assert eventually(lambda: shown(standby, clients) == "v1:")


def test_an_inactive_physical_slot_holds_and_dropping_it_is_not_enough(clients: Connection) -> None:
    clients.execute("SELECT pg_create_physical_replication_slot('unknown', true)")
    moment = replaced(clients)
    assert any("'unknown' is inactive, so its receiver may show old values" in e for e in holders(clients, moment))
    clients.execute("SELECT pg_drop_replication_slot('unknown')")
    (sentence,) = holders(clients, moment)
    assert "add 'slot unknown' to [database] gone_replicas" in sentence
    assert holders(clients, moment, Replicas(gone=("slot unknown",))) == ()


def test_a_cascaded_standby_is_declared_and_asked_itself(clients: Connection, primary: Server) -> None:
    database = str(clients.info.dbname)
    with standby_of(primary, name="near") as near, standby_of(near, name="far") as far:
        assert eventually(lambda: streams(clients, "near") and shown(far, clients) == "v1:")
        declared = Replicas(standbys=(far.url(database),))
        with psycopg.connect(far.url(database), autocommit=True) as reader:
            reader.execute("SELECT pg_wal_replay_pause()")
            moment = replaced(clients)
            assert eventually(lambda: holders(clients, moment) == ()), "the primary does not see it"
            (sentence,) = holders(clients, moment, declared)
            assert "has not replayed" in sentence
            assert shown(far, clients) == "v1:"
            # A session there that began before it replayed still shows the old value afterwards.
            with psycopg.connect(far.url(database)) as old:
                old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                assert old.execute("SELECT first_name FROM public.clients").fetchone() == ("v1:",)
                reader.execute("SELECT pg_wal_replay_resume()")
                assert eventually(lambda: any("on standby" in e for e in holders(clients, moment, declared)))
            assert eventually(lambda: holders(clients, moment, declared) == ())
        far.stop("fast")
        (sentence,) = holders(clients, moment, declared)
        assert "cannot be asked what it has replayed" in sentence


def test_a_declared_standby_of_another_database_or_a_promoted_one_is_refused(
    clients: Connection, primary: Server, server: Server
) -> None:
    moment = replaced(clients)
    (sentence,) = holders(clients, moment, Replicas(standbys=(server.url(),)))
    assert "belongs to another database system" in sentence
    (sentence,) = holders(clients, moment, Replicas(standbys=(primary.url(),)))
    assert "is no longer a standby" in sentence


def test_a_deliberately_delayed_standby_does_not_stop_the_walk(clients: Connection, primary: Server) -> None:
    limits = Limits(max_replica_lag_seconds=1.0)
    (relation,) = heaps(clients, CLIENTS)

    def reason() -> str:
        replaced(clients)  # its lag grows only while there is something to replay
        return engine_limits.reason_to_pause(clients, "a" * 32, relation, limits)

    with standby_of(primary, "recovery_min_apply_delay=1h", name="late"):
        late = "SELECT replay_lag > interval '2 s' FROM pg_stat_replication"
        assert eventually(lambda: reason() == "" and clients.execute(late).fetchone() == (True,))
        assert reason() == ""
        # One that commits wait for is another matter.
        set_on(primary, "synchronous_standby_names", "late")
        try:
            assert eventually(lambda: reason().startswith("standby late@local is"))
            # Unless the configuration says that it may be late; when a key is to be retired it holds all the same.
            declared = replace(limits, delayed_standbys=("late@local",))
            assert engine_limits.reason_to_pause(clients, "a" * 32, relation, declared) == ""
            assert any("'late'" in each for each in holders(clients, replaced(clients)))
        finally:
            set_on(primary, "synchronous_standby_names", "")


@pytest.mark.parametrize("seen", [pytest.param(False, id="hidden"), pytest.param(True, id="granted")])
def test_a_role_that_could_not_see_who_holds_an_old_snapshot_is_refused_before_the_first_row(
    clients: Connection, primary: Server, seen: bool
) -> None:
    clients.execute("CREATE ROLE blind LOGIN")
    clients.execute("GRANT pg_read_all_stats TO blind" if seen else "SELECT 1")
    clients.execute("ALTER TABLE public.clients OWNER TO blind")
    try:
        with connect(primary.url(str(clients.info.dbname), "blind")) as blind:
            found = [each.message for each in preflight(blind, [CLIENTS], KeyVersion(2)) if each.fatal]
        hidden = [
            each for each in found if "would be hidden from this role, so the old key could not be retired" in each
        ]
        assert bool(hidden) is not seen
        assert all("of postgres would be hidden" in each and "GRANT pg_read_all_stats" in each for each in hidden)
    finally:
        clients.execute("REASSIGN OWNED BY blind TO postgres; DROP OWNED BY blind; DROP ROLE blind")


@pytest.fixture
def subscriber(primary: Server) -> Iterator[Connection]:
    """A database on another server that subscribes to what the test publishes."""
    running = start_server(primary.binaries)
    try:
        with psycopg.connect(running.url(), autocommit=True) as connection:
            connection.execute("CREATE TABLE public.clients (id int PRIMARY KEY, first_name text)")
            yield connection
    finally:
        discard(running)


def subscribe(subscriber: Connection, clients: Connection, primary: Server) -> None:
    subscriber.execute(
        f"CREATE SUBSCRIPTION nightly CONNECTION 'host={primary.directory} user=postgres "
        f"dbname={clients.info.dbname}' PUBLICATION changes"
    )
    assert eventually(lambda: values(subscriber) == ["v1:"])


def values(connection: Connection) -> list[str]:
    return [str(value) for (value,) in connection.execute("SELECT first_name FROM public.clients").fetchall()]


def test_a_subscriber_of_inserts_alone_keeps_the_old_value_and_is_refused_before(
    clients: Connection, subscriber: Connection, primary: Server
) -> None:
    clients.execute("CREATE PUBLICATION changes FOR TABLE public.clients WITH (publish = 'insert')")
    subscribe(subscriber, clients, primary)
    sentences = [each.message for each in preflight(clients, [CLIENTS], KeyVersion(2)) if each.fatal]
    (sentence,) = [each for each in sentences if "publication changes does not publish updates" in each]
    moment = replaced(clients)
    slot = "SELECT confirmed_flush_lsn >= %s::pg_lsn FROM pg_replication_slots WHERE slot_name = 'nightly'"
    assert eventually(lambda: clients.execute(slot, (moment[1],)).fetchone() == (True,))
    assert values(subscriber) == ["v1:"]
    # What the sentence says to do, and the same again.
    clients.execute(sentence[sentence.index("ALTER") : sentence.index(", or remove")].encode())
    clients.execute("UPDATE public.clients SET first_name = 'v2:'")
    assert eventually(lambda: values(subscriber) == ["v2:"])
    assert not [each for each in preflight(clients, [CLIENTS], KeyVersion(2)) if each.fatal]
    # Where the rows arrive they cannot be rotated: the publisher would bring old values back.
    with connect(subscriber.info.dsn) as receiving:
        found = [each.message for each in preflight(receiving, [CLIENTS], KeyVersion(2)) if each.fatal]
        before = catalog_digest(receiving, heaps(receiving, CLIENTS))
        subscriber.execute("DROP SUBSCRIPTION nightly")
        assert catalog_digest(receiving, heaps(receiving, CLIENTS)) != before
    assert any("table clients receives rows by subscription nightly" in each for each in found)


def test_a_subscriber_that_was_cut_off_with_its_slot_is_not_forgotten(
    clients: Connection, subscriber: Connection, primary: Server
) -> None:
    clients.execute("CREATE PUBLICATION changes FOR TABLE public.clients")
    subscribe(subscriber, clients, primary)
    write_down(clients)
    subscriber.execute("ALTER SUBSCRIPTION nightly DISABLE")
    drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active"
    assert eventually(lambda: clients.execute(drop).fetchone() is not None)
    moment = replaced(clients)
    assert eventually(lambda: len(holders(clients, moment)) == 1)  # its last walsender may take a moment to end
    (sentence,) = holders(clients, moment)
    assert "subscriber 'slot nightly', last seen" in sentence
    assert values(subscriber) == ["v1:"]
    assert holders(clients, moment, Replicas(gone=("slot nightly",))) == ()
    subscriber.execute("ALTER SUBSCRIPTION nightly SET (slot_name = NONE)")
    subscriber.execute("DROP SUBSCRIPTION nightly")


def test_a_walsender_whose_slot_is_gone_is_not_a_replica(clients: Connection, primary: Server) -> None:
    """So looks what served a subscription, or copied its tables, between the end of its slot and its own."""
    ending = PGconn.connect(
        f"host={primary.directory} user=postgres dbname={clients.info.dbname} replication=database "
        "application_name=pg_16389_sync_16385_7578".encode()
    )
    try:
        now = ending.exec_(b"IDENTIFY_SYSTEM").get_value(0, 2)  # what lies before may have been removed
        assert ending.exec_(b"START_REPLICATION " + (now or b"")).status == ExecStatus.COPY_BOTH
        ending.put_copy_data(struct.pack("!cQQQQB", b"r", 2**62, 2**62, 2**62, 0, 0))
        ending.flush()
        shown = "SELECT replay_lsn IS NOT NULL FROM pg_stat_replication"
        assert eventually(lambda: clients.execute(shown).fetchone() == (True,))
        write_down(clients)
    finally:
        ending.finish()
    assert eventually(lambda: clients.execute(shown).fetchone() is None)
    assert holders(clients, replaced(clients)) == ()
