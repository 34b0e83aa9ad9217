"""From settings to the key store."""

from typing import TYPE_CHECKING

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.keystores.file import FileKeyStore
from keyrotation_pipeline.errors import ConfigurationError
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.ports.keys import KeyStore
from keyrotation_pipeline.settings import Settings
from keyrotation_pipeline.settings.sections import AwsStoreSettings

if TYPE_CHECKING:
    from keyrotation_pipeline.adapters.keystores.aws import AwsKeyStore


def open_key_store(settings: Settings) -> KeyStore:
    """The key store of `[keys]`; nothing is asked of it yet."""
    if settings.keys.aws is not None and settings.keys.store == "aws-secrets-manager":
        return _aws(settings.keys.aws)
    return FileKeyStore(settings.keys_directory)


def create_key_store(settings: Settings) -> None:
    """Make the key store where it is lost, or was never made; an existing one is left as it is."""
    if settings.keys.aws is not None and settings.keys.store == "aws-secrets-manager":
        _aws(settings.keys.aws).create()
    else:
        FileKeyStore.create(settings.keys_directory)


def keys_in_store(settings: Settings) -> KeyRing | None:
    """The keys that the application's store holds already; None if it holds none, or is not there yet.

    Raises:
        KeyStoreError: it cannot be read.
    """
    if settings.keys.aws is not None and settings.keys.store == "aws-secrets-manager":
        if not _aws(settings.keys.aws).exists():
            return None
    elif not settings.keys_directory.is_dir():
        return None
    stored = open_key_store(settings).read()
    return stored.ring() if stored.live else None


def convert_key_store(settings: Settings) -> None:
    """Turn the seed's plain key in AWS into the versioned form; again is no change.

    Raises:
        ConfigurationError: the keys are not in AWS.
    """
    if settings.keys.aws is None or settings.keys.store != "aws-secrets-manager":
        raise ConfigurationError('--convert is for [keys] store = "aws-secrets-manager" only; leave it out')
    _aws(settings.keys.aws).convert()


def _aws(declared: AwsStoreSettings) -> "AwsKeyStore":
    from keyrotation_pipeline.adapters.keystores.aws import (  # noqa: PLC0415  boto3 takes a second to import
        AwsKeyStore,
        AwsSecret,
    )

    prefix = declared.archive_prefix or f"{declared.secret_id}-"
    secret = AwsSecret(declared.secret_id, prefix, declared.region_name, declared.endpoint_url)
    return AwsKeyStore(secret, SystemClock())
