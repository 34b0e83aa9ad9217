"""Opens the places of backups from settings; every pipeline opens them, so that a rotation can back up its new key."""

from pathlib import Path

from keyrotation_pipeline.adapters.backups.directory import BackupDirectory
from keyrotation_pipeline.adapters.backups.encrypted_files import EncryptedKeys
from keyrotation_pipeline.adapters.backups.key_vault import KeyVault
from keyrotation_pipeline.adapters.backups.signing_key import SigningKey
from keyrotation_pipeline.adapters.held_directory import wipe_abandoned
from keyrotation_pipeline.adapters.openpgp import GnuPG
from keyrotation_pipeline.adapters.openpgp.decrypt import BackupRecipients
from keyrotation_pipeline.adapters.secret_homes import wipe_abandoned_keys
from keyrotation_pipeline.assembly.home import SIGNING_KEY
from keyrotation_pipeline.backups.manifest_trust import ManifestTrust
from keyrotation_pipeline.ports.backup_places import BackupPlace
from keyrotation_pipeline.ports.backups import BackupVault
from keyrotation_pipeline.ports.clock import Clock
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.settings import Settings
from keyrotation_pipeline.settings.backups import S3Settings


def signing_key(settings: Settings) -> SigningKey:
    """Returns the pipeline's own key, which signs manifests."""
    return SigningKey(settings.home / SIGNING_KEY)


def backup_vault(settings: Settings, ledger: Ledger, database: str, clock: Clock, trust: ManifestTrust) -> BackupVault:
    """Returns the vault in which a rotation backs up its new key: the local directory, and the bucket if there is one.

    Args:
        ledger: holds the pinned roster.
        database: name and system identifier.
    """
    local = BackupDirectory(settings.backup_directory)
    key_files = EncryptedKeys(local, recipients(settings, ledger, clock))
    return KeyVault(database, local, offsite(settings, clock), key_files, clock, trust, ledger.pinned_roster)


def wipe_leftovers(settings: Settings) -> None:
    """Wipes what killed processes left: recovery keys with their agents, and restored databases."""
    wipe_abandoned_keys()
    wipe_abandoned([scratch(settings)])


def scratch(settings: Settings) -> Path:
    """Returns the directory in which databases are restored temporarily."""
    return settings.home / "recovery"


def recipients(settings: Settings, ledger: Ledger, clock: Clock, *, needs_all: bool = True) -> BackupRecipients:
    """Returns the recipients that backups are encrypted to; `needs_all`: see `BackupRecipients`."""
    gpg = GnuPG(settings.home / "gnupg", clock)
    return BackupRecipients(gpg, settings.recipients, ledger.pinned_roster, needs_all=needs_all)


def offsite(settings: Settings, clock: Clock) -> tuple[BackupPlace, ...]:
    """Returns the bucket, if there is one."""
    return () if settings.backup.s3 is None else (opened_bucket(settings.backup.s3, clock),)


def opened_bucket(s3: S3Settings, clock: Clock) -> BackupPlace:
    """Returns a bucket; connects to nothing yet."""
    from keyrotation_pipeline.adapters.backups.s3 import Bucket, S3Bucket  # noqa: PLC0415  boto3 takes a second to import

    prefix = s3.prefix.strip("/")
    named = Bucket(
        name=s3.bucket,
        prefix=f"{prefix}/" if prefix else "",
        region_name=s3.region_name,
        endpoint_url=s3.endpoint_url,
        storage_class=s3.storage_class,
        object_lock_days=s3.object_lock_days,
    )
    return S3Bucket(named, clock)
