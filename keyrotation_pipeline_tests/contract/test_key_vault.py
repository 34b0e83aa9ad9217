"""Key backups: the suite of the port, and what files and gpg add to it."""

import hashlib
import json
import os
from datetime import timedelta
from pathlib import Path

import pytest

from keyrotation_pipeline.adapters.backups.directory import BackupDirectory
from keyrotation_pipeline.adapters.backups.encrypted_files import EncryptedKeys
from keyrotation_pipeline.adapters.backups.key_vault import KeyVault
from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.openpgp import GnuPG
from keyrotation_pipeline.adapters.openpgp.recipients import BackupRecipients
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.errors import BackupError, OpenPGPError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of, key_from_base64, raw_of
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.approval import Roster
from keyrotation_pipeline.ports.backups import BackupVault
from keyrotation_pipeline_tests.contract.backup_vault_suite import ANCHOR, V2, BackupVaultSuite
from keyrotation_pipeline_tests.fakes import FakeClock, FakeSigner, FakeVault, fake_manifest_trust, fake_pipeline
from keyrotation_pipeline_tests.officers import make_expired_officer, make_officer

NAME, MANIFEST = "encryption-key-v2-20260105-090000-efa1f375.bin.gpg", "backup-20260105-090000-efa1f375.json"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "home" / "backups"


@pytest.fixture
def gpg(tmp_path: Path) -> GnuPG:
    return GnuPG(tmp_path / "gnupg", SystemClock())


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def vault_of(directory: Path, gpg: GnuPG, certificates: list[Path], clock: FakeClock) -> KeyVault:
    """A vault in one directory, for recipients that are pinned."""
    roster = Roster(2, (), tuple(gpg.read_certificate(each).fingerprint for each in certificates))
    local = BackupDirectory(directory)
    world = fake_pipeline()
    key_files = EncryptedKeys(local, BackupRecipients(gpg, certificates, lambda: roster))
    return KeyVault("clinic", local, (), key_files, clock, fake_manifest_trust(world.ledger, world.pipeline.signatures))


@pytest.fixture
def vault(
    directory: Path, gpg: GnuPG, clock: FakeClock, recovery_officer: DemoOfficer, security_officer: DemoOfficer
) -> KeyVault:
    return vault_of(directory, gpg, [recovery_officer.certificate, security_officer.certificate], clock)


class TestFakeVault(BackupVaultSuite):
    @pytest.fixture
    def vault(self) -> BackupVault:
        return FakeVault()


class TestKeyVault(BackupVaultSuite):
    @pytest.fixture
    def vault(self, directory: Path, gpg: GnuPG, recovery_officer: DemoOfficer) -> BackupVault:
        return vault_of(directory, gpg, [recovery_officer.certificate], FakeClock())


def test_each_recipient_reads_the_base64_of_the_key_and_a_newline(
    vault: KeyVault, directory: Path, recovery_officer: DemoOfficer, security_officer: DemoOfficer
) -> None:
    material = KeyMaterial.generate()
    made = vault.store_key(V2, material, ANCHOR)
    message = (directory / made.name).read_bytes()
    assert recovery_officer.decrypt(message) == f"{base64_of(material)}\n".encode()
    assert key_from_base64(security_officer.decrypt(message).decode()) == material


def test_who_is_no_recipient_cannot_read_it(vault: KeyVault, directory: Path, privacy_officer: DemoOfficer) -> None:
    made = vault.store_key(V2, KeyMaterial.generate(), ANCHOR)
    with pytest.raises(OpenPGPError):
        privacy_officer.decrypt((directory / made.name).read_bytes())


def test_the_manifest_says_what_the_file_is_and_anchors_the_audit(
    vault: KeyVault, directory: Path, gpg: GnuPG, recovery_officer: DemoOfficer, security_officer: DemoOfficer
) -> None:
    material = KeyMaterial.generate()
    vault.store_key(V2, material, ANCHOR)
    recipients = [gpg.read_certificate(each.certificate).fingerprint for each in (recovery_officer, security_officer)]
    message = (directory / NAME).read_bytes()
    key = {
        "file": NAME,
        "sha256": hashlib.sha256(message).hexdigest(),
        "size_bytes": len(message),
        "recipients": recipients,
        "version": "v2",
        "fingerprint": material.fingerprint,
    }
    assert json.loads((directory / MANIFEST).read_text()) == {
        "schema": 1,
        "signed_by": FakeSigner().public,
        "made_at": "2026-01-05T09:00:00+00:00",
        "database": "clinic",
        "keys": [key],
        "dump": None,
        "audit": {"seq": 41, "head": "5" * 64},
        "roster": None,
        "configuration": None,
        "made_from": None,
        "home": "0e" * 16,
    }


def test_only_the_owner_can_read_files_and_directory_and_nothing_else_is_left(vault: KeyVault, directory: Path) -> None:
    vault.store_key(V2, KeyMaterial.generate(), ANCHOR)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir()} == {
        NAME: 0o600,
        MANIFEST: 0o600,
        f"{MANIFEST}.sig": 0o600,
    }


def test_the_key_is_in_no_file_in_any_form(vault: KeyVault, tmp_path: Path) -> None:
    material = KeyMaterial.generate()
    vault.store_key(V2, material, ANCHOR)
    forms = (raw_of(material), base64_of(material).encode(), raw_of(material).hex().encode())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 3
    assert [path.name for path in files if any(form in path.read_bytes() for form in forms)] == []


def test_two_backups_in_one_second_are_two_files(vault: KeyVault, directory: Path) -> None:
    first = vault.store_key(V2, KeyMaterial.generate(), ANCHOR)
    second = vault.store_key(V2, KeyMaterial.generate(), ANCHOR)
    assert first.name != second.name
    assert vault.key_backup(V2, first.fingerprint) == first
    assert vault.key_backup(V2, second.fingerprint) == second


def test_the_newest_intact_backup_is_the_one(vault: KeyVault, directory: Path, clock: FakeClock) -> None:
    material = KeyMaterial.generate()
    older = vault.store_key(V2, material, ANCHOR)
    clock.at += timedelta(days=1)
    newer = vault.store_key(V2, material, ANCHOR)
    assert vault.key_backup(V2, material.fingerprint) == newer
    (directory / newer.name).write_bytes(b"damaged")
    assert vault.key_backup(V2, material.fingerprint) == older
    (directory / older.name).unlink()
    assert vault.key_backup(V2, material.fingerprint) is None


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"[1", id="not JSON"),
        pytest.param(b"{}", id="nothing in it"),
        pytest.param(b"[" * 100_000, id="deep"),
    ],
)
def test_a_backup_with_a_damaged_manifest_does_not_count(vault: KeyVault, directory: Path, damage: bytes) -> None:
    made = vault.store_key(V2, KeyMaterial.generate(), ANCHOR)
    (directory / MANIFEST).write_bytes(damage)
    assert vault.key_backup(V2, made.fingerprint) is None


def test_a_file_without_a_manifest_does_not_count(vault: KeyVault, directory: Path) -> None:
    made = vault.store_key(V2, KeyMaterial.generate(), ANCHOR)
    (directory / MANIFEST).unlink()
    assert vault.key_backup(V2, made.fingerprint) is None


def test_versions_that_begin_alike_are_distinguished(vault: KeyVault) -> None:
    material = KeyMaterial.generate()
    vault.store_key(KeyVersion(20), material, ANCHOR)
    assert vault.key_backup(V2, material.fingerprint) is None


def test_an_expired_recipient_is_left_out_and_an_only_one_stops_the_backup_before_anything_is_written(
    directory: Path, gpg: GnuPG, clock: FakeClock, recovery_officer: DemoOfficer, tmp_path: Path
) -> None:
    expired, material = make_expired_officer(tmp_path, "Gone").certificate, KeyMaterial.generate()
    with pytest.raises(OpenPGPError, match="has expired"):
        vault_of(directory, gpg, [expired], clock).store_key(V2, material, ANCHOR)
    assert not any(directory.glob("*"))
    vault = vault_of(directory, gpg, [recovery_officer.certificate, expired], clock)
    made = vault.store_key(V2, material, ANCHOR)
    assert made.recipients == (gpg.read_certificate(recovery_officer.certificate).fingerprint,)


class ForgetfulGnuPG(GnuPG):
    """Encrypts to all recipients but the last, or to one too many."""

    def __init__(self, home: Path, one_more: Path | None = None) -> None:
        super().__init__(home, SystemClock())
        self._one_more = one_more

    def encrypt(self, plaintext: bytes, recipients: list) -> bytes:  # type: ignore[type-arg, override]
        others = [self.read_certificate(self._one_more)] if self._one_more else []
        return super().encrypt(plaintext, [*recipients, *others] if others else recipients[:-1])


def test_a_message_that_leaves_a_recipient_out_is_no_backup(
    directory: Path, clock: FakeClock, recovery_officer: DemoOfficer, security_officer: DemoOfficer, tmp_path: Path
) -> None:
    recipients = [recovery_officer.certificate, security_officer.certificate]
    vault, material = vault_of(directory, ForgetfulGnuPG(tmp_path / "g"), recipients, clock), KeyMaterial.generate()
    with pytest.raises(BackupError, match=r"cannot be decrypted with certificate security-officer\.asc"):
        vault.store_key(V2, material, ANCHOR)
    assert vault.key_backup(V2, material.fingerprint) is None


def test_a_message_to_an_unknown_recipient_is_no_backup(
    directory: Path, clock: FakeClock, recovery_officer: DemoOfficer, tmp_path: Path
) -> None:
    stranger = make_officer(tmp_path, "Stranger").certificate
    vault = vault_of(directory, ForgetfulGnuPG(tmp_path / "g", stranger), [recovery_officer.certificate], clock)
    material = KeyMaterial.generate()
    with pytest.raises(BackupError, match="is encrypted to the unknown key"):
        vault.store_key(V2, material, ANCHOR)
    assert vault.key_backup(V2, material.fingerprint) is None


def test_a_disk_that_gives_back_other_bytes_is_noticed(vault: KeyVault, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fdopen

    def damaging(descriptor: int, mode: str) -> object:
        file = real(descriptor, mode)
        file.write(b"\0")
        return file

    monkeypatch.setattr("os.fdopen", damaging)
    with pytest.raises(BackupError, match="reads back differently"):
        vault.store_key(V2, KeyMaterial.generate(), ANCHOR)


def test_a_directory_that_cannot_be_made_is_named(
    tmp_path: Path, gpg: GnuPG, clock: FakeClock, recovery_officer: DemoOfficer
) -> None:
    (tmp_path / "file").write_text("in the way")
    vault = vault_of(tmp_path / "file" / "backups", gpg, [recovery_officer.certificate], clock)
    with pytest.raises(BackupError, match=r"cannot be written to .*/file/backups"):
        vault.store_key(V2, KeyMaterial.generate(), ANCHOR)
