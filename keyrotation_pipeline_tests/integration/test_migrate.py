"""The schema `keyrotation` as Alembic makes it."""

import threading
from collections.abc import Iterator
from functools import partial
from importlib import resources

import psycopg
import pytest
from alembic.script import ScriptDirectory
from psycopg.conninfo import conninfo_to_dict

from keyrotation_pipeline.adapters.postgres.ledger.migrate import _config, migrate
from keyrotation_pipeline.adapters.postgres.ledger.schema import (
    OWN_TABLES,
    REVISIONS,
    other_schema_of,
    require_migrated,
)
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.errors import DatabaseUnavailableError, PreflightError
from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline_tests.servers import Server

OBJECTS = "SELECT relname FROM pg_class WHERE relnamespace = 'keyrotation'::regnamespace ORDER BY relname"


@pytest.fixture
def clinic_owner_url(server: Server, database_url: str) -> Iterator[str]:
    """The URL by which a role without any privilege owns the database."""
    database = str(conninfo_to_dict(database_url)["dbname"])
    role = f"owner_of_{database}"
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE")
        admin.execute(f"ALTER DATABASE {database} OWNER TO {role}")
        yield server.url(database, role)
        admin.execute(f"ALTER DATABASE {database} OWNER TO postgres")
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute(f"DROP OWNED BY {role}")
        admin.execute(f"DROP ROLE {role}")


def test_a_fresh_database_gets_the_whole_schema(database_url: str, connection: Connection) -> None:
    migrate(database_url)
    names = {row[0] for row in connection.execute(OBJECTS)}
    assert {"rotations", "key_versions", "key_rotation_audit", *OWN_TABLES} <= names
    assert connection.execute("SELECT version_num FROM keyrotation.alembic_version").fetchall() == [(REVISIONS[-1],)]
    require_migrated(connection)


def test_migrating_again_changes_nothing(database_url: str, connection: Connection) -> None:
    migrate(database_url)
    connection.execute("UPDATE keyrotation.audit_head SET seq = 1, hash = repeat('a', 64)")
    before = connection.execute(OBJECTS).fetchall()
    migrate(database_url)
    assert connection.execute(OBJECTS).fetchall() == before
    assert connection.execute("SELECT seq FROM keyrotation.audit_head").fetchall() == [(1,)]


def test_two_at_once_both_succeed_and_make_it_once(database_url: str, connection: Connection) -> None:
    failures: list[Exception] = []

    def attempt() -> None:
        try:
            migrate(database_url)
        except Exception as error:  # noqa: BLE001 - any failure at all fails the test
            failures.append(error)

    threads = [threading.Thread(target=attempt) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert connection.execute("SELECT count(*) FROM keyrotation.alembic_version").fetchone() == (1,)


def test_an_owner_without_privileges_can_migrate(clinic_owner_url: str) -> None:
    migrate(clinic_owner_url)
    with connect(clinic_owner_url) as opened:
        require_migrated(opened)


def test_to_a_role_that_may_not_create_schemas_the_error_says_what_to_grant(
    clinic_owner_url: str, database_url: str
) -> None:
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {admin.info.dbname} OWNER TO postgres")
    with pytest.raises(PreflightError, match="GRANT CREATE ON DATABASE"):
        migrate(clinic_owner_url)


def test_a_failed_migration_leaves_nothing_behind(database_url: str, connection: Connection) -> None:
    connection.execute("CREATE SCHEMA keyrotation CREATE TABLE keyrotation.quarantine (x int)")
    with pytest.raises(DatabaseUnavailableError, match="DuplicateTable"):
        migrate(database_url)
    assert connection.execute(OBJECTS).fetchall() == [("quarantine",)]


def test_a_read_only_database_is_named_as_such(database_url: str, connection: Connection) -> None:
    connection.execute(f"ALTER DATABASE {connection.info.dbname} SET default_transaction_read_only = on")
    with pytest.raises(
        PreflightError, match=r"is read-only; give the primary's address as .* or set default_transaction_read_only"
    ):
        migrate(database_url)


def test_a_database_without_the_schema_is_refused_until_init(connection: Connection) -> None:
    with pytest.raises(PreflightError, match="has no schema keyrotation yet; run `keyrotation init`"):
        require_migrated(connection)


def test_a_schema_of_a_newer_version_is_left_alone(database_url: str, connection: Connection) -> None:
    migrate(database_url)
    connection.execute("UPDATE keyrotation.alembic_version SET version_num = '9.9.9'")
    for refuses in (partial(require_migrated, connection), partial(migrate, database_url)):
        with pytest.raises(PreflightError, match=r"made by a newer keyrotation-pipeline \(9\.9\.9\); install that one"):
            refuses()


@pytest.mark.parametrize("revision", ["0001", "0013"])
def test_a_schema_of_a_development_version_is_left_alone(
    database_url: str, connection: Connection, revision: str
) -> None:
    migrate(database_url)
    connection.execute("UPDATE keyrotation.alembic_version SET version_num = %s", (revision,))
    before = connection.execute(OBJECTS).fetchall()
    for refuses in (partial(require_migrated, connection), partial(migrate, database_url)):
        with pytest.raises(PreflightError, match=r"of a development version before 0\.1\.0"):
            refuses()
    assert connection.execute(OBJECTS).fetchall() == before


def test_the_revisions_are_those_of_the_migrations() -> None:
    found = ScriptDirectory.from_config(_config()).walk_revisions()
    assert tuple(each.revision for each in found)[::-1] == REVISIONS


def test_the_package_brings_its_migrations_along() -> None:
    migrations = resources.files("keyrotation_pipeline.adapters.postgres.ledger") / "migrations"
    assert (migrations / "env.py").is_file()
    assert (migrations / "versions" / "0_1_0_ledger.py").is_file()


def test_a_table_of_the_application_that_is_named_like_our_audit_is_no_other_home(connection: Connection) -> None:
    connection.execute("CREATE TABLE public.audit_events (what text)")
    assert other_schema_of(connection, AuditHead(1, "a" * 64)) is None
