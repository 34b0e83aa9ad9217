"""Into which server a recovery test restores a dump: one like the source, or one that it warns of."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from keyrotation_pipeline.adapters.postgres.server import programs
from keyrotation_pipeline.adapters.postgres.server.programs import for_dumps_of
from keyrotation_pipeline.backups.backup import back_up
from keyrotation_pipeline.backups.recovery_test import RecoveryReport, recovery_test
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.errors import IncompleteRestoreError
from keyrotation_pipeline_tests.backup_sites import Clinic, open_clinic
from keyrotation_pipeline_tests.servers import DEBIAN, EMBEDDED_18, Server, discard, start_server

of_debian = [
    pytest.mark.external_postgres,
    pytest.mark.skipif(not (DEBIAN / "initdb").is_file(), reason="Debian's PostgreSQL is not installed"),
]
DEBIAN_MAJOR = int(DEBIAN.parent.name) if DEBIAN.parent.name.isdigit() else 0


def run_test(clinic: Clinic) -> RecoveryReport:
    back_up(clinic.site)
    with clinic.recovery_key() as key:
        return recovery_test(clinic.site, key)


@pytest.fixture(scope="module")
def debian_server() -> Iterator[Server]:
    running = start_server(DEBIAN)
    yield running
    discard(running)


@pytest.fixture
def debian_clinic(
    debian_server: Server, tmp_path: Path, backup_officers: dict[str, DemoOfficer], request: pytest.FixtureRequest
) -> Iterator[Clinic]:
    """A clinic on Debian's PostgreSQL, which is older than the embedded one and has extensions that it lacks."""
    name = f"clinic_{abs(hash(request.node.name))}"
    with psycopg.connect(debian_server.url(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
    with ExitStack() as stack:
        yield open_clinic(stack, tmp_path, debian_server.url(name), backup_officers, None)


def test_a_dump_of_the_embedded_version_is_restored_into_the_embedded_server_without_a_warning(
    local_clinic: Clinic,
) -> None:
    report = run_test(local_clinic)
    assert (report.newest.server, report.newest.warning) == ("PostgreSQL 18 (embedded)", None)


@pytest.mark.parametrize("named", [pytest.param(None, marks=of_debian), pytest.param(DEBIAN, marks=of_debian)])
def test_a_server_of_the_dumps_version_on_the_host_is_taken(named: Path | None) -> None:
    found, warning = for_dumps_of(named, DEBIAN_MAJOR)
    assert (found.binaries, found.major, warning) == (DEBIAN, str(DEBIAN_MAJOR), None)


@pytest.mark.parametrize("named", [None, Path("/nowhere"), Path("/usr/bin")])
def test_where_there_is_none_it_is_the_embedded_one_with_a_warning_that_names_the_package(named: Path | None) -> None:
    found, warning = for_dumps_of(named, 11)
    assert found.binaries == EMBEDDED_18
    assert "install the package postgresql-11" in str(warning)
    assert for_dumps_of(named, 18)[0].major == "18"


@pytest.mark.external_postgres
@of_debian[1]
def test_a_dump_of_an_older_server_with_extensions_is_restored_into_one_of_its_version_with_no_error(
    debian_clinic: Clinic,
) -> None:
    debian_clinic.connection.execute(
        """
        CREATE SCHEMA tools;
        CREATE EXTENSION citext SCHEMA public; CREATE EXTENSION "uuid-ossp" SCHEMA public;
        CREATE EXTENSION ltree SCHEMA tools; CREATE EXTENSION pg_stat_statements SCHEMA tools;
        CREATE EXTENSION postgres_fdw SCHEMA public;
        CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw;
        CREATE TABLE public.visits (
            id uuid DEFAULT public.uuid_generate_v4(), who public.citext, place tools.ltree, day date,
            town text COLLATE "de-x-icu"
        ) PARTITION BY RANGE (day);
        CREATE TABLE public.visits_2025 PARTITION OF public.visits FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
        CREATE TABLE public.visits_2026 PARTITION OF public.visits FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
        INSERT INTO public.visits (who, place, day, town) VALUES
            ('Ada'::public.citext, 'a.b'::tools.ltree, '2025-06-01', 'Ödenburg'), ('Ben', 'a.c', '2026-06-01', 'Zell');
        CREATE INDEX ON public.visits USING gist (place tools.gist_ltree_ops);
        CREATE MATERIALIZED VIEW public.days AS SELECT day, count(*) FROM public.visits GROUP BY day;
        CREATE MATERIALIZED VIEW public.later AS SELECT day FROM public.visits WITH NO DATA;
        CREATE VIEW tools.load AS SELECT calls FROM tools.pg_stat_statements;
        ALTER TABLE public.visits ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
        DROP ROLE IF EXISTS "Night Nurse", day;
        CREATE ROLE "Night Nurse"; CREATE ROLE day;
        CREATE POLICY own ON public.visits TO "Night Nurse", day USING (day > '2025-01-01');
        CREATE PUBLICATION everything FOR ALL TABLES;
        """
    )
    debian_clinic.connection.execute("SELECT lo_from_bytea(0, 'a scan'), lo_from_bytea(0, 'another')")
    report = run_test(debian_clinic)
    assert report.newest.server == f"PostgreSQL {DEBIAN_MAJOR} ({DEBIAN})"
    assert report.newest.warning is None
    assert [each.split(" - ")[0] for each in report.newest.left_out] == ["EXTENSION", "SERVER", "PUBLICATION"]
    dump = report.made.dump
    assert dump is not None
    assert dump.content is not None
    assert dump.content.large_objects == 2
    kinds = {str(each.name): (each.kind, each.rows) for each in dump.content.relations}
    assert {name: kinds[name] for name in ("visits", "visits_2025", "days", "later", "tools.load")} == {
        "visits": ("partitioned table", None),
        "visits_2025": ("table", 1),
        "days": ("materialized view", None),
        "later": ("materialized view without data", None),
        "tools.load": ("view", None),
    }
    assert report.newest.relations == len(kinds)


@pytest.mark.external_postgres
@of_debian[1]
def test_without_a_server_of_its_version_it_is_restored_into_the_embedded_one_and_the_report_warns(
    debian_clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its client programs are there, as from the package postgresql-client, but no server.
    monkeypatch.setattr(programs.Installation, "in_directory", lambda _directory: None)
    report = run_test(debian_clinic)
    assert report.newest.server == "PostgreSQL 18 (embedded)"
    assert f"postgresql-{DEBIAN_MAJOR}" in str(report.newest.warning)
    assert report.newest.read.values["clients"] == {"name": {"v1": 4}, "email": {"v2": 2}}


@pytest.mark.external_postgres
@of_debian[1]
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        pytest.param(
            "CREATE EXTENSION citext SCHEMA public",
            rf"needs the extension citext, which PostgreSQL 18 \(embedded\) does not have; .*postgresql-{DEBIAN_MAJOR}",
            id="an extension",
        ),
        pytest.param(
            'CREATE TABLE public.towns (name text COLLATE "de-x-icu")',
            rf"does not restore completely .*: TABLE towns .*de-x-icu.*; .*postgresql-{DEBIAN_MAJOR}",
            id="a collation of ICU",
        ),
    ],
)
def test_what_the_embedded_server_cannot_take_fails_the_test_and_the_package_is_named(
    debian_clinic: Clinic, monkeypatch: pytest.MonkeyPatch, change: str, sentence: str
) -> None:
    monkeypatch.setattr(programs.Installation, "in_directory", lambda _directory: None)
    debian_clinic.connection.execute(change.encode())
    with pytest.raises(IncompleteRestoreError, match=sentence):
        run_test(debian_clinic)


@pytest.mark.external_postgres
@of_debian[1]
def test_an_index_that_needs_the_applications_search_path_is_backed_up_and_its_failure_to_restore_is_reported(
    debian_clinic: Clinic,
) -> None:
    if DEBIAN_MAJOR >= 17:
        pytest.skip("the server itself refuses such an index")
    debian_clinic.connection.execute(
        """
        CREATE FUNCTION public.plain(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower($1)';
        CREATE TABLE public.towns (name text);
        INSERT INTO public.towns VALUES ('Zell');
        SET search_path = public;
        CREATE FUNCTION public.key(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT plain($1)';
        CREATE INDEX by_key ON public.towns (public.key(name));
        SET search_path = pg_catalog
        """
    )
    with pytest.raises(IncompleteRestoreError, match=r"INDEX by_key .*function plain\(text\) does not exist"):
        run_test(debian_clinic)


@pytest.mark.parametrize("named", [None, pytest.param(DEBIAN, marks=of_debian)])
def test_no_server_older_than_the_dump_is_taken(named: Path | None) -> None:
    with pytest.raises(IncompleteRestoreError, match="install the package postgresql-99"):
        for_dumps_of(named, 99)
