"""Random databases are backed up, tested and restored: the copy differs in nothing that is not named."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from keyrotation_pipeline.adapters.postgres.server.connection import connect
from keyrotation_pipeline.adapters.postgres.server.restored_copy import RestoreToNewDatabase
from keyrotation_pipeline.adapters.postgres.server.role_sql import role_sql
from keyrotation_pipeline.adapters.postgres.server.roles import roles_of_database, roles_of_server
from keyrotation_pipeline.backups.backup import back_up
from keyrotation_pipeline.backups.recovery_test import recovery_test
from keyrotation_pipeline.backups.restore_to_new_database import RestoredDatabase, restore_to_new_database
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.errors import IncompleteRestoreError, LostRowsError
from keyrotation_pipeline_tests.backup_sites import Clinic, open_clinic
from keyrotation_pipeline_tests.pages import TOP
from keyrotation_pipeline_tests.random_schemas import catalog
from keyrotation_pipeline_tests.random_schemas.databases import random_database, run
from keyrotation_pipeline_tests.servers import DEBIAN, EMBEDDED_18, Server, discard, start_server

SEEDS = range(20)
AUDIT = ("rows of keyrotation.", "sequence keyrotation.")
SHORT = {"server": {3}, "debian_server": {5}}
# Every other seed on each server.
CASES = [
    pytest.param(
        name, seed, id=f"{name.removesuffix('_server')}-{seed}",
        marks=[
            *([] if seed in SHORT[name] else [pytest.mark.extended]),
            *([pytest.mark.external_postgres] if name == "debian_server" else []),
        ],
    )
    for name in SHORT for seed in SEEDS if seed % 2 == (name == "debian_server") or seed in SHORT[name]
]  # fmt: skip


@dataclass
class Restoring:
    """A clinic on a random database, and where it is restored."""

    clinic: Clinic
    url: str
    server: Server
    copy: str

    def tested(self) -> tuple[set[str], str]:
        """What a recovery test names as left out, and its failure."""
        with self.clinic.recovery_key() as key:
            try:
                return set(recovery_test(self.clinic.site, key).newest.left_out), ""
            except (IncompleteRestoreError, LostRowsError) as error:
                return set(), str(error)

    def restored(self) -> tuple[RestoredDatabase | None, str]:
        """The copy as `restore-database` makes it, and its failure."""
        with self.clinic.recovery_key() as key:
            databases = RestoreToNewDatabase(self.url, self.server.binaries)
            try:
                done = restore_to_new_database(
                    self.clinic.site, databases, key, self.copy, None, lambda _progress: None
                )
            except (IncompleteRestoreError, LostRowsError) as error:
                return None, str(error)
        try:
            done.require_complete()
        except IncompleteRestoreError as error:
            return done, str(error)
        return done, ""


@pytest.fixture
def restoring(
    request: pytest.FixtureRequest, server_name: str, seed: int, tmp_path: Path, backup_officers: dict[str, DemoOfficer]
) -> Iterator[Restoring]:
    server: Server = request.getfixturevalue(server_name)
    name = f"random_{seed}_{tmp_path.parent.name.replace('-', '_')}"[:50]
    with random_database(server, seed, name) as url, ExitStack() as stack:
        clinic = open_clinic(stack, tmp_path, url, backup_officers, None)
        yield Restoring(clinic, url, server, f"{name}_copy")
        with psycopg.connect(server.url(), autocommit=True) as admin:
            admin.execute(f"DROP DATABASE IF EXISTS {name}_copy WITH (FORCE)".encode())


@pytest.mark.parametrize(("server_name", "seed"), CASES)
def test_the_copy_differs_in_nothing_that_is_not_named_and_the_test_agrees_with_the_restore(
    restoring: Restoring, tmp_path: Path
) -> None:
    back_up(restoring.clinic.site)
    source = catalog.properties(restoring.url)
    left_out, failed = restoring.tested()
    done, refused = restoring.restored()
    assert bool(failed) is bool(refused), (failed, refused)
    assert done is not None
    assert (refused, left_out) == ("", set(done.left_out))
    # With what is written out for a superuser, nothing is missing.
    paste(restoring.server, restoring.copy, done.for_superuser, tmp_path)
    found = catalog.differences(source, catalog.properties(restoring.server.url(restoring.copy)))
    # The audit has gone on since the dump.
    assert {name: values for name, values in found.items() if not name.startswith(AUDIT)} == {}


OF_MAPPING = re.compile(r"options of USER MAPPING .* SERVER .*: password")


@pytest.mark.extended
@pytest.mark.parametrize(
    ("binaries", "seed"),
    [
        pytest.param(EMBEDDED_18, 3, id="18"),
        pytest.param(DEBIAN, 5, id="debian", marks=pytest.mark.external_postgres),
    ],
)
def test_backed_up_as_the_documented_role_another_server_lacks_only_what_is_named(
    binaries: Path, seed: int, tmp_path: Path, backup_officers: dict[str, DemoOfficer]
) -> None:
    with ExitStack() as stack:
        lost, new = (stack.enter_context(running(binaries)) for _ in range(2))
        url = stack.enter_context(random_database(lost, seed, "clinic"))
        prepare_role(lost)
        clinic = open_clinic(stack, tmp_path, lost.url("clinic", "keyrotation"), backup_officers, None)
        made = back_up(clinic.site).made
        source = catalog.properties(url)
        done, refused = Restoring(clinic, new.url(), new, "copy").restored()
        assert made.dump is not None
        assert made.dump.undumped is not None
        assert done is not None
        assert refused == ""
        with connect(new.url()) as connection:
            version = connection.info.server_version
            roles = role_sql(made.dump.undumped.roles, roles_of_server(connection), version)
        paste(new, "copy", done.for_superuser, tmp_path)
        paste(new, "copy", "\n".join(roles.statements), tmp_path)
        found = catalog.differences(source, catalog.properties(new.url("copy")))
        differing = [name for name in found if not name.startswith(AUDIT)]
        assert [name.partition(" (")[0].partition(" SERVER")[0][:12] for name in differing] == ["user mapping"]
        assert [each for each in done.undumped if OF_MAPPING.fullmatch(each)] == list(done.undumped)
        assert len(done.undumped) == 1
        with connect(new.url("copy")) as connection:
            assert roles_of_database(connection) == made.dump.undumped.roles


@contextmanager
def running(binaries: Path) -> Iterator[Server]:
    server = start_server(binaries)
    yield server
    discard(server)


def prepare_role(server: Server) -> None:
    """The documented role, in every role of the database that it backs up."""
    with psycopg.connect(server.url("clinic"), autocommit=True, client_encoding="UTF8") as admin:
        owners = admin.execute("SELECT quote_ident(rolname) FROM pg_roles WHERE oid >= 16384").fetchall()
        admin.execute("CREATE ROLE clinic_owner")
        run(
            server,
            "psql",
            "-Xqv",
            "ON_ERROR_STOP=1",
            f"--file={TOP / 'deploy/sql/pipeline-role.sql'}",
            "--dbname=clinic",
        )
        for (owner,) in owners:
            admin.execute(f"GRANT {owner} TO keyrotation".encode())
        admin.execute("GRANT CREATE, USAGE ON SCHEMA public TO keyrotation")
        admin.execute("GRANT CONNECT, TEMPORARY ON DATABASE clinic TO keyrotation")


def paste(server: Server, database: str, text: str, directory: Path) -> None:
    """What a superuser runs."""
    file = directory / "pasted.sql"
    file.write_bytes(text.encode(errors="surrogateescape"))
    file.chmod(0o644)
    run(server, "psql", "-Xqv", "ON_ERROR_STOP=1", f"--file={file}", f"--dbname={database}")
