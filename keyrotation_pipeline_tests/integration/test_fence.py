"""The fence on real servers: what it refuses, what it lets through, and what it does to others while it comes up."""

import os
import subprocess
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.postgres.inventory import registered_versions
from keyrotation_pipeline.adapters.postgres.ledger.postgres_ledger import PostgresLedger
from keyrotation_pipeline.adapters.postgres.retirement import fence, locks
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.errors import BlockedError, PreflightError, ProofError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.key_events import SourceKeyImported
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.model.tables import EncryptedTable, Place, TableName
from keyrotation_pipeline_tests.fakes import START
from keyrotation_pipeline_tests.fakes.chain import good_at_start
from keyrotation_pipeline_tests.forging import Forger, owner_of
from keyrotation_pipeline_tests.servers import DEBIAN, EMBEDDED_16, EMBEDDED_18, Server, discard, start_server

V1, V2, V3 = KeyVersion(1), KeyVersion(2), KeyVersion(3)
CLIENTS = EncryptedTable(TableName("public", "clients"), ("first_name", "email"))
TAIL = "AAAAAAAAAAAAAAAA:AAAAAAAAAAAAAAAAAAAAAA=="


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(EMBEDDED_18, id="18"),
        pytest.param(EMBEDDED_16, id="16"),
        pytest.param(
            DEBIAN,
            id="debian",
            marks=[
                pytest.mark.external_postgres,
                pytest.mark.skipif(not DEBIAN.exists(), reason="Debian's PostgreSQL is not installed"),
            ],
        ),
    ],
)
def any_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    running = start_server(request.param)
    yield running
    discard(running)


@pytest.fixture
def url(any_server: Server) -> Iterator[str]:
    with psycopg.connect(any_server.url(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE clinic")
        yield any_server.url("clinic")
        admin.execute("DROP DATABASE clinic WITH (FORCE)")


@pytest.fixture
def anywhere(url: str) -> Iterator[Connection]:
    """A connection to a fresh database of each version of PostgreSQL."""
    with connect(url) as opened:
        yield opened


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(locks, "QUEUED_PAUSES_SECONDS", (0.0, 0.1))


def make_clients(connection: Connection) -> None:
    connection.execute(
        "CREATE TABLE public.clients (id int PRIMARY KEY, name text, first_name text, email varchar(200))"
    )


def put(connection: Connection, number: int, first_name: str | None, email: str | None = None) -> None:
    connection.execute("INSERT INTO public.clients VALUES (%s, 'Plain Name', %s, %s)", (number, first_name, email))


def value(version: int) -> str:
    return f"v{version}:{TAIL}"


@pytest.mark.parametrize("column", ["first_name", "email"])
def test_a_retired_version_is_refused_in_every_column_without_printing_the_row(
    anywhere: Connection, column: str
) -> None:
    make_clients(anywhere)
    put(anywhere, 1, value(2), value(2))
    fence.fence(anywhere, CLIENTS, [V1])

    with pytest.raises(psycopg.errors.InvalidTextRepresentation) as refused:
        anywhere.execute(f"UPDATE public.clients SET {column} = %s WHERE id = 1", (value(1),))

    reported = f"{refused.value} {refused.value.diag.message_detail} {refused.value.diag.context}"
    assert "key version v1 is retired" in reported
    assert "Plain Name" not in reported
    assert TAIL not in reported


@pytest.mark.parametrize(
    ("fenced", "written", "refused"),
    [
        pytest.param([1], "v1:", True, id="v1 itself"),
        pytest.param([1], value(10), False, id="v10 is not v1"),
        pytest.param([10], value(1), False, id="v1 is not v10"),
        pytest.param([1, 10], value(10), True, id="two lengths, the longer"),
        pytest.param([1, 10], value(1), True, id="two lengths, the shorter"),
        pytest.param([1, 2, 10, 11], value(2), True, id="two of each length"),
        pytest.param([1, 2, 10, 11], value(12), False, id="next to two of each length"),
        pytest.param([999_999], value(999_999), True, id="the longest version"),
        pytest.param([999_999], value(99_999), False, id="next to the longest version"),
        pytest.param([1], None, False, id="NULL"),
        pytest.param([1], "", False, id="empty string"),
        pytest.param([1], "v1", False, id="no colon"),
    ],
)
def test_exactly_the_retired_versions_are_refused(
    connection: Connection, fenced: list[int], written: str | None, refused: bool
) -> None:
    make_clients(connection)
    versions = tuple(KeyVersion(number) for number in fenced)
    fence.fence(connection, CLIENTS, versions)
    assert fence.fences(connection, CLIENTS) == versions

    if refused:
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            put(connection, 1, written)
    else:
        put(connection, 1, written)


def test_a_fence_on_any_type_of_text_reads_back_as_whole_and_refuses(anywhere: Connection) -> None:
    anywhere.execute("CREATE DOMAIN public.secret AS text")
    anywhere.execute('CREATE SCHEMA "Billing Data"')
    anywhere.execute(
        'CREATE TABLE "Billing Data"."Invoices %s" (id int, "To Whom" text, "note" varchar(90), code char(80),'
        ' "order" public.secret, "weird""{}" text)'
    )
    table = EncryptedTable(TableName("Billing Data", "Invoices %s"), ("To Whom", "note", "code", "order", 'weird"{}'))
    fence.fence(anywhere, table, [V1, KeyVersion(10)])
    assert fence.fences(anywhere, table) == (V1, KeyVersion(10))

    for position in range(5):
        values = [value(10) if each == position else value(2) for each in range(5)]
        with pytest.raises(psycopg.errors.InvalidTextRepresentation, match="v10 is retired"):
            anywhere.cursor().execute(
                b'INSERT INTO "Billing Data"."Invoices %%s" VALUES (1, %s, %s, %s, %s, %s)', values
            )


@pytest.mark.external_postgres
def test_a_column_of_a_nondeterministic_collation_can_be_fenced(anywhere: Connection, any_server: Server) -> None:
    if any_server.binaries != DEBIAN:
        pytest.skip("the embedded server has no ICU")
    anywhere.execute(
        "CREATE COLLATION public.any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
    )
    anywhere.execute(
        "CREATE TABLE public.clients (id int, name text, first_name text COLLATE public.any_case, email text)"
    )
    fence.fence(anywhere, CLIENTS, [V1])
    put(anywhere, 1, value(2))
    with pytest.raises(psycopg.errors.InvalidTextRepresentation, match="v1 is retired"):
        put(anywhere, 2, value(1))
    assert fence.fences(anywhere, CLIENTS) == (V1,)


def test_a_fence_that_is_replaced_keeps_refusing_the_earlier_version(anywhere: Connection) -> None:
    make_clients(anywhere)
    fence.fence(anywhere, CLIENTS, [V1])
    fence.fence(anywhere, CLIENTS, [V1, V2])

    assert fence.fences(anywhere, CLIENTS) == (V1, V2)
    for version in (1, 2):
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            put(anywhere, version, value(version))


def test_the_same_fence_again_changes_nothing(connection: Connection) -> None:
    make_clients(connection)
    fence.fence(connection, CLIENTS, [V1])
    identity = "SELECT oid, xmin FROM pg_constraint WHERE conname = %s"
    before = connection.execute(identity, (fence.NAME,)).fetchall()
    fence.fence(connection, CLIENTS, [V1])
    assert connection.execute(identity, (fence.NAME,)).fetchall() == before


def test_partitions_are_fenced_and_old_rows_cannot_be_attached(anywhere: Connection) -> None:
    anywhere.execute(
        "CREATE TABLE public.clients (id int, name text, first_name text, email text) PARTITION BY RANGE (id)"
    )
    anywhere.execute("CREATE TABLE public.clients_1 PARTITION OF public.clients FOR VALUES FROM (0) TO (100)")
    fence.fence(anywhere, CLIENTS, [V1])
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        anywhere.execute("INSERT INTO public.clients_1 VALUES (1, '', %s)", (value(1),))

    anywhere.execute("CREATE TABLE public.old (id int, name text, first_name text, email text)")
    anywhere.execute("INSERT INTO public.old VALUES (101, '', %s)", (value(1),))
    with pytest.raises(psycopg.errors.DatatypeMismatch, match="missing constraint"):
        anywhere.execute("ALTER TABLE public.clients ATTACH PARTITION public.old FOR VALUES FROM (100) TO (200)")

    anywhere.execute("CREATE TABLE public.clients_2 PARTITION OF public.clients FOR VALUES FROM (200) TO (300)")
    assert fence.fences(anywhere, CLIENTS) == (V1,)


@pytest.mark.parametrize(
    ("make", "leave", "come_back"),
    [
        pytest.param(
            "CREATE TABLE public.clients (id int, first_name text, email text) PARTITION BY RANGE (id); "
            "CREATE TABLE public.child PARTITION OF public.clients FOR VALUES FROM (0) TO (100)",
            "ALTER TABLE public.clients DETACH PARTITION public.child",
            "ALTER TABLE public.clients ATTACH PARTITION public.child FOR VALUES FROM (0) TO (100)",
            id="partition",
        ),
        pytest.param(
            "CREATE TABLE public.clients (id int, first_name text, email text); "
            "CREATE TABLE public.child () INHERITS (public.clients)",
            "ALTER TABLE public.child NO INHERIT public.clients",
            "ALTER TABLE public.child INHERIT public.clients",
            id="inheritance child",
        ),
    ],
)
def test_a_child_that_was_away_does_not_keep_its_old_fence(
    anywhere: Connection, make: str, leave: str, come_back: str
) -> None:
    anywhere.execute(make.encode())
    fence.fence(anywhere, CLIENTS, [V1])
    anywhere.execute(leave.encode())
    anywhere.execute(come_back.encode())

    fence.fence(anywhere, CLIENTS, [V1, V2])

    assert fence.fences(anywhere, CLIENTS) == (V1, V2)
    fence.unfence(anywhere, CLIENTS, V1)
    fence.unfence(anywhere, CLIENTS, V2)
    anywhere.execute("INSERT INTO public.child VALUES (1, %s)", (value(1),))


def test_inheritance_children_are_fenced_too(anywhere: Connection) -> None:
    make_clients(anywhere)
    anywhere.execute("CREATE TABLE public.patients (ward int) INHERITS (public.clients)")
    fence.fence(anywhere, CLIENTS, [V1])
    assert fence.fences(anywhere, CLIENTS) == (V1,)
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        anywhere.execute("INSERT INTO public.patients VALUES (1, '', %s)", (value(1),))


def test_an_old_row_makes_the_fence_go_again_and_is_named_by_column_and_count(anywhere: Connection) -> None:
    make_clients(anywhere)
    fence.fence(anywhere, CLIENTS, [V1])
    put(anywhere, 1, value(3), value(2))
    put(anywhere, 2, value(3), value(2))

    with pytest.raises(ProofError, match=r"table clients .*column email: 2 under v2") as refused:
        fence.fence(anywhere, CLIENTS, [V1, V2])

    assert TAIL not in str(refused.value)
    assert refused.value.__suppress_context__
    anywhere.execute("UPDATE public.clients SET name = 'still to be updated'")
    assert fence.fences(anywhere, CLIENTS) == (V1,), "the fence that stood before still stands"


def test_unfence_lets_one_version_in_again_and_keeps_the_others(anywhere: Connection) -> None:
    make_clients(anywhere)
    fence.fence(anywhere, CLIENTS, [V1, V2])
    fence.unfence(anywhere, CLIENTS, V2)
    fence.unfence(anywhere, CLIENTS, V2)
    fence.unfence(anywhere, CLIENTS, V3)

    assert fence.fences(anywhere, CLIENTS) == (V1,)
    put(anywhere, 1, value(2))
    fence.unfence(anywhere, CLIENTS, V1)
    assert fence.fences(anywhere, CLIENTS) == ()
    put(anywhere, 2, value(1))


WEAKER = (
    "ALTER TABLE public.clients DROP CONSTRAINT {name}, "
    "ADD CONSTRAINT {name} CHECK (current_user = 'postgres' OR {text})"
)


@pytest.mark.parametrize(
    "tampering",
    [
        pytest.param("ALTER TABLE public.clients DROP CONSTRAINT {name}", id="dropped"),
        pytest.param("ALTER TABLE public.clients RENAME CONSTRAINT {name} TO other", id="renamed"),
        pytest.param(WEAKER, id="weakened"),
        pytest.param(
            "ALTER TABLE public.clients DROP CONSTRAINT {name}, ADD CONSTRAINT {name} CHECK ({text}) NOT VALID",
            id="not validated",
        ),
        pytest.param(
            "ALTER TABLE public.clients DROP CONSTRAINT {name}, ADD CONSTRAINT {name} CHECK ({text}) NO INHERIT",
            id="not inherited",
        ),
        pytest.param(
            "ALTER TABLE public.clients DROP CONSTRAINT {name}, ADD CONSTRAINT {name} CHECK ({text}) NOT ENFORCED",
            id="not enforced",
        ),
        pytest.param("ALTER TABLE public.clients RENAME first_name TO other; "
                     "ALTER TABLE public.clients ADD first_name text", id="moved to another column"),
        pytest.param("CREATE TABLE public.child () INHERITS (public.clients); "
                     "UPDATE pg_constraint SET convalidated = false WHERE conrelid = 'public.child'::regclass",
                     id="a child's is not validated"),
    ],
)  # fmt: skip
def test_a_fence_that_was_tampered_with_does_not_count(connection: Connection, tampering: str) -> None:
    make_clients(connection)
    fence.fence(connection, CLIENTS, [V1])
    row = connection.execute("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = %s", (fence.NAME,))
    text = str((row.fetchone() or ("",))[0]).removeprefix("CHECK (").removesuffix(")")
    assert fence.fences(connection, CLIENTS) == (V1,)

    connection.execute(tampering.format(name=fence.NAME, text=text).encode())

    assert fence.fences(connection, CLIENTS) == ()
    fence.fence(connection, CLIENTS, [V1])
    assert fence.fences(connection, CLIENTS) == (V1,), "it can be put up again"


def test_a_fence_survives_dump_and_restore_of_the_application_schema(
    anywhere: Connection, any_server: Server, url: str
) -> None:
    make_clients(anywhere)
    put(anywhere, 1, value(2), None)
    fence.fence(anywhere, CLIENTS, [V1])
    environment = {**os.environ, "LD_LIBRARY_PATH": str(any_server.binaries.parent / "lib")}
    dump = subprocess.run(
        [any_server.binaries / "pg_dump", "-n", "public", url], check=True, capture_output=True, env=environment
    ).stdout

    with psycopg.connect(any_server.url(), autocommit=True) as admin:
        admin.execute("DROP DATABASE IF EXISTS restored")
        admin.execute("CREATE DATABASE restored")
    subprocess.run(
        [any_server.binaries / "psql", "-q", any_server.url("restored")],
        input=dump, check=True, capture_output=True, env=environment,
    )  # fmt: skip
    with connect(any_server.url("restored")) as restored:
        assert fence.fences(restored, CLIENTS) == (V1,)


@pytest.mark.parametrize("mode", ["SHARE UPDATE EXCLUSIVE", "ACCESS SHARE"])
def test_without_waiting_a_table_that_somebody_is_at_is_left_as_it_is(
    connection: Connection, database_url: str, mode: str
) -> None:
    make_clients(connection)
    with psycopg.connect(database_url) as other:
        other.execute(f"LOCK TABLE public.clients IN {mode} MODE".encode())
        assert fence.fence(connection, CLIENTS, [V1], wait=False) is False
        assert fence.fences(connection, CLIENTS) == ()
    assert fence.fence(connection, CLIENTS, [V1], wait=False)
    assert fence.fences(connection, CLIENTS) == (V1,)


@pytest.mark.usefixtures("impatient")
def test_an_open_reader_blocks_the_fence_and_is_named(connection: Connection, database_url: str) -> None:
    make_clients(connection)
    with psycopg.connect(database_url, application_name="pg_dump") as reader:
        reader.execute("SELECT count(*) FROM public.clients")
        with pytest.raises(BlockedError, match=rf"session {reader.info.backend_pid} \(pg_dump, in a transaction"):
            fence.fence(connection, CLIENTS, [V1])
    assert fence.fences(connection, CLIENTS) == ()


@pytest.mark.usefixtures("impatient")
def test_a_reader_of_one_partition_blocks_the_fence_and_is_named(connection: Connection, database_url: str) -> None:
    connection.execute("CREATE TABLE public.clients (id int, first_name text, email text) PARTITION BY RANGE (id)")
    connection.execute("CREATE TABLE public.clients_1 PARTITION OF public.clients FOR VALUES FROM (0) TO (100)")
    with psycopg.connect(database_url, application_name="report") as reader:
        reader.execute("SELECT count(*) FROM public.clients_1")
        with pytest.raises(BlockedError, match=r"\(report, in a transaction"):
            fence.fence(connection, CLIENTS, [V1])


@pytest.mark.usefixtures("impatient")
def test_a_prepared_transaction_blocks_the_fence_and_is_named(connection: Connection, database_url: str) -> None:
    make_clients(connection)
    with connect(database_url) as other:
        other.execute("BEGIN")
        put(other, 1, value(1))
        other.execute("PREPARE TRANSACTION 'nightly-1'")
    try:
        with pytest.raises(BlockedError, match="prepared transaction 'nightly-1'"):
            fence.fence(connection, CLIENTS, [V1])
    finally:
        connection.execute("ROLLBACK PREPARED 'nightly-1'")
    fence.fence(connection, CLIENTS, [V1])


def test_a_role_that_does_not_own_the_table_is_refused_in_one_sentence(
    connection: Connection, server: Server, database_url: str
) -> None:
    make_clients(connection)
    connection.execute("CREATE ROLE fence_guest LOGIN")
    connection.execute("GRANT SELECT, UPDATE ON public.clients TO fence_guest")
    try:
        with (
            connect(database_url.replace("postgres@", "fence_guest@")) as guest,
            pytest.raises(PreflightError, match="as the owner of the table"),
        ):
            fence.fence(guest, CLIENTS, [V1])
    finally:
        connection.execute("DROP OWNED BY fence_guest; DROP ROLE fence_guest")


def test_the_application_is_not_stalled_while_the_fence_waits_behind_a_long_reader(
    connection: Connection, database_url: str
) -> None:
    make_clients(connection)
    put(connection, 1, value(2), value(2))
    raised: list[BaseException] = []
    with connect(database_url) as other, psycopg.connect(database_url) as reader:
        reader.execute("SELECT count(*) FROM public.clients")
        fencing = threading.Thread(target=_collect, args=(raised, fence.fence, other, CLIENTS, [V1]))
        fencing.start()
        stalls = [_milliseconds_of_an_update(connection) for _ in range(300)]
        still_waiting = fencing.is_alive()
        reader.rollback()
        while fencing.is_alive():
            stalls.append(_milliseconds_of_an_update(connection))
        fencing.join()
    assert not raised
    assert still_waiting
    assert fence.fences(connection, CLIENTS) == (V1,)
    assert max(stalls) < 500, "a queued ALTER would have stalled an update for its lock timeout, a second"


@pytest.fixture
def busy(connection: Connection, database_url: str) -> Iterator[None]:
    """Twelve sessions that are always inside transactions of 20 ms on the table, so that it is never free."""
    make_clients(connection)
    put(connection, 1, value(2), value(2))
    ended = threading.Event()

    def always_inside() -> None:
        with psycopg.connect(database_url) as session:
            while not ended.is_set():
                session.execute("SELECT count(*), pg_sleep(0.02) FROM public.clients")
                session.commit()

    sessions = [threading.Thread(target=always_inside) for _ in range(12)]
    for session in sessions:
        session.start()
    yield
    ended.set()
    for session in sessions:
        session.join()


@pytest.mark.usefixtures("busy", "impatient")
def test_a_table_that_is_never_free_is_fenced_and_nobody_waits_long(connection: Connection, database_url: str) -> None:
    raised: list[BaseException] = []
    before = [_milliseconds_of_an_update(connection) for _ in range(100)]
    with connect(database_url) as other:
        fencing = threading.Thread(target=_collect, args=(raised, fence.fence, other, CLIENTS, [V1]))
        fencing.start()
        stalls = []
        while fencing.is_alive():
            stalls.append(_milliseconds_of_an_update(connection))
        fencing.join()
    assert not raised
    assert fence.fences(connection, CLIENTS) == (V1,)
    # As much as the machine itself made a request wait just before, and what a queued attempt may take.
    assert max(stalls) < max(before) + 150


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("partitions", [0, 3])
def test_no_attempt_waits_in_the_queue_behind_a_long_transaction(
    connection: Connection, database_url: str, partitions: int
) -> None:
    if partitions:
        connection.execute("CREATE TABLE public.clients (id int, first_name text, email text) PARTITION BY HASH (id)")
        for number in range(partitions):
            connection.execute(
                f"CREATE TABLE public.clients_{number} PARTITION OF public.clients "
                f"FOR VALUES WITH (MODULUS {partitions}, REMAINDER {number})".encode()
            )
    else:
        make_clients(connection)
    queued: list[object] = []
    with connect(database_url) as other, connect(database_url) as watching, psycopg.connect(database_url) as reader:
        reader.execute("SELECT count(*) FROM public.clients")
        time.sleep(1.1)
        raised: list[BaseException] = []
        fencing = threading.Thread(target=_collect, args=(raised, fence.fence, other, CLIENTS, [V1]))
        fencing.start()
        while fencing.is_alive():
            queued += watching.execute("SELECT mode FROM pg_locks WHERE NOT granted AND locktype = 'relation'")
    assert [type(each) for each in raised] == [BlockedError]
    assert queued == []


def _collect(raised: list[BaseException], function: object, *arguments: object) -> None:
    try:
        function(*arguments)  # type: ignore[operator]
    except BaseException as error:  # noqa: BLE001 - reported to the test
        raised.append(error)


def _milliseconds_of_an_update(connection: Connection) -> float:
    began = time.perf_counter()
    connection.execute("UPDATE public.clients SET name = 'x' WHERE id = 1")
    took = (time.perf_counter() - began) * 1000
    time.sleep(0.003)
    return took


# --- columns that held plaintext ------------------------------------------------------------------------------------

NOTES = EncryptedTable.of(TableName("public", "notes"), [Place("name"), Place("note", source="plaintext")])


@pytest.mark.parametrize("kind", ["text", "varchar", "varchar(200)", "public.short", "text COLLATE public.loud"])
def test_a_column_that_held_plaintext_refuses_it_without_printing_it(anywhere: Connection, kind: str) -> None:
    anywhere.execute("CREATE DOMAIN public.short AS varchar(300) CHECK (length(VALUE) < 280)")
    anywhere.execute("""CREATE COLLATION public.loud (provider = libc, locale = 'C')""")
    anywhere.execute(f"CREATE TABLE public.notes (id int, name text, note {kind})".encode())
    assert fence.fence(anywhere, NOTES, [V1])
    assert fence.fences(anywhere, NOTES) == (V1,)
    add = "INSERT INTO public.notes VALUES (1, %s, %s)"
    for note in (None, "", f"v2:{TAIL}", f"v2x:{'A' * 32}:{'A' * 64}", f"v123456:{TAIL}"):
        anywhere.execute(add, ("plaintext, which pre-flight and proof refuse", note))
    for note in ("Ada", "v2: final version", "v2:", " ", f"v2:{'A' * 15}:{'A' * 24}", f"V2:{TAIL}"):
        with pytest.raises(psycopg.errors.InvalidTextRepresentation) as caught:
            anywhere.execute(add, ("", note))
        assert 'boolean: "keyrotation: plaintext is refused"' in str(caught.value)
    with pytest.raises(psycopg.errors.InvalidTextRepresentation, match="key version v1 is retired"):
        anywhere.execute(add, ("", f"v1:{TAIL}"))
    fence.unfence(anywhere, NOTES, V1)
    anywhere.execute(add, ("", "Ada"))
    with pytest.raises(ProofError, match="plaintext"):
        fence.fence(anywhere, NOTES, [V1])
    assert fence.fences(anywhere, NOTES) == ()


@pytest.mark.parametrize("kind", ["text", "varchar(200)"])
def test_after_a_rollback_plaintext_is_let_in_and_values_of_the_withdrawn_version_are_not(
    anywhere: Connection, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    anywhere.execute(f"CREATE TABLE public.notes (id int, name text, note {kind})".encode())
    monkeypatch.setattr(registered_versions, "registered", lambda _: (V1, V2, V3))
    for withdrawn in ([V3], [V2, V3]):
        assert fence.fence(anywhere, NOTES, withdrawn)
        assert fence.fences(anywhere, NOTES) == tuple(withdrawn)
        anywhere.execute(
            "INSERT INTO public.notes VALUES (1, '', 'Ada'), (2, '', 'v3: final'), (3, '', %s)", (value(1),)
        )
        with pytest.raises(psycopg.errors.InvalidTextRepresentation, match="key version v3 is retired"):
            anywhere.execute("INSERT INTO public.notes VALUES (4, '', %s)", (value(3),))


def test_no_forged_event_has_the_newest_key_taken_for_that_of_another_library(
    migrated: Connection, database_url: str
) -> None:
    migrated.execute("CREATE TABLE public.notes (id int, name text, note text)")
    ledger = PostgresLedger(migrated, SystemClock(), "tester", "clinic@clinic, system identifier 7", good_at_start)
    states = {V1: KeyState.DEACTIVATED, V2: KeyState.PRE_ACTIVATION, V3: KeyState.ARCHIVED}
    for version, state in states.items():
        ledger.add_key(KeyRecord(version, state, str(version.number) * 64, START), None)
    ledger.append(SourceKeyImported(V3, "3" * 64, "OLD_KEY"))
    with owner_of(database_url) as owner:
        Forger(owner).append(SourceKeyImported(V2, "2" * 64, "OLD_KEY"))
    assert fence.fence(migrated, NOTES, [V1])
    with pytest.raises(psycopg.errors.InvalidTextRepresentation, match="plaintext is refused"):
        migrated.execute("INSERT INTO public.notes VALUES (1, '', 'Ada')")
    assert fence.fence(migrated, NOTES, [V2])  # the end of a rollback
    migrated.execute("INSERT INTO public.notes VALUES (1, '', 'Ada')")


def test_a_fence_that_lets_plaintext_in_is_not_whole(anywhere: Connection) -> None:
    anywhere.execute("CREATE TABLE public.notes (id int, name text, note text)")
    lax = EncryptedTable(NOTES.name, NOTES.columns)
    assert fence.fence(anywhere, lax, [V1])
    assert fence.fences(anywhere, NOTES) == ()
    assert fence.fence(anywhere, NOTES, [V1])
    # A column that no longer says where it came from keeps what refuses more.
    assert (fence.fences(anywhere, NOTES), fence.fences(anywhere, lax)) == ((V1,), (V1,))
    assert fence.fence(anywhere, lax, [V1, V2])
    assert (fence.fences(anywhere, NOTES), fence.fences(anywhere, lax)) == ((), (V1, V2))
