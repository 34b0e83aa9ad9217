"""Random databases are backed up, tested and restored: the copy differs in nothing that is not named."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from keyrotation_pipeline.adapters.postgres.server.restored_copy import RestoreToNewDatabase
from keyrotation_pipeline.backups.backup import back_up
from keyrotation_pipeline.backups.recovery_test import recovery_test
from keyrotation_pipeline.backups.restore_to_new_database import RestoredDatabase, restore_to_new_database
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.errors import IncompleteRestoreError, LostRowsError
from keyrotation_pipeline_tests.backup_sites import Clinic, open_clinic
from keyrotation_pipeline_tests.random_schemas import catalog
from keyrotation_pipeline_tests.random_schemas.databases import random_database, run
from keyrotation_pipeline_tests.servers import Server

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
    file = tmp_path / "for-superuser.sql"
    file.write_bytes(done.for_superuser.encode(errors="surrogateescape"))
    file.chmod(0o644)
    run(restoring.server, "psql", "-Xqv", "ON_ERROR_STOP=1", f"--file={file}", f"--dbname={restoring.copy}")
    found = catalog.differences(source, catalog.properties(restoring.server.url(restoring.copy)))
    # The audit has gone on since the dump.
    assert {name: values for name, values in found.items() if not name.startswith(AUDIT)} == {}
