"""A clinic of which only backups, recovery key and the signer's fingerprint are left, and attacks on the backups."""

import hashlib
import io
import itertools
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from keyrotation_pipeline.adapters.backups.signing_key import SigningKey
from keyrotation_pipeline.backups.backup import back_up
from keyrotation_pipeline.backups.rekey import rekey
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.backups import BackupSet, signature_name, signer_fingerprint
from keyrotation_pipeline.model.key_events import KeyImportIntended
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.backup_sites import open_clinic
from keyrotation_pipeline_tests.compromised import call_compromised
from keyrotation_pipeline_tests.integration.encrypted_rows import opened
from keyrotation_pipeline_tests.servers import Server, copy_of

_numbers = itertools.count()
# A role that the new server does not have, and something that only a superuser can restore.
ROLE = f"clinic_app_{os.getpid()}"
RICH = f"""
CREATE ROLE {ROLE} LOGIN;
ALTER TABLE public.clients OWNER TO {ROLE};
GRANT SELECT ON billing."Invoices" TO {ROLE};
CREATE FUNCTION public.nothing() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN END $$;
CREATE EVENT TRIGGER watched ON ddl_command_start EXECUTE FUNCTION public.nothing();
"""


@dataclass(frozen=True)
class Lost:
    """What is left, and what was there.

    Args:
        backups: the sets, as a directory.
        values: every value of the clinic, decrypted.
    """

    backups: Path
    signer: str
    older: BackupSet
    newest: BackupSet
    officers: dict[str, DemoOfficer]
    ring: KeyRing
    values: list[tuple[object, ...]]
    server: Server


@dataclass(frozen=True)
class EmptyMachine:
    """A folder with a recovery key and a copy of the backups, and the name of a database that is not there yet.

    Args:
        source: where the backups are, if that is not the copy.
    """

    lost: Lost
    folder: Folder
    backups: Path
    into: str
    source: str | None = None

    @property
    def url(self) -> str:
        return self.lost.server.url(self.into)

    @property
    def home(self) -> Path:
        return self.folder.path / ".keyrotation"

    def options(self, *more: str, signer: str | None = None) -> tuple[str, ...]:
        options = ("--from", self.source or str(self.backups), "--key", str(self.folder.path.parent / "recovery.key"))
        trusted = () if signer == "" else ("--signer", signer or self.lost.signer)
        return ("recover", *options, *trusted, "--server", self.lost.server.url(), "--into", self.into, *more)

    def recover(self, *more: str, signer: str | None = None) -> dict[str, Any]:
        """Recover, and read what is printed."""
        found: dict[str, Any] = json.loads(self.folder.run(*self.options("--json", *more, signer=signer)))
        return found

    def refused(self, *more: str, signer: str | None = None) -> str:
        """Fail to recover; the sentence."""
        self.folder.run(*self.options(*more, signer=signer), expect=1)
        return self.folder.printed[-1]

    def values(self) -> list[tuple[object, ...]]:
        return values_of(self.url, self.lost.ring)

    def database_is_there(self) -> bool:
        with psycopg.connect(self.lost.server.url()) as connection:
            found = connection.execute("SELECT FROM pg_database WHERE datname = %s", (self.into,)).fetchone()
        return found is not None

    def variables(self) -> dict[str, str]:
        """So that the configuration, which names a file, finds the new database."""
        (self.folder.path / "url").write_text(self.url)
        return {}


def values_of(url: str, ring: KeyRing) -> list[tuple[object, ...]]:
    """Every row of the clinic, opened by code that is not the project's."""
    with psycopg.connect(url) as connection:
        clients = connection.execute("SELECT id, name, email FROM public.clients ORDER BY id").fetchall()
        invoices = connection.execute('SELECT id, note, total FROM billing."Invoices" ORDER BY id').fetchall()
    read: list[tuple[object, ...]] = [(row[0], opened(ring, row[1]), opened(ring, row[2])) for row in clients]
    return read + [(row[0], opened(ring, row[1]), row[2]) for row in invoices]


@pytest.fixture(scope="module")
def lost(
    server: Server,
    template: str,
    tmp_path_factory: pytest.TempPathFactory,
    recovery_officer: DemoOfficer,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
) -> Lost:
    """A clinic that made two sets in a directory, and was lost."""
    officers = {"recovery": recovery_officer, "security": security_officer, "privacy": privacy_officer}
    with ExitStack() as stack:
        url = stack.enter_context(copy_of(server, template))
        clinic = open_clinic(stack, tmp_path_factory.mktemp("clinic"), url, officers, None)
        clinic.connection.execute(RICH.encode())
        older = back_up(clinic.site).made
        clinic.clock.at += timedelta(minutes=1)
        newest = back_up(clinic.site).made
        signer = signer_fingerprint(SigningKey(clinic.settings.home / "backup-signing-key.pem").public)
        kept = tmp_path_factory.mktemp("kept") / "backups"
        shutil.copytree(clinic.backups, kept)
        left = Lost(kept, signer, older, newest, officers, clinic.ring, values_of(url, clinic.ring), server)
    shutil.rmtree(clinic.directory)
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(f"DROP ROLE {ROLE}")
    return left


@pytest.fixture
def rekeyed_machine(
    server: Server, template: str, tmp_path: Path, backup_officers: dict[str, DemoOfficer]
) -> Iterator[EmptyMachine]:
    """An empty machine whose newest set was rekeyed to v3, of which the audit in its dump knows nothing."""
    with ExitStack() as stack:
        url = stack.enter_context(copy_of(server, template))
        (tmp_path / "clinic").mkdir()
        clinic = open_clinic(stack, tmp_path / "clinic", url, backup_officers, None)
        older = back_up(clinic.site).made
        values = [
            tuple(("v3", value[1]) if isinstance(value, tuple) and value[0] else value for value in row)
            for row in values_of(url, clinic.ring)
        ]
        clinic.clock.at += timedelta(minutes=1)
        pipeline, v3, material = clinic.site.pipeline, KeyVersion(3), KeyMaterial.generate()
        call_compromised(pipeline, KeyVersion(2), clinic.signers)
        pipeline.keys.add(v3, material, pipeline.keys.read().revision)
        pipeline.keys.set_primary(v3, pipeline.keys.read().revision)
        pipeline.ledger.append(KeyImportIntended(v3, material.fingerprint))
        pipeline.ledger.add_key(KeyRecord(v3, KeyState.ACTIVE, material.fingerprint, pipeline.clock.now()), None)
        with clinic.recovery_key() as key:
            newest = rekey(clinic.site, key, older.name, lambda _progress: None).made
        kept = tmp_path / "kept"
        shutil.copytree(clinic.backups, kept)
        signer = signer_fingerprint(SigningKey(clinic.settings.home / "backup-signing-key.pem").public)
        ring = KeyRing({v3: material}, v3)
        left = Lost(kept, signer, older, newest, backup_officers, ring, values, server)
        shutil.rmtree(clinic.directory)
    yield from _machine(left, tmp_path)


@pytest.fixture
def machine(lost: Lost, tmp_path: Path) -> Iterator[EmptyMachine]:
    """An empty machine; the database that is restored is dropped afterwards."""
    yield from _machine(lost, tmp_path)


def _machine(lost: Lost, tmp_path: Path) -> Iterator[EmptyMachine]:
    backups = tmp_path / "backups"
    shutil.copytree(lost.backups, backups)
    (tmp_path / "recovery.key").write_bytes(lost.officers["recovery"].gpg("--armor", "--export-secret-keys"))
    folder = Folder(tmp_path / "empty", [])
    folder.path.mkdir()
    into = f"recovered_{os.getpid()}_{next(_numbers)}"
    yield EmptyMachine(lost, folder, backups, into)
    with psycopg.connect(lost.server.url(), autocommit=True) as admin:
        admin.execute(f'DROP DATABASE IF EXISTS "{into}" WITH (FORCE)')
        admin.execute(f"DROP ROLE IF EXISTS {ROLE}")


@dataclass(frozen=True)
class Forger:
    """Whoever writes the backups, with a signing key and the public certificates."""

    machine: EmptyMachine
    key: SigningKey

    @property
    def signer(self) -> str:
        return signer_fingerprint(self.key.public)

    def set(self, stamp: str, files: dict[str, bytes], *, public: str | None = None) -> str:
        """A set with these files in place of the newest one's; gives back its manifest's name.

        Args:
            files: by the beginning of the name of the file that they replace.
            public: the key that the manifest names; None: the forger's own.
        """
        newest = self.machine.lost.newest
        text = (self.machine.backups / newest.name).read_text().replace(newest.stamp, stamp)
        content = json.loads(text)
        content["made_at"] = f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]}T{stamp[9:11]}:{stamp[11:13]}:{stamp[13:15]}+00:00"
        content["signed_by"] = public or self.key.public
        for entry in (*content["keys"], content["dump"], content["configuration"]):
            old = self.machine.backups / entry["file"].replace(stamp, newest.stamp)
            forged = next((each for name, each in files.items() if entry["file"].startswith(name)), old.read_bytes())
            (self.machine.backups / entry["file"]).write_bytes(forged)
            entry |= {"sha256": hashlib.sha256(forged).hexdigest(), "size_bytes": len(forged)}
        manifest = f"{json.dumps(content, indent=2)}\n".encode()  # in the form of the genuine ones
        name = newest.name.replace(newest.stamp, stamp)
        (self.machine.backups / name).write_bytes(manifest)
        (self.machine.backups / signature_name(name)).write_bytes(self.key.sign(manifest))
        return name

    def stored(self, content: bytes) -> bytes:
        """A message that is not encrypted: ``gpg --store``."""
        return self.machine.lost.officers["security"].gpg("--store", text=content)


@pytest.fixture
def forger(machine: EmptyMachine, tmp_path: Path) -> Forger:
    key = SigningKey(tmp_path / "forger.pem")
    key.create()
    return Forger(machine, key)


def tar_of(members: dict[str, bytes], *links: tarfile.TarInfo) -> bytes:
    """A tar with files of mode 0777, and other members."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o777
            tar.addfile(member, io.BytesIO(content))
        for link in links:
            tar.addfile(link)
    return packed.getvalue()
