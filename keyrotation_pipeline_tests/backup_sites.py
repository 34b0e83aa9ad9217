"""A clinic with backups: a real database, real gpg, real files, an S3 server over HTTP, opened as the commands do."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keyrotation_pipeline import settings
from keyrotation_pipeline.adapters.backups.key_vault import KeyVault
from keyrotation_pipeline.adapters.backups.signing_key import SigningKey
from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.openpgp.decrypt import imported_key
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.assembly.backups import open_backups
from keyrotation_pipeline.assembly.keystores import signing_key
from keyrotation_pipeline.assembly.pipeline import initialise
from keyrotation_pipeline.backups.catalog import BackupContext
from keyrotation_pipeline.backups.manifest_trust import ManifestTrust
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.requests import WALK, RequestStatus, Step, StepRecord, Walk
from keyrotation_pipeline.ports.backups import RecoveryKey
from keyrotation_pipeline.requests.approvals import add_approval, approval_text
from keyrotation_pipeline.requests.opening import new_request
from keyrotation_pipeline.rotation.rotate import ROTATE
from keyrotation_pipeline.settings import Settings
from keyrotation_pipeline_tests.buckets import REGION, TestBucket
from keyrotation_pipeline_tests.fakes import FakeClock
from keyrotation_pipeline_tests.integration.encrypted_rows import insert, ring_of, sealed

CLIENTS = [("Ada", "ada@example.org"), ("Ben", None), ("Cy", ""), ("Dee", "dee@example.org")]
CONFIGURATION = """
[database]
url = {{ file = "url" }}
[[tables]]
name = "clients"
columns = ["name", "email"]
[[tables]]
name = "billing.Invoices"
columns = ["note"]
[approvals]
required = 2
[[approvals.officers]]
name = "Security Officer"
certificate = "{security}"
[[approvals.officers]]
name = "Privacy Officer"
certificate = "{privacy}"
[backup]
recipients = ["{recovery}", "{security}"]
"""
BUCKET = """
[backup.s3]
bucket = "{name}"
endpoint_url = "{url}"
region_name = "{region}"
"""


@dataclass
class Clinic:
    """The clinic, and a clock that its backups go by."""

    directory: Path
    settings: Settings
    ring: KeyRing
    connection: Connection
    site: BackupContext
    clock: FakeClock
    officer: DemoOfficer
    signers: tuple[DemoOfficer, DemoOfficer]

    def secret_key(self) -> bytes:
        return self.officer.gpg("--armor", "--export-secret-keys")

    @contextmanager
    def recovery_key(self, officer: DemoOfficer | None = None) -> Iterator[RecoveryKey]:
        with imported_key((officer or self.officer).gpg("--export-secret-keys"), None) as key:
            yield key

    def pass_days(self, days: int) -> None:
        self.clock.at += timedelta(days=days)

    @property
    def signer(self) -> SigningKey:
        return signing_key(self.settings)

    @property
    def backups(self) -> Path:
        return self.settings.backup_directory


def archive_by_officers(clinic: Clinic, version: KeyVersion) -> None:
    """Call a version archived, as a signed rotation may."""
    pipeline = replace(clinic.site.pipeline, clock=SystemClock())  # as the ledger and gpg have it
    *_, newest = pipeline.ledger.keys()
    request = new_request(
        Walk, pipeline, ROTATE, source=newest.version, fingerprint=newest.fingerprint,
        target=newest.version.next(), reason="old", requested_by="dba",
    )  # fmt: skip
    pipeline.ledger.open(request, text := approval_text(pipeline, request))
    for signer in clinic.signers:
        add_approval(pipeline, request, signer.sign(text))
    pipeline.ledger.set_status(request.id, RequestStatus.RUNNING)
    for step in WALK[: WALK.index(Step.ARCHIVED_KEY)]:
        pipeline.ledger.finish_step(request.id, StepRecord(step, None, None, pipeline.clock.now(), {}))
    pipeline.ledger.set_key_state(version, KeyState.ARCHIVED, request.id)
    pipeline.ledger.set_status(request.id, RequestStatus.CANCELLED)


def write_configuration(directory: Path, url: str, officers: dict[str, DemoOfficer], bucket: TestBucket | None) -> Path:
    """`keyrotation.toml` and the file with the database's URL."""
    certificates = {role: officer.certificate for role, officer in officers.items()}
    text = CONFIGURATION.format(**certificates)
    if bucket is not None:
        text += BUCKET.format(name=bucket.name, url=bucket.url, region=REGION)
    (directory / "url").write_text(url)
    (directory / "keyrotation.toml").write_text(text)
    return directory / "keyrotation.toml"


def admit(connection: Connection, ring: KeyRing) -> None:
    """Rows under v1 and v2, a NULL, an empty string."""
    connection.execute("CREATE TABLE public.clients (id bigint PRIMARY KEY, name text, email text)")
    connection.execute('CREATE SCHEMA billing; CREATE TABLE billing."Invoices" (id bigint, note text, total numeric)')
    rows = [
        (number, sealed(ring, 1, name), mail and sealed(ring, 2, mail))
        for number, (name, mail) in enumerate(CLIENTS, 1)
    ]
    insert(connection, "public.clients", rows)
    insert(connection, 'billing."Invoices"', [(1, sealed(ring, 2, "paid"), "12.50")])


def open_clinic(
    stack: ExitStack, directory: Path, url: str, officers: dict[str, DemoOfficer], bucket: TestBucket | None
) -> Clinic:
    """Set everything up as `init` does, v1 and v2 in use."""
    ring = ring_of(1, 2)
    connection = stack.enter_context(connect(url))
    admit(connection, ring)
    declared = settings.load(write_configuration(directory, url, officers, bucket))
    initialise(declared, ring, actor="test")
    site = stack.enter_context(open_backups(declared, actor="test"))
    # A minute after the backups that the import of the keys made.
    clock = FakeClock(datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=1))
    trust = ManifestTrust(signing_key(declared), site.pipeline.ledger, site.pipeline.signatures, clock)
    vault = site.pipeline.vault
    assert isinstance(vault, KeyVault)
    pipeline = replace(site.pipeline, clock=clock, vault=replace(vault, trust=trust))
    site = replace(site, pipeline=pipeline, trust=trust)
    return Clinic(
        directory,
        declared,
        ring,
        connection,
        site,
        clock,
        officers["recovery"],
        (officers["security"], officers["privacy"]),
    )


@pytest.fixture
def backup_officers(
    recovery_officer: DemoOfficer, security_officer: DemoOfficer, privacy_officer: DemoOfficer
) -> dict[str, DemoOfficer]:
    return {"recovery": recovery_officer, "security": security_officer, "privacy": privacy_officer}


@pytest.fixture
def clinic(
    tmp_path: Path,
    already_migrated: str,
    database_url: str,
    backup_officers: dict[str, DemoOfficer],
    bucket: TestBucket,
) -> Iterator[Clinic]:
    """A clinic with a bucket."""
    with ExitStack() as stack:
        yield open_clinic(stack, tmp_path, database_url, backup_officers, bucket)


@pytest.fixture
def local_clinic(
    tmp_path: Path, already_migrated: str, database_url: str, backup_officers: dict[str, DemoOfficer]
) -> Iterator[Clinic]:
    """A clinic whose backups stay in the local directory."""
    with ExitStack() as stack:
        yield open_clinic(stack, tmp_path, database_url, backup_officers, None)


def gpg_decrypt(officer: DemoOfficer, file: Path) -> bytes:
    """``gpg --decrypt FILE``, as the source procedure types it."""
    return officer.gpg("--decrypt", str(file))
