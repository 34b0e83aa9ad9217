"""Search indexes on a real server: written with the values, counted, checked, cleared, refused, and the pre-flight."""

import re
import threading
from dataclasses import replace

import psycopg
import pytest

from keyrotation_pipeline.adapters.postgres.engine import cleared_indexes
from keyrotation_pipeline.adapters.postgres.engine.decrypt import decrypt_all
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.evidence import evidence_of
from keyrotation_pipeline.adapters.postgres.inventory import counts
from keyrotation_pipeline.adapters.postgres.inventory.relations import tree
from keyrotation_pipeline.adapters.postgres.preflight import catalog_digest, preflight
from keyrotation_pipeline.adapters.postgres.retirement import fence
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.errors import BlockedError, FenceError, PreflightError, StaleWriterError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.search_index import Indexer, IndexForm, is_odd
from keyrotation_pipeline.model.proof import DecryptedCount, MissedValue
from keyrotation_pipeline.model.tables import EncryptedTable, SearchIndex, TableName
from keyrotation_pipeline_tests.integration.encrypted_rows import (
    REQUEST,
    Engine,
    become,
    opened,
    ring_of,
    running,
    sealed,
)

V1, V2 = KeyVersion(1), KeyVersion(2)
FORM = IndexForm("staff.mail % box")
# Names that have to be quoted, and a partitioned table.
PEOPLE = EncryptedTable(
    TableName("Staff", "people"),
    ("mail % box", "note"),
    indexes=(SearchIndex("mail % box", 'odd "1" x', "even:2", FORM),),
)
CREATE = """
CREATE SCHEMA "Staff";
CREATE TABLE "Staff".people (id int, "mail % box" text, note text, "odd ""1"" x" text, "even:2" varchar(60), at date)
    PARTITION BY RANGE (id);
CREATE TABLE "Staff".low PARTITION OF "Staff".people FOR VALUES FROM (0) TO (50);
CREATE TABLE "Staff".high PARTITION OF "Staff".people FOR VALUES FROM (50) TO (1000);
ALTER TABLE "Staff".people ADD PRIMARY KEY (id);
CREATE INDEX ON "Staff".people ("odd ""1"" x"); CREATE INDEX ON "Staff".people ("even:2")
"""
ROWS = 100


def index(ring: KeyRing, version: KeyVersion, text: str, form: IndexForm = FORM) -> str:
    return Indexer(form, ring).under(version, text.encode())


def put(connection: Connection, ring: KeyRing, row: int, text: str, *versions: KeyVersion, under: int = 1) -> None:
    """Stores a row with a value under one version and indexes under some."""
    stored = {is_odd(version): index(ring, version, text) for version in versions}
    values = (row, sealed(ring, under, text), sealed(ring, under, f"note {row}"), stored.get(True), stored.get(False))
    connection.execute('INSERT INTO "Staff".people VALUES (%s, %s, %s, %s, %s)', values)


def rows(connection: Connection) -> dict[object, tuple[object, ...]]:
    found = connection.execute('SELECT id, "mail % box", "odd ""1"" x", "even:2" FROM "Staff".people').fetchall()
    return {row[0]: tuple(row[1:]) for row in found}


@pytest.fixture
def ring() -> KeyRing:
    return ring_of(1, 2)


@pytest.fixture
def people(migrated: Connection, ring: KeyRing) -> Connection:
    migrated.execute(CREATE)
    with migrated.transaction():
        for row in range(ROWS):
            put(migrated, ring, row, f"user{row}", V1)
    running(migrated, "routine")
    return migrated


def test_the_walk_writes_value_and_index_together_and_keeps_the_old_index(
    people: Connection, database_url: str, ring: KeyRing
) -> None:
    people.execute('INSERT INTO "Staff".people (id) VALUES (500)')
    put(people, ring, 501, "", V1)
    assert Engine(database_url, ring).shard(PEOPLE).rows == ROWS + 1
    found = rows(people)
    assert found.pop(500) == (None, None, None)
    for row, (value, odd, even) in found.items():
        text = "" if row == 501 else f"user{row}"
        assert opened(ring, str(value)) == ("v2", text)
        assert (odd, even) == (index(ring, V1, text), index(ring, V2, text))


def test_values_that_lack_only_their_index_are_found_and_get_it(
    people: Connection, database_url: str, ring: KeyRing
) -> None:
    engine, evidence = Engine(database_url, ring), evidence_of(people, PEOPLE)
    engine.shard(PEOPLE)
    people.execute('UPDATE "Staff".people SET "even:2" = NULL WHERE id = 7')
    people.execute('UPDATE "Staff".people SET "even:2" = %s WHERE id = 70', (index(ring, V1, "user70"),))
    before = rows(people)
    assert counts.unindexed_rows(people, PEOPLE) == 2
    with pytest.raises(FenceError, match=r"column mail % box: 2 values without a search index under its key"):
        evidence.search([V1], lambda _: None)
    assert engine.sweep(PEOPLE).rows == 2
    found = rows(people)
    assert {row: found[row][2] for row in (7, 70)} == {row: index(ring, V2, f"user{row}") for row in (7, 70)}
    assert {row: values[:2] for row, values in found.items()} == {row: values[:2] for row, values in before.items()}
    assert (counts.unindexed_rows(people, PEOPLE), evidence.search([V1], lambda _: None)) == (0, (2 * ROWS, None))
    people.execute('UPDATE "Staff".people SET "even:2" = NULL WHERE id = 8')
    with psycopg.connect(database_url) as other:
        other.execute('SELECT FROM "Staff".people WHERE id = 8 FOR UPDATE')
        threading.Timer(0.3, other.rollback).start()
        assert engine.sweep(PEOPLE, wait=True).rows == 1
    assert rows(people)[8][2] == index(ring, V2, "user8")


def test_indexes_of_another_text_are_counted_and_their_rows_named(
    people: Connection, database_url: str, ring: KeyRing
) -> None:
    wrong = {3: index(ring, V1, "user4"), 60: "no index", 61: index(ring, V1, "user61"), 62: "v9:AAAA"}
    for row, text in wrong.items():
        people.execute('UPDATE "Staff".people SET "odd ""1"" x" = %s WHERE id = %s', (text, row))
    people.execute('UPDATE "Staff".people SET "mail % box" = NULL WHERE id = 5')
    found = decrypt_all(lambda: connect(database_url), PEOPLE, ring, lambda _: None, Limits())
    assert (found.failures, found.wrongly_indexed) == (0, {"mail % box": 3})
    column, missed = "mail % box", {(each.key, each.column) for each in found.missed if not each.is_unindexed}
    assert missed == {('["3"]', column), ('["5"]', column), ('["60"]', column)}
    assert "3 values with the search index of another text (column mail % box: 3; rows [" in found.wrong_indexes
    assert "user4" not in found.wrong_indexes


def test_values_without_their_index_are_counted_and_some_rows_named(
    people: Connection, database_url: str, ring: KeyRing
) -> None:
    people.execute('UPDATE "Staff".people SET "odd ""1"" x" = NULL WHERE id IN (7, 70)')
    people.execute(
        'UPDATE "Staff".people SET "odd ""1"" x" = NULL, "even:2" = %s WHERE id = 8', (index(ring, V2, "user8"),)
    )
    people.execute('UPDATE "Staff".people SET "odd ""1"" x" = %s WHERE id = 9', ("v9:AAAA",))
    people.execute('UPDATE "Staff".people SET "mail % box" = NULL, "odd ""1"" x" = NULL WHERE id = 10')

    def decrypted() -> DecryptedCount:
        return decrypt_all(lambda: connect(database_url), PEOPLE, ring, lambda _: None, Limits())

    found = decrypted()
    assert (found.failures, found.wrongly_indexed, found.unindexed) == (0, {}, {"mail % box": 4})
    assert counts.unindexed_rows(people, PEOPLE) == 4
    assert set(found.missed) == {MissedValue(f'["{row}"]', "mail % box", is_unindexed=True) for row in (7, 8, 9, 70)}
    assert "4 values without a search index under its key (column mail % box: 4; rows [" in found.missing_indexes
    people.execute('UPDATE "Staff".people SET "odd ""1"" x" = NULL, "even:2" = NULL')
    assert (decrypted().unindexed, len(decrypted().missed)) == ({"mail % box": ROWS - 1}, 5)


def cleared(url: str) -> int:
    return cleared_indexes.clear_indexes(lambda: connect(url), REQUEST, PEOPLE, V2, lambda _: None, Limits())


def test_indexes_under_other_keys_are_cleared_whoever_holds_rows_and_then_refused(
    people: Connection, database_url: str, ring: KeyRing
) -> None:
    Engine(database_url, ring).shard(PEOPLE)
    before = rows(people)
    with psycopg.connect(database_url) as other:
        other.execute('SELECT FROM "Staff".people WHERE id = 70 FOR UPDATE')
        threading.Timer(0.5, other.rollback).start()
        assert cleared(database_url) == ROWS
    assert rows(people) == {row: (value, None, even) for row, (value, _, even) in before.items()}
    assert cleared(database_url) == 0
    fence.fence(people, PEOPLE.of_indexes, [V1])
    assert fence.fences(people, PEOPLE.of_indexes) == (V1,)
    assert fence.fences(people, PEOPLE) == ()
    with pytest.raises(psycopg.errors.InvalidTextRepresentation, match="key version v1 is retired"):
        put(people, ring, 600, "late", V1, V2, under=2)
    put(people, ring, 600, "in time", V2, under=2)
    fence.unfence(people, PEOPLE.of_indexes, V1)
    put(people, ring, 601, "again", V1, V2, under=2)


def test_clearing_stops_where_the_rotation_is_paused_and_goes_on_later(
    people: Connection, database_url: str, ring: KeyRing
) -> None:
    Engine(database_url, ring).shard(PEOPLE)
    become(people, "paused")
    with pytest.raises(BlockedError, match="was paused; continue with `keyrotation resume"):
        cleared(database_url)
    become(people, "running")
    assert cleared(database_url) == ROWS


def test_a_row_that_has_no_other_index_keeps_its_old_one(
    people: Connection, database_url: str, ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleared_indexes, "_SWEEPS", 1)
    Engine(database_url, ring).shard(PEOPLE)
    people.execute('UPDATE "Staff".people SET "even:2" = NULL WHERE id = 9')
    with pytest.raises(StaleWriterError, match=r"1 row with a value that has no search index under its key"):
        cleared(database_url)
    kept = {row: odd for row, (_, odd, _) in rows(people).items() if odd is not None}
    assert kept == {9: index(ring, V1, "user9")}


def test_a_column_that_was_declared_by_mistake_loses_nothing(
    people: Connection, database_url: str, ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pre-flight stops it; this is what happens to text that comes later."""
    monkeypatch.setattr(cleared_indexes, "_SWEEPS", 1)
    people.execute("""UPDATE "Staff".people SET "even:2" = 'a note' WHERE id = 4""")
    people.execute("""UPDATE "Staff".people SET "odd ""1"" x" = 'v1: a note' WHERE id = 5""")
    engine = Engine(database_url, ring)
    engine.shard(PEOPLE)
    engine.sweep(PEOPLE, wait=True)
    assert counts.unindexed_rows(people, PEOPLE) == 1
    with pytest.raises(StaleWriterError):
        cleared(database_url)
    found = rows(people)
    assert found[4][1:] == (index(ring, V1, "user4"), "a note")
    assert found[5][1:] == ("v1: a note", index(ring, V2, "user5"))


def test_the_fence_of_values_and_that_of_indexes_do_not_touch_each_other(
    people: Connection, database_url: str, ring: KeyRing
) -> None:
    Engine(database_url, ring).shard(PEOPLE)
    fence.fence(people, PEOPLE, [V1])
    put(people, ring, 600, "both indexes are written until no application has v1", V1, V2, under=2)
    cleared(database_url)
    fence.fence(people, PEOPLE.of_indexes, [V1])
    fence.unfence(people, PEOPLE, V1)
    assert (fence.fences(people, PEOPLE), fence.fences(people, PEOPLE.of_indexes)) == ((), (V1,))


def test_two_rows_that_would_get_one_unique_index_stop_the_walk_in_one_sentence(
    migrated: Connection, database_url: str, ring: KeyRing
) -> None:
    migrated.execute(
        "CREATE TABLE public.t (id int PRIMARY KEY, a text, odd text UNIQUE, even text UNIQUE); "
        "ALTER TABLE public.t ALTER COLUMN a SET STORAGE EXTERNAL"
    )
    running(migrated, "routine")
    table = EncryptedTable(TableName("public", "t"), ("a",), indexes=(SearchIndex("a", "odd", "even", FORM),))
    for row in (1, 2):  # from before there was an index
        migrated.execute("INSERT INTO public.t VALUES (%s, %s)", (row, sealed(ring, 1, "ana")))
    with pytest.raises(PreflightError, match="two rows hold one text under two keys") as raised:
        Engine(database_url, ring).shard(table)
    assert "v2:" not in str(raised.value)
    migrated.execute("DELETE FROM public.t WHERE id = 2")
    Engine(database_url, ring).shard(table)
    assert migrated.execute("SELECT odd, even FROM public.t").fetchall() == [(None, index(ring, V2, "ana"))]


@pytest.mark.slow
def test_an_application_that_writes_meanwhile_loses_nothing_and_both_indexes_stay_right(
    people: Connection, database_url: str, ring: KeyRing
) -> None:
    texts, stop = {row: f"user{row}" for row in range(ROWS)}, threading.Event()

    def application() -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            for number in range(100_000):
                if stop.wait(0.001):
                    return
                row, text = number * 37 % ROWS, f"written {number}"
                connection.execute(
                    'UPDATE "Staff".people SET "mail %% box" = %s, "odd ""1"" x" = %s, "even:2" = %s WHERE id = %s',
                    (sealed(ring, 2, text), index(ring, V1, text), index(ring, V2, text), row),
                )
                texts[row] = text

    writer = threading.Thread(target=application)
    writer.start()
    try:
        engine = Engine(database_url, ring, Limits(max_pages=1, duty_cycle=0.3, statement_seconds=0.001))
        engine.shard(PEOPLE)
        while engine.sweep(PEOPLE, wait=True).rows:
            pass
    finally:
        stop.set()
        writer.join()
    for row, (value, odd, even) in rows(people).items():
        text = texts[int(str(row))]
        assert opened(ring, str(value)) == ("v2", text)
        assert (odd, even) == (index(ring, V1, text), index(ring, V2, text))


TABLE = "CREATE TABLE public.t (id int PRIMARY KEY, a text, odd {}, even {}); {}"
REFUSED = {
    "not null": ("text NOT NULL DEFAULT ''", "text", "", r"column t\.odd of a search index is NOT NULL"),
    "narrow": ("text", "varchar(50)", "", r"holds 50 characters, and an index may have 53; widen it"),
    "char": ("text", "char(80)", "", r"column t\.even .* is of type character; make it text"),
    "bytea": ("text", "bytea", "", r"column t\.even .* is of type bytea; make it text"),
    "generated": ("text", "text GENERATED ALWAYS AS ('x') STORED", "", r"column t\.even .* is generated"),
    "other text": (
        "text",
        "text",
        "INSERT INTO public.t VALUES (1, NULL, 'v1:AAAA', 'v2:AAAA'), (2, NULL, 'a note', 'v2:notes:x')",
        r"column t\.odd is declared for search indexes under odd key versions, and holds other text in 1 row",
    ),
    "exchanged columns": (
        "text",
        "text",
        "INSERT INTO public.t VALUES (1, NULL, NULL, 'v1:AAAA')",
        r"column t\.even is declared for search indexes under even key versions, and holds other text in 1 row",
    ),
    "unique in some rows only": (
        "text",
        "text",
        "CREATE UNIQUE INDEX u ON public.t (odd); CREATE UNIQUE INDEX w ON public.t (even) WHERE id < 9",
        r"unique index u of t has no counterpart on even, .* \(even\)$",
    ),
    "another condition": (
        "text",
        "text",
        "CREATE UNIQUE INDEX u ON public.t (odd) WHERE odd IS NOT NULL; CREATE UNIQUE INDEX w ON public.t (even)",
        r"unique index u of t has no counterpart on even, .*with the same expressions and condition$",
    ),
    "a constraint against the next key": (
        "text",
        "text CHECK (even IS NULL OR even ~ '^v4:')",
        "INSERT INTO public.t VALUES (1, 'v1:x', 'v1:AAAA')",
        r"the CHECK t_even_check of t refuses 1 row under v2; change it",
    ),
    "a constraint against clearing": (
        "text",
        "text",
        (
            "ALTER TABLE public.t ADD CONSTRAINT one_of_two CHECK (even IS NULL OR odd IS NOT NULL); "
            "INSERT INTO public.t VALUES (1, 'v1:x', 'v1:AAAA')"
        ),
        r"the CHECK one_of_two of t refuses 1 row under v2 without a search index under the key before; change it",
    ),
    "one unique": (
        "text UNIQUE",
        "text",
        "",
        r"unique index t_odd_key of t has no counterpart on even, .*; CREATE UNIQUE INDEX CONCURRENTLY ON t \(even\)$",
    ),
    "unique with others in another order": (
        "text",
        "text",
        "CREATE UNIQUE INDEX u ON public.t (id, odd); CREATE UNIQUE INDEX w ON public.t (even, id)",
        r"CREATE UNIQUE INDEX CONCURRENTLY ON t \(id, even\)$",
    ),
    "a trigger on the index": (
        "text",
        "text",
        (
            "CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; "
            "CREATE TRIGGER g BEFORE UPDATE OF even ON public.t FOR EACH ROW EXECUTE FUNCTION public.f()"
        ),
        r"trigger g of t would fire for every re-encrypted row",
    ),
    "the fence's name": (
        "text",
        "text",
        "ALTER TABLE public.t ADD CONSTRAINT keyrotation_retired_search_indexes CHECK (id > 0)",
        r"has a constraint keyrotation_retired_search_indexes that is not ours",
    ),
}


def test_the_preflight_refuses_columns_that_cannot_hold_an_index(migrated: Connection) -> None:
    table = EncryptedTable(TableName("public", "t"), ("a",), indexes=(SearchIndex("a", "odd", "even", FORM),))
    for name, (odd, even, more, sentence) in REFUSED.items():
        with migrated.transaction(force_rollback=True):
            migrated.execute(TABLE.format(odd, even, more).encode())
            fatal = [problem.message for problem in preflight(migrated, [table], V2) if problem.fatal]
            assert any(re.search(sentence, each) for each in fatal), (name, fatal)


@pytest.mark.external_postgres
def test_the_preflight_refuses_columns_that_are_not_compared_byte_by_byte(debian: Connection) -> None:
    debian.execute(
        "CREATE EXTENSION citext SCHEMA public; "
        "CREATE COLLATION public.same (provider = icu, locale = 'und-u-ks-level2', deterministic = false); "
        "CREATE TABLE public.t (id int PRIMARY KEY, a text, odd text COLLATE public.same, even text); "
        "CREATE TABLE public.u (id int PRIMARY KEY, a text, odd text, even public.citext)"
    )
    declared = SearchIndex("a", "odd", "even", FORM)
    tables = [EncryptedTable(TableName("public", name), ("a",), indexes=(declared,)) for name in ("t", "u")]
    fatal = [problem.message for problem in preflight(debian, tables, V2) if problem.fatal]
    assert any("column t.odd of a search index has a collation by which different texts are" in each for each in fatal)
    assert any(
        "column u.even of the search index of a is of type public.citext; make it text" in each for each in fatal
    )


def test_the_preflight_takes_unique_indexes_in_pairs_unless_an_index_is_short(migrated: Connection) -> None:
    pairs = "CREATE UNIQUE INDEX u ON public.t (id, odd); CREATE UNIQUE INDEX w ON public.t (id, even)"
    migrated.execute(TABLE.format("text UNIQUE", "text UNIQUE", pairs).encode())

    def fatal(size_bytes: int) -> list[str]:
        of = SearchIndex("a", "odd", "even", replace(FORM, size_bytes=size_bytes))
        table = EncryptedTable(TableName("public", "t"), ("a",), indexes=(of,))
        return [problem.message for problem in preflight(migrated, [table], V2) if problem.fatal]

    assert fatal(16) == []
    some = "CREATE UNIQUE INDEX p ON public.t ({0}) WHERE {0} IS NOT NULL AND id > 3"
    for column in ("odd", "even"):
        migrated.execute(some.replace("INDEX p", f"INDEX {column}_some").format(column).encode())
    assert fatal(16) == []
    migrated.execute("DROP INDEX public.odd_some, public.even_some")
    assert len(fatal(8)) == 4
    assert all("is on a search index of 8 bytes, which texts may share" in each for each in fatal(8))


def test_an_index_that_is_not_declared_is_warned_of(people: Connection) -> None:
    people.execute("""UPDATE "Staff".people SET note = 'v1:beta', "even:2" = 'v1:MTI='""")

    def warned(table: EncryptedTable) -> list[str]:
        found = preflight(people, [table], V2)
        return [problem.message for problem in found if "looks like undeclared search indexes" in problem.message]

    assert warned(PEOPLE) == []
    (high, low) = warned(replace(PEOPLE, columns=("mail % box",), indexes=()))
    assert (high[:30], low[:29]) == ('column Staff.high.odd "1" x ho', 'column Staff.low.odd "1" x ho')


def test_a_missing_column_is_named(migrated: Connection) -> None:
    migrated.execute("CREATE TABLE public.t (id int PRIMARY KEY, a text, odd text)")
    table = EncryptedTable(TableName("public", "t"), ("a",), indexes=(SearchIndex("a", "odd", "even", FORM),))
    assert "column even is not in table t" in preflight(migrated, [table], V2)[0].message


def test_the_fence_of_indexes_is_no_change_of_the_catalogue(people: Connection) -> None:
    relations = tree(people, PEOPLE)
    before = catalog_digest(people, relations)
    fence.fence(people, PEOPLE.of_indexes, [KeyVersion(4)])
    assert catalog_digest(people, relations) == before


@pytest.mark.external_postgres
def test_a_unique_index_that_takes_null_once_is_refused(debian: Connection) -> None:
    if debian.info.server_version < 150000:
        pytest.skip("NULLS NOT DISTINCT came with PostgreSQL 15")
    indexes = "CREATE UNIQUE INDEX u ON public.t (odd) NULLS NOT DISTINCT; CREATE UNIQUE INDEX w ON public.t (even)"
    debian.execute(TABLE.format("text", "text", indexes).encode())
    table = EncryptedTable(TableName("public", "t"), ("a",), indexes=(SearchIndex("a", "odd", "even", FORM),))
    fatal = [problem.message for problem in preflight(debian, [table], V2) if problem.fatal]
    assert any("unique index u of t takes NULL once, and" in each for each in fatal), fatal


def test_a_fence_of_indexes_that_are_no_longer_declared_is_lifted_whole(people: Connection) -> None:
    fence.fence(people, PEOPLE.of_indexes, [KeyVersion(4), KeyVersion(5)])
    without = replace(PEOPLE, indexes=()).of_indexes
    fence.unfence(people, without, KeyVersion(6))
    assert fence.fences(people, PEOPLE.of_indexes) == (KeyVersion(4), KeyVersion(5))
    fence.unfence(people, without, KeyVersion(5))
    assert fence.fences(people, PEOPLE.of_indexes) == ()
