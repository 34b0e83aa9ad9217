"""Everything is lost but the bucket and one recovery key, or the database alone: all of it comes back."""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.requests import WALK, Step
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.acceptance.nights import NewDesk, Night
from keyrotation_pipeline_tests.backup_sites import admit, gpg_decrypt, write_configuration
from keyrotation_pipeline_tests.buckets import TestBucket
from keyrotation_pipeline_tests.integration.encrypted_rows import opened, ring_of
from keyrotation_pipeline_tests.pages import block
from keyrotation_pipeline_tests.programs import needs_aws
from keyrotation_pipeline_tests.servers import Server

AWS = shutil.which("aws")
# A set takes ten seconds to make and restore: three of the nine steps, unless all are asked for.
STEPS = WALK if "KEYROTATION_TEST_EVERY_STEP" in os.environ else WALK[::3]


@dataclass
class Machine:
    """A machine: a folder, and a database of its own."""

    folder: Folder
    url: str

    def values(self, ring: KeyRing) -> dict[str, list[tuple[object, ...]]]:
        """Every row, its encrypted columns opened by code that is not the project's."""
        with psycopg.connect(self.url) as connection:
            clients = connection.execute("SELECT id, name, email FROM public.clients ORDER BY id").fetchall()
            invoices = connection.execute('SELECT id, note, total FROM billing."Invoices" ORDER BY id').fetchall()
        return {
            "clients": [(row[0], opened(ring, row[1]), opened(ring, row[2])) for row in clients],
            "invoices": [(row[0], opened(ring, row[1]), row[2]) for row in invoices],
        }


@pytest.fixture
def officers(
    recovery_officer: DemoOfficer, security_officer: DemoOfficer, privacy_officer: DemoOfficer
) -> dict[str, DemoOfficer]:
    return {"recovery": recovery_officer, "security": security_officer, "privacy": privacy_officer}


@pytest.fixture
def ring() -> KeyRing:
    return ring_of(1, 2)


@pytest.fixture
def clinic_machine(
    tmp_path: Path,
    database_url: str,
    ring: KeyRing,
    officers: dict[str, DemoOfficer],
    bucket: TestBucket,
) -> Machine:
    folder = Folder(tmp_path / "clinic", [])
    folder.path.mkdir()
    with psycopg.connect(database_url, autocommit=True) as connection:
        admit(connection, ring)
    write_configuration(folder.path, database_url, officers, bucket)
    first, second = (base64_of(ring.material(version)) for version in ring.versions)
    folder.run("init", ENCRYPTION_MASTER_KEY=first, ENCRYPTION_MASTER_KEY_V2=second, ENCRYPTION_PRIMARY_VERSION="v2")
    return Machine(folder, database_url)


def seed_copy(bucket: TestBucket, name: str, target: Path) -> None:
    """``aws s3 cp s3://pazpaz-key-backups/encryption-keys/… /tmp/``, as the seed types it."""
    assert AWS is not None
    source = f"s3://{bucket.name}/encryption-keys/{name}"
    command = [AWS, "--endpoint-url", bucket.url, "s3", "cp", source, str(target), "--no-progress"]
    subprocess.run(command, check=True, capture_output=True)


@dataclass
class WorstDay:
    """A clinic with backups in a bucket, to be lost; what is typed then, in a folder with the recovery key."""

    night: Night
    url: str
    server: Server
    ring: KeyRing
    bucket: TestBucket
    signer: str

    def lose_the_database(self) -> None:
        lost = conninfo_to_dict(self.url)["dbname"]
        with psycopg.connect(self.server.url(), autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {lost} WITH (FORCE)")

    def lose_the_folder(self) -> None:
        for path in self.night.path.iterdir():
            if path.name == "officers":
                shutil.rmtree(path)
            elif path.name.startswith((".keyrotation", "keyrotation.toml")):
                path.unlink() if path.is_file() else shutil.rmtree(path)

    def type(self, lines: str, into: str) -> str:
        """Type lines of the documentation, with the names of this test."""
        database = re.search(r"--into (\w+)", lines)
        assert database is not None
        for written, here in (
            ("s3://pazpaz-key-backups/", f"s3://{self.bucket.name}/"),
            ("5f0c…64-digits", self.signer),
            ("postgresql://postgres@db/ ", f"'{self.server.url()}' "),
            (f"--into {database[1]}", f"--into {into}"),
            (f"postgresql://keyrotation@db/{database[1]}", f"'{self.server.url(into)}'"),
        ):
            lines = lines.replace(written, here)
        assert "@db/" not in lines
        return self.night.shell(lines)

    def rows(self, url: str) -> list[tuple[object, ...]]:
        with psycopg.connect(url) as connection:
            rows = connection.execute("SELECT id, first_name, email FROM clients ORDER BY id").fetchall()
        return [(row[0], opened(self.ring, row[1]), opened(self.ring, row[2])) for row in rows]


@pytest.fixture
def worst_day(
    new_desk: NewDesk, database_url: str, server: Server, bucket: TestBucket
) -> Iterator[tuple[WorstDay, str]]:
    night = new_desk.night
    night.variables["AWS_ENDPOINT_URL"] = bucket.url
    with (night.path / "keyrotation.toml").open("a") as file:
        file.write(f'[backup.s3]\nbucket = "{bucket.name}"\n[rollout]\nmode = "none"\n')
    night.shell(f"ENCRYPTION_MASTER_KEY={base64_of(new_desk.key)} keyrotation init")
    night.shell("keyrotation backup")
    signer = json.loads(night.shell("keyrotation status --json"))["backup_signer"]
    into = f"{conninfo_to_dict(database_url)['dbname']}_again"
    ring = KeyRing({KeyVersion(1): new_desk.key}, KeyVersion(1))
    yield WorstDay(night, database_url, server, ring, bucket, signer), into
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {into} WITH (FORCE)")
        admin.execute(f"CREATE DATABASE {conninfo_to_dict(database_url)['dbname']}")  # which the fixture drops


def test_everything_is_lost_and_comes_back_by_what_the_documentation_types(worst_day: tuple[WorstDay, str]) -> None:
    """Nothing is brought but the recovery key and the signer's fingerprint; the officers have their own keys."""
    day, into = worst_day
    before = day.rows(day.url)
    day.lose_the_database()
    day.lose_the_folder()
    printed = day.type(block("recover"), into)
    assert day.rows(day.server.url(into)) == before
    assert f"export KEYROTATION_DATABASE_URL='dbname={into}" in printed
    assert "backups are signed by" in printed
    assert "events verified" in printed
    assert day.signer not in printed.partition("backups are signed by")[2].partition(";")[0], "the new home has its own"


def test_only_the_database_is_lost_and_comes_back_by_what_the_documentation_types(
    worst_day: tuple[WorstDay, str],
) -> None:
    day, into = worst_day
    before = day.rows(day.url)
    keys = (day.night.path / ".keyrotation" / "keys" / "v1.key").read_bytes()
    day.night.shell('keyrotation request --reason "after the backup"')  # which is lost, and its head is not
    day.lose_the_database()
    printed = day.type(block("recover-database"), into)
    assert day.rows(day.server.url(into)) == before
    assert (day.night.path / ".keyrotation" / "keys" / "v1.key").read_bytes() == keys
    assert "a copy outside names event" in printed
    assert "events verified" in printed


@pytest.mark.slow
def test_everything_comes_back_from_a_set_of_any_step_of_a_rotation(
    clinic_machine: Machine,
    server: Server,
    tmp_path: Path,
    bucket: TestBucket,
    officers: dict[str, DemoOfficer],
    recovery_officer: DemoOfficer,
) -> None:
    """Of every set only what lies in the bucket is used, by one recovery key, on a machine that has nothing."""
    clinic = clinic_machine.folder
    with (clinic.path / "keyrotation.toml").open("a") as configuration:
        configuration.write('[rollout]\nmode = "none"\n')
    rotation = clinic.run("request", "--reason", "yearly").strip()
    text = clinic.run("approve", rotation, "--text").encode()
    for role in ("security", "privacy"):
        clinic.run("approve", rotation, "--signature", "-", text=officers[role].sign(text).decode())
    sets, before = dict[Step, str](), {}
    for step in STEPS:
        clinic.run("rotate", rotation, "--through", step)
        sets[step] = json.loads(clinic.run("backup", "--json"))["set"]
        before[step] = clinic_machine.values(store_of(clinic_machine))
    signer = json.loads(clinic.run("status", "--json"))["backup_signer"]
    shutil.rmtree(clinic.path)

    (tmp_path / "recovery.key").write_bytes(recovery_officer.gpg("--armor", "--export-secret-keys"))
    options = ("--key", str(tmp_path / "recovery.key"), "--signer", signer, "--server", server.url())
    for step, manifest in sets.items():  # each on a machine of its own
        begun = time.monotonic()
        name = f"{conninfo_to_dict(clinic_machine.url)['dbname']}_{step}"
        empty = Machine(Folder(tmp_path / step, []), server.url(name))
        empty.folder.path.mkdir()
        place = f"s3://{bucket.name}/encryption-keys"
        what = ("--from", place, "--set", manifest, *options, "--into", name)
        empty.folder.run("recover", *what, AWS_ENDPOINT_URL=bucket.url)
        (empty.folder.path / "url").write_text(empty.url)
        assert empty.values(store_of(empty)) == before[step], step
        reconcile(empty.folder, officers)
        empty.folder.run("verify")
        empty.folder.run("audit", "verify")
        assert time.monotonic() - begun < 120, step


def reconcile(folder: Folder, officers: dict[str, DemoOfficer]) -> None:
    """Reconcile, signed by both officers."""
    request = json.loads(folder.run("reconcile", "--json"))["id"]
    text = folder.run("approve", request, "--text").encode()
    for role in ("security", "privacy"):
        folder.run("approve", request, "--signature", "-", text=officers[role].sign(text).decode())
    folder.run("reconcile")


def test_while_s3_is_down_the_list_is_that_of_the_local_copy(clinic_machine: Machine, bucket: TestBucket) -> None:
    folder = clinic_machine.folder
    folder.run("backup", "--keys-only")
    (path,) = folder.path.glob("keyrotation.toml")
    path.write_text(path.read_text().replace(bucket.url, "http://127.0.0.1:9"))
    listed = json.loads(folder.run("backup", "--list", "--json"))
    assert [each["place"].split()[0] for each in listed["sets"]] == ["directory"]
    assert listed["sets"][0]["sets"]
    assert "cannot be asked for the versions in it: EndpointConnectionError" in listed["silent"][0]


def store_of(machine: Machine) -> KeyRing:
    """The keys as the application on that machine gets them."""
    from keyrotation_pipeline.adapters.keystores.file import FileKeyStore  # noqa: PLC0415

    return FileKeyStore(machine.folder.path / ".keyrotation" / "keys").read().ring()


@needs_aws
def test_aws_and_gpg_as_the_seed_types_them_give_the_base64_key(
    clinic_machine: Machine, tmp_path: Path, ring: KeyRing, bucket: TestBucket, recovery_officer: DemoOfficer
) -> None:
    clinic_machine.folder.run("backup", "--keys-only")
    name = max(
        path.name for path in (clinic_machine.folder.path / ".keyrotation/backups").glob("encryption-key-v2-*.gpg")
    )
    seed_copy(bucket, name, tmp_path / name)
    assert gpg_decrypt(recovery_officer, tmp_path / name).decode().strip() == base64_of(ring.material(ring.primary))


def test_recovery_test_and_restore_key_as_commands(
    clinic_machine: Machine, ring: KeyRing, bucket: TestBucket, recovery_officer: DemoOfficer
) -> None:
    folder = clinic_machine.folder
    secret = recovery_officer.gpg("--armor", "--export-secret-keys")
    (folder.path / "recovery.key").write_bytes(secret)
    folder.run("backup")
    folder.run("recovery-test", expect=1)
    assert "no recovery key is named; give one with --key FILE" in folder.printed[-1]
    assert '"passed": true' in folder.run("recovery-test", "--key", "recovery.key", "--json")

    shutil.rmtree(folder.path / ".keyrotation" / "keys")
    assert "restore   `keyrotation restore-key v1" in folder.run("restore-key", "--survey")
    name = max(path.name for path in (folder.path / ".keyrotation/backups").glob("encryption-key-v1-*.gpg"))
    source = f"s3://{bucket.name}/encryption-keys/{name}"
    folder.run("restore-key", "v1", "--from", source, "--key", "recovery.key")
    wrong = f"{folder.path}/.keyrotation/backups/{name}"
    folder.run("restore-key", "v2", "--from", wrong, "--key", "recovery.key", expect=1)
    assert "but v2 is registered as" in folder.printed[-1]
    folder.run("restore-key", "v2", "--key", "recovery.key")
    folder.run("verify")
    assert not any(base64_of(ring.material(version)) in text for version in ring.versions for text in folder.printed)
