"""Two dumps compare equal exactly when the databases are: judged by their catalogs, on random databases."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from keyrotation_pipeline.adapters.postgres.server.dump_comparison import compare
from keyrotation_pipeline.adapters.postgres.server.dump_text import decoded
from keyrotation_pipeline_tests.random_schemas import catalog
from keyrotation_pipeline_tests.random_schemas.databases import random_database, run
from keyrotation_pipeline_tests.servers import Server

NAME, MOVED, SMALL, CHANGED = (f"{name}_{os.getpid()}" for name in ("compared", "source", "small", "changed"))
SEEDS = [pytest.param(seed, marks=[pytest.mark.extended] if seed > 1 else []) for seed in range(20)]
MATERIALIZED = "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'm'"


@pytest.fixture(params=["server", "debian_server"])
def either_server(request: pytest.FixtureRequest) -> Server:
    chosen: Server = request.getfixturevalue(request.param)
    return chosen


def described(server: Server, database: str) -> str:
    return decoded(run(server, "pg_dump", "--create", "--schema-only", "--dbname", database))


@contextmanager
def reloaded(server: Server, seed: int, archive: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    """A random database reloaded by a superuser's pg_restore; the dump and the catalogs of what it was before."""
    with random_database(server, seed, NAME) as url, psycopg.connect(server.url(), autocommit=True) as admin:
        with psycopg.connect(url, autocommit=True, client_encoding="UTF8") as connection:
            for (view,) in connection.execute(MATERIALIZED).fetchall():
                # Its owner may lack the right to fill it, and then pg_restore cannot either.
                connection.execute(f"REFRESH MATERIALIZED VIEW {view} WITH NO DATA".encode())
        run(server, "pg_dump", "--format=custom", f"--file={archive}", "--dbname", NAME)
        text = decoded(run(server, "pg_restore", "--create", "--schema-only", "--file=-", str(archive)))
        source = catalog.properties(url)
        admin.execute(f"ALTER DATABASE {NAME} RENAME TO {MOVED}".encode())
        try:
            run(server, "pg_restore", "--create", "--exit-on-error", "--dbname=postgres", str(archive))
            yield text, source
        finally:
            admin.execute(f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)".encode())
            admin.execute(f"DROP DATABASE {MOVED} WITH (FORCE)".encode())


@pytest.mark.external_postgres
@pytest.mark.parametrize("seed", SEEDS)
def test_a_reloaded_database_differs_in_nothing(either_server: Server, seed: int, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with reloaded(either_server, seed, tmp_path / "dump") as (text, source):
        assert catalog.differences(source, catalog.properties(either_server.url(NAME))) == {}
        assert compare(text, described(either_server, NAME)) == ()


CHANGES = [
    ("ALTER TABLE first OWNER TO changing", ["TABLE public first owner"]),
    ("GRANT SELECT (id) ON first TO changing", ["ACL public COLUMN first.id additional"]),
    ("REVOKE SELECT ON first FROM PUBLIC", ["ACL public TABLE first missing"]),
    ("ALTER TABLE first DISABLE TRIGGER fires", ["TRIGGER public first fires definition"]),
    ("ALTER TABLE first DISABLE ROW LEVEL SECURITY", ["ROW SECURITY public first missing"]),
    ("ALTER TABLE first FORCE ROW LEVEL SECURITY", ["TABLE public first definition"]),
    ("ALTER POLICY mine ON first TO changing", ["POLICY public first mine definition"]),
    ("ALTER TABLE first VALIDATE CONSTRAINT later",
     ["CHECK CONSTRAINT public first later missing", "TABLE public first definition"]),
    ("DROP PUBLICATION published",
     ["PUBLICATION published missing", "PUBLICATION TABLE public published first missing"]),
    ("ALTER EVENT TRIGGER watches ENABLE ALWAYS", ["EVENT TRIGGER watches definition"]),
    ("ALTER STATISTICS counted SET STATISTICS 9", ["STATISTICS public counted definition"]),
    ("COMMENT ON TABLE first IS NULL", ["COMMENT public TABLE first missing"]),
    ("COMMENT ON TABLE first IS 'other'", ["COMMENT public TABLE first definition"]),
    ("ALTER SEQUENCE numbers CYCLE", ["SEQUENCE public numbers definition"]),
    ("CREATE TABLE more ()", ["TABLE public more additional"]),
    ("ALTER DATABASE {} SET work_mem = '1MB'", ["DATABASE PROPERTIES {} additional"]),
    ("ALTER ROLE changing IN DATABASE {} SET work_mem = '1MB'", ["DATABASE PROPERTIES {} additional"]),
    ("GRANT CREATE ON DATABASE {} TO changing", ["ACL DATABASE {} additional"]),
    ("ALTER DATABASE {} OWNER TO changing", ["DATABASE {} owner"]),
    ("ALTER DEFAULT PRIVILEGES FOR ROLE changing GRANT SELECT ON TABLES TO PUBLIC",
     ["DEFAULT ACL DEFAULT PRIVILEGES FOR TABLES additional"]),
    ("CREATE OR REPLACE FUNCTION fires() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN old; END'",
     ["FUNCTION public fires() definition"]),
    ("CREATE OR REPLACE FUNCTION fires() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN RETURN new; END'",
     ["FUNCTION public fires() definition"]),
]  # fmt: skip
BEFORE = """
CREATE TABLE first (id int PRIMARY KEY, v varchar(9) CHECK (v IN ('a', 'b')));
ALTER TABLE first ADD CONSTRAINT later CHECK (id > 0) NOT VALID;
GRANT SELECT ON first TO PUBLIC; COMMENT ON TABLE first IS 'one';
CREATE FUNCTION fires() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
CREATE TRIGGER fires BEFORE UPDATE ON first FOR EACH ROW EXECUTE FUNCTION fires();
CREATE POLICY mine ON first; ALTER TABLE first ENABLE ROW LEVEL SECURITY;
CREATE PUBLICATION published FOR TABLE first;
CREATE FUNCTION watches() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER watches ON ddl_command_end EXECUTE FUNCTION watches();
CREATE STATISTICS counted ON id, v FROM first; CREATE SEQUENCE numbers;
"""


@pytest.fixture(scope="module")
def before(server: Server) -> Iterator[str]:
    """The dump of a small database on the embedded server."""
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute("CREATE ROLE changing")
        admin.execute(f"CREATE DATABASE {SMALL}".encode())
        with psycopg.connect(server.url(SMALL), autocommit=True) as connection:
            connection.execute(BEFORE.encode())
        yield described(server, SMALL)
        admin.execute(f"DROP DATABASE {SMALL} WITH (FORCE)".encode())
        admin.execute("DROP ROLE changing")


@pytest.mark.parametrize(("change", "differences"), CHANGES, ids=[change[:60] for change, _ in CHANGES])
def test_every_change_is_named(server: Server, before: str, change: str, differences: list[str]) -> None:
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {CHANGED} TEMPLATE {SMALL}".encode())
        try:
            with psycopg.connect(server.url(CHANGED), autocommit=True) as connection:
                connection.execute(change.replace("{}", CHANGED).encode())
            found = compare(before, described(server, CHANGED))
        finally:
            admin.execute(f"DROP DATABASE {CHANGED} WITH (FORCE)".encode())
    assert [
        f"{each.entry.label} {each.what}".replace(CHANGED, "{}").replace(SMALL, "{}") for each in found
    ] == differences
