"""Where the pages of docs/ are typed: a folder with a configuration, a database, and the officers' secret keys."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.fieldcrypto.cipher import encrypt
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline_tests.acceptance import warm
from keyrotation_pipeline_tests.acceptance.command import environment
from keyrotation_pipeline_tests.acceptance.test_clusters_page import one_gnupg_home
from keyrotation_pipeline_tests.applications import reporting
from keyrotation_pipeline_tests.servers import EMBEDDED_18

V1, ROWS = KeyVersion(1), 20
CONFIGURATION = """
database.url = { env = "KEYROTATION_DATABASE_URL" }
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
"""


@dataclass(frozen=True)
class Night:
    """A folder with a configuration, a database, and the secret keys of both officers."""

    path: Path
    variables: dict[str, str]
    descriptor: int  # by which a shell's `keyrotation` runs

    def shell(self, lines: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", lines],
            pass_fds=[self.descriptor],
            cwd=self.path,
            env=environment(**self.variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, f"{lines}\n{done.stdout}"
        return done.stdout


@dataclass(frozen=True)
class NewDesk:
    """The same before `keyrotation init`, and the key that the rows are under."""

    night: Night
    key: KeyMaterial


@pytest.fixture
def new_desk(
    tmp_path: Path,
    database_url: str,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    sealed_officer: DemoOfficer,
    recovery_officer: DemoOfficer,
) -> Iterator[NewDesk]:
    ring = KeyRing({V1: KeyMaterial.generate()}, V1)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE clients (id int PRIMARY KEY, first_name text, email text)")
        for row in range(ROWS):
            connection.execute(
                "INSERT INTO clients VALUES (%s, %s, %s)", (row, encrypt(ring, "Zoe"), encrypt(ring, "e"))
            )
    (tmp_path / "officers").mkdir()
    for officer in (security_officer, privacy_officer, sealed_officer, recovery_officer):
        shutil.copy(officer.certificate, tmp_path / "officers" / f"{officer.name.partition(' ')[0].lower()}.asc")
    (tmp_path / "recovery.sec.asc").write_bytes(recovery_officer.gpg("--armor", "--export-secret-keys"))
    (tmp_path / "keyrotation.toml").write_text(CONFIGURATION)
    (tmp_path / "bin").mkdir()
    descriptor = warm.for_shells(tmp_path / "bin")
    path = f"{tmp_path / 'bin'}:{EMBEDDED_18}:{os.environ['PATH']}"
    with one_gnupg_home(security_officer, privacy_officer) as home:
        variables = {"KEYROTATION_DATABASE_URL": database_url, "GNUPGHOME": home, "PATH": path}
        yield NewDesk(Night(tmp_path, variables, descriptor), ring.material(V1))


@pytest.fixture
def night(new_desk: NewDesk) -> Iterator[Night]:
    night = new_desk.night
    night.shell(f"ENCRYPTION_MASTER_KEY={base64_of(new_desk.key)} keyrotation init")
    with reporting(night.variables["KEYROTATION_DATABASE_URL"], night.path / ".keyrotation" / "keys"):
        yield night
