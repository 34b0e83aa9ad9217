"""What every `BackupVault` does; a subclass gives the vault."""

from abc import ABC, abstractmethod
from pathlib import Path

import pytest

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.audit import AuditHead
from keyrotation_pipeline.ports.backups import BackupVault

V2, V3 = KeyVersion(2), KeyVersion(3)
ANCHOR = AuditHead(41, "5" * 64)


class BackupVaultSuite(ABC):
    """Tests of the port."""

    @pytest.fixture
    @abstractmethod
    def vault(self, tmp_path: Path) -> BackupVault:
        """An empty vault."""

    def test_an_empty_vault_has_no_backup(self, vault: BackupVault) -> None:
        assert vault.key_backup(V2, KeyMaterial.generate().fingerprint) is None

    def test_a_stored_key_is_found_by_its_version_and_fingerprint(self, vault: BackupVault) -> None:
        material = KeyMaterial.generate()
        made = vault.store_key(V2, material, ANCHOR)
        assert (made.version, made.fingerprint) == (V2, material.fingerprint)
        assert made.recipients
        assert vault.key_backup(V2, material.fingerprint) == made

    def test_a_backup_of_another_key_under_the_same_version_does_not_count(self, vault: BackupVault) -> None:
        vault.store_key(V2, KeyMaterial.generate(), ANCHOR)
        assert vault.key_backup(V2, KeyMaterial.generate().fingerprint) is None

    def test_a_backup_of_the_same_key_under_another_version_does_not_count(self, vault: BackupVault) -> None:
        material = KeyMaterial.generate()
        vault.store_key(V2, material, ANCHOR)
        assert vault.key_backup(V3, material.fingerprint) is None

    def test_storing_again_keeps_a_backup_that_is_found(self, vault: BackupVault) -> None:
        material = KeyMaterial.generate()
        vault.store_key(V2, material, ANCHOR)
        again = vault.store_key(V2, material, ANCHOR)
        assert vault.key_backup(V2, material.fingerprint) == again
