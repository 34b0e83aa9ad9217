"""Every shape of table that the engine takes: each row reads back to what it was, under the target version."""

import time
import uuid
from collections.abc import Callable, Iterator, Sequence

import pytest

from keyrotation_pipeline.adapters.postgres.engine.batch import Batch
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.engine.postgres_rewriting import PostgresRewriting
from keyrotation_pipeline.adapters.postgres.engine.statements import statements
from keyrotation_pipeline.adapters.postgres.inventory.relations import Column, heaps
from keyrotation_pipeline.adapters.postgres.inventory.row_key import row_key
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.errors import BlockedError, KeyRotationError, PreflightError
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.progress import Rewritten
from keyrotation_pipeline_tests.integration.encrypted_rows import (
    Engine,
    insert,
    read_back,
    ring_of,
    sealed,
    table_of,
    under_v2,
)

ROWS = 300


@pytest.fixture
def ring() -> KeyRing:
    return ring_of(1, 2)


@pytest.fixture(params=[True, False], ids=["native codec", "Python codec"])
def engine(request: pytest.FixtureRequest, migrated: Connection, database_url: str, ring: KeyRing) -> Engine:
    return Engine(database_url, ring, Limits(native_codec=request.param))


def counts(done: Rewritten) -> tuple[int, int, int, int]:
    return done.rows, done.values, done.skipped, done.quarantined


@pytest.mark.parametrize(
    ("create", "target", "key", "key_of"),
    [
        pytest.param("CREATE TABLE {} (k bigint PRIMARY KEY, {})", "public.t", "k", lambda n: n, id="bigint key"),
        pytest.param("CREATE TABLE {} (k text PRIMARY KEY, {})", "public.t", "k", lambda n: f"k{n}", id="text key"),
        pytest.param(
            "CREATE TABLE {} (k uuid PRIMARY KEY, {})", "public.t", "k", lambda n: uuid.UUID(int=n), id="uuid key"
        ),
        pytest.param(
            "CREATE TABLE {} (k int, {}, o int DEFAULT 1, PRIMARY KEY (o, k))",
            "public.t", "k", lambda n: n, id="composite key",
        ),
        pytest.param("CREATE TABLE {} (k int, {})", "public.t", "k", lambda n: n, id="no key"),
        pytest.param(
            'CREATE SCHEMA "My ""Schema"; CREATE TABLE {} (k int PRIMARY KEY, {})',
            '"My ""Schema"."Select %s"', "k", lambda n: n, id="quoted names in another schema",
        ),
        pytest.param(
            "CREATE TABLE {} (k int PRIMARY KEY, {}) PARTITION BY HASH (k);"
            "CREATE TABLE p0 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0) PARTITION BY RANGE (k);"
            "CREATE TABLE p0_low PARTITION OF p0 FOR VALUES FROM (MINVALUE) TO (100);"
            "CREATE TABLE p0_high PARTITION OF p0 FOR VALUES FROM (100) TO (MAXVALUE);"
            "CREATE TABLE p1 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 1);",
            "public.t", "k", lambda n: n, id="partitions of partitions",
        ),
        pytest.param("CREATE UNLOGGED TABLE {} (k int UNIQUE, {})", "public.t", "k", lambda n: n, id="unlogged"),
        pytest.param(
            "CREATE TABLE {} (k int PRIMARY KEY, {}); CREATE UNIQUE INDEX ON t (first)",
            "public.t", "k", lambda n: n, id="unique index on an encrypted column",
        ),
        pytest.param(
            "CREATE TABLE {} (k int PRIMARY KEY, {}, size int GENERATED ALWAYS AS (octet_length(first)) STORED)",
            "public.t", "k", lambda n: n, id="generated column on an encrypted one",
        ),
        pytest.param(
            "CREATE DOMAIN secret AS varchar(200) CHECK (VALUE LIKE 'v%');"
            "CREATE TABLE {} (k int PRIMARY KEY, first secret, \"Last %(name)s\" secret)",
            "public.t", "k", lambda n: n, id="domain",
        ),
        pytest.param(
            'CREATE TABLE {} (k int PRIMARY KEY, first bpchar, "Last %(name)s" char(200))',
            "public.t", "k", lambda n: n, id="padded with blanks",
        ),
    ],
)  # fmt: skip
def test_every_row_of_a_table_reads_back_under_the_target(
    migrated: Connection,
    engine: Engine,
    ring: KeyRing,
    create: str,
    target: str,
    key: str,
    key_of: Callable[[int], object],
) -> None:
    migrated.execute("SET search_path = public")
    columns = 'first text, "Last %(name)s" varchar(200)'
    migrated.execute((create.format(target, columns) if create.count("{}") == 2 else create.format(target)).encode())
    schema, name = ('My "Schema', "Select %s") if target.startswith('"') else ("public", "t")
    table = table_of(name, "first", "Last %(name)s", schema=schema)
    rows = [(key_of(n), sealed(ring, 1, f"Ada {n}"), sealed(ring, 1, f"Løvelace {n}")) for n in range(ROWS)]
    fill(migrated, target, rows)

    done = [engine.shard(table, index, 3) for index in range(3)]

    assert counts(sum(done, Rewritten())) == (ROWS, 2 * ROWS, 0, 0)
    assert counts(engine.sweep(table)) == (0, 0, 0, 0)
    expected = {key_of(n): under_v2(f"Ada {n}", f"Løvelace {n}") for n in range(ROWS)}
    assert read_back(migrated, ring, table, key) == expected


def fill(connection: Connection, target: str, rows: Sequence[Sequence[object]]) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(f"INSERT INTO {target.replace('%', '%%')} VALUES (%s, %s, %s)".encode(), rows)


def test_rows_of_parent_and_children_of_an_inheritance_tree_stay_apart(
    migrated: Connection, engine: Engine, ring: KeyRing
) -> None:
    migrated.execute(
        "CREATE TABLE public.people (id int, name text);CREATE TABLE public.staff (badge text) INHERITS (public.people)"
    )
    # The same positions and the same xmin in both.
    with migrated.transaction():
        insert(migrated, "public.people", [(n, sealed(ring, 1, f"parent {n}")) for n in range(ROWS)])
        insert(migrated, "public.staff", [(1000 + n, sealed(ring, 1, f"child {n}"), "b") for n in range(ROWS)])
    people = table_of("people", "name")

    assert counts(engine.shard(people)) == (2 * ROWS, 2 * ROWS, 0, 0)

    parents = {n: under_v2(f"parent {n}") for n in range(ROWS)}
    children = {1000 + n: under_v2(f"child {n}") for n in range(ROWS)}
    assert read_back(migrated, ring, people, "id") == parents | children


CASES = table_of("cases", "a", "b")


def cases(connection: Connection, rows: Sequence[tuple[str | None, str | None]], extra: str = "") -> None:
    connection.execute(f"CREATE TABLE public.cases (id int PRIMARY KEY, a text, b text{extra})".encode())
    if rows:
        insert(connection, "public.cases (id, a, b)", [(number, *row) for number, row in enumerate(rows)])


def test_columns_may_have_any_name_that_our_statements_use(migrated: Connection, engine: Engine, ring: KeyRing) -> None:
    names = [
        "t",
        "new",
        "held",
        "key",
        "old_0",
        "position",
        "version",
        "changed",
        "filenode",
        "range",
        "looked",
        "read",
    ]
    others = ", ".join(f"{name} int" for name in names)
    migrated.execute(f"CREATE TABLE public.odd (id int PRIMARY KEY, value_0 text, value_1 text, {others})".encode())
    insert(migrated, "public.odd", [(n, *[sealed(ring, 1, f"{n}")] * 2, *[7] * len(names)) for n in range(ROWS)])
    odd = table_of("odd", "value_0", "value_1")

    assert counts(engine.shard(odd)) == (ROWS, 2 * ROWS, 0, 0)
    migrated.execute("UPDATE public.odd SET value_1 = %s WHERE id < 5", (sealed(ring, 1, "later"),))
    assert counts(engine.sweep(odd)) == (5, 5, 0, 0)
    migrated.execute("UPDATE public.odd SET value_0 = %s WHERE id < 7", (sealed(ring, 1, "later"),))
    assert counts(engine.sweep(odd, wait=True)) == (7, 7, 0, 0)

    texts = {n: under_v2("later" if n < 7 else f"{n}", "later" if n < 5 else f"{n}") for n in range(ROWS)}
    assert read_back(migrated, ring, odd, "id") == texts
    kept = migrated.execute(f"SELECT DISTINCT {', '.join(names)} FROM public.odd".encode()).fetchall()
    assert kept == [(7,) * len(names)]


def test_an_empty_table_is_done_at_once(migrated: Connection, engine: Engine) -> None:
    cases(migrated, [])
    assert counts(engine.shard(CASES)) == (0, 0, 0, 0)
    assert counts(engine.sweep(CASES, wait=True)) == (0, 0, 0, 0)


def test_nulls_and_empty_strings_stay_as_they_are(migrated: Connection, engine: Engine, ring: KeyRing) -> None:
    old = sealed(ring, 1, "x")
    cases(migrated, [(None, None), ("", ""), (old, None), ("", old), (None, old), (old, "")])

    assert counts(engine.shard(CASES)) == (4, 4, 0, 0)

    x = ("v2", "x")
    assert read_back(migrated, ring, CASES, "id") == {
        0: (None, None), 1: (("", ""), ("", "")), 2: (x, None), 3: (("", ""), x), 4: (None, x), 5: (x, ("", "")),
    }  # fmt: skip


def test_rows_half_done_get_only_what_is_missing(migrated: Connection, engine: Engine, ring: KeyRing) -> None:
    done = sealed(ring, 2, "done")
    cases(migrated, [(sealed(ring, 1, "old"), done), (done, sealed(ring, 1, "old")), (done, done)])

    assert counts(engine.shard(CASES)) == (2, 2, 0, 0)

    rows = migrated.execute("SELECT a, b FROM public.cases ORDER BY id").fetchall()
    assert [[value == done for value in row] for row in rows] == [[False, True], [True, False], [True, True]]


def test_three_versions_at_once_all_come_to_the_target(migrated: Connection, database_url: str) -> None:
    ring = ring_of(1, 2, 10, primary=2)
    cases(migrated, [(sealed(ring, 1, "one"), sealed(ring, 10, "ten")), (sealed(ring, 10, "x"), sealed(ring, 2, "y"))])

    assert counts(Engine(database_url, ring).shard(CASES)) == (2, 3, 0, 0)

    assert read_back(migrated, ring, CASES, "id") == {0: under_v2("one", "ten"), 1: under_v2("x", "y")}


def test_no_other_column_changes_and_an_updated_at_does_not_move(
    migrated: Connection, engine: Engine, ring: KeyRing
) -> None:
    cases(migrated, [(sealed(ring, 1, "a"), sealed(ring, 1, "b"))] * 20, ", updated_at timestamptz, n int DEFAULT 7")
    migrated.execute(
        "CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN NEW.updated_at := clock_timestamp(); NEW.n := NEW.n + 1; RETURN NEW; END$$;"
        "CREATE TRIGGER touch BEFORE UPDATE ON public.cases FOR EACH ROW "
        "WHEN (current_setting('keyrotation.engine', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION public.touch()"
    )
    before = migrated.execute("SELECT id, updated_at, n FROM public.cases ORDER BY id").fetchall()

    assert engine.shard(CASES).rows == 20

    assert migrated.execute("SELECT id, updated_at, n FROM public.cases ORDER BY id").fetchall() == before


def test_megabyte_values_are_read_in_batches_bounded_by_bytes(migrated: Connection, database_url: str) -> None:
    ring = ring_of(1, 2)
    old = sealed(ring, 1, "x" * 1_000_000)
    cases(migrated, [(old, sealed(ring, 1, f"{number}")) for number in range(24)])
    migrated.execute("ALTER TABLE public.cases ALTER a SET STORAGE EXTERNAL")
    assert migrated.execute("SELECT pg_relation_size('public.cases')").fetchone() == (8192,)
    read: list[int] = []
    engine = Engine(database_url, ring, Limits(batch_bytes=4_000_000))

    take = Batch.of

    def weighed(rows: Sequence[tuple[object, ...]], places: Sequence[Column] = (), indexes: int = 0) -> Batch:
        read.append(sum(len(value) for row in rows for value in row if isinstance(value, bytes)))
        return take(rows, places, indexes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Batch, "of", weighed)
        done = engine.shard(CASES)

    assert counts(done) == (24, 48, 0, 0)
    assert len(read) >= 12
    assert max(read) <= 4_000_000
    assert read_back(migrated, ring, CASES, "id") == {n: under_v2("x" * 1_000_000, f"{n}") for n in range(24)}


@pytest.mark.parametrize("neighbour", [True, False], ids=["all values are new", "one value is NULL"])
@pytest.mark.parametrize("kind", ["varchar({})", "char({})", "short", "shorter"])
def test_a_value_too_long_for_its_column_is_refused_and_never_cut(
    migrated: Connection, database_url: str, kind: str, neighbour: bool
) -> None:
    ring = ring_of(9, 10, primary=10)
    old = sealed(ring, 9, "secret text")
    migrated.execute("SET search_path = public")
    migrated.execute(f"CREATE DOMAIN short AS varchar({len(old)}); CREATE DOMAIN shorter AS short".encode())
    migrated.execute(f"CREATE TABLE cases (id int PRIMARY KEY, a text, b {kind.format(len(old))})".encode())
    insert(migrated, "public.cases", [(1, old if neighbour else None, old)])

    with pytest.raises(PreflightError, match=r"too long for its column.*widen") as refusal:
        Engine(database_url, ring, target=ring.primary).shard(CASES)

    assert refusal.value.__cause__ is None
    assert refusal.value.__context__ is None
    assert migrated.execute("SELECT a, b FROM public.cases").fetchall() == [(old if neighbour else None, old)]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        pytest.param(
            "ALTER TABLE public.cases ADD CHECK (a LIKE 'v1:%') NOT VALID",
            "a CHECK of the table or of a domain refuses",
            id="check constraint",
        ),
        pytest.param(
            "CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS "
            "$$BEGIN RAISE EXCEPTION 'no: %', NEW.name; END$$; CREATE TRIGGER no BEFORE UPDATE ON public.cases "
            "FOR EACH ROW EXECUTE FUNCTION public.no()",
            "refused a statement",
            id="trigger that raises",
        ),
    ],
)
def test_what_the_server_says_of_a_row_is_not_repeated(
    migrated: Connection, engine: Engine, ring: KeyRing, spoil: str, said: str
) -> None:
    cases(migrated, [(sealed(ring, 1, "a"), None)], ", name text DEFAULT 'Grace Hopper'")
    migrated.execute(spoil.encode())

    with pytest.raises(KeyRotationError, match=said) as refusal:
        engine.shard(CASES)

    assert "Grace" not in str(refusal.value)
    assert "v2:" not in str(refusal.value)
    assert refusal.value.__context__ is None


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda ports, ring: ports.decrypt_all(CASES, ring, lambda _: None), id="verify"),
        pytest.param(
            lambda ports, ring: ports.decrypt_spans(CASES, [], ring, lambda _: None, lambda: True), id="the daily part"
        ),
        pytest.param(lambda ports, ring: ports.speed([CASES], ring, KeyVersion(2)), id="the measurement before"),
    ],
)
def test_nobody_is_sent_to_a_rotation_that_is_not_there(
    migrated: Connection, database_url: str, ring: KeyRing, read: Callable[[PostgresRewriting, KeyRing], object]
) -> None:
    cases(migrated, [(sealed(ring, 1, "a"), None)])
    rewriting = PostgresRewriting(migrated, lambda: connect(database_url), Limits())
    with migrated.transaction():
        migrated.execute("LOCK TABLE public.cases IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(BlockedError) as refusal:
            read(rewriting, ring)
    assert str(refusal.value) == (
        "the table is locked by another session; wait until that has ended, then run this again"
    )


@pytest.fixture
def other_role(migrated: Connection) -> Iterator[str]:
    """A role that may only read and update the application's tables."""
    role = f"engine_{uuid.uuid4().hex}"
    migrated.execute(
        f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA keyrotation TO {role};"
        f"GRANT ALL ON ALL TABLES IN SCHEMA keyrotation TO {role};"
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, UPDATE ON TABLES TO {role}".encode()
    )
    yield role
    migrated.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


def test_a_table_that_may_not_be_vacuumed_grows_by_a_sixth_or_so(
    migrated: Connection, database_url: str, ring: KeyRing, other_role: str
) -> None:
    rows = 12_000
    migrated.execute("CREATE TABLE public.cases (id int PRIMARY KEY, a text, b text)")
    migrated.execute(
        "INSERT INTO public.cases SELECT n, %s, %s FROM generate_series(1, %s) AS n",
        (sealed(ring, 1, "a" * 80), sealed(ring, 1, "b" * 80), rows),
    )
    migrated.execute("ALTER TABLE public.cases SET (autovacuum_enabled = off)")
    migrated.execute("VACUUM ANALYZE public.cases")
    size = "SELECT pg_relation_size('public.cases')"
    (before,) = migrated.execute(size).fetchall()[0]
    engine = Engine(database_url.replace("postgres@", f"{other_role}@"), ring, Limits(duty_cycle=1.0))
    assert engine.shard(CASES).rows == rows
    (after,) = migrated.execute(size).fetchall()[0]
    assert set(read_back(migrated, ring, CASES, "id").values()) == {under_v2("a" * 80, "b" * 80)}
    assert int(str(after)) <= 1.25 * int(str(before))


def test_row_level_security_and_missing_rights_are_refused_with_what_to_grant(
    migrated: Connection, engine: Engine, ring: KeyRing, database_url: str
) -> None:
    cases(migrated, [(sealed(ring, 1, "a"), None)])
    role = f"engine_{uuid.uuid4().hex}"
    migrated.execute(
        f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA keyrotation TO {role};"
        f"GRANT ALL ON ALL TABLES IN SCHEMA keyrotation TO {role}; GRANT SELECT ON public.cases TO {role}".encode()
    )
    other = Engine(database_url.replace("postgres@", f"{role}@"), ring, Limits(vacuum_pages=0))
    try:
        with pytest.raises(PreflightError, match="GRANT SELECT, UPDATE"):
            other.shard(CASES)
        migrated.execute(
            f"GRANT UPDATE ON public.cases TO {role}; ALTER TABLE public.cases ENABLE ROW LEVEL SECURITY".encode()
        )
        with pytest.raises(PreflightError, match="BYPASSRLS"):
            other.shard(CASES)
        migrated.execute("ALTER TABLE public.cases DISABLE ROW LEVEL SECURITY")
        assert other.shard(CASES).rows == 1
    finally:
        migrated.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


@pytest.mark.parametrize(
    ("index", "strength"),
    [
        pytest.param("CREATE INDEX ON public.cases (a)", b"FOR NO KEY UPDATE OF", id="plain index"),
        pytest.param(
            "CREATE UNIQUE INDEX ON public.cases (id, n)", b"FOR NO KEY UPDATE OF", id="unique, other columns"
        ),
        pytest.param("CREATE UNIQUE INDEX ON public.cases (n, b)", b"FOR UPDATE OF", id="unique, an encrypted column"),
    ],
)
def test_rows_are_locked_as_strongly_as_their_update_will_need(
    migrated: Connection, index: str, strength: bytes
) -> None:
    # With the weaker lock, and then an update of a key column, applications met four deadlocks in six seconds.
    cases(migrated, [], ", n int")
    migrated.execute(index.encode())
    (relation,) = heaps(migrated, CASES)
    write = statements(migrated, relation, row_key(migrated, relation), NATIVE, KeyVersion(2)).write
    assert strength in write


def test_a_small_cap_on_rows_a_second_is_kept(migrated: Connection, database_url: str, ring: KeyRing) -> None:
    cases(migrated, [(sealed(ring, 1, "a"), sealed(ring, 1, "b"))] * 600)
    started = time.monotonic()
    assert Engine(database_url, ring, Limits(max_rows_per_second=500)).shard(CASES).rows == 600
    assert time.monotonic() - started > 0.9


def test_vacuuming_on_the_way_keeps_a_table_from_doubling(
    migrated: Connection, database_url: str, ring: KeyRing
) -> None:
    cases(migrated, [(sealed(ring, 1, "a" * 100), sealed(ring, 1, "b" * 100))] * 3000)
    size = "SELECT pg_relation_size('public.cases')"
    (before,) = migrated.execute(size).fetchall()[0]
    assert Engine(database_url, ring, Limits(max_pages=8, vacuum_pages=10)).shard(CASES).rows == 3000
    (after,) = migrated.execute(size).fetchall()[0]
    assert int(str(after)) < 1.5 * int(str(before))


def test_a_missing_table_is_a_plain_refusal(migrated: Connection, engine: Engine, ring: KeyRing) -> None:
    with pytest.raises(PreflightError, match="table cases is not in the database"):
        engine.shard(CASES)
