"""A backup restored beside the live database: read whole, and nothing of the live one touched."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from keyrotation_pipeline.adapters.postgres.server.connection import connect
from keyrotation_pipeline.adapters.postgres.server.restored_copy import RestoreToNewDatabase
from keyrotation_pipeline.adapters.postgres.server.scratch import ScratchServers
from keyrotation_pipeline.backups.backup import back_up
from keyrotation_pipeline.backups.recovery_test import recovery_test
from keyrotation_pipeline.backups.restore_to_new_database import RestoredDatabase, restore_to_new_database
from keyrotation_pipeline.errors import (
    BackupError,
    IncompleteRestoreError,
    KeyRotationError,
    MissingVersionError,
    RequestError,
    RestoreTimeoutError,
    UndecryptableError,
    WrongRecipientError,
)
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline_tests.backup_sites import Clinic
from keyrotation_pipeline_tests.contract.key_store import archive
from keyrotation_pipeline_tests.integration.encrypted_rows import ring_of, sealed
from keyrotation_pipeline_tests.servers import EMBEDDED_18

pytestmark = pytest.mark.usefixtures("new")


@pytest.fixture
def new(database_url: str) -> Iterator[str]:
    """The name of a database that is removed afterwards, whoever made it."""
    name = f"{psycopg.conninfo.conninfo_to_dict(database_url)['dbname']}_restored"
    yield name
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def restore(clinic: Clinic, url: str, into: str, wanted: str | None = None) -> RestoredDatabase:
    with clinic.recovery_key() as key:
        databases = RestoreToNewDatabase(url, None)
        return restore_to_new_database(clinic.site, databases, key, into, wanted, lambda _progress: None)


def is_there(clinic: Clinic, database: str) -> bool:
    found = clinic.connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,))
    return found.fetchone() is not None


def names_in(url: str, database: str) -> list[object]:
    with connect(make_conninfo(url, dbname=database)) as connection:
        return [row[0] for row in connection.execute("SELECT id FROM public.clients ORDER BY id")]


def test_every_value_is_read_in_the_new_database_and_the_live_one_is_as_it_was(
    local_clinic: Clinic, database_url: str, new: str
) -> None:
    back_up(local_clinic.site)
    local_clinic.connection.execute("DELETE FROM public.clients WHERE id > 1")
    done = restore(local_clinic, database_url, new)
    assert (done.rows, done.read.by_table()) == (
        {"clients": 4, "billing.Invoices": 1},
        {"clients": 6, "billing.Invoices": 1},
    )
    assert names_in(database_url, new) == [1, 2, 3, 4]
    assert [row[0] for row in local_clinic.connection.execute("SELECT id FROM public.clients")] == [1]


def test_an_older_dump_under_an_archived_key_is_restored_by_its_name(
    local_clinic: Clinic, database_url: str, new: str
) -> None:
    made = back_up(local_clinic.site)
    local_clinic.pass_days(1)
    local_clinic.connection.execute("DELETE FROM public.clients")
    back_up(local_clinic.site)
    archive(local_clinic.site.pipeline.keys, KeyVersion(1))
    assert made.made.dump is not None
    done = restore(local_clinic, database_url, new, made.made.dump.file.name)
    assert done.rows["clients"] == 4


def test_what_pg_restore_cannot_restore_is_an_error_after_everything_was_read_and_the_database_stays(
    local_clinic: Clinic, database_url: str, new: str
) -> None:
    # A foreign key that does not hold, as after a restore with triggers disabled.
    local_clinic.connection.execute(
        """
        CREATE TABLE public.visits AS SELECT 99::bigint AS client;
        ALTER TABLE public.visits ADD CONSTRAINT whose FOREIGN KEY (client) REFERENCES public.clients (id) NOT VALID;
        UPDATE pg_constraint SET convalidated = true WHERE conname = 'whose'
        """
    )
    back_up(local_clinic.site)
    done = restore(local_clinic, database_url, new)
    with pytest.raises(
        IncompleteRestoreError, match=r"all values decrypt, but .* visits whose .* add them before others"
    ):
        done.require_complete()
    assert names_in(database_url, new) == [1, 2, 3, 4]
    *_, last = local_clinic.site.pipeline.ledger.events()
    assert last.kind == "database_restored_beside"


def no_key(clinic: Clinic) -> None:
    (clinic.settings.keys_directory / "v1.key").unlink()


def test_a_registered_key_that_is_not_in_the_store_is_asked_for_first(
    local_clinic: Clinic, database_url: str, new: str
) -> None:
    back_up(local_clinic.site)
    (local_clinic.settings.keys_directory / "v1.key").unlink()
    with pytest.raises(MissingVersionError, match="`keyrotation restore-key v1` first"):
        restore(local_clinic, database_url, new)


# What the application's role can write into one column: of another key, under a version that never was one, no
# ciphertext at all.
PLANTED = {
    "another key": (sealed(ring_of(1, 2), 1, "x"), ("1 of 4 values of clients.name under v1",), {}),
    "no such version": (sealed(ring_of(9, primary=9), 9, "x"), ("1 of 1 values of clients.name under v9",), {}),
    "not encrypted": ("Ada", (), {"clients": 1}),
}


@pytest.mark.parametrize(("value", "undecryptable", "unencrypted"), PLANTED.values(), ids=PLANTED)
def test_one_planted_value_makes_no_backup_useless(
    local_clinic: Clinic, database_url: str, new: str, value: str, undecryptable: tuple[str, ...],
    unencrypted: dict[str, int],
) -> None:  # fmt: skip
    local_clinic.connection.execute("UPDATE public.clients SET name = %s WHERE id = 4", (value,))
    with suppress(BackupError):  # of a version that has no key, it says so
        back_up(local_clinic.site)
    done = restore(local_clinic, database_url, new)
    assert (done.read.undecryptable, done.read.unencrypted) == (undecryptable, unencrypted)
    assert done.rows["clients"] == 4
    assert names_in(database_url, new) == [1, 2, 3, 4], "others can connect"
    with raising(UndecryptableError if undecryptable else None):
        done.require_complete()
    # The test restores in the same way, and passes where the command ends without an error.
    with raising(KeyRotationError if undecryptable else None), local_clinic.recovery_key() as key:
        assert recovery_test(local_clinic.site, key).newest.read.unencrypted == unencrypted


def raising(error: type[Exception] | None) -> AbstractContextManager[object]:
    return pytest.raises(error) if error else nullcontext()


def test_a_database_that_is_there_is_never_written_to(local_clinic: Clinic, database_url: str) -> None:
    back_up(local_clinic.site)
    live = psycopg.conninfo.conninfo_to_dict(database_url)["dbname"]
    with pytest.raises(RequestError, match="there is a database"):
        restore(local_clinic, database_url, str(live))


def test_a_dump_for_somebody_else_is_refused(
    local_clinic: Clinic, database_url: str, new: str, backup_officers: dict[str, object]
) -> None:
    back_up(local_clinic.site)
    local_clinic.officer = backup_officers["privacy"]  # type: ignore[assignment]
    with pytest.raises(WrongRecipientError):
        restore(local_clinic, database_url, new)
    assert not is_there(local_clinic, new)


def test_a_restore_that_breaks_off_leaves_no_half_database(
    local_clinic: Clinic, database_url: str, new: str, tmp_path: Path
) -> None:
    back_up(local_clinic.site)
    binaries = tmp_path / "bin"
    binaries.mkdir()
    real = f'LD_LIBRARY_PATH={EMBEDDED_18.parent / "lib"} exec {EMBEDDED_18 / "pg_restore"} "$@"'
    script = f'#!/bin/sh\ncase " $* " in *" --dbname "*|*"--dbname="*) head -c 9 >/dev/null; exit 3;; esac\n{real}\n'
    (binaries / "pg_restore").write_text(script)
    (binaries / "pg_restore").chmod(0o755)
    with local_clinic.recovery_key() as key, pytest.raises(KeyRotationError):
        restore_to_new_database(
            local_clinic.site, RestoreToNewDatabase(database_url, binaries), key, new, None, lambda _progress: None
        )
    assert not is_there(local_clinic, new)


@pytest.mark.parametrize("wanted", [None, "database-20200101-000000-efa1f375.dump.gpg"])
def test_without_such_a_dump_nothing_is_made(
    local_clinic: Clinic, database_url: str, new: str, wanted: str | None
) -> None:
    with pytest.raises(BackupError):
        restore(local_clinic, database_url, new, wanted)
    assert local_clinic.connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (new,)).fetchone() is None


# Never true while it is restored: an endless loop in a check, which pg_restore would wait for.
FOREVER = """
CREATE FUNCTION public.forever(x int) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    WHILE session_user LIKE 'keyrotation_restore_%' LOOP END LOOP;
    RETURN true;
END $$;
CREATE TABLE public.guarded (x int CHECK (public.forever(x)));
INSERT INTO public.guarded VALUES (1)
"""


def test_sql_of_a_dump_that_never_ends_is_ended_in_both_servers(
    local_clinic: Clinic, database_url: str, new: str, tmp_path: Path
) -> None:
    local_clinic.connection.execute(FOREVER)
    back_up(local_clinic.site)
    sentence = r"was not restored within 2 s; raise \[recovery\] longest_restore_seconds"
    databases = RestoreToNewDatabase(database_url, None, longest_seconds=2)
    with local_clinic.recovery_key() as key:
        with pytest.raises(RestoreTimeoutError, match=sentence):
            restore_to_new_database(local_clinic.site, databases, key, new, None, lambda _progress: None)
        assert not is_there(local_clinic, new)
        scratch = ScratchServers(tmp_path / "scratch", None, longest_seconds=2)
        with pytest.raises(RestoreTimeoutError, match=sentence):
            recovery_test(replace(local_clinic.site, restorer=scratch), key)
    assert not (tmp_path / "scratch").exists()
