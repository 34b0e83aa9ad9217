"""A table that is changed after its pre-flight is noticed before another row of it is written."""

from collections.abc import Callable

import pytest

from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.engine.postgres_rewriting import PostgresRewriting
from keyrotation_pipeline.adapters.postgres.inventory.relations import tree
from keyrotation_pipeline.adapters.postgres.preflight import catalog_digest
from keyrotation_pipeline.adapters.postgres.retirement import fence
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.errors import PreflightError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.tables import EncryptedTable, Shard, TableName
from keyrotation_pipeline_tests.integration.encrypted_rows import insert, ring_of, sealed

V2 = KeyVersion(2)
CASES = EncryptedTable(TableName("public", "cases"), ("a",))
REQUEST = "0d" * 16
ROWS = 20
TOUCHED = """
    CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.updated_at := now(); RETURN NEW; END';
    CREATE TRIGGER touched BEFORE UPDATE ON public.cases FOR EACH ROW EXECUTE FUNCTION public.touch();
"""


class Cases:
    """Twenty rows under v1, all in the one page of the second of two shards."""

    def __init__(self, url: str, connection: Connection) -> None:
        self.connection = connection
        self.ring = ring_of(1, 2)
        self.rewriting = PostgresRewriting(connection, lambda: connect(url), Limits())
        connection.execute("CREATE TABLE public.cases (id int PRIMARY KEY, a text, updated_at timestamptz, note text)")
        insert(connection, "public.cases (id, a)", [(n, sealed(self.ring, 1, "x")) for n in range(ROWS)])

    def shard(self, index: int = 1) -> int:
        return self.rewriting.reencrypt_shard(REQUEST, Shard(CASES, index, 2), self.ring, V2, lambda _: None).rows

    def sweep(self) -> int:
        return self.rewriting.sweep(REQUEST, CASES, self.ring, V2, wait=False).rows

    def moved(self) -> int:
        found = self.connection.execute("SELECT count(*) FROM public.cases WHERE updated_at IS NOT NULL").fetchall()
        return int(str(found[0][0]))


@pytest.fixture
def cases(migrated: Connection, database_url: str) -> Cases:
    return Cases(database_url, migrated)


@pytest.mark.parametrize("write", [Cases.shard, Cases.sweep], ids=["shard", "sweep"])
@pytest.mark.parametrize("checked_before", [False, True])
def test_a_trigger_made_after_the_request_moves_no_row(
    cases: Cases, write: Callable[[Cases], int], checked_before: bool
) -> None:
    if checked_before:
        cases.shard(0)
    cases.connection.execute(TOUCHED)
    with pytest.raises(PreflightError, match="trigger touched of cases would fire for every re-encrypted row"):
        write(cases)
    assert cases.moved() == 0
    cases.connection.execute("DROP TRIGGER touched ON public.cases")
    assert write(cases) > 0


def test_code_that_somebody_else_slips_in_later_is_noticed_where_the_digest_says_nothing(cases: Cases) -> None:
    """By a domain below that of a column, which was harmless when the table was checked."""
    other = f"other_{cases.connection.info.dbname}"
    cases.connection.execute(
        f"""CREATE ROLE {other}; CREATE DOMAIN public.short AS text; CREATE DOMAIN public.code AS public.short;
        CREATE FUNCTION public.takes(text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN true; END';
        ALTER FUNCTION public.takes(text) OWNER TO {other}; ALTER TABLE public.cases ADD code public.code""".encode()
    )
    try:
        cases.shard(0)
        cases.connection.execute("ALTER DOMAIN public.short ADD CHECK (public.takes(VALUE))")
        with pytest.raises(PreflightError, match=r"constraint short_check of public\.cases calls public\.takes"):
            cases.shard()
    finally:
        cases.connection.execute(f"DROP FUNCTION public.takes CASCADE; DROP ROLE {other}".encode())


@pytest.mark.parametrize(
    ("change", "changes_digest"),
    [
        pytest.param("VACUUM FULL public.cases", False, id="VACUUM FULL"),
        pytest.param("ANALYZE public.cases", False, id="ANALYZE"),
        pytest.param("UPDATE public.cases SET note = 'x'", False, id="rows"),
        pytest.param("ALTER TABLE public.cases ADD extra text", True, id="column"),
        pytest.param("ALTER TABLE public.cases ALTER a TYPE varchar(900)", True, id="type"),
        pytest.param("ALTER TABLE public.cases ENABLE ROW LEVEL SECURITY", True, id="row security"),
        pytest.param("ALTER TABLE public.cases ADD CHECK (length(a) < 900)", True, id="CHECK"),
        pytest.param("CREATE INDEX ON public.cases (lower(note))", True, id="index"),
        pytest.param("CREATE RULE r AS ON UPDATE TO public.cases DO ALSO NOTIFY x", True, id="rule"),
        pytest.param("CREATE PUBLICATION p FOR TABLE public.cases", True, id="publication"),
        pytest.param("CREATE TABLE public.more () INHERITS (public.cases)", True, id="child"),
        pytest.param("REVOKE ALL ON public.cases FROM postgres", True, id="rights"),
        pytest.param(TOUCHED, True, id="trigger"),
    ],
)
def test_the_digest_changes_with_the_catalogue_and_not_with_the_rows(
    cases: Cases, change: str, changes_digest: bool
) -> None:
    cases.sweep()
    before = catalog_digest(cases.connection, tree(cases.connection, CASES))
    cases.connection.execute(change.encode())
    cases.connection.execute("SET search_path = pg_catalog")
    after = catalog_digest(cases.connection, tree(cases.connection, CASES))
    assert (after != before) is changes_digest


def test_our_own_fence_does_not_change_the_digest(cases: Cases) -> None:
    cases.sweep()
    before = catalog_digest(cases.connection, tree(cases.connection, CASES))
    fence.fence(cases.connection, CASES, [KeyVersion(1)])
    assert catalog_digest(cases.connection, tree(cases.connection, CASES)) == before


def test_the_digest_changes_when_a_schema_is_added_to_a_publication(cases: Cases) -> None:
    cases.connection.execute("CREATE PUBLICATION p WITH (publish = 'insert')")
    before = catalog_digest(cases.connection, tree(cases.connection, CASES))
    cases.connection.execute("ALTER PUBLICATION p ADD TABLES IN SCHEMA public")
    assert catalog_digest(cases.connection, tree(cases.connection, CASES)) != before
