"""The evidence of retirement on a real server: it exists only when every piece holds, whatever the catalogue claims."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import psycopg
import pytest

from keyrotation_pipeline.adapters.postgres.inventory.discovery import discover
from keyrotation_pipeline.adapters.postgres.inventory.old_values import count_old_values
from keyrotation_pipeline.adapters.postgres.inventory.postgres_inventory import PostgresInventory
from keyrotation_pipeline.adapters.postgres.ledger.migrate import migrate
from keyrotation_pipeline.adapters.postgres.retirement import fence, proof, search, snapshot_horizon
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.errors import BlockedError, FenceError, PreflightError, ProofError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.key_events import KeyRegistered
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.proof import Searched, SnapshotPosition, ZeroOldRows
from keyrotation_pipeline.model.tables import EncryptedTable, FoundColumn, Place, TableName
from keyrotation_pipeline_tests.forging import Forger
from keyrotation_pipeline_tests.servers import EMBEDDED_18, Server, discard, start_server
from keyrotation_pipeline_tests.waiting import eventually

V1, V2 = KeyVersion(1), KeyVersion(2)
CLIENTS = EncryptedTable(TableName("public", "clients"), ("first_name", "email"))
VISITS = EncryptedTable(TableName("public", "visits"), ("notes",))
FENCE_ROW = f"conname = '{fence.NAME}'"


class Clinic:
    """A clinic on v2 all through, fenced against v1, and the moment after that."""

    def __init__(self, connection: Connection, sealed: Callable[[int], str]) -> None:
        self.connection = connection
        self.sealed = sealed
        connection.execute("CREATE TABLE public.clients (id int PRIMARY KEY, city text, first_name text, email text)")
        connection.execute("CREATE TABLE public.visits (id int PRIMARY KEY, notes text)")
        connection.execute("INSERT INTO public.clients VALUES (1, 'Bern', %s, %s)", (sealed(2), sealed(2)))
        connection.execute("INSERT INTO public.clients VALUES (2, 'Basel', %s, NULL)", ("",))
        connection.execute("INSERT INTO public.visits VALUES (1, %s)", (sealed(2),))
        self.fence_both()

    def fence_both(self) -> None:
        for table in (CLIENTS, VISITS):
            fence.fence(self.connection, table, [V1])
        self.moment = SnapshotPosition(
            snapshot_horizon.current_xid(self.connection), snapshot_horizon.barrier(self.connection)
        )

    def prove(self, searched: Searched | None = None) -> ZeroOldRows:
        with self.connection.transaction():
            return proof.zero_old_rows(self.connection, [CLIENTS, VISITS], V1, [V1], self.moment, searched=searched)

    def search(self) -> Searched:
        return search.search(self.connection, [CLIENTS, VISITS], V1, [V1], lambda _: None)

    def write_old_value_behind_the_fence(self) -> None:
        """A v1 row in a table whose fence claims, by a forged catalogue row, to be validated."""
        definition = (
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'public.clients'::regclass AND "
        )
        text = str((self.connection.execute(f"{definition}{FENCE_ROW}".encode()).fetchone() or [""])[0])
        self.connection.execute(f"ALTER TABLE public.clients DROP CONSTRAINT {fence.NAME}".encode())
        self.connection.execute("UPDATE public.clients SET email = %s WHERE id = 1", (self.sealed(1),))
        self.connection.execute(f"ALTER TABLE public.clients ADD CONSTRAINT {fence.NAME} {text} NOT VALID".encode())
        self.connection.execute(f"UPDATE pg_constraint SET convalidated = true WHERE {FENCE_ROW}".encode())
        self.moment = SnapshotPosition(snapshot_horizon.current_xid(self.connection), self.moment.lsn)


@pytest.fixture
def clinic(
    migrated: Connection, keyring_of: Callable[..., KeyRing], seal: Callable[[KeyRing, int, str], str]
) -> Clinic:
    ring = keyring_of(1, 2, primary=2)
    return Clinic(migrated, lambda version: seal(ring, version, "some text"))


def test_a_clinic_that_is_all_on_the_new_key_and_fenced_is_proven(clinic: Clinic) -> None:
    evidence = clinic.prove()
    assert (evidence.version, evidence.tables, evidence.old_values, evidence.values) == (
        V1,
        ("clients", "visits"),
        0,
        3,
    )
    assert evidence.fence_lsn == clinic.moment.lsn


def test_a_forged_validated_fence_does_not_hide_an_old_value(clinic: Clinic) -> None:
    clinic.write_old_value_behind_the_fence()
    assert fence.fences(clinic.connection, CLIENTS) == (V1,), "the catalogue claims a whole fence"

    with pytest.raises(ProofError, match=r"table clients, column email: 1 value still under v1"):
        clinic.prove()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        pytest.param(
            f"ALTER TABLE public.visits DROP CONSTRAINT {fence.NAME}",
            r"table visits is not fenced against v1 on notes",
            id="dropped fence",
        ),
        pytest.param(
            f"UPDATE pg_constraint SET convalidated = false WHERE {FENCE_ROW}",
            "table clients is not fenced against v1",
            id="fence not validated",
        ),
        pytest.param(
            f"ALTER TABLE public.clients DROP CONSTRAINT {fence.NAME}, "
            f"ADD CONSTRAINT {fence.NAME} CHECK (left(email, 3) <> 'v1:')",
            "table clients is not fenced against v1",
            id="fence on one column alone",
        ),
        pytest.param(
            "UPDATE public.clients SET first_name = 'Alice' WHERE id = 2",
            r'table clients, column first_name: 1 unencrypted value \(row \["2"\]\); encrypt or',
            id="unencrypted value",
        ),
        pytest.param(
            "UPDATE public.clients SET first_name = 'v02:abc' WHERE id = 2",
            r"table clients, column first_name: 1 unencrypted value",
            id="near miss",
        ),
        pytest.param(
            "UPDATE public.clients SET email = 'v2:AAAAAAAAAAAAAAAA:Anna Alice Meier, Bern' WHERE id = 2",
            r"table clients, column email: 1 unencrypted value",
            id="plaintext behind the head of a value",
        ),
        pytest.param(
            "UPDATE public.clients SET email = 'v2:AAAAAAAAAAAAAAAA:' || repeat('Alice is well. ', 1000) || '=='",
            r"table clients, column email: 2 unencrypted values",
            id="long plaintext behind the head of a value",
        ),
        pytest.param(
            "INSERT INTO public.visits VALUES (2, 'Alice was here')",
            r"table visits, column notes: 1 unencrypted value \(row .*2.*\); encrypt or",
            id="unencrypted value in the second table",
        ),
        pytest.param(
            "ALTER TABLE public.clients ADD nickname text; UPDATE public.clients SET nickname = email WHERE id = 1",
            r"clients, column nickname: 1 encrypted value",
            id="undeclared column",
        ),
        pytest.param(
            "INSERT INTO keyrotation.quarantine VALUES "
            "('clients', 'clients', '[\"1\"]', 'email', now(), 'not-authentic', 2)",
            r"table clients, column email: 1 value in quarantine",
            id="quarantine",
        ),
    ],
)
def test_whatever_is_left_blocks_and_is_named_by_table_column_and_count(
    clinic: Clinic, spoil: str, sentence: str
) -> None:
    clinic.connection.execute(spoil.encode())
    with pytest.raises(ProofError, match=sentence) as refused:
        clinic.prove()
    assert "Alice" not in str(refused.value)


def test_an_old_value_in_an_unfenced_table_is_counted(clinic: Clinic) -> None:
    fence.unfence(clinic.connection, VISITS, V1)
    clinic.connection.execute("UPDATE public.visits SET notes = %s", (clinic.sealed(1),))
    with pytest.raises(ProofError, match=r"table visits, column notes: 1 value still under v1"):
        clinic.prove()


def test_a_fence_made_again_after_the_proof_is_not_the_one_proven(clinic: Clinic) -> None:
    fence.unfence(clinic.connection, CLIENTS, V1)
    fence.fence(clinic.connection, CLIENTS, [V1])
    with pytest.raises(FenceError, match=r"fence of table clients .* was recreated after the proof"):
        clinic.prove()
    clinic.fence_both()
    clinic.prove()


def test_a_partition_made_after_the_proof_does_not_void_it(migrated: Connection, clinic: Clinic) -> None:
    migrated.execute("DROP TABLE public.visits")
    migrated.execute("CREATE TABLE public.visits (id int, notes text) PARTITION BY RANGE (id)")
    migrated.execute("CREATE TABLE public.visits_1 PARTITION OF public.visits FOR VALUES FROM (0) TO (100)")
    clinic.fence_both()
    migrated.execute("CREATE TABLE public.visits_2 PARTITION OF public.visits FOR VALUES FROM (100) TO (200)")
    clinic.prove()


def test_an_open_repeatable_read_session_blocks_and_is_named(clinic: Clinic, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True, application_name="month-end report") as report:
        fence.unfence(clinic.connection, CLIENTS, V1)
        report.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        report.execute("SELECT 1")
        clinic.fence_both()
        with pytest.raises(BlockedError, match=rf"session {report.info.backend_pid} \(month-end report\)"):
            clinic.prove()
    with connect(database_url):
        clinic.prove()


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_the_proof_refuses_a_transaction_with_one_snapshot_for_all(clinic: Clinic, level: str) -> None:
    clinic.connection.execute(f"SET default_transaction_isolation = '{level}'".encode())
    with pytest.raises(ProofError, match="outside a READ COMMITTED transaction"):
        clinic.prove()


def test_the_proof_refuses_to_run_outside_a_transaction(clinic: Clinic) -> None:
    with pytest.raises(ProofError, match="outside a READ COMMITTED transaction"):
        proof.zero_old_rows(clinic.connection, [CLIENTS], V1, [V1], clinic.moment)


def test_nobody_can_take_a_fence_down_before_the_retiring_transaction_ends(clinic: Clinic, database_url: str) -> None:
    with connect(database_url) as other, clinic.connection.transaction():
        proof.zero_old_rows(clinic.connection, [CLIENTS, VISITS], V1, [V1], clinic.moment)
        other.execute("SET lock_timeout = '50ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            other.execute(f"ALTER TABLE public.clients DROP CONSTRAINT {fence.NAME}".encode())


def test_a_refreshed_materialized_view_blocks_nothing_and_a_stale_one_does() -> None:
    v1, v2 = KeyVersion(1), KeyVersion(2)
    refreshed = FoundColumn("summary", "first_name", 3, 0, (v2,), materialized=True)
    stale = FoundColumn("summary", "first_name", 3, 0, (v1, v2), materialized=True)
    undeclared = FoundColumn("clients", "spare", 3, 0, (v2,))

    assert [finding.blocks([v1]) for finding in (refreshed, stale, undeclared)] == [False, True, True]


class PartitionedClinic:
    """Visits in partitions on Debian's server, all under v2 and fenced against v1; what is foreign there is v1."""

    VISITS = EncryptedTable(TableName("public", "visits"), ("notes",))

    def __init__(self, connection: Connection, sealed: Callable[[int], str]) -> None:
        self.connection = connection
        for statement in (
            "CREATE EXTENSION postgres_fdw SCHEMA public",
            "CREATE TABLE public.visits (id int, notes text) PARTITION BY RANGE (id)",
            "CREATE TABLE public.visits_1 PARTITION OF public.visits FOR VALUES FROM (0) TO (100)",
        ):
            connection.execute(statement)
        connection.execute("INSERT INTO public.visits VALUES (1, %s)", (sealed(2),))
        self.archive = f"archive_of_{connection.info.dbname}"
        connection.execute(f"CREATE DATABASE {self.archive}".encode())
        with psycopg.connect(connection.info.dsn, dbname=self.archive) as elsewhere:
            elsewhere.execute("CREATE TABLE public.archive (id int, notes text)")
            elsewhere.execute("INSERT INTO public.archive VALUES (101, %s), (102, %s)", (sealed(1), sealed(1)))
        fence.fence(connection, self.VISITS, [V1])
        self.moment = SnapshotPosition(snapshot_horizon.current_xid(connection), snapshot_horizon.barrier(connection))

    def attach_foreign_partition(self, connection: Connection | None = None) -> None:
        """As an archive on another server is attached: with the CHECKs of the parent copied by hand."""
        connection = connection or self.connection
        options = f"host '{connection.info.host}', port '{connection.info.port}', dbname '{self.archive}'"
        connection.execute(f"CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({options})".encode())
        connection.execute("CREATE USER MAPPING FOR CURRENT_USER SERVER other OPTIONS (user 'postgres')")
        (definition,) = connection.execute(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'public.visits'::regclass"
        ).fetchall()[0]
        columns = f"id int, notes text, CONSTRAINT {fence.NAME} {definition}"
        options = "schema_name 'public', table_name 'archive'"
        connection.execute(
            f"CREATE FOREIGN TABLE public.visits_2 ({columns}) SERVER other OPTIONS ({options})".encode()
        )
        connection.execute("ALTER TABLE public.visits ATTACH PARTITION public.visits_2 FOR VALUES FROM (100) TO (200)")

    def prove(self) -> ZeroOldRows:
        with self.connection.transaction():
            return proof.zero_old_rows(self.connection, [self.VISITS], V1, [V1], self.moment)


@pytest.fixture
def partitioned(
    debian: Connection, keyring_of: Callable[..., KeyRing], seal: Callable[[KeyRing, int, str], str]
) -> Iterator[PartitionedClinic]:
    migrate(debian.info.dsn)
    ring = keyring_of(1, 2, primary=2)
    clinic = PartitionedClinic(debian, lambda version: seal(ring, version, "some text"))
    yield clinic
    debian.execute(f"DROP DATABASE {clinic.archive} WITH (FORCE)".encode())


@pytest.mark.external_postgres
def test_a_foreign_partition_attached_after_the_proof_voids_count_fence_and_evidence(
    partitioned: PartitionedClinic,
) -> None:
    partitioned.attach_foreign_partition()
    shown = partitioned.connection.execute("SELECT count(*) FROM public.visits WHERE notes LIKE 'v1:%'").fetchall()
    assert shown == [(2,)], "the declared table shows v1 rows"

    with pytest.raises(PreflightError, match="visits_2, declared through visits, is not an ordinary table"):
        partitioned.prove()
    with pytest.raises(PreflightError, match="visits_2, declared through visits, is not an ordinary table"):
        count_old_values(partitioned.connection, partitioned.VISITS, [V1])
    with pytest.raises(PreflightError, match="visits_2, declared through visits, is not an ordinary table"):
        fence.fence(partitioned.connection, partitioned.VISITS, [V1])
    assert fence.fences(partitioned.connection, partitioned.VISITS) == ()


@pytest.mark.external_postgres
def test_nothing_can_be_attached_before_the_retiring_transaction_ends(partitioned: PartitionedClinic) -> None:
    with connect(partitioned.connection.info.dsn) as other, partitioned.connection.transaction():
        proof.zero_old_rows(partitioned.connection, [partitioned.VISITS], V1, [V1], partitioned.moment)
        other.execute("SET lock_timeout = '50ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            partitioned.attach_foreign_partition(other)


def test_a_temporary_child_of_another_session_voids_the_count(clinic: Clinic, database_url: str) -> None:
    with connect(database_url) as other:
        other.execute("CREATE TEMPORARY TABLE more () INHERITS (public.visits)")
        with pytest.raises(PreflightError, match="more, declared through visits, is not an ordinary table"):
            clinic.prove()


# What was read before the transaction


# Three rows; those of `clients` are read twice, for its declared columns and for the others.
_READ_HERE = "SELECT sum(seq_tup_read)::int FROM pg_stat_xact_user_tables WHERE relname IN ('clients', 'visits')"


@pytest.mark.parametrize(
    ("budget", "read"), [pytest.param(0, 0, id="too large to be read again"), pytest.param(1000, 5, id="small")]
)
def test_what_was_read_before_is_read_again_under_the_locks_only_if_it_is_small(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch, budget: int, read: int
) -> None:
    searched = clinic.search()
    monkeypatch.setattr(search, "READ_AGAIN_PAGES", budget)
    with clinic.connection.transaction():
        ((before,),) = clinic.connection.execute(_READ_HERE).fetchall()
        evidence = proof.zero_old_rows(clinic.connection, [CLIENTS, VISITS], V1, [V1], clinic.moment, searched=searched)
        ((after,),) = clinic.connection.execute(_READ_HERE).fetchall()
    assert evidence.values == 3
    assert int(str(after)) - int(str(before)) == read


# The heap of `clients` stays at one page; 600 kB of `city` are in its TOAST.
_OUTSIDE_THE_HEAP = """
ALTER TABLE public.clients ALTER city SET STORAGE EXTERNAL;
UPDATE public.clients SET city = repeat('Bern ', 120000) WHERE id = 1
"""


def test_what_is_large_by_its_toast_is_not_read_again_under_the_locks(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    clinic.connection.execute(_OUTSIDE_THE_HEAP.encode())
    searched = clinic.search()
    monkeypatch.setattr(search, "READ_AGAIN_PAGES", 60)
    evidence = clinic.prove(searched)
    assert (evidence.not_read_again[0], "visits" in evidence.not_read_again) == ("clients", False)


def test_a_changed_table_that_is_large_by_its_toast_is_searched_before_anything_is_locked(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched = clinic.search()
    clinic.connection.execute(_OUTSIDE_THE_HEAP.encode())
    clinic.connection.execute("ALTER TABLE public.clients ADD note text")
    monkeypatch.setattr(search, "READ_AGAIN_PAGES", 60)
    with pytest.raises(BlockedError, match="large tables were created or changed during the search"):
        clinic.prove(searched)
    clinic.prove(clinic.search())


@pytest.mark.parametrize("budget", [pytest.param(1, id="large"), pytest.param(1000, id="small")])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        pytest.param(
            "UPDATE pg_class SET relchecks = 0 WHERE oid = 'public.clients'::regclass;"
            "UPDATE public.clients SET email = {old} WHERE id = 1;"
            "UPDATE pg_class SET relchecks = 1 WHERE oid = 'public.clients'::regclass",
            r"column email: 1 value still under v1",
            id="a fence that was switched off by hand for a moment",
        ),
        pytest.param(
            "CREATE TABLE public.copies AS SELECT {old} AS note",
            r"copies, column note: 1 encrypted value",
            id="a new table",
        ),
        pytest.param(
            "ALTER TABLE public.visits ADD note text; UPDATE public.visits SET note = {old}",
            r"visits, column note: 1 encrypted value",
            id="a new column",
        ),
        pytest.param(
            "CREATE TABLE public.child () INHERITS (public.visits); ALTER TABLE public.child ADD note text;"
            "INSERT INTO public.child VALUES (9, NULL, {old})",
            r"child, column note: 1 encrypted value",
            id="a new child",
        ),
    ],
)
def test_what_was_made_or_changed_since_it_was_read_is_read_again_or_refused(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch, change: str, sentence: str, budget: int
) -> None:
    searched = clinic.search()
    clinic.connection.execute(change.format(old=f"'{clinic.sealed(1)}'").encode())
    monkeypatch.setattr(search, "READ_AGAIN_PAGES", 0 if budget == 1 else budget)
    refusal = "large tables were created or changed during the search" if budget == 1 else sentence
    with pytest.raises((ProofError, BlockedError), match=refusal):
        clinic.prove(searched)
    assert clinic.connection.info.transaction_status.name == "IDLE"


def test_a_column_that_was_generated_while_its_table_was_searched_is_read_afterwards(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    expression = "replace(notes, 'v2:', 'v1:')"
    clinic.connection.execute(
        f"ALTER TABLE public.visits ADD copy text GENERATED ALWAYS AS ({expression}) STORED".encode()
    )
    searched = clinic.search()
    clinic.connection.execute("ALTER TABLE public.visits ALTER copy DROP EXPRESSION")
    with pytest.raises(ProofError, match=r"visits, column copy: 1 encrypted value"):
        clinic.prove(searched)
    monkeypatch.setattr(search, "READ_AGAIN_PAGES", 0)
    with pytest.raises(BlockedError, match="large tables were created or changed during the search"):
        clinic.prove(searched)


def test_what_was_changed_is_read_again_though_smaller_relations_have_used_up_the_limit(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    clinic.connection.execute("ALTER TABLE public.clients ALTER city SET STORAGE PLAIN")
    filler = "INSERT INTO public.clients SELECT n, repeat('x', 1900), NULL, NULL FROM generate_series(10, 40) AS n"
    clinic.connection.execute(filler.encode())
    clinic.connection.execute("DELETE FROM public.clients WHERE id IN (10, 11)")
    clinic.connection.execute("VACUUM public.clients")
    searched = clinic.search()
    clinic.connection.execute("GRANT SELECT ON public.clients TO PUBLIC")
    place = "UPDATE public.clients SET city = %s WHERE id = 1 RETURNING ctid::text"
    ((ctid,),) = clinic.connection.execute(place, (clinic.sealed(1),)).fetchall()
    assert str(ctid).startswith("(0,"), "into the first page"
    size = "SELECT pg_relation_size('public.clients') / current_setting('block_size')::int"
    ((pages,),) = clinic.connection.execute(size).fetchall()
    monkeypatch.setattr(search, "READ_AGAIN_PAGES", int(str(pages)))
    with pytest.raises(ProofError, match=r"clients, column city: 1 encrypted value"):
        clinic.prove(searched)


def test_a_table_that_was_made_again_after_the_proof_is_not_the_one_proven(clinic: Clinic) -> None:
    clinic.connection.execute("CREATE TABLE public.copy (LIKE public.visits INCLUDING ALL); DROP TABLE public.visits")
    clinic.connection.execute("ALTER TABLE public.copy RENAME TO visits")
    with pytest.raises(FenceError, match=r"fence of table visits .* was recreated after the proof"):
        clinic.prove()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        pytest.param(
            "INSERT INTO public.clients SELECT n, {old}, '', '' FROM generate_series(10, 500) AS n",
            r"clients, column city: \d+ encrypted values?",
            id="an old value in an undeclared column",
        ),
        pytest.param(
            "INSERT INTO public.clients SELECT n, '', 'Ada', '' FROM generate_series(10, 500) AS n",
            r"table clients, column first_name: \d+ unencrypted values?",
            id="unencrypted values",
        ),
    ],
)
def test_pages_that_were_added_since_are_read_however_large_the_table_is(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch, change: str, sentence: str
) -> None:
    searched = clinic.search()
    clinic.connection.execute(change.format(old=f"'{clinic.sealed(1)}'").encode())
    monkeypatch.setattr(search, "READ_AGAIN_PAGES", 0)
    with pytest.raises(ProofError, match=sentence):
        clinic.prove(searched)


@pytest.mark.parametrize(
    ("column", "version"),
    [pytest.param("city", 1, id="v1 in an undeclared column"), pytest.param("email", None, id="unencrypted")],
)
def test_of_more_than_64_mb_what_is_written_into_older_pages_meanwhile_is_named_as_not_seen_and_found_at_once(
    clinic: Clinic, column: str, version: int | None
) -> None:
    """The trade of ADR 16 for real: no key is needed less for it, and nobody is told that all was looked at."""
    clinic.connection.execute("ALTER TABLE public.clients ALTER city SET STORAGE PLAIN")
    filler = "INSERT INTO public.clients SELECT n, repeat('x', 1900), NULL, NULL FROM generate_series(10, 33500) AS n"
    clinic.connection.execute(filler.encode())
    clinic.connection.execute("DELETE FROM public.clients WHERE id < 14 AND id > 9")
    clinic.connection.execute("VACUUM public.clients")
    searched = clinic.search()
    written = clinic.sealed(version) if version else "Ada"
    place = "UPDATE public.clients SET {} = %s WHERE id = 1 RETURNING ctid::text"
    ((ctid,),) = clinic.connection.execute(place.format(column).encode(), (written,)).fetchall()
    assert str(ctid).startswith("(0,"), "into the first page"
    evidence = clinic.prove(searched)

    assert evidence.not_read_again == ("clients",)
    with pytest.raises(ProofError):
        clinic.prove()
    findings = discover(clinic.connection, [CLIENTS, VISITS])
    (counted,) = PostgresInventory(clinic.connection).count([CLIENTS])
    assert (len(findings), counted.unencrypted) == ((1, 0) if version else (0, 1))


@pytest.mark.parametrize(
    "housekeeping",
    [
        "VACUUM (FREEZE, ANALYZE) public.clients",
        "CREATE INDEX ON public.clients (city)",
        "REINDEX TABLE public.clients",
    ],
)
def test_housekeeping_is_no_change(clinic: Clinic, monkeypatch: pytest.MonkeyPatch, housekeeping: str) -> None:
    searched = clinic.search()
    clinic.connection.execute(housekeeping.encode())
    monkeypatch.setattr(search, "READ_AGAIN_PAGES", 0)
    assert clinic.prove(searched).values == 3


def test_what_is_left_is_found_before_anything_is_locked(clinic: Clinic) -> None:
    clinic.write_old_value_behind_the_fence()
    with pytest.raises(FenceError, match=r"table clients, column email: 1 value still under v1"):
        clinic.search()


@pytest.fixture
def vacuumed() -> Iterator[tuple[Server, Connection, list[EncryptedTable]]]:
    """Tables through which one autovacuum worker goes, and stays at each for longer than it is let."""
    server = start_server(EMBEDDED_18, "autovacuum_naptime=1s", "autovacuum_max_workers=1")
    tables = [EncryptedTable(TableName("public", f"visits_{number}"), ("notes",)) for number in range(6)]
    with connect(server.url()) as connection:
        for table in tables:
            name = f"public.{table.name.table}"
            connection.execute(
                f"CREATE TABLE {name} (notes text) WITH (autovacuum_vacuum_cost_delay = 100, "
                "autovacuum_vacuum_cost_limit = 1, autovacuum_vacuum_threshold = 0)".encode()
            )
        with connection.transaction():
            for table in tables:
                name = f"public.{table.name.table}"
                connection.execute(f"INSERT INTO {name} SELECT repeat('x', 90) FROM generate_series(1, 3000)".encode())
                connection.execute(f"DELETE FROM {name} WHERE ctid < '(20,0)'".encode())
        yield server, connection, tables
    discard(server)


def test_while_the_tables_are_held_autovacuum_is_waited_for_once_and_not_at_every_table(
    vacuumed: tuple[Server, Connection, list[EncryptedTable]],
) -> None:
    server, connection, tables = vacuumed
    at_work = "SELECT FROM pg_stat_progress_vacuum WHERE relid = 'public.visits_0'::regclass"
    assert eventually(lambda: connection.execute(at_work).fetchone() is not None)
    with connection.transaction():
        proof.lock_tables(connection, tables)
    evicted = (server.directory / "log").read_text().count("canceling autovacuum task")
    assert 0 < evicted < 3


# --- a column that held plaintext -----------------------------------------------------------------------------------

NOTES = EncryptedTable.of(TableName("public", "visits"), [Place("notes", source="plaintext")])


def registered(owner: Connection, *versions: KeyVersion) -> None:
    """Write the rows that say which versions there are, as the database's owner can."""
    forger = Forger(owner)
    for version in versions:
        now = datetime.now(UTC)
        forger.append(KeyRegistered(version, KeyState.ACTIVE, "f" * 64, now), at=now, database="clinic")


def fenced(clinic: Clinic, *versions: KeyVersion) -> SnapshotPosition:
    fence.fence(clinic.connection, NOTES, versions)
    return SnapshotPosition(
        snapshot_horizon.current_xid(clinic.connection), snapshot_horizon.barrier(clinic.connection)
    )


@pytest.mark.parametrize("searches", [False, True])
def test_a_rotation_that_looks_like_a_rollback_hides_no_plaintext(clinic: Clinic, searches: bool) -> None:
    latest = KeyVersion(3)
    retired = (V1, latest)
    registered(clinic.connection, V1, V2, latest)  # v2 is not retired, so that this looks like a rollback to it
    fence.fence(clinic.connection, CLIENTS, retired)
    moment, tables = fenced(clinic, *retired), [CLIENTS, NOTES]
    clinic.connection.execute("INSERT INTO public.visits VALUES (2, 'plain'), (3, 'v2: plain')")
    found = search.search(clinic.connection, tables, latest, retired, lambda _: None) if searches else None
    with clinic.connection.transaction():
        evidence = proof.zero_old_rows(clinic.connection, tables, latest, retired, moment, searched=found)
    assert evidence.plaintext == (4 if searches else 2)


def test_plaintext_is_refused_by_the_count_of_a_rotation(clinic: Clinic) -> None:
    registered(clinic.connection, V1, V2)
    moment = fenced(clinic, V1)
    clinic.connection.execute(f"ALTER TABLE public.visits DROP CONSTRAINT {fence.NAME}".encode())
    clinic.connection.execute("INSERT INTO public.visits VALUES (2, 'plain')")
    with (
        pytest.raises(ProofError, match=r"table visits, column notes: 1 unencrypted value"),
        clinic.connection.transaction(),
    ):
        proof.zero_old_rows(clinic.connection, [CLIENTS, NOTES], V1, [V1], moment)
