"""The same database comes back: encoding, locale, settings, owners and privileges, by the test and by the restore."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.adapters.postgres.server.restored_copy import RestoreToNewDatabase
from keyrotation_pipeline.backups.backup import back_up
from keyrotation_pipeline.backups.recovery_test import recovery_test
from keyrotation_pipeline.backups.restore_to_new_database import RestoredDatabase, restore_to_new_database
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline_tests.backup_sites import Clinic, open_clinic
from keyrotation_pipeline_tests.servers import DEBIAN, Server

pytestmark = [
    pytest.mark.external_postgres,
    pytest.mark.skipif(not DEBIAN.exists(), reason="Debian's PostgreSQL is not installed"),
]
SWEDISH = "ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'sv-SE' LC_COLLATE 'C' LC_CTYPE 'C'"
NO_ENCODING = "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'"
LATIN = "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"

ClinicOf = Callable[[str], Clinic]


@pytest.fixture
def clinic_of(
    debian_server: Server, tmp_path: Path, backup_officers: dict[str, DemoOfficer], request: pytest.FixtureRequest
) -> Iterator[ClinicOf]:
    """`clinic_of(options)`: a clinic in a database of Debian's server, created with these options."""
    name = f"clinic_{abs(hash(request.node.name))}"
    with ExitStack() as stack:

        def create(options: str) -> Clinic:
            with psycopg.connect(debian_server.url(), autocommit=True) as admin:
                admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 {options}".encode())
            return open_clinic(stack, tmp_path, debian_server.url(name), backup_officers, None)

        yield create
    with psycopg.connect(debian_server.url(), autocommit=True) as admin:
        for each in (name, f"{name}_restored"):
            admin.execute(f"DROP DATABASE IF EXISTS {each} WITH (FORCE)".encode())


def new_name(clinic: Clinic) -> str:
    return f"{clinic.connection.info.dbname}_restored"


def restore(clinic: Clinic) -> RestoredDatabase:
    """Test the newest backup, then restore it: both by the same code."""
    url = clinic.connection.info.dsn
    with clinic.recovery_key() as key:
        recovery_test(clinic.site, key)
        databases = RestoreToNewDatabase(make_conninfo(url, user="postgres"), None)
        return restore_to_new_database(clinic.site, databases, key, new_name(clinic), None, lambda _progress: None)


@contextmanager
def the_copy(clinic: Clinic) -> Iterator[Connection]:
    url = make_conninfo(clinic.connection.info.dsn, user="postgres", dbname=new_name(clinic))
    with connect(url) as connection:
        yield connection


DEFINITION = """
SELECT pg_encoding_to_char(encoding), datlocprovider, datcollate, datctype, daticulocale
FROM pg_database WHERE datname = current_database()
"""


@pytest.mark.parametrize("options", [SWEDISH, NO_ENCODING, LATIN], ids=["ICU", "SQL_ASCII", "LATIN1"])
def test_encoding_and_locale_are_those_of_the_source(clinic_of: ClinicOf, options: str) -> None:
    clinic = clinic_of(options)
    back_up(clinic.site)
    restore(clinic)
    with the_copy(clinic) as copy:
        assert copy.execute(DEFINITION.encode()).fetchall() == clinic.connection.execute(DEFINITION.encode()).fetchall()


def test_rows_of_partitions_by_name_are_found_and_sorted_as_before(clinic_of: ClinicOf) -> None:
    clinic = clinic_of(SWEDISH)
    clinic.connection.execute(
        """
        CREATE TABLE public.towns (name text) PARTITION BY RANGE (name);
        CREATE TABLE public.towns_late PARTITION OF public.towns FOR VALUES FROM ('x') TO ('ööö');
        INSERT INTO public.towns VALUES ('Örebro'), ('Åhus'), ('Ängelholm')
        """
    )
    back_up(clinic.site)
    restore(clinic)
    with the_copy(clinic) as copy:
        towns = copy.execute("SELECT name FROM public.towns WHERE name >= 'z' ORDER BY name").fetchall()
    assert towns == [("Åhus",), ("Ängelholm",), ("Örebro",)]


def test_bounds_by_name_of_another_collation_than_the_servers_fail_no_test(clinic_of: ClinicOf) -> None:
    clinic = clinic_of(SWEDISH)
    clinic.connection.execute(
        """
        CREATE TABLE public.people (name text) PARTITION BY RANGE (name);
        CREATE TABLE public.people_early PARTITION OF public.people FOR VALUES FROM ('a') TO ('n');
        INSERT INTO public.people VALUES ('Berta'), ('Anna'), ('carl')
        """
    )
    back_up(clinic.site)
    assert restore(clinic).failures == ()


@pytest.mark.parametrize("options", [NO_ENCODING, SWEDISH], ids=["SQL_ASCII", "UTF8"])
def test_names_and_texts_beyond_what_the_database_sets_for_its_clients_come_back(
    clinic_of: ClinicOf, options: str
) -> None:
    clinic = clinic_of(options)
    clinic.connection.execute("CREATE TABLE public.täb AS SELECT 'ünï 東京' AS t")
    name = clinic.connection.info.dbname
    clinic.connection.execute(f"ALTER DATABASE {name} SET client_encoding = 'LATIN1'".encode())
    back_up(clinic.site)
    assert restore(clinic).failures == ()
    with the_copy(clinic) as copy:
        assert copy.execute("SELECT t FROM public.täb".encode()).fetchall() == [("ünï 東京",)]


def test_bytes_of_no_encoding_come_back_as_they_were(clinic_of: ClinicOf) -> None:
    clinic = clinic_of(NO_ENCODING)
    clinic.connection.execute(
        "CREATE TABLE public.scans AS SELECT convert_from('\\xe5e4f6ff'::bytea, 'SQL_ASCII') AS t"
    )
    back_up(clinic.site)
    restore(clinic)
    with the_copy(clinic) as copy:
        assert copy.execute("SELECT convert_to(t, 'SQL_ASCII') FROM public.scans").fetchall() == [
            (b"\xe5\xe4\xf6\xff",)
        ]
        assert copy.info.parameter_status("server_encoding") == "SQL_ASCII"
