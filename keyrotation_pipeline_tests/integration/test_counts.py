"""Counting declared columns on real servers."""

import json
import random
import re
import string
from collections.abc import Callable

import psycopg
import pytest
from psycopg import sql

from keyrotation_pipeline.adapters.postgres.inventory import counts, grammar_sql
from keyrotation_pipeline.adapters.postgres.inventory.counts import filters
from keyrotation_pipeline.adapters.postgres.inventory.discovery import discover
from keyrotation_pipeline.adapters.postgres.inventory.grammar_sql import under, value_class
from keyrotation_pipeline.adapters.postgres.inventory.postgres_inventory import PostgresInventory
from keyrotation_pipeline.adapters.postgres.inventory.relations import heaps
from keyrotation_pipeline.adapters.postgres.inventory.scans import heap_scan
from keyrotation_pipeline.adapters.postgres.retirement import fence
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.errors import BlockedError, PreflightError
from keyrotation_pipeline.fieldcrypto.grammar import VALUE_PATTERN, KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.tables import EncryptedTable, TableName

V1, V2, V10 = KeyVersion(1), KeyVersion(2), KeyVersion(10)
NOTES = EncryptedTable(TableName("public", "notes"), ("a", "b"))
A = sql.SQL('(a::text COLLATE "C")')
ONE = EncryptedTable(TableName("public", "notes"), ("a",))

Seal = Callable[[KeyRing, int, str], str]


@pytest.fixture
def ring(keyring_of: Callable[..., KeyRing]) -> KeyRing:
    return keyring_of(1, 2, 10, primary=2)


def fill(connection: Connection, *rows: tuple[str | None, ...]) -> None:
    columns = ", ".join(f"{name} text" for name in "abcdefgh"[: len(rows[0])])
    connection.execute(f"CREATE TABLE public.notes ({columns})")
    with connection.cursor() as cursor:
        cursor.executemany(f"INSERT INTO public.notes VALUES ({', '.join(['%s'] * len(rows[0]))})", rows)


def test_values_are_counted_by_version_and_by_column(either: Connection, ring: KeyRing, seal: Seal) -> None:
    fill(
        either,
        (seal(ring, 1, "one"), seal(ring, 2, "two")),
        (seal(ring, 2, "three"), seal(ring, 10, "")),
        (None, seal(ring, 2, "x" * 5000)),
        ("", "plain"),
    )
    (counted,) = PostgresInventory(either).count([NOTES])
    assert counted.rows == 4
    assert counted.values_by_version == {V1: 1, V2: 3, V10: 1}
    assert counted.by_column == {"a": {V1: 1, V2: 1}, "b": {V2: 2, V10: 1}}
    assert (counted.empty, counted.unencrypted, counted.near_misses) == (1, 1, 0)
    assert counted.unencrypted_by_column == {"b": 1}
    assert counted.counted_at.utcoffset() is not None


def register(connection: Connection, *versions: str) -> None:
    """As far as the inventory looks at the ledger."""
    connection.execute(
        """CREATE SCHEMA keyrotation; CREATE VIEW keyrotation.key_versions AS SELECT;
        CREATE TABLE keyrotation.audit_events (event text, body text);
        CREATE FUNCTION keyrotation.facts(body text) RETURNS jsonb LANGUAGE sql AS 'SELECT body::jsonb'"""
    )
    facts = [("key_registered", json.dumps({"version": version})) for version in versions]
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO keyrotation.audit_events VALUES (%s, %s)", facts)


def test_a_registered_version_of_the_second_generation_is_named_among_any_number_of_others(
    connection: Connection,
) -> None:
    nonce, body = "A" * 32, "A" * 64
    fill(connection, *((f"v{number}x:{nonce}:{body}",) for number in (*range(1, 40), 77, 500)))
    register(connection, "v77x")
    (counted,) = PostgresInventory(connection).count([ONE])
    assert counted.values_by_version[KeyVersion(77, 2)] == 1
    assert (len(counted.values_by_version), counted.near_misses) == (21, 20)


def test_of_any_number_of_unregistered_versions_a_few_are_named_and_every_value_is_counted(
    either: Connection, ring: KeyRing, seal: Seal
) -> None:
    stranger = seal(ring, 10, "planted").removeprefix("v10:")
    fill(either, *((f"v{number}:{stranger}", "") for number in range(1, 501)), (None, seal(ring, 2, "honest")))
    register(either, "v77", "never one")
    (counted,) = PostgresInventory(either).count([NOTES])
    named = [*range(1, 20), 77, 500]
    assert [version.number for version in counted.values_by_version] == named
    assert (counted.values_by_version[V2], counted.near_misses, counted.unencrypted) == (2, 479, 479)
    assert counted.unencrypted_by_column == {"a": 479}
    found, _ = discover(either, [])
    assert ([version.number for version in found.versions], found.values) == (named, 500)


@pytest.mark.parametrize(
    ("change", "unencrypted", "near_misses"),
    [
        pytest.param(lambda value: value, 0, 0, id="as written"),
        pytest.param(lambda _: "", 0, 0, id="empty string"),
        pytest.param(lambda _: None, 0, 0, id="NULL"),
        pytest.param(lambda _: "Ana", 1, 0, id="plaintext"),
        pytest.param(lambda value: "v0" + value[1:], 1, 1, id="leading zero"),
        pytest.param(lambda value: " " + value, 1, 1, id="leading space"),
        pytest.param(lambda value: "V" + value[1:], 1, 1, id="capital V"),
        pytest.param(lambda value: value + "\n", 1, 1, id="newline at the end"),
        pytest.param(lambda value: value[:-1], 1, 1, id="padding cut off"),
        pytest.param(lambda value: value[: value.index(":", 3) + 1], 1, 1, id="no ciphertext"),
        pytest.param(lambda value: value[:-3] + "/==", 1, 1, id="stray bits in the last character"),
        pytest.param(lambda value: value[:24], 1, 1, id="ciphertext shorter than a tag"),
        pytest.param(lambda value: value[:25] + "*" + value[26:], 1, 1, id="not base64"),
        pytest.param(lambda value: value[:25] + "é" + value[26:], 1, 1, id="not ASCII"),
        pytest.param(lambda value: "v1234567" + value[2:], 1, 1, id="seven digits"),
        pytest.param(lambda _: "v1: see the notes", 1, 1, id="prose under a version's prefix"),
    ],
)
def test_a_value_outside_the_grammar_counts_as_unencrypted(
    connection: Connection,
    ring: KeyRing,
    seal: Seal,
    change: Callable[[str], str | None],
    unencrypted: int,
    near_misses: int,
) -> None:
    fill(connection, (change(seal(ring, 1, "")),))
    (counted,) = PostgresInventory(connection).count([ONE])
    assert (counted.unencrypted, counted.near_misses) == (unencrypted, near_misses)


def test_the_database_judges_as_the_parser_does(either: Connection, ring: KeyRing, seal: Seal) -> None:
    chance = random.Random(7)
    values = []
    for length in range(40):
        value = seal(ring, 10, "x" * length)
        for _ in range(25):
            at = chance.randrange(len(value))
            values.append(value[:at] + chance.choice(string.printable + "é=") + value[at + chance.randrange(3) :])
    fill(either, *((value,) for value in values))
    accepted = [value for value in values if re.fullmatch(VALUE_PATTERN, value, re.ASCII)]
    (counted,) = PostgresInventory(either).count([ONE])
    assert 0 < len(accepted) < len(values)
    assert sum(counted.values_by_version.values()) == len(accepted)
    assert counted.unencrypted == len(values) - len(accepted)


@pytest.mark.parametrize("expected", [(V1,), (V1, KeyVersion(10)), (KeyVersion(123456),)])
def test_what_version_was_expected_makes_no_difference_to_the_judgement(
    either: Connection, ring: KeyRing, seal: Seal, expected: tuple[KeyVersion, ...]
) -> None:
    chance = random.Random(11)
    values = ["", "v1:", "v1::", f"v1:{'A' * 16}:", f"v1:{':' * 16}:{'A' * 24}", f"v1:{'=' * 16}:{'A' * 24}"]
    values += [
        f"v{number}:{'A' * 16}:{'A' * 22}{end}" for number in (1, 10, 123456) for end in ("==", "A=", "=A", "AA")
    ]
    for length in range(40):
        value = seal(ring, chance.choice((1, 10)), "x" * length)
        for _ in range(50):
            at = chance.randrange(len(value))
            values.append(value[:at] + chance.choice("v1:=:=A/g\n %_\\é") + value[at + chance.randrange(3) :])
        values.append(value)
    fill(either, *((value,) for value in values))
    query = sql.SQL(
        "SELECT count(*), count(*) FILTER (WHERE {} > 0), count(*) FILTER (WHERE {} <> {}) FROM public.notes"
    )
    judged = query.format(value_class(A), value_class(A), value_class(A, expected))
    total, whole, differently = either.execute(judged).fetchall()[0]
    assert total == len(values)
    assert 40 < int(str(whole)) < len(values)
    assert differently == 0


def test_a_look_for_a_version_ends_after_so_many_seconds_and_leaves_no_limit_behind(
    connection: Connection, ring: KeyRing, seal: Seal
) -> None:
    fill(connection, (seal(ring, 2, "early"),))
    connection.execute("INSERT INTO public.notes SELECT repeat('x', 100) FROM generate_series(1, 200000)")
    assert counts.rows_seen(connection, ONE, V2, 60) == 1
    assert counts.rows_seen(connection, ONE, V1, 60) == 0
    assert counts.rows_seen(connection, ONE, V2, 0) is None
    assert connection.execute("SHOW statement_timeout").fetchone() == ("0",)
    assert counts.old_rows(connection, ONE, [V2], None).rows == 1


def test_values_of_a_megabyte_are_judged_whole(connection: Connection, ring: KeyRing, seal: Seal) -> None:
    large = seal(ring, 1, "x" * 1_000_000)
    fill(connection, (large,), (large[:-1],), ("x" * 1_000_000,), (large[:1_000_000] + " " + large[1_000_001:],))
    (counted,) = PostgresInventory(connection).count([ONE])
    assert counted.values_by_version == {V1: 1}
    assert counted.unencrypted == 3


def test_partitions_and_children_are_counted_with_their_table(either: Connection, ring: KeyRing, seal: Seal) -> None:
    either.execute("CREATE TABLE public.notes (id int, a text) PARTITION BY RANGE (id)")
    either.execute("CREATE SCHEMA old")
    either.execute("CREATE TABLE old.low PARTITION OF public.notes FOR VALUES FROM (0) TO (10) PARTITION BY LIST (id)")
    either.execute("CREATE TABLE old.five PARTITION OF old.low FOR VALUES IN (5)")
    either.execute("CREATE TABLE public.rest PARTITION OF public.notes DEFAULT")
    either.execute('CREATE TABLE public."Base" (a text)')
    either.execute('CREATE TABLE public.child (more int) INHERITS (public."Base")')
    for statement in (
        "INSERT INTO public.notes VALUES (5, %s), (50, %s)",
        'WITH one AS (INSERT INTO public."Base" VALUES (%s)) INSERT INTO public.child VALUES (%s, 1)',
    ):
        either.execute(statement, (seal(ring, 1, "a"), seal(ring, 2, "b")))
    counted = PostgresInventory(either).count([ONE, EncryptedTable(TableName("public", "Base"), ("a",))])
    assert [(each.rows, each.values_by_version) for each in counted] == [(2, {V1: 1, V2: 1})] * 2


@pytest.mark.external_postgres
def test_varchar_domains_and_citext_are_counted(debian: Connection, ring: KeyRing, seal: Seal) -> None:
    debian.execute("CREATE EXTENSION citext SCHEMA public")
    debian.execute("CREATE DOMAIN public.sealed AS varchar(200)")
    debian.execute('CREATE COLLATION public.loose (provider = icu, locale = "und-u-ks-level2", deterministic = false)')
    debian.execute(
        'CREATE TABLE public.notes ("A b" public.citext, c public.sealed, d varchar(200), e text COLLATE public.loose)'
    )
    debian.execute("INSERT INTO public.notes VALUES (%s, %s, %s, %s)", [seal(ring, 1, "x")] * 4)
    debian.execute("INSERT INTO public.notes VALUES (%s, %s, %s, %s)", ["V" + seal(ring, 1, "x")[1:]] * 4)
    table = EncryptedTable(TableName("public", "notes"), ("A b", "c", "d", "e"))
    (counted,) = PostgresInventory(debian).count([table])
    assert counted.by_column == {column: {V1: 1} for column in table.columns}
    assert counted.near_misses == 4
    assert counts.old_rows(debian, table, [V1], None).rows == 1


def test_unreadable_values_and_fences_are_reported(migrated: Connection, ring: KeyRing, seal: Seal) -> None:
    fill(migrated, (seal(ring, 2, "x"), None))
    migrated.execute(
        "INSERT INTO keyrotation.quarantine VALUES ('notes', 'public.notes', '1', 'a', now(), 'not-a-value'), "
        "('other', 'public.other', '1', 'a', now(), 'not-a-value')"
    )
    fence.fence(migrated, NOTES, [V1])
    (counted,) = PostgresInventory(migrated).count([NOTES])
    assert (counted.unreadable, counted.fenced_against) == (1, (V1,))


def test_a_fence_marked_valid_manually_does_not_answer_the_count(either: Connection, ring: KeyRing, seal: Seal) -> None:
    fill(either, (seal(ring, 1, "x"),))
    # In the very words of our own condition, since that is what the planner could refute.
    condition = under(A, [V1]).as_string(either)
    either.execute(f"ALTER TABLE public.notes ADD CHECK (NOT {condition}) NOT VALID")
    either.execute("UPDATE pg_constraint SET convalidated = true WHERE conrelid = 'public.notes'::regclass")
    either.execute("SET constraint_exclusion = on")
    lie = either.execute(f"SELECT count(*) FROM public.notes WHERE {condition}").fetchone()
    assert lie == (0,), "the planner no longer takes its answer from constraints; this test has lost its point"
    assert counts.old_rows(either, ONE, [V1], None).rows == 1
    assert PostgresInventory(either).count([ONE])[0].values_by_version == {V1: 1}


def test_counting_leaves_the_settings_of_a_running_transaction_alone(connection: Connection) -> None:
    fill(connection, (None, None))
    with connection.transaction():
        PostgresInventory(connection).count([NOTES])
        kept = connection.execute(
            "SELECT current_setting('enable_indexscan'), current_setting('constraint_exclusion')"
        ).fetchone()
    assert kept == ("on", "partition")


def test_old_rows_are_those_that_a_fence_would_refuse(either: Connection, ring: KeyRing, seal: Seal) -> None:
    fill(
        either,
        (seal(ring, 1, "x"), seal(ring, 1, "y")),
        (None, seal(ring, 10, "x")),
        ("v1:damaged", seal(ring, 2, "x")),
        (seal(ring, 2, "x"), "v12: prose"),
    )
    assert counts.old_rows(either, NOTES, [V1], None).rows == 2
    assert counts.old_rows(either, NOTES, [V1, V10], None).rows == 3
    assert counts.old_rows(either, NOTES, [], None).rows == 0


def test_rows_written_since_promotion_are_distinguished(either: Connection, ring: KeyRing, seal: Seal) -> None:
    fill(either, (seal(ring, 1, "x"), None), (seal(ring, 1, "y"), None), (seal(ring, 1, "z"), None))
    row = either.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
    promotion = int(str(row[0])) if row else 0
    assert counts.old_rows(either, NOTES, [V1], promotion).written_since_promotion == 0
    either.execute("INSERT INTO public.notes VALUES (%s, NULL)", (seal(ring, 1, "stale"),))
    found = counts.old_rows(either, NOTES, [V1], promotion)
    assert (found.rows, found.written_since_promotion) == (4, 1)
    assert counts.old_rows(either, NOTES, [V1], None).written_since_promotion == 0
    either.execute("VACUUM FREEZE public.notes")
    assert counts.old_rows(either, NOTES, [V1], promotion) == found


def test_the_distance_to_promotion_survives_the_wrap_of_xids(connection: Connection) -> None:
    # As if 2^32 - 10 were the promotion and the epoch had turned since: 5 comes 15 after it, 2^32 - 20 before it.
    text = counts.WRITTEN_SINCE.replace("pg_snapshot_xmax(pg_current_snapshot())", "'4294967396'")
    for xmin, since in ((5, True), (2**32 - 5, True), (2**32 - 20, False), (101, False), (2, False)):
        query = text.format(promotion=2**32 - 10, xids=2**32)
        row = connection.execute(f"SELECT {query} FROM (SELECT '{xmin}'::xid AS xmin) AS t").fetchone()
        assert row == (since,), xmin


def test_a_locked_table_is_named_instead_of_waited_for(connection: Connection, database_url: str) -> None:
    fill(connection, (None, None))
    with connect(database_url) as other, other.transaction():
        other.execute("LOCK TABLE public.notes")
        with pytest.raises(BlockedError, match="notes is locked by another session"):
            PostgresInventory(connection).count([NOTES])


def test_a_foreign_partition_is_refused_rather_than_left_out(either: Connection) -> None:
    either.execute("CREATE FOREIGN DATA WRAPPER nowhere")
    either.execute("CREATE SERVER far FOREIGN DATA WRAPPER nowhere")
    either.execute("CREATE TABLE public.notes (a text) PARTITION BY LIST (a)")
    either.execute("CREATE FOREIGN TABLE public.far PARTITION OF public.notes DEFAULT SERVER far")
    for look in (lambda: PostgresInventory(either).count([ONE]), lambda: counts.old_rows(either, ONE, [V1], None)):
        with pytest.raises(PreflightError, match="far, declared through notes, is not an ordinary table"):
            look()


def test_rows_that_row_security_hides_are_an_error_not_a_zero(connection: Connection, database_url: str) -> None:
    fill(connection, ("v1:x", None))
    role = f"hidden_{connection.info.dbname}"
    connection.execute(f"CREATE ROLE {role} LOGIN")
    connection.execute(f"GRANT SELECT ON public.notes TO {role}; ALTER TABLE public.notes ENABLE ROW LEVEL SECURITY")
    try:
        with (
            connect(psycopg.conninfo.make_conninfo(database_url, user=role)) as limited,
            pytest.raises(PreflightError, match="BYPASSRLS"),
        ):
            counts.old_rows(limited, NOTES, [V1], None)
    finally:
        connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_good_values_are_counted_in_one_scan_that_the_server_makes_in_parallel(
    either: Connection, ring: KeyRing, seal: Seal, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(either, (seal(ring, 1, "one"), seal(ring, 10, "two")), (None, ""), (seal(ring, 2, "three"), None))

    def by_groups(*_: object) -> None:
        pytest.fail("grouped, which is never made in parallel")

    monkeypatch.setattr(counts, "_counted_by_groups", by_groups)
    (counted,) = PostgresInventory(either).count([NOTES])
    assert (counted.rows, counted.empty) == (3, 1)
    assert counted.by_column == {"a": {V1: 1, V2: 1}, "b": {V10: 1}}

    either.execute("SET min_parallel_table_scan_size = 0; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0")
    (relation,) = heaps(either, NOTES)
    query = sql.SQL("EXPLAIN {}").format(filters(relation, grammar_sql, [V1, V2]))
    plan = "\n".join(str(line) for (line,) in either.execute(query).fetchall())
    assert "Partial Aggregate" in plan
    assert "Parallel Seq Scan" in plan


def test_a_relation_of_a_few_megabytes_is_read_in_parallel_too(either: Connection) -> None:
    either.execute("CREATE TABLE public.notes (a text, b text)")
    either.execute("INSERT INTO public.notes SELECT repeat('a', 100), repeat('b', 100) FROM generate_series(1, 16000)")
    either.execute("ANALYZE public.notes")
    (relation,) = heaps(either, NOTES)
    with heap_scan(either, relation.label, relation.oid):
        query = sql.SQL("EXPLAIN {}").format(filters(relation, grammar_sql, [V1, V2]))
        plan = "\n".join(str(line) for (line,) in either.execute(query).fetchall())
    assert relation.pages < 1024  # min_parallel_table_scan_size
    assert "Parallel Seq Scan" in plan


@pytest.mark.parametrize("odd", ["plain", "v77:late", "V2:near", "a good value of a version that nobody expected"])
def test_what_nobody_expected_is_counted_too_wherever_it_stands(
    either: Connection, ring: KeyRing, seal: Seal, odd: str
) -> None:
    good = seal(ring, 2, "x")
    fill(either, *[(good,)] * 1001, (seal(ring, 10, "y") if odd.startswith("a good") else odd,))
    (counted,) = PostgresInventory(either).count([ONE])
    unexpected = odd.startswith("a good")
    assert counted.values_by_version == ({V2: 1001, V10: 1} if unexpected else {V2: 1001})
    assert counted.unencrypted == (0 if unexpected else 1)
