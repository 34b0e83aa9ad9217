"""Values of our own that are bound to their row: the engine, counts, samples, comparisons and the pre-flight."""

import json
import random
import re
import subprocess
import sys
import threading
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from keyrotation_pipeline.adapters.postgres.engine import speed
from keyrotation_pipeline.adapters.postgres.engine.decrypt import decrypt_all
from keyrotation_pipeline.adapters.postgres.engine.decrypted_counts import held_in_snapshot
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.inventory import quarantine, samples
from keyrotation_pipeline.adapters.postgres.inventory.postgres_inventory import PostgresInventory
from keyrotation_pipeline.adapters.postgres.inventory.relations import tree
from keyrotation_pipeline.adapters.postgres.preflight import preflight
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.adapters.postgres.server.scratch import ScratchDump
from keyrotation_pipeline.backups.table_comparison import TableComparison
from keyrotation_pipeline.errors import PreflightError
from keyrotation_pipeline.fieldcrypto.binding import Row
from keyrotation_pipeline.fieldcrypto.cipher import decrypt, encrypt
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.reads import Defect, DefectKind
from keyrotation_pipeline.model.comparison import DifferenceKind
from keyrotation_pipeline.model.tables import EncryptedTable, Place, TableName
from keyrotation_pipeline_tests.applications import beside
from keyrotation_pipeline_tests.integration.encrypted_rows import Engine, insert
from keyrotation_pipeline_tests.integration.test_engine_interleaving import between_read_and_write

V1, V2X, V3X = KeyVersion(1), KeyVersion(2, 2), KeyVersion(3, 2)
KEYS = {version: KeyMaterial.generate() for version in (V1, V2X, V3X)}
RING = KeyRing(KEYS, V3X)
COLUMNS, LABELS = ("Text %", "raw"), ('S 1.Vi"sits.Text %', 'S 1.Vi"sits.raw')
TABLE = EncryptedTable(TableName("S 1", 'Vi"sits'), COLUMNS, replace(NATIVE, generation=2, row="N'o %s", row_from=3))
CREATE = """
CREATE SCHEMA "S 1";
CREATE TABLE "S 1"."Vi""sits" ("N'o %s" varchar(9), "Text %" varchar(400), raw bytea, n int,
    PRIMARY KEY ("N'o %s", n)) PARTITION BY RANGE (n);
CREATE TABLE "S 1".low (n int NOT NULL, raw bytea, "Text %" varchar(400), "N'o %s" varchar(9) NOT NULL);
ALTER TABLE "S 1"."Vi""sits" ATTACH PARTITION "S 1".low FOR VALUES FROM (0) TO (10);
CREATE TABLE "S 1".high PARTITION OF "S 1"."Vi""sits" DEFAULT
"""
ROWS = 30


def key(row: int) -> bytes:
    return f"é:;{row}".encode()


def value(version: KeyVersion, row: int, column: int, text: str) -> str:
    return encrypt(KeyRing(KEYS, version), text, LABELS[column], Row(3, key(row)))


class Visits:
    """A partitioned table with odd names, and values in text and in bytes."""

    def __init__(self, url: str, connection: Connection, under: KeyVersion = V1) -> None:
        self.url, self.connection = url, connection
        connection.execute(CREATE)
        for row in range(ROWS):
            values = (key(row).decode(), *(value(under, row, n, f"{n} of {row}") for n in (0, 1)), row)
            connection.execute("""INSERT INTO "S 1"."Vi""sits" VALUES (%s, %s, convert_to(%s, 'UTF8'), %s)""", values)

    def engine(self, target: KeyVersion, **limits: Any) -> Engine:  # noqa: ANN401
        return Engine(self.url, RING, Limits(**limits), target)

    def read(self) -> list[list[str]]:
        rows: list[Any] = self.connection.execute(
            """SELECT n, "Text %", convert_from(raw, 'UTF8') FROM "S 1"."Vi""sits" ORDER BY n"""
        ).fetchall()
        return [
            [decrypt(RING, str(each), label, Row(3, key(row))) for each, label in zip(values, LABELS, strict=True)]
            for row, *values in rows
        ]

    def exchange(self) -> None:
        """Rows 5 and 6 have each other's text."""
        self.connection.execute("""
            UPDATE "S 1"."Vi""sits" v SET "Text %" = o."Text %"
            FROM "S 1"."Vi""sits" o WHERE v.n IN (5, 6) AND o.n = 11 - v.n
        """)


EXPECTED = [[f"{n} of {row}" for n in (0, 1)] for row in range(ROWS)]


@pytest.fixture
def visits(database_url: str, migrated: Connection) -> Visits:
    return Visits(database_url, migrated)


@pytest.mark.parametrize("native", [True, False])
def test_values_are_bound_to_their_row_and_unbound_again(visits: Visits, native: bool) -> None:
    for target in (V2X, V3X, V2X, V3X):
        done = visits.engine(target, native_codec=native).sweep(TABLE, wait=True)
        assert (done.rows, done.values, done.quarantined) == (ROWS, 2 * ROWS, 0)
        assert visits.read() == EXPECTED
    (counted,) = PostgresInventory(visits.connection).count([TABLE])
    assert counted.by_column == {column: {V3X: ROWS} for column in COLUMNS}


def test_every_sample_and_copy_reads_the_keys_of_rows(visits: Visits) -> None:
    assert visits.engine(V3X).shard(TABLE).values == 2 * ROWS
    visits.connection.execute("""UPDATE "S 1"."Vi""sits" SET "Text %" = '', raw = NULL WHERE n = 3""")
    assert held_in_snapshot(visits.connection, TABLE, RING)[1] == [{V3X: ROWS - 1, None: 1}, {V3X: ROWS - 1}]
    trial = samples.decrypt_sample(visits.connection, TABLE, RING, 10, {})
    assert [(each.version, each.opened == each.tried > 0) for each in trial.columns] == [(V3X, True)] * 2
    assert [(each.tried, each.opened) for each in samples.probe(visits.connection, TABLE, RING, 9)] == [(9, 9)] * 2
    (measured,) = speed.measure(lambda: connect(visits.url), [TABLE], RING, V2X, Limits())
    assert (measured.sampled_rows, measured.failed_values) == (ROWS - 10, 0)  # of the largest partition
    read = ScratchDump(visits.url, visits.connection, None).read(TABLE, RING)
    assert (read.rows, read.values, read.failures) == (ROWS, 2 * ROWS - 2, 0)
    undeclared = replace(TABLE, format=TABLE.format.of_all_tables)
    assert ScratchDump(visits.url, visits.connection, None).read(undeclared, RING).failures == 2 * ROWS - 2


@pytest.mark.parametrize("native", [True, False])
def test_exchanged_values_are_named_and_left_until_they_are_put_right(visits: Visits, native: bool) -> None:
    visits.engine(V3X).shard(TABLE)
    rows_before = list(PostgresInventory(visits.connection).rows_by_key(TABLE, ("n",)))
    visits.exchange()
    found = decrypt_all(lambda: connect(visits.url), TABLE, RING, lambda _: None, Limits(native_codec=native))
    assert found.by_column["Text %"] == {V3X: ROWS - 2}
    wrong = {json.dumps([key(row).decode(), str(row)], ensure_ascii=False) for row in (5, 6)}
    defects = {(each.key, each.column, each.defect) for each in quarantine.load(visits.connection, [TABLE])}
    assert defects == {(each, "Text %", Defect(DefectKind.NOT_AUTHENTIC, V3X)) for each in wrong}
    done = visits.engine(V2X, native_codec=native).sweep(TABLE, wait=True)
    assert (done.values, done.quarantined) == (2 * ROWS - 2, 2)

    class Backup(PostgresInventory):
        def rows_by_key(self, *_: object) -> Any:  # noqa: ANN401
            return (row for row in rows_before)

        def row_key(self, *_: object) -> tuple[str, ...]:
            return ("n",)

    now = PostgresInventory(visits.connection)
    differences = list(TableComparison(TABLE, RING).differences(Backup(visits.connection), now))
    assert [(each.key, each.column, each.kind) for each in differences] == [
        (f'["{row}"]', "Text %", DifferenceKind.CHANGED) for row in (5, 6)
    ]
    visits.exchange()
    assert visits.engine(V2X, native_codec=native).sweep(TABLE).values == 2
    decrypt_all(lambda: connect(visits.url), TABLE, RING, lambda _: None, Limits())
    assert not quarantine.load(visits.connection, [TABLE])
    assert visits.read() == EXPECTED


@pytest.mark.parametrize("wait", [False, True])
def test_a_row_that_gets_another_key_while_the_engine_works_keeps_its_new_value(visits: Visits, wait: bool) -> None:
    def moved(batch: int) -> None:
        if batch == 0:
            new = encrypt(RING, "moved", LABELS[0], Row(3, b"new"))
            with connect(visits.url) as application:
                application.execute(
                    """UPDATE "S 1"."Vi""sits" SET "N'o %%s" = 'new', "Text %%" = %s, raw = NULL WHERE n = 5""", (new,)
                )

    with between_read_and_write(moved):
        visits.engine(V3X).sweep(TABLE, wait=wait)
    while visits.engine(V3X).sweep(TABLE).rows:
        pass
    ((text,),) = visits.connection.execute("""SELECT "Text %" FROM "S 1"."Vi""sits" WHERE n = 5""").fetchall()
    assert decrypt(RING, str(text), LABELS[0], Row(3, b"new")) == "moved"
    assert not quarantine.load(visits.connection, [TABLE])


def test_a_key_that_became_null_or_is_named_otherwise_binds_nothing(visits: Visits, migrated: Connection) -> None:
    migrated.execute("CREATE TABLE public.pairs (id int PRIMARY KEY, one text, two text, v text)")
    table = EncryptedTable(TableName("public", "pairs"), ("v",), replace(TABLE.format, row="one"))
    for row in range(3):
        migrated.execute("INSERT INTO public.pairs VALUES (%s, 'a', 'b', %s)", (row, encrypt(KeyRing(KEYS, V1), "x")))
    migrated.execute("UPDATE public.pairs SET one = NULL WHERE id = 2")

    def swapped(batch: int) -> None:
        with connect(visits.url) as owner:
            for pair in [("one", "three"), ("two", "one"), ("three", "two")] if batch == 0 else []:
                owner.execute("ALTER TABLE public.pairs RENAME {} TO {}".format(*pair).encode())

    with between_read_and_write(swapped):
        assert visits.engine(V3X).shard(table).rows == 0
    for old, new in [("one", "three"), ("two", "one"), ("three", "two")]:
        migrated.execute(f"ALTER TABLE public.pairs RENAME {old} TO {new}".encode())
    done = visits.engine(V3X).sweep(table)
    assert (done.rows, done.quarantined) == (2, 1)
    with pytest.raises(PreflightError, match="column tenant is not in table pairs"):
        tree(migrated, replace(table, format=replace(table.format, row="tenant")))


@pytest.mark.parametrize(
    ("column", "is_fatal", "sentence"),
    [
        ("id uuid UNIQUE", True, r"column t\.id, which row of \[\[tables\]\] names, may be NULL; .* SET NOT NULL, or"),
        (
            "id numeric PRIMARY KEY",
            True,
            r"column t\.id, which row of \[\[tables\]\] names, is of type numeric, and",
        ),
        (
            "b int, id int GENERATED ALWAYS AS (b * 2) STORED UNIQUE NOT NULL",
            True,
            r"t\.id, .* is generated and changes",
        ),
        ("id int NOT NULL, b int, UNIQUE (id, b)", False, r"t\.id, .* is not unique over the whole table"),
        ("id serial PRIMARY KEY", False, r"t\.id, .* is counted by the server"),
        ("id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY", False, r"t\.id, .* is counted by the server"),
        ("id int PRIMARY KEY REFERENCES public.o ON UPDATE CASCADE", False, r"changes with the foreign key t_id_fkey"),
        ("id uuid PRIMARY KEY", False, ""),
        ('id text COLLATE "C" PRIMARY KEY', False, ""),
    ],
)
def test_the_preflight_looks_at_the_key(migrated: Connection, column: str, is_fatal: bool, sentence: str) -> None:
    migrated.execute(f"CREATE TABLE public.o (id int PRIMARY KEY); CREATE TABLE public.t (a text, {column})".encode())
    table = EncryptedTable.of(TableName("public", "t"), [Place("a")], replace(TABLE.format, row="id"))
    found = [each for each in preflight(migrated, [table], V3X) if "row of [[tables]]" in each.message]
    assert len(found) == (1 if sentence else 0), found
    assert all(each.fatal == is_fatal and re.search(sentence, each.message) for each in found)


def test_a_key_is_not_unique_among_a_table_and_its_children(migrated: Connection) -> None:
    migrated.execute(
        b"CREATE TABLE public.t (a text, id int PRIMARY KEY); "
        b"CREATE TABLE public.kid (PRIMARY KEY (id)) INHERITS (public.t)"
    )
    table = EncryptedTable.of(TableName("public", "t"), [Place("a")], replace(TABLE.format, row="id"))
    (found,) = (each for each in preflight(migrated, [table], V3X) if "row of [[tables]]" in each.message)
    assert re.search(r"column t\.id, .* is not unique over the whole table", found.message)


# Forks an engine and kills it after a while; when one comes to its end, the way to the other key begins.
KILLER = """
import os, random, signal, sys, time
from keyrotation_pipeline_tests.integration import encrypted_rows, test_row_binding_engine as mine
from keyrotation_pipeline.fieldcrypto.key_bytes import key_from_base64
url, kills, *keys = sys.argv[1:]
ring = mine.KeyRing(dict(zip((mine.V1, mine.V2X, mine.V3X), map(key_from_base64, keys))), mine.V3X)
chance, died, rotation = random.Random(3), 0, 0

def start():
    child = os.fork()
    if child == 0:
        encrypted_rows.REQUEST = f"{rotation:032x}"
        limits = mine.Limits(max_pages=1, duty_cycle=0.2, statement_seconds=0.0001)
        mine.Engine(url, ring, limits, mine.V2X if rotation % 2 else mine.V3X).shard(mine.CASES)
        os._exit(0)
    return child

began = time.monotonic()
os.waitpid(start(), 0)
whole, rotation = min(time.monotonic() - began, 2), 1
while died < int(kills) or rotation < 3:
    child = start()
    if died < int(kills):
        time.sleep(chance.uniform(0, 0.8) * whole)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    died += os.WIFSIGNALED(status)
    rotation += os.WIFEXITED(status)
print(died, rotation)
"""
CASES = EncryptedTable(TableName("public", "cases"), ("a", "b"), replace(TABLE.format, row="id"))


@pytest.mark.parametrize(
    "kills", [pytest.param(4, marks=pytest.mark.slow), pytest.param(40, marks=pytest.mark.extended)]
)
def test_kills_at_random_moments_lose_nothing(migrated: Connection, database_url: str, kills: int) -> None:
    count = 300

    def stored(version: KeyVersion, row: int, column: str, text: str) -> str:
        return encrypt(KeyRing(KEYS, version), text, f"cases.{column}", Row(3, str(row).encode()))

    migrated.execute("CREATE TABLE public.cases (id int PRIMARY KEY, a text, b text)")
    expected = {row: {column: f"{column}{row}" for column in "ab"} for row in range(count)}
    values = [(row, *(stored(V1, row, column, texts[column]) for column in "ab")) for row, texts in expected.items()]
    insert(migrated, "public.cases", values)

    def application(ended: threading.Event) -> None:
        chance = random.Random(5)
        with psycopg.connect(database_url, autocommit=True) as connection:
            while not ended.wait(0.003):
                row, column, text = chance.randrange(count), chance.choice("ab"), f"{chance.random()}"
                value = stored(chance.choice([V2X, V3X]), row, column, text)
                connection.execute(f"UPDATE cases SET {column} = %s WHERE id = %s".encode(), (value, row))
                expected[row][column] = text

    keys = [base64_of(KEYS[version]) for version in (V1, V2X, V3X)]
    command = [sys.executable, "-c", KILLER, database_url, str(kills), *keys]
    with beside(application):
        killer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=600)
    assert int(killer.stdout.split()[0]) >= kills
    engine = Engine(database_url, RING, Limits(), V3X)
    while engine.sweep(CASES, wait=True).rows:
        pass
    found: list[Any] = migrated.execute("SELECT id, a, b FROM public.cases").fetchall()
    for row, *both in found:
        for column, value in zip("ab", both, strict=True):
            assert str(value).startswith("v3x:")
            assert decrypt(RING, str(value), f"cases.{column}", Row(3, str(row).encode())) == expected[row][column]
    assert len(found) == count
    assert migrated.execute("SELECT count(*) FROM keyrotation.quarantine").fetchone() == (0,)


@pytest.mark.external_postgres
def test_the_preflight_refuses_a_key_that_is_equal_to_other_texts(debian: Connection) -> None:
    debian.execute(
        "CREATE COLLATION public.same (provider = icu, locale = 'und-u-ks-level2', deterministic = false); "
        "CREATE TABLE public.t (id text COLLATE public.same PRIMARY KEY, a text)"
    )
    table = EncryptedTable(TableName("public", "t"), ("a",), replace(TABLE.format, row="id"))
    fatal = [each.message for each in preflight(debian, [table], V3X) if each.fatal]
    assert any("t.id, which row of [[tables]] names, has a collation" in each for each in fatal)
