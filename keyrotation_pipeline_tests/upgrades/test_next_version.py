"""The version after this one: `init` reads and verifies a home before it migrates anything, and then goes on."""

import shlex
import shutil
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from keyrotation_pipeline import settings
from keyrotation_pipeline.adapters.postgres.ledger.schema import REVISIONS
from keyrotation_pipeline.assembly.keystores import keys_in_store
from keyrotation_pipeline.assembly.pipeline import initialise, open_pipeline
from keyrotation_pipeline.audit.divergence import divergence
from keyrotation_pipeline.cli.commands import app
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.errors import AuditError, NotOurKeyStoreError, PreflightError
from keyrotation_pipeline.fieldcrypto.cipher import encrypt
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.requests import RequestStatus
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline.settings import Settings
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.acceptance.test_fernet import Commands
from keyrotation_pipeline_tests.officers import roster_in_toml
from keyrotation_pipeline_tests.pages import block
from keyrotation_pipeline_tests.servers import Server
from keyrotation_pipeline_tests.upgrades.kept_home import DATABASE, HOMES, folder_of, revived
from keyrotation_pipeline_tests.upgrades.test_kept_homes import Revived

V1 = KeyVersion(1)
NEXT = "999.0.0"
KEPT = max(HOMES.iterdir())  # of the newest version whose homes are kept
MIGRATION = f"""
from alembic import op

revision = "{NEXT}"
down_revision = "{REVISIONS[-1]}"


def upgrade():
    op.execute("ALTER TABLE keyrotation.quarantine ADD COLUMN looked_at_by text")
"""


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Revived]:
    # Every revived home has one system identifier: what a test has read of one is not there in the next.
    for cache in ("_STATES", "_LOST"):
        monkeypatch.setattr(f"keyrotation_pipeline.audit.replay_cache.{cache}", {})
    file = KEPT / "key.tar.xz"
    with folder_of(file) as folder, revived(file, folder) as server:
        monkeypatch.setenv("KEYROTATION_DATABASE_URL", server.url(DATABASE))
        yield Revived(server, Folder(folder, []))


@pytest.fixture
def declared(home: Revived) -> Settings:
    return settings.load(home.folder.path / "keyrotation.toml")


def ring_of(declared: Settings) -> KeyRing:
    """The keys in use, as `init` finds them in the key store."""
    found = keys_in_store(declared, {})
    assert found is not None
    return found.ring


def become_the_next_version(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """From here on the package has one more migration."""
    migrations = directory / "migrations"
    with resources.as_file(resources.files("keyrotation_pipeline.adapters.postgres.ledger") / "migrations") as ours:
        shutil.copytree(ours, migrations)
    (migrations / "versions" / "next.py").write_text(MIGRATION)
    monkeypatch.setattr("keyrotation_pipeline.adapters.postgres.ledger.migrate._LOCATION", str(migrations))
    for module in ("adapters.postgres.ledger.schema", "assembly.pipeline"):
        monkeypatch.setattr(f"keyrotation_pipeline.{module}.REVISIONS", (*REVISIONS, NEXT))


def revision(home: Revived) -> str:
    with psycopg.connect(home.url) as connection:
        ((found,),) = connection.execute("SELECT version_num FROM keyrotation.alembic_version").fetchall()
    return str(found)


def test_a_verified_home_is_upgraded_and_its_walk_is_finished(
    home: Revived, declared: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    become_the_next_version(monkeypatch, tmp_path)
    with (
        pytest.raises(PreflightError, match=rf"is of {KEPT.name}; run `keyrotation init` to upgrade it"),
        open_pipeline(declared, actor="test"),
    ):
        pass
    initialise(declared, ring_of(declared), actor="test")
    assert revision(home) == NEXT
    with open_pipeline(declared, actor="test") as pipeline:
        list(runner.run(pipeline, home.request(), lambda _progress: None))
        assert pipeline.ledger.request(home.request()).status is RequestStatus.FINISHED


def test_an_audit_that_does_not_verify_is_not_migrated(
    home: Revived, declared: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with psycopg.connect(home.url) as connection:
        connection.execute("ALTER TABLE keyrotation.audit_events DISABLE TRIGGER USER")
        connection.execute("UPDATE keyrotation.audit_events SET body = replace(body, 'yearly', 'hourly')")
        connection.execute("ALTER TABLE keyrotation.audit_events ENABLE TRIGGER USER")
    become_the_next_version(monkeypatch, tmp_path)
    before = sorted(home.folder.path.rglob("*"))
    with pytest.raises(AuditError, match="the schema was not upgraded, so use the version before: audit event"):
        initialise(declared, None, actor="test")
    assert revision(home) == KEPT.name
    assert sorted(home.folder.path.rglob("*")) == before


def test_a_database_that_was_restored_is_upgraded_and_still_to_be_reconciled(
    home: Revived, declared: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Else neither version could continue: the old one would be needed to reconcile it."""
    with psycopg.connect(home.server.url(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE earlier TEMPLATE {DATABASE}")
        home.run("init")
        home.run("rotate", home.request(), "--through", "primary_key_rollout")
        admin.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")
        admin.execute(f"ALTER DATABASE earlier RENAME TO {DATABASE}")
    become_the_next_version(monkeypatch, tmp_path)
    with pytest.raises(NotOurKeyStoreError, match=r"unless this database was restored .*; run `keyrotation reconcile`"):
        initialise(declared, ring_of(declared), actor="test")
    assert revision(home) == NEXT
    with open_pipeline(declared, actor="test") as pipeline:
        found = divergence(pipeline, pipeline.keys.read())
    assert any("a copy outside names event" in each for each in found.findings)


def test_a_backup_that_the_version_before_made_is_recovered_and_upgraded(
    server: Server,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    for folder in (before, after):
        folder.mkdir()
    monkeypatch.setenv("CLINIC", server.url("lost_clinic"))
    monkeypatch.setenv("ENCRYPTION_MASTER_KEY", base64_of(key := KeyMaterial.generate()))
    officers = (security_officer, privacy_officer)
    named = roster_in_toml(officers)
    (before / "keyrotation.toml").write_text(
        f'database.url = {{ env = "CLINIC" }}\nrollout.mode = "none"\n[approvals]\nrequired = 2\n{named}'
        f'[backup]\ndirectory = "{tmp_path / "backups"}"\n[[tables]]\nname = "clients"\ncolumns = ["email"]\n'
    )
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE lost_clinic")
        with psycopg.connect(server.url("lost_clinic"), autocommit=True) as clinic:
            clinic.execute("CREATE TABLE clients (id int PRIMARY KEY, email text)")
            clinic.execute("INSERT INTO clients VALUES (1, %s)", (encrypt(KeyRing({V1: key}, V1), "Ada"),))
        home = Commands(before / "keyrotation.toml", officers)
        home.typed("init")
        monkeypatch.delenv("ENCRYPTION_MASTER_KEY")
        home.typed("backup")
        signer = home.shown("status")["backup_signer"]
        admin.execute("DROP DATABASE lost_clinic WITH (FORCE)")
        (secret := tmp_path / "recovery.key").write_bytes(security_officer.gpg("--armor", "--export-secret-keys"))
        become_the_next_version(monkeypatch, tmp_path)
        monkeypatch.chdir(after)
        left = ("--from", str(tmp_path / "backups"), "--key", str(secret), "--signer", signer)
        try:
            done = CliRunner().invoke(app, ["recover", *left, "--server", server.url(), "--into", "found_clinic"])
            assert done.exit_code == 0, done.exception
            with psycopg.connect(server.url("found_clinic")) as connection:
                found = connection.execute("SELECT version_num FROM keyrotation.alembic_version").fetchall()
                assert found == [(NEXT,)]
        finally:
            admin.execute("DROP DATABASE IF EXISTS found_clinic WITH (FORCE)")


def typed(home: Commands, text: str, replaced: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Types a block of the guide, with the names of this test in place of those in it; what each command printed."""
    printed = list[str]()
    for shown, ours in replaced.items():
        assert shown in text
        text = text.replace(shown, ours)
    for line in text.splitlines():
        match shlex.split(line):
            case ["keyrotation", *arguments]:
                printed.append(home.typed(*arguments))
            case ["export", setting]:
                monkeypatch.setenv(*setting.split("=", 1))
            case other:
                pytest.fail(f"not typed: {other}")
    return printed


def test_the_way_back_leads_to_the_database_of_the_backup(
    server: Server,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """This version stands for the one before, and one with a further migration for that to which it was upgraded."""
    officers = (security_officer, privacy_officer)
    named = roster_in_toml(officers)
    (tmp_path / "keyrotation.toml").write_text(
        'database.url = { env = "KEYROTATION_DATABASE_URL" }\nrollout.mode = "none"\n[approvals]\nrequired = 2\n'
        f'{named}[[tables]]\nname = "clients"\ncolumns = ["email"]\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEYROTATION_DATABASE_URL", server.url("upgraded_clinic"))
    monkeypatch.setenv("ENCRYPTION_MASTER_KEY", base64_of(key := KeyMaterial.generate()))
    value = encrypt(KeyRing({V1: key}, V1), "Ada")
    home = Commands(tmp_path / "keyrotation.toml", officers)
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE upgraded_clinic")
        with psycopg.connect(server.url("upgraded_clinic"), autocommit=True) as clinic:
            clinic.execute("CREATE TABLE clients (id int PRIMARY KEY, email text)")
            clinic.execute("INSERT INTO clients VALUES (1, %s)", (value,))
        try:
            home.typed("init")
            monkeypatch.delenv("ENCRYPTION_MASTER_KEY")
            typed(home, block("before-an-upgrade"), {}, monkeypatch)
            (dump,) = (tmp_path / ".keyrotation" / "backups").glob("database-*.dump.gpg")
            made = f"backup-{dump.name.removeprefix('database-').removesuffix('.dump.gpg')}.json"
            with pytest.MonkeyPatch.context() as upgrade:
                become_the_next_version(upgrade, tmp_path)
                initialise(settings.load(home.file), None, actor="test")
            assert f"was made by a newer keyrotation-pipeline ({NEXT})" in home.typed("status", exits=1)
            (secret := tmp_path / "recovery.key").write_bytes(security_officer.gpg("--armor", "--export-secret-keys"))
            names = {
                "backup-20261201-030000-3fa9c1d2.json": made,
                "recovery.sec.asc": str(secret),
                "postgresql://postgres@db/": server.url(),
                "postgresql://keyrotation@db/clinic_before": server.url("clinic_before"),
            }
            typed(home, block("way-back"), names, monkeypatch)
            home.sign(home.typed("reconcile").splitlines()[-1])
            for command in ("reconcile", "audit verify", "verify", "status"):
                home.typed(*command.split())
            with psycopg.connect(server.url("clinic_before")) as connection:
                assert connection.execute("SELECT email FROM clients").fetchall() == [(value,)]
        finally:
            for name in ("upgraded_clinic", "clinic_before"):
                admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
