"""Tables that are rewritten, emptied or replaced between a snapshot and the reading of it: no value is passed over.

PostgreSQL hides the rows of such a table from every older snapshot, which then shows an empty one.
"""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import errors

from keyrotation_pipeline.adapters.postgres.engine import decrypt
from keyrotation_pipeline.adapters.postgres.engine.batch import TraversalContext
from keyrotation_pipeline.adapters.postgres.engine.decrypt import Decryption, Found, decrypt_all, decrypt_spans
from keyrotation_pipeline.adapters.postgres.engine.decrypted_counts import CurrentKeys
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.inventory import (
    counts,
    discovery,
    old_values,
    page_readings,
    quarantine,
    row_key,
    samples,
)
from keyrotation_pipeline.adapters.postgres.inventory.postgres_inventory import PostgresInventory
from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation
from keyrotation_pipeline.adapters.postgres.server import dump
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.adapters.postgres.server.dump import PostgresDump
from keyrotation_pipeline.adapters.postgres.server.programs import Installation
from keyrotation_pipeline.errors import BlockedError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.proof import DecryptedCount
from keyrotation_pipeline_tests.integration.encrypted_rows import insert, ring_of, sealed, table_of
from keyrotation_pipeline_tests.waiting import eventually

CASES = table_of("cases", "a")
VISITS = table_of("visits", "a")
V1, V2 = KeyVersion(1), KeyVersion(2)
ROWS = 400
DAMAGED = 399
REWRITES = [
    pytest.param("ALTER TABLE cases ALTER n TYPE bigint", id="another type"),
    pytest.param("ALTER TABLE cases ADD m float DEFAULT random()", id="a volatile default"),
    pytest.param("ALTER TABLE cases SET UNLOGGED", id="unlogged"),
    pytest.param("VACUUM FULL cases", id="VACUUM FULL"),
]


@pytest.fixture
def ring() -> KeyRing:
    return ring_of(1, 2)


@pytest.fixture
def cases(migrated: Connection, ring: KeyRing) -> Connection:
    """Values under v2, the last of which no key opens."""
    fill(migrated, ring)
    return migrated


def fill(connection: Connection, ring: KeyRing, rows: int = ROWS) -> None:
    connection.execute("CREATE TABLE public.cases (id int PRIMARY KEY, a text, n int DEFAULT 0)")
    stored = [(n, sealed(ring if n < rows - 1 else ring_of(1, 2), 2, f"a{n}")) for n in range(rows)]
    insert(connection, "public.cases (id, a)", stored)


def application(url: str, *statements: str) -> bool:
    """What the application's owner does; returns whether the tables were free for it."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET lock_timeout = '200ms'")
        try:
            for statement in statements:
                connection.execute(statement.encode())
        except errors.LockNotAvailable:
            return False
    return True


def interrupted(url: str, moment: str, action: Callable[[], object]) -> Callable[[], Connection]:
    """Opens connections of ours; the first time that one has sent such a statement, `action` is next."""
    left = [action]

    def opened() -> Connection:
        connection = connect(url)
        execute = connection.execute

        def executed(query: Any, *given: Any, **named: Any) -> Any:  # noqa: ANN401
            result = execute(query, *given, **named)
            text = query.decode() if isinstance(query, bytes) else query if isinstance(query, str) else repr(query)
            if moment in text and left:
                left.pop()()
            return result

        connection.execute = executed  # type: ignore[method-assign]
        return connection

    return opened


def nobody(_: object) -> None:
    """Nobody listens."""


def decrypted(
    connect_: Callable[[], Connection],
    ring: KeyRing,
    limits: Limits | None = None,
    table: Any = CASES,  # noqa: ANN401
) -> DecryptedCount:
    return decrypt_all(connect_, table, ring, nobody, limits or Limits())


TWO = Limits(workers=2, pages_per_worker=1)


@pytest.mark.parametrize("limits", [Limits(), TWO], ids=["one reader", "two readers"])
@pytest.mark.parametrize("moment", ["BEGIN ISOLATION", "LOCK TABLE", "pg_export_snapshot", "SET LOCAL idle"])
@pytest.mark.parametrize("statement", REWRITES)
def test_every_value_is_decrypted_whenever_its_table_is_rewritten(
    cases: Connection, ring: KeyRing, database_url: str, moment: str, statement: str, limits: Limits
) -> None:
    was_free: list[bool] = []
    rewrite = lambda: was_free.append(application(database_url, statement))  # noqa: E731
    found = decrypted(interrupted(database_url, moment, rewrite), ring, limits)
    assert was_free == [moment.startswith("BEGIN")]
    assert (found.values, found.failures) == (ROWS, 1)
    assert [each.key for each in quarantine.load(cases, [CASES])] == [f'["{DAMAGED}"]']


def test_what_was_found_stays_in_quarantine_while_its_table_is_rewritten(
    cases: Connection, ring: KeyRing, database_url: str
) -> None:
    decrypted(lambda: connect(database_url), ring)
    rewrite = partial(application, database_url, "ALTER TABLE cases ALTER n TYPE bigint")
    decrypted(interrupted(database_url, "pg_export_snapshot", rewrite), ring)
    assert [each.key for each in quarantine.load(cases, [CASES])] == [f'["{DAMAGED}"]']


def test_a_table_is_not_emptied_between_its_snapshot_and_the_reading(
    cases: Connection, ring: KeyRing, database_url: str
) -> None:
    was_free: list[bool] = []
    empty = lambda: was_free.append(application(database_url, "TRUNCATE cases"))  # noqa: E731
    found = decrypted(interrupted(database_url, "pg_export_snapshot", empty), ring)
    assert (found.values, was_free) == (ROWS, [False])
    assert cases.execute("SELECT count(*) FROM public.cases").fetchone() == (ROWS,)


def test_a_span_counts_as_read_only_if_its_values_were(cases: Connection, ring: KeyRing, database_url: str) -> None:
    rewrite = partial(application, database_url, "ALTER TABLE cases ALTER n TYPE bigint")
    spans = list(page_readings.spans(cases, [CASES]))
    opens = interrupted(database_url, "pg_export_snapshot", rewrite)
    values = decrypt_spans(opens, CASES, spans, ring, nobody, Limits(duty_cycle=1.0), lambda: True)
    assert values == ROWS
    assert [each.key for each in quarantine.load(cases, [CASES])] == [f'["{DAMAGED}"]']


def test_a_damaged_value_is_looked_at_again_in_its_own_row(
    cases: Connection, ring: KeyRing, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases.execute("UPDATE public.cases SET id = -1 WHERE id = %s", (DAMAGED,))
    cases.execute("CLUSTER public.cases USING cases_pkey")
    decrypted(lambda: connect(database_url), ring)
    positions = TraversalContext.positions

    def followed_by_a_rewrite(context: TraversalContext, *given: Any) -> list[bytes]:  # noqa: ANN401
        found = positions(context, *given)
        application(database_url, "UPDATE cases SET id = 1000 WHERE id = -1", "CLUSTER cases USING cases_pkey")
        application(database_url, "UPDATE cases SET id = -1 WHERE id = 1000")
        return found

    monkeypatch.setattr(TraversalContext, "positions", followed_by_a_rewrite)
    decrypt_spans(lambda: connect(database_url), CASES, [], ring, nobody, Limits(), lambda: True)
    assert [each.key for each in quarantine.load(cases, [CASES])] == ['["-1"]']


def test_a_sample_is_read_from_the_rows_that_were_chosen(
    cases: Connection, ring: KeyRing, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = samples._chosen  # noqa: SLF001

    def followed_by_a_rewrite(*given: Any) -> dict[int, list[str]]:  # noqa: ANN401
        found = chosen(*given)
        application(database_url, "DELETE FROM cases WHERE id < 390", "ALTER TABLE cases ALTER n TYPE bigint")
        return {place: [each for each in positions if not each.startswith("(0,")] for place, positions in found.items()}

    monkeypatch.setattr(samples, "_chosen", followed_by_a_rewrite)
    trial = samples.decrypt_sample(cases, CASES, ring, 200, {})
    assert [(each.column, each.version) for each in trial.columns] == [("a", V2)]


def test_a_table_that_gets_the_name_of_another_is_not_taken_for_it(
    cases: Connection, ring: KeyRing, database_url: str
) -> None:
    other = "ALTER TABLE cases RENAME TO former; CREATE TABLE cases (id int PRIMARY KEY, a text, n int)"
    opens = interrupted(database_url, "BEGIN ISOLATION", partial(application, database_url, other))
    with pytest.raises(BlockedError, match="cases was replaced by another table meanwhile; run this again"):
        decrypted(opens, ring)
    assert cases.execute("SELECT count(*) FROM public.former").fetchone() == (ROWS,)


@pytest.fixture
def visits(migrated: Connection, ring: KeyRing) -> Connection:
    """Two partitions of good values, and a table with a damaged one that could be a third."""
    migrated.execute("CREATE TABLE public.visits (id int PRIMARY KEY, a text) PARTITION BY LIST (id)")
    for day in (1, 2):
        migrated.execute(f"CREATE TABLE public.visits_{day} PARTITION OF public.visits FOR VALUES IN ({day})".encode())
        insert(migrated, "public.visits", [(day, sealed(ring, 2, f"a{day}"))])
    migrated.execute("CREATE TABLE public.visits_3 (id int PRIMARY KEY, a text)")
    insert(migrated, "public.visits_3", [(3, sealed(ring_of(1, 2), 2, "a3"))])
    return migrated


ATTACH = "ALTER TABLE visits ATTACH PARTITION visits_3 FOR VALUES IN (3)"


@pytest.mark.parametrize("after", ["visits_1", "visits_2"])
def test_a_partition_that_is_attached_while_others_are_read_is_read_too(
    visits: Connection, ring: KeyRing, database_url: str, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    decrypt_one = Decryption.decrypt

    def followed_by_attaching(decryption: Decryption, relation: Relation, found: Found, *pages: Any) -> None:  # noqa: ANN401
        decrypt_one(decryption, relation, found, *pages)
        if relation.name == after:
            assert application(database_url, ATTACH)

    monkeypatch.setattr(Decryption, "decrypt", followed_by_attaching)
    found = decrypted(lambda: connect(database_url), ring, table=VISITS)
    assert (found.values, found.failures) == (3, 1)


@pytest.mark.parametrize("statement", [ATTACH, "ALTER TABLE visits DETACH PARTITION visits_2"])
def test_a_comparison_reads_the_partitions_that_there_are(
    visits: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    part, left = row_key._part, [statement]  # noqa: SLF001

    def preceded_by_a_change(*given: Any) -> Any:  # noqa: ANN401
        if left:
            assert application(database_url, left.pop())
        return part(*given)

    monkeypatch.setattr(row_key, "_part", preceded_by_a_change)
    with pytest.raises(BlockedError, match="a partition of table visits was added or removed meanwhile"):
        list(row_key.rows_by_key(visits, VISITS, ["id"]))


@pytest.mark.parametrize("limits", [Limits(), TWO], ids=["one reader", "two readers"])
def test_fewer_values_than_a_count_in_the_same_snapshot_sees_are_refused(
    cases: Connection, ring: KeyRing, database_url: str, monkeypatch: pytest.MonkeyPatch, limits: Limits
) -> None:
    batches = decrypt._batches  # noqa: SLF001

    def without_a_row(*given: Any) -> Iterator[Any]:  # noqa: ANN401
        for batch in batches(*given):
            yield TraversalContext.batch(given[0], batch.rows[1:])

    monkeypatch.setattr(decrypt, "_batches", without_a_row)
    with pytest.raises(
        BlockedError, match=r"^cases: \d+ of \d+ values on pages 0 to \d+ were decrypted; run this again"
    ):
        decrypted(lambda: connect(database_url), ring, limits)
    assert cases.execute("SELECT count(*) FROM keyrotation.page_readings WHERE read_at IS NOT NULL").fetchone() == (0,)


# What reads by single statements is right without more: the server takes their snapshot after their lock.


@contextmanager
def rewriting(url: str, seconds: float) -> Iterator[None]:
    """A rewrite that holds its lock when the body begins, and commits so much later."""
    with psycopg.connect(url) as connection:
        connection.execute("ALTER TABLE cases ALTER n TYPE bigint")

        def committed() -> None:
            time.sleep(seconds)
            connection.commit()

        thread = threading.Thread(target=committed)
        thread.start()
        yield
        thread.join()


READS: list[Any] = [
    pytest.param(lambda c, _: PostgresInventory(c).count([CASES])[0].values_by_version[V2], ROWS, id="count"),
    pytest.param(lambda c, _: counts.old_rows(c, CASES, [V2], 1).rows, ROWS, id="old rows"),
    pytest.param(lambda c, _: counts.rows_seen(c, CASES, V2, 5), ROWS, id="rows seen"),
    pytest.param(lambda c, _: old_values.count_old_values(c, CASES, [V1]).values, ROWS, id="retiring count"),
    pytest.param(lambda _, k: k.rows_under(CASES, [V2]), ROWS - 1, id="count by decrypting"),
    pytest.param(lambda c, _: len(list(row_key.rows_by_key(c, CASES, ["id"]))), ROWS, id="comparison"),
    pytest.param(lambda c, _: len(samples.any_values(c, CASES, 1000)["a"]), ROWS, id="probe"),
    pytest.param(lambda c, k: samples.decrypt_sample(c, CASES, k.ring(), 200, {}).columns[0].tried, 200, id="sample"),
    pytest.param(lambda c, _: sum(each.values for each in discovery.discover(c, [])), ROWS, id="search"),
]


@pytest.mark.parametrize(("read", "expected"), READS)
def test_what_waits_for_a_rewrite_reads_every_row(
    cases: Connection, ring: KeyRing, database_url: str, read: Callable[..., int], expected: int
) -> None:
    keys = CurrentKeys(lambda: connect(database_url), lambda: ring, Limits())
    # The catalogue is read first, which takes no lock of the table where it is cached.
    with rewriting(database_url, 0.4):
        began = time.monotonic()
        found = read(cases, keys)
        waited_seconds = time.monotonic() - began
    assert found == expected
    assert waited_seconds > 0.2


# Dumps.


def dumped(opens: Callable[[], Connection], url: str, directory: Path) -> tuple[int, int | None]:
    """The rows of cases in a dump, and how many the dump says that it has."""
    file = directory / "dump"
    with PostgresDump(url, opens, None).dumping([CASES]) as under_way:
        file.write_bytes(under_way.stream.read())
        content = under_way.counted().content
    (counted,) = (each.rows for each in content.relations if each.name.table == "cases")
    restored = subprocess.run(
        [Installation.of_wheel().binaries / "pg_restore", "--data-only", "--table=cases", "--file=-", file],
        check=True, capture_output=True,
    )  # fmt: skip
    return restored.stdout.count(b"\tv2:"), counted


@pytest.mark.parametrize("statement", REWRITES)
def test_a_dump_holds_every_row_of_a_table_that_is_rewritten_while_it_begins(
    cases: Connection, database_url: str, tmp_path: Path, statement: str
) -> None:
    rewrite = partial(application, database_url, statement)
    assert dumped(interrupted(database_url, "pg_export_snapshot", rewrite), database_url, tmp_path) == (ROWS, ROWS)


def test_a_dump_does_not_mind_a_table_that_is_emptied_meanwhile(
    cases: Connection, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dump, "PATIENCE_SECONDS", 0)
    cases.execute("CREATE TABLE public.queue AS SELECT 1 AS job")
    empty = partial(application, database_url, "TRUNCATE queue")
    assert dumped(interrupted(database_url, "pg_export_snapshot", empty), database_url, tmp_path) == (ROWS, ROWS)


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE cases ALTER n TYPE bigint",
        "ALTER TABLE cases RENAME TO former; CREATE TABLE cases (id int, a text); INSERT INTO cases VALUES (1, 'x')",
        "DROP TABLE cases",
    ],
    ids=["rewritten", "replaced", "dropped"],
)
def test_a_dump_that_would_lack_rows_is_refused_and_leaves_no_session(
    cases: Connection, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    monkeypatch.setattr(dump, "PATIENCE_SECONDS", 0)
    rewrite = partial(application, database_url, statement)
    with pytest.raises(BlockedError, match="tables are being locked or rewritten"):
        dumped(interrupted(database_url, "pg_export_snapshot", rewrite), database_url, tmp_path)
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    eventually(lambda: cases.execute(others).fetchone() == (0,))


# The application.


def test_a_reading_that_waits_behind_a_change_of_the_table_holds_nothing_and_gives_up(
    cases: Connection, ring: KeyRing, database_url: str
) -> None:
    granted, queued = (
        f"SELECT array_agg(pid) FROM pg_locks WHERE relation = 'public.cases'::regclass AND {which}"
        for which in ("granted", "NOT granted")
    )
    with closing(psycopg.connect(database_url)) as writer, closing(psycopg.connect(database_url)) as migration:
        writer.execute("UPDATE cases SET n = 1 WHERE id = 1")

        def migrate() -> None:
            migration.execute("ALTER TABLE cases ALTER n TYPE bigint")
            migration.commit()

        seen: list[object] = []

        def watch() -> None:
            time.sleep(0.5)
            seen.extend(cases.execute(granted).fetchone() or ())

        threads = [threading.Thread(target=migrate), threading.Thread(target=watch)]
        threads[0].start()
        eventually(lambda: cases.execute(queued).fetchone() == ([migration.info.backend_pid],))
        threads[1].start()
        began = time.monotonic()
        with pytest.raises(BlockedError, match="the table is locked by another session"):
            decrypted(lambda: connect(database_url), ring, TWO)
        assert time.monotonic() - began < 4
        writer.commit()
        for thread in threads:
            thread.join()
        assert seen == [[writer.info.backend_pid]]
    kind = "SELECT data_type FROM information_schema.columns WHERE table_name = 'cases' AND column_name = 'n'"
    assert cases.execute(kind).fetchone() == ("bigint",)


def test_a_change_that_queues_while_several_readers_lock_the_table_goes_first(
    cases: Connection, ring: KeyRing, database_url: str
) -> None:
    queued = "SELECT count(*) FROM pg_locks WHERE relation = 'public.cases'::regclass AND NOT granted"
    seconds: list[float] = []

    def migrate() -> None:
        began = time.monotonic()
        with psycopg.connect(database_url, autocommit=True) as migration:
            migration.execute("ALTER TABLE cases ALTER n TYPE bigint")
        seconds.append(time.monotonic() - began)

    migration = threading.Thread(target=migrate)

    def queue() -> None:
        migration.start()
        eventually(lambda: cases.execute(queued).fetchone() == (1,))

    found = decrypted(interrupted(database_url, "LOCK TABLE", queue), ring, TWO)
    migration.join()
    assert (found.values, found.failures) == (ROWS, 1)
    assert seconds[0] < 1, "the readers would wait for the migration so long, and it for them"


@pytest.mark.extended
def test_nothing_is_passed_over_while_a_table_is_rewritten_all_the_time(
    migrated: Connection, ring: KeyRing, database_url: str, tmp_path: Path
) -> None:
    fill(migrated, ring, 4000)
    ended, rewrites, pause_seconds = threading.Event(), [0], [0.02]

    def rewrite() -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            while not ended.wait(pause_seconds[0]):
                kind = "bigint" if rewrites[0] % 2 == 0 else "int"
                connection.execute(f"ALTER TABLE cases ALTER n TYPE {kind}".encode())
                rewrites[0] += 1

    thread = threading.Thread(target=rewrite)
    thread.start()
    try:
        opens, passed = partial(connect, database_url), 0
        for number in range(100):
            with suppress(BlockedError):
                found = decrypted(opens, ring, TWO if number % 2 else Limits())
                passed += 1
                assert (found.values, found.failures) == (4000, 1)
                assert quarantine.load(migrated, [CASES])
        pause_seconds[0] = 2.0  # a dump has to begin between two
        for _ in range(3):
            assert dumped(opens, database_url, tmp_path) == (4000, 4000)
    finally:
        ended.set()
        thread.join()
    assert passed > 80
    assert rewrites[0] > 50
