"""A clinic before its disaster: a machine, a database, a bucket, an application, and what lies in the safe."""

import itertools
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import psycopg

from keyrotation_pipeline.adapters.keystores.file import FileKeyStore
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.fieldcrypto.cipher import encrypt
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline_tests.acceptance import warm
from keyrotation_pipeline_tests.acceptance.disasters.application import Application, Journal, Write
from keyrotation_pipeline_tests.acceptance.nights import Night
from keyrotation_pipeline_tests.acceptance.test_reference import by_both
from keyrotation_pipeline_tests.buckets import REGION, TestBucket
from keyrotation_pipeline_tests.integration.encrypted_rows import opened, ring_of
from keyrotation_pipeline_tests.pages import TOP, block
from keyrotation_pipeline_tests.servers import EMBEDDED_18, Server

ROWS = 100
RecordMinutes = Callable[[float], None]
CONFIGURATION = """
database.url = {{ env = "KEYROTATION_DATABASE_URL" }}
[[tables]]
name = "clients"
columns = ["first_name", "email"]
[[approvals.officers]]
name = "Security Officer"
certificate = "officers/security.asc"
[[approvals.officers]]
name = "Privacy Officer"
certificate = "officers/privacy.asc"
[[approvals.officers]]
name = "Sealed Officer"
certificate = "officers/sealed.asc"
[backup]
recipients = ["officers/recovery.asc", "officers/security.asc"]
[backup.s3]
bucket = "{bucket}"
endpoint_url = "{url}"
region_name = "{region}"
"""
_numbers = (f"disaster_{os.getpid()}_{number}" for number in itertools.count())


@dataclass(frozen=True)
class DatabaseRoles:
    """The roles as which commands and application log in; those that are documented are prepared in the database."""

    pipeline: str = "postgres"
    application: str = "postgres"

    def prepare(self, server: Server, database: str) -> None:
        """Makes them, as docs/guides/prepare-database.md has it."""
        if self == DatabaseRoles():
            return
        with psycopg.connect(server.url(database), autocommit=True) as admin:
            admin.execute(
                f"CREATE ROLE clinic_owner; CREATE ROLE {self.application} LOGIN IN ROLE clinic_owner".encode()
            )
            admin.execute("ALTER TABLE clients OWNER TO clinic_owner")
        text = (TOP / "deploy/sql/pipeline-role.sql").read_text()
        psql(server, database, text.replace("DATABASE clinic", f"DATABASE {database}"))

    def admit(self, server: Server, database: str) -> None:
        """Lets the application report itself, after `init`."""
        if self != DatabaseRoles():
            text = (TOP / "deploy/sql/application-role.sql").read_text().replace("TO pazpaz", f"TO {self.application}")
            psql(server, database, text, self.pipeline)


def psql(server: Server, database: str, text: str, user: str = "postgres") -> None:
    """What somebody pastes into psql."""
    variables = {
        "PGHOST": str(server.directory),
        "PGUSER": user,
        "LD_LIBRARY_PATH": str(server.binaries.parent / "lib"),
    }
    command = [str(server.binaries / "psql"), "-Xq", "--set=ON_ERROR_STOP=1", f"--dbname={database}"]
    subprocess.run(command, input=text, text=True, check=True, env={**os.environ, **variables})


@dataclass
class Clinic:
    """A clinic. `machine` is where its commands are typed; `application` writes to its database."""

    machine: Night
    server: Server
    database: str
    bucket: TestBucket
    journal: Journal = field(default_factory=Journal)
    begun: float = 0.0
    roles: DatabaseRoles = DatabaseRoles()

    @property
    def url(self) -> str:
        """By which commands reach the database."""
        return self.server.url(self.database, self.roles.pipeline)

    @property
    def home(self) -> Path:
        return self.machine.path / ".keyrotation"

    @property
    def keys(self) -> Path:
        return self.home / "keys"

    @property
    def application(self) -> Application:
        return Application(self.server.url(self.database, self.roles.application), self.keys, self.journal)

    def typed(self, lines: str, *instead: tuple[str, str]) -> str:
        """Type a block of the documentation; `instead`: what stands in place of the page's own names."""
        for written, here in instead:
            assert written in lines, written
            lines = lines.replace(written, here)
        return self.machine.shell(by_both(lines))

    def backed_up(self) -> int:
        """Make a backup; returns how many writes were acknowledged before it began."""
        acknowledged = self.journal.acknowledged
        self.machine.shell("keyrotation backup")
        return acknowledged

    def rotated(self, through: str) -> None:
        """A rotation that two officers signed, carried out so far."""
        lines = block("routine").splitlines(keepends=True)
        opening = "".join(line for line in lines if "keyrotation request" in line or "gpg -ab" in line)
        self.machine.shell(f"{by_both(opening)}keyrotation rotate $ID --through {through}")

    def exposed(self) -> str:
        """The primary is exposed; returns the request that this prepares."""
        opened = "keyrotation incident open --type key_exposed --description log --discovered-at now 2>/dev/null"
        return self.machine.shell(opened).split()[-1]

    def emergency(self) -> None:
        """The primary is exposed, and replaced as docs/on-call/emergency.md has it."""
        request = self.exposed()
        self.approved(request)
        self.machine.shell(f"keyrotation rotate {request}")

    def approved(self, request: str) -> None:
        """Two officers sign a request."""
        (line,) = (each for each in block("reconcile").splitlines(keepends=True) if "gpg -ab" in each)
        self.machine.shell(f"ID={request}\n{by_both(line)}")

    def take_silence_soon(self) -> None:
        """An instance is silent after five seconds, and `rotate` waits for it for twenty."""
        with (self.machine.path / "keyrotation.toml").open("a") as configuration:
            configuration.write("[rollout]\ninstance_ttl_seconds = 5\ntimeout_seconds = 20\n")

    def rotated_after_a_restore(self, request: str) -> str:
        """Sign and end a rotation, for which an officer confirms that silent instances have ended; returns which."""
        self.approved(request)
        waits = self.machine.shell(f"! keyrotation rotate {request}")
        silent, known, _ = waits.partition(": silent, and not known to have ended")
        assert known, waits
        confirm = f"keyrotation confirm {request}"
        self.machine.shell(f'{confirm} --text | gpg -u "Security Officer" -ab | {confirm} --signature -')
        self.machine.shell(f"keyrotation rotate {request}")
        return silent

    def lost_versions(self) -> str:
        """The versions that the survey ends with, such as ``v1 v2``."""
        survey = self.machine.shell("keyrotation restore-key --survey")
        found = re.search(r"`keyrotation restore-key (v[v0-9 ]+) --key FILE`\n\Z", survey)
        assert found is not None, survey
        return found[1]

    def finish_rotation(self, *, elsewhere: bool = False) -> None:
        """End the rotation that is under way, if there is one: one key is live then, and the others are archived.

        Args:
            elsewhere: the key store is at another path than officers signed, so it is cancelled, and another one ends.
        """
        for request in json.loads(self.machine.shell("keyrotation requests --json")):
            if elsewhere:
                self.machine.shell(f"keyrotation cancel {request['id']}")
                self.rotated("compliance_report")
            else:
                self.machine.shell(f"keyrotation rotate {request['id']}")
            assert json.loads(self.machine.shell("keyrotation requests --json")) == []
            assert len(FileKeyStore(self.keys).read().live) == 1

    def strike(self) -> None:
        """The minutes until everything works again count from here."""
        self.begun = time.monotonic()

    def lose_database(self) -> None:
        """It is gone, with everything that writes to it."""
        with psycopg.connect(self.server.url(), autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {self.database} WITH (FORCE)")

    def lose_machine(self, empty: Path, safe: "Safe") -> None:
        """Configuration, home and keys are gone; commands are typed on an empty machine from now on."""
        shutil.rmtree(self.machine.path)
        self.machine = new_machine(empty, self.url, safe)

    def moved_to(self, database: str) -> None:
        """Let the application and the commands use another database of the server."""
        self.database = database
        variables = {**self.machine.variables, "KEYROTATION_DATABASE_URL": self.url}
        self.machine = replace(self.machine, variables=variables)

    def require_whole(self, so_far: int | None = None) -> float:
        """No write is lost of the first `so_far`, by default of all; everything decrypts, and the application works.

        Returns:
            Minutes since the disaster.
        """
        self.machine.shell("keyrotation verify && keyrotation audit verify")
        found = self._read()
        assert self.journal.lost(found, so_far) == []
        self.journal = Journal([Write(*each) for each in found.items()], len(found))
        with self.application.working() as application:
            application.wait_for(20)
            minutes = (time.monotonic() - self.begun) / 60
        assert self.journal.lost(self._read()) == []
        return minutes

    def _read(self) -> dict[int, str]:
        """Every row, opened by code that is not the project's, with the keys as an application gets them."""
        ring = FileKeyStore(self.keys).read().ring()
        with psycopg.connect(self.url) as connection:
            rows = connection.execute("SELECT id, first_name, email FROM public.clients").fetchall()
        found = {}
        for row, *stored in rows:
            texts = {each[1] for value in stored if (each := opened(ring, value)) is not None}
            assert len(texts) == 1, f"row {row} holds parts of two writes"
            (found[row],) = texts
        return found


@dataclass(frozen=True)
class Safe:
    """Who is there, the officers' keys in a GnuPG home, and where S3 answers."""

    officers: Sequence[DemoOfficer]
    recovery: DemoOfficer
    gnupg_home: str
    s3_url: str


@contextmanager
def open_clinic(
    path: Path,
    server: Server,
    bucket: TestBucket,
    safe: Safe,
    options: str = "",
    roles: DatabaseRoles = DatabaseRoles(),
) -> Iterator[Clinic]:
    """A clinic with rows and a journal of them, initialised; its databases are dropped afterwards.

    Args:
        options: of CREATE DATABASE.
    """
    name, ring, journal = next(_numbers), ring_of(1, primary=1), Journal()
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} {options}")
    machine = new_machine(path, server.url(name, roles.pipeline), safe)
    (path / "officers").mkdir()
    for officer in (*safe.officers, safe.recovery):
        shutil.copy(officer.certificate, path / "officers" / f"{officer.name.partition(' ')[0].lower()}.asc")
    (path / "keyrotation.toml").write_text(CONFIGURATION.format(bucket=bucket.name, url=bucket.url, region=REGION))
    fill(server.url(name), ring, journal)
    roles.prepare(server, name)
    machine.shell(f"ENCRYPTION_MASTER_KEY={base64_of(ring.material(ring.primary))} keyrotation init")
    roles.admit(server, name)
    yield Clinic(machine, server, name, bucket, journal, roles=roles)
    with psycopg.connect(server.url(), autocommit=True) as admin:
        made = "SELECT datname FROM pg_database WHERE datname LIKE %s"
        for (database,) in admin.execute(made, (f"{name}%",)).fetchall():
            admin.execute(f'DROP DATABASE "{database}" WITH (FORCE)')


def new_machine(path: Path, url: str, safe: Safe) -> Night:
    """An empty folder in which commands can be typed; the recovery key was brought from the safe."""
    (path / "bin").mkdir(parents=True)
    (path / "recovery.sec.asc").write_bytes(safe.recovery.gpg("--armor", "--export-secret-keys"))
    descriptor = warm.for_shells(path / "bin")
    variables = {
        "AWS_ENDPOINT_URL": safe.s3_url,
        "KEYROTATION_DATABASE_URL": url,
        "GNUPGHOME": safe.gnupg_home,
        "PATH": f"{path / 'bin'}:{EMBEDDED_18}:{os.environ['PATH']}",
    }
    return Night(path, variables, descriptor)


def fill(url: str, ring: KeyRing, journal: Journal) -> None:
    """The rows that are there before the application."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE clients (id int PRIMARY KEY, first_name text, email text)")
        for row in range(1, ROWS + 1):
            write = Write(row, f"row {row}")
            values = [encrypt(ring, write.text) for _ in ("first_name", "email")]
            connection.execute("INSERT INTO clients VALUES (%s, %s, %s)", (row, *values))
            journal.sent.append(write)
            journal.acknowledged += 1


def newest(names: Sequence[str], kind: str) -> str:
    """The newest file of a kind, such as ``database-``."""
    return max(each for each in names if re.match(kind, each))
