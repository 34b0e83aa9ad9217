"""What will not decrypt is left, named by table, key and column, and kept until it is fixed; the rest continues."""

import os

import pytest

from keyrotation_pipeline.adapters.postgres.engine.decrypt import decrypt_all
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.inventory import quarantine
from keyrotation_pipeline.adapters.postgres.ledger.migrate import migrate
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.fieldcrypto import reads
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.progress import Progress
from keyrotation_pipeline.model.proof import DecryptedCount
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline_tests.integration.encrypted_rows import (
    REQUEST,
    V2,
    Engine,
    insert,
    opened,
    ring_of,
    running,
    sealed,
    table_of,
)

CASES = table_of("cases", "a", "b")
V1 = KeyVersion(1)
NOT_A_VALUE = str(reads.NOT_A_VALUE)
UNKNOWN = "under key version v7, which is not in the key ring"
FORGED = "fails authentication under key version v1"


@pytest.fixture
def ring() -> KeyRing:
    return ring_of(1, 2)


@pytest.fixture
def engine(migrated: Connection, database_url: str, ring: KeyRing) -> Engine:
    return Engine(database_url, ring)


def bad_values(ring: KeyRing) -> dict[str, str]:
    good = sealed(ring, 1, "x")
    return {
        NOT_A_VALUE: "Grace Hopper",
        UNKNOWN: good.replace("v1:", "v7:"),
        FORGED: sealed(ring_of(1, primary=1), 1, "x"),
    }


def entries(connection: Connection, table: EncryptedTable = CASES) -> list[tuple[str, str, str]]:
    return sorted((value.key, value.column, value.reason) for value in quarantine.load(connection, [table]))


def fill(connection: Connection, ring: KeyRing, key: str = "id int PRIMARY KEY") -> None:
    """Three rows with one bad value each, and a good one."""
    connection.execute(f"CREATE TABLE public.cases ({key}, a text, b text)".encode())
    rows = [(n, bad, sealed(ring, 1, f"b{n}")) for n, bad in enumerate(bad_values(ring).values())]
    insert(connection, "public.cases (id, a, b)", [*rows, (3, sealed(ring, 1, "a3"), "v01:almost")])


@pytest.mark.parametrize(
    ("key", "named"),
    [
        pytest.param("id int PRIMARY KEY", '["{}"]', id="one column"),
        pytest.param("place text DEFAULT 'X\"', id int, PRIMARY KEY (place, id)", '["X\\"", "{}"]', id="two columns"),
    ],
)
def test_bad_values_are_named_by_key_and_column_and_the_rest_of_their_rows_continues(
    migrated: Connection, engine: Engine, ring: KeyRing, key: str, named: str
) -> None:
    fill(migrated, ring, key)
    before = migrated.execute("SELECT a FROM public.cases WHERE id < 3 ORDER BY id").fetchall()

    done = engine.shard(CASES)

    assert (done.rows, done.values, done.skipped, done.quarantined) == (4, 4, 0, 4)
    keys = [named.format(n) for n in range(4)]
    assert entries(migrated) == [
        (keys[0], "a", NOT_A_VALUE), (keys[1], "a", UNKNOWN), (keys[2], "a", FORGED), (keys[3], "b", NOT_A_VALUE),
    ]  # fmt: skip
    assert migrated.execute("SELECT a FROM public.cases WHERE id < 3 ORDER BY id").fetchall() == before
    rest = migrated.execute("SELECT b FROM public.cases WHERE id < 3 ORDER BY id").fetchall()
    assert [opened(ring, str(b)) for (b,) in rest] == [("v2", f"b{n}") for n in range(3)]
    left = engine.sweep(CASES, wait=True)
    assert (left.rows, left.skipped, left.quarantined) == (0, 0, 4)


@pytest.mark.parametrize(
    ("key", "named"),
    [
        pytest.param("id int, phone text DEFAULT '555', PRIMARY KEY (id) INCLUDE (phone, a)", '["{}"]', id="INCLUDE"),
        pytest.param("id int NOT NULL UNIQUE, PRIMARY KEY (id, a)", '["{}"]', id="an encrypted column in the key"),
        pytest.param("id int NOT NULL UNIQUE", '["{}"]', id="a unique column"),
        pytest.param("id int UNIQUE", "(0,{})", id="a unique column that may be NULL"),
        pytest.param("id int NOT NULL, UNIQUE (id) DEFERRABLE", "(0,{})", id="deferrable"),
    ],
)
def test_a_row_is_named_by_key_columns_that_are_not_encrypted(
    migrated: Connection, engine: Engine, ring: KeyRing, key: str, named: str
) -> None:
    migrated.execute(f"CREATE TABLE public.cases (b text, a text, {key})".encode())
    insert(migrated, "public.cases (id, a, b)", [(n, bad, "x") for n, bad in enumerate(bad_values(ring).values())])
    engine.shard(CASES)
    first = 1 if named.startswith("(") else 0
    keys = {named.format(n + first) for n in range(3)}
    assert {key for key, _, _ in entries(migrated)} == keys
    assert engine.sweep(CASES, wait=True).quarantined == 6
    assert len(entries(migrated)) == 6, "no entry is lost"


@pytest.mark.external_postgres
@pytest.mark.parametrize(("extension", "column", "names"), [
    ("ltree", "id public.ltree", ["Top.Science", "Top.Art", "Top.History", "Top.Art.Music"]),
    ("isn", "id public.isbn13", ["978-0-393-04002-9", "978-0-11-000533-1", "978-1-4133-0454-1", "978-0-306-40615-7"]),
    ("citext", "id public.citext", ["Ada", "Ben", "Cy", "Dee"]),
])  # fmt: skip
def test_keys_of_extension_types_name_rows_and_find_stragglers(
    debian: Connection, ring: KeyRing, extension: str, column: str, names: list[str]
) -> None:
    migrate(debian.info.dsn)
    debian.execute(f"CREATE EXTENSION {extension} SCHEMA public".encode())
    debian.execute(f"CREATE TABLE public.cases ({column} PRIMARY KEY, a text, b text)".encode())
    bad = list(bad_values(ring).values())
    insert(
        debian,
        "public.cases",
        [(name, sealed(ring, 1, "x"), value) for name, value in zip(names, [*bad, None], strict=True)],
    )
    engine = Engine(debian.info.dsn, ring)

    assert engine.sweep(CASES, wait=True).values == 4
    assert engine.shard(CASES).quarantined == 3
    assert {key for key, _, _ in entries(debian)} == {f'["{name}"]' for name in names[:3]}
    debian.execute("UPDATE public.cases SET b = NULL")
    assert entries(debian) == []


def test_no_part_of_a_value_is_in_what_is_recorded(migrated: Connection, engine: Engine, ring: KeyRing) -> None:
    fill(migrated, ring)
    engine.shard(CASES)
    recorded = str(migrated.execute("SELECT * FROM keyrotation.quarantine").fetchall()) + str(engine.progress)
    for value in bad_values(ring).values():
        assert value not in recorded
        assert value[-20:] not in recorded


@pytest.mark.parametrize(
    ("fix", "left"),
    [
        pytest.param("UPDATE public.cases SET b = NULL", [0, 1, 2, 3], id="another column"),
        pytest.param("UPDATE public.cases SET a = NULL", [], id="NULL"),
        pytest.param("UPDATE public.cases SET a = ''", [], id="empty"),
        pytest.param("DELETE FROM public.cases WHERE id <> 1", [1], id="deleted"),
        pytest.param("UPDATE public.cases SET a = 'still plain' WHERE id = 0", [0, 1, 2, 3], id="still bad"),
        pytest.param("UPDATE public.cases SET a = (SELECT a FROM good)", [], id="written under the target"),
    ],
)
@pytest.mark.parametrize("key", ["id int PRIMARY KEY", "id int"], ids=["keyed", "no key"])
def test_an_entry_stays_until_its_value_is_fixed(
    migrated: Connection, engine: Engine, ring: KeyRing, key: str, fix: str, left: list[int]
) -> None:
    fill(migrated, ring, key)
    migrated.execute("DELETE FROM public.cases WHERE id = 3")
    insert(migrated, "public.cases (id, a)", [(3, "plain")])
    migrated.execute("CREATE TEMPORARY TABLE good (a text)")
    insert(migrated, "good", [(sealed(ring, 2, "fixed"),)])
    engine.shard(CASES)
    assert len(entries(migrated)) == 4

    migrated.execute(fix.replace("good", "pg_temp.good").encode())

    assert len(entries(migrated)) == len(left)
    assert migrated.execute("SELECT count(*) FROM keyrotation.quarantine").fetchone() == (len(left),)


def test_a_row_without_key_is_named_once_however_often_it_moves(
    migrated: Connection, engine: Engine, ring: KeyRing
) -> None:
    fill(migrated, ring, "id int")
    engine.shard(CASES)
    for _ in range(3):
        migrated.execute("UPDATE public.cases SET id = id")
        engine.sweep(CASES)
        assert len(entries(migrated)) == 4


def test_a_fixed_value_is_rewritten_by_the_next_sweep(migrated: Connection, engine: Engine, ring: KeyRing) -> None:
    fill(migrated, ring)
    engine.shard(CASES)
    migrated.execute("UPDATE public.cases SET a = %s WHERE id = 0", (sealed(ring, 1, "fixed"),))
    assert engine.sweep(CASES).rows == 1
    assert [key for key, _, _ in entries(migrated)] == ['["1"]', '["2"]', '["3"]']


def decrypted(url: str, ring: KeyRing, reported: list[Progress] | None = None, workers: int = 1) -> DecryptedCount:
    report = (reported if reported is not None else []).append
    return decrypt_all(lambda: connect(url), CASES, ring, report, Limits(workers=workers, pages_per_worker=1))


def figures(counted: DecryptedCount) -> tuple[int, int, int]:
    return counted.rows, counted.values, counted.failures


@pytest.mark.parametrize("workers", [1, 3])
def test_a_full_decrypt_counts_every_value_and_quarantines_what_fails(
    migrated: Connection, database_url: str, ring: KeyRing, workers: int
) -> None:
    fill(migrated, ring)
    insert(migrated, "public.cases", [(n, sealed(ring, 2, "x"), None if n % 2 else "") for n in range(10, 2000)])
    reported: list[Progress] = []

    counted = decrypted(database_url, ring, reported, workers)

    assert figures(counted) == (1994, 1998, 4)
    assert counted.by_column == {"a": {V1: 1, V2: 1990}, "b": {V1: 3}}
    assert counted.empty == 995

    assert [(key, column) for key, column, _ in entries(migrated)] == [
        ('["0"]', "a"), ('["1"]', "a"), ('["2"]', "a"), ('["3"]', "b"),
    ]  # fmt: skip
    assert reported[-1].done == reported[-1].total > 0


@pytest.mark.parametrize(
    ("kind", "pages_per_worker", "readers"),
    [
        pytest.param("routine", 1, 1, id="routine"),
        pytest.param("emergency", 1, 2 * max(1, (os.cpu_count() or 2) // 2), id="emergency"),
        pytest.param("emergency", 500, 1, id="emergency, a small table"),
    ],
)
def test_the_full_decrypt_of_an_emergency_takes_every_core_where_there_is_enough_to_read(
    migrated: Connection, database_url: str, ring: KeyRing, kind: str, pages_per_worker: int, readers: int
) -> None:
    fill(migrated, ring)
    good = sealed(ring, 2, "x")
    insert(migrated, "public.cases", [(n, good, good) for n in range(10, 10 + 60 * (os.cpu_count() or 2))])
    running(migrated, kind)
    opened_connections: list[Connection] = []

    def connecting() -> Connection:
        opened_connections.append(connect(database_url))
        return opened_connections[-1]

    limits = Limits(pages_per_worker=pages_per_worker)
    assert decrypt_all(connecting, CASES, ring, lambda _: None, limits, REQUEST).failures == 4
    assert len(opened_connections) == 1 + readers  # one for the quarantine


def test_a_full_decrypt_drops_entries_that_it_does_not_find_again(
    migrated: Connection, database_url: str, ring: KeyRing
) -> None:
    fill(migrated, ring)
    assert decrypted(database_url, ring).failures == 4
    # Fixed under the same version: nothing but decrypting can tell.
    migrated.execute("UPDATE public.cases SET a = %s WHERE id = 2", (sealed(ring, 1, "fixed"),))
    assert len(entries(migrated)) == 4
    assert decrypted(database_url, ring).failures == 3
    assert len(entries(migrated)) == 3


def test_a_full_decrypt_reads_values_of_a_megabyte_and_children(
    migrated: Connection, database_url: str, ring: KeyRing
) -> None:
    migrated.execute(
        "CREATE TABLE public.cases (id int, a text, b text); CREATE TABLE public.more () INHERITS (public.cases)"
    )
    migrated.execute("ALTER TABLE public.cases ALTER a SET STORAGE EXTERNAL")
    big = sealed(ring, 1, "x" * 1_000_000)
    insert(migrated, "public.cases", [(n, big, None) for n in range(6)])
    insert(migrated, "public.more", [(n, sealed(ring, 2, "x"), None) for n in range(6)])
    assert figures(decrypted(database_url, ring)) == (12, 12, 0)
