"""Everything is lost but the bucket and one recovery key: an empty machine gets all of it back, with plain tools."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.requests import WALK, Step
from keyrotation_pipeline_tests.acceptance.command import KEYROTATION, Folder, environment
from keyrotation_pipeline_tests.backup_sites import admit, gpg_decrypt, write_configuration
from keyrotation_pipeline_tests.buckets import TestBucket
from keyrotation_pipeline_tests.integration.encrypted_rows import opened, ring_of
from keyrotation_pipeline_tests.pages import block
from keyrotation_pipeline_tests.programs import needs_aws
from keyrotation_pipeline_tests.servers import EMBEDDED_18, Server

AWS = shutil.which("aws")
LIBRARIES = str(EMBEDDED_18.parent / "lib")
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


@needs_aws
def test_an_empty_machine_gets_everything_back_from_the_bucket_and_the_recovery_key(
    clinic_machine: Machine,
    server: Server,
    tmp_path: Path,
    ring: KeyRing,
    bucket: TestBucket,
    officers: dict[str, DemoOfficer],
    recovery_officer: DemoOfficer,
) -> None:
    clinic_machine.folder.run("backup")
    before = clinic_machine.values(ring)
    names = [path.name for path in (clinic_machine.folder.path / ".keyrotation" / "backups").iterdir()]
    dump = next(name for name in names if name.startswith("database-"))

    # The disaster: key store, local backups and database.
    shutil.rmtree(clinic_machine.folder.path)
    with psycopg.connect(server.url(), autocommit=True) as admin:
        lost = conninfo_to_dict(clinic_machine.url)["dbname"]
        admin.execute(f"DROP DATABASE {lost} WITH (FORCE)")
        admin.execute(f"CREATE DATABASE {lost}")

    begun = time.monotonic()
    empty = Machine(Folder(tmp_path / "empty", []), clinic_machine.url)
    empty.folder.path.mkdir()
    write_configuration(empty.folder.path, empty.url, officers, bucket)
    (empty.folder.path / "recovery.key").write_bytes(recovery_officer.gpg("--armor", "--export-secret-keys"))
    seed_copy(bucket, dump, tmp_path / dump)
    plain = gpg_decrypt(recovery_officer, tmp_path / dump)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(EMBEDDED_18.parent / "lib")}
    subprocess.run([EMBEDDED_18 / "pg_restore", "-d", empty.url], input=plain, check=True, env=environment)
    empty.folder.run("init")
    empty.folder.run("restore-key", "v1", "v2", "--key", "recovery.key")
    empty.folder.run("verify")
    seconds = time.monotonic() - begun

    assert empty.values(ring) == before
    assert empty.values(store_of(empty)) == before
    empty.folder.run("audit", "verify")
    assert seconds < 60


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
    dumps, before = dict[Step, str](), {}
    for step in STEPS:
        clinic.run("rotate", rotation, "--through", step)
        clinic.run("backup")
        made = {path.name for path in (clinic.path / ".keyrotation" / "backups").glob("database-*")}
        (dumps[step],) = made - set(dumps.values())
        before[step] = clinic_machine.values(store_of(clinic_machine))
    shutil.rmtree(clinic.path)

    for step, dump in dumps.items():  # each on a machine of its own
        begun = time.monotonic()
        name = f"{conninfo_to_dict(clinic_machine.url)['dbname']}_{step}"
        with psycopg.connect(server.url(), autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {name}")
        empty = Machine(Folder(tmp_path / step, []), server.url(name))
        empty.folder.path.mkdir()
        write_configuration(empty.folder.path, empty.url, officers, bucket)
        (empty.folder.path / "recovery.key").write_bytes(recovery_officer.gpg("--armor", "--export-secret-keys"))
        (tmp_path / dump).write_bytes(bucket.content(dump))
        plain = gpg_decrypt(recovery_officer, tmp_path / dump)
        variables = {**os.environ, "LD_LIBRARY_PATH": LIBRARIES}
        subprocess.run([EMBEDDED_18 / "pg_restore", "-d", empty.url], input=plain, check=True, env=variables)
        empty.folder.run("init")
        empty.folder.run("restore-key", "v1", "v2", "v3", "--key", "recovery.key")
        assert empty.values(store_of(empty)) == before[step], step
        empty.folder.run("verify")
        empty.folder.run("audit", "verify")
        assert time.monotonic() - begun < 60, step


@pytest.fixture
def gnupg_home() -> Iterator[str]:
    """A home with a path that is short enough for the agent's socket."""
    with tempfile.TemporaryDirectory(prefix="kr-", dir="/tmp") as home:
        yield home
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)


@needs_aws
def test_the_recipe_of_the_documentation_works_as_it_is_typed(
    tmp_path: Path,
    database_url: str,
    server: Server,
    ring: KeyRing,
    bucket: TestBucket,
    officers: dict[str, DemoOfficer],
    gnupg_home: str,
) -> None:
    """Nothing is brought but the recovery key, the line from the safe, and what the configuration says is secret."""
    clinic = tmp_path / "clinic"
    (clinic / "officers").mkdir(parents=True)
    near = {role: replace(each, certificate=Path("officers") / f"{role}.asc") for role, each in officers.items()}
    for role, officer in officers.items():
        shutil.copy(officer.certificate, clinic / near[role].certificate)
    with psycopg.connect(database_url, autocommit=True) as connection:
        admit(connection, ring)
    write_configuration(clinic, database_url, near, bucket)
    folder = Folder(clinic, [])
    first, second = (base64_of(ring.material(version)) for version in ring.versions)
    told = folder.run(
        "init", "--json",
        ENCRYPTION_MASTER_KEY=first, ENCRYPTION_MASTER_KEY_V2=second, ENCRYPTION_PRIMARY_VERSION="v2",
    )  # fmt: skip
    safe = json.loads(told)["backup_signer"]
    folder.run("backup")
    before = Machine(folder, database_url).values(ring)

    shutil.rmtree(clinic)
    lost = conninfo_to_dict(database_url)["dbname"]
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {lost} WITH (FORCE)")
        admin.execute(f"CREATE DATABASE {lost}")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "url").write_text(database_url)
    (empty / "recovery.sec.asc").write_bytes(officers["recovery"].gpg("--armor", "--export-secret-keys"))
    typed = block("recovery")
    for written, here in (
        ("postgresql://keyrotation@db/clinic", f"'{database_url}'"),
        ("pazpaz-key-backups", bucket.name),
        ("3fa9c1d2fromTheSafe", safe),
    ):
        assert written in typed
        typed = typed.replace(written, here)
    path = f"{EMBEDDED_18}:{KEYROTATION.parent}:{Path(str(AWS)).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", typed],
        cwd=empty,
        env=environment(PATH=path, AWS_ENDPOINT_URL=bucket.url, GNUPGHOME=gnupg_home, LD_LIBRARY_PATH=LIBRARIES),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "Signature Verified Successfully" in done.stdout
    assert "of another signer" not in done.stdout
    assert "is not of this set" not in done.stdout
    assert Machine(Folder(empty, []), database_url).values(ring) == before


def test_while_s3_is_down_the_list_is_that_of_the_local_copy(clinic_machine: Machine, bucket: TestBucket) -> None:
    folder = clinic_machine.folder
    folder.run("backup", "--keys-only")
    (path,) = folder.path.glob("keyrotation.toml")
    path.write_text(path.read_text().replace(bucket.url, "http://127.0.0.1:9"))
    listed = json.loads(folder.run("backup", "--list", "--json"))
    assert [each["place"].split()[0] for each in listed["sets"]] == ["directory"]
    assert listed["sets"][0]["sets"]
    assert "cannot be listed: EndpointConnectionError" in listed["silent"][0]


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
    assert "by `keyrotation restore-key v1`" in folder.run("restore-key", "--survey")
    name = max(path.name for path in (folder.path / ".keyrotation/backups").glob("encryption-key-v1-*.gpg"))
    source = f"s3://{bucket.name}/encryption-keys/{name}"
    folder.run("restore-key", "v1", "--from", source, "--key", "recovery.key")
    wrong = f"{folder.path}/.keyrotation/backups/{name}"
    folder.run("restore-key", "v2", "--from", wrong, "--key", "recovery.key", expect=1)
    assert "but v2 is registered as" in folder.printed[-1]
    folder.run("restore-key", "v2", "--key", "recovery.key")
    folder.run("verify")
    assert not any(base64_of(ring.material(version)) in text for version in ring.versions for text in folder.printed)
