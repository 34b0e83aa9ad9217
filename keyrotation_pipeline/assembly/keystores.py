"""From settings to the key store."""

from typing import TYPE_CHECKING

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.keystores.file import FileKeyStore
from keyrotation_pipeline.errors import ConfigurationError, KeyStoreError
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.ports.keys import KeyStore
from keyrotation_pipeline.settings import Settings
from keyrotation_pipeline.settings.sections import AwsStoreSettings, KeysSettings, KubernetesStoreSettings

if TYPE_CHECKING:
    from keyrotation_pipeline.adapters.keystores.aws import AwsKeyStore
    from keyrotation_pipeline.adapters.keystores.kubernetes import KubernetesKeyStore


def open_key_store(settings: Settings) -> KeyStore:
    """The key store of `[keys]`; nothing is asked of it yet."""
    return _remote(settings.keys) or FileKeyStore(settings.keys_directory)


def create_key_store(settings: Settings) -> None:
    """Make the key store where it is lost, or was never made; an existing one is left as it is."""
    if (remote := _remote(settings.keys)) is not None:
        remote.create()
    else:
        FileKeyStore.create(settings.keys_directory)


def keys_in_store(settings: Settings) -> KeyRing | None:
    """The keys that the application's store holds already; None if it holds none, or is not there yet.

    Raises:
        KeyStoreError: it cannot be read, or holds several keys and does not name the one that writes use.
    """
    remote = _remote(settings.keys)
    if not (remote.exists() if remote is not None else settings.keys_directory.is_dir()):
        return None
    if remote is not None:
        remote.create()  # of two Secrets, the archive may not be there yet
    stored = open_key_store(settings).read()
    if stored.primary is not None or not stored.live:
        return stored.ring() if stored.live else None
    if len(stored.live) > 1:
        held = ", ".join(map(str, stored.live))
        raise KeyStoreError(
            f"the key store holds {held} and does not say under which one applications write; name it there, then run "
            "`keyrotation init` again"
        )
    (only,) = stored.live
    return KeyRing({only: stored.material(only)}, only)


def convert_key_store(settings: Settings) -> None:
    """Turn the seed's plain key in AWS into the versioned form; again is no change.

    Raises:
        ConfigurationError: the keys are not in AWS.
    """
    if settings.keys.aws is None or settings.keys.store != "aws-secrets-manager":
        raise ConfigurationError('--convert is for [keys] store = "aws-secrets-manager" only; leave it out')
    _aws(settings.keys.aws).convert()


def _remote(keys: KeysSettings) -> "AwsKeyStore | KubernetesKeyStore | None":
    """The store that is a service; None: the keys are in files."""
    if keys.store == "aws-secrets-manager" and keys.aws is not None:
        return _aws(keys.aws)
    if keys.store == "kubernetes-secret" and keys.kubernetes is not None:
        return _kubernetes(keys.kubernetes)
    return None


def _aws(declared: AwsStoreSettings) -> "AwsKeyStore":
    from keyrotation_pipeline.adapters.keystores.aws import (  # noqa: PLC0415  boto3 takes a second to import
        AwsKeyStore,
        AwsSecret,
    )

    prefix = declared.archive_prefix or f"{declared.secret_id}-"
    secret = AwsSecret(declared.secret_id, prefix, declared.region_name, declared.endpoint_url)
    return AwsKeyStore(secret, SystemClock())


def _kubernetes(declared: KubernetesStoreSettings) -> "KubernetesKeyStore":
    from keyrotation_pipeline.adapters.cluster import Access  # noqa: PLC0415  the client takes a second to import
    from keyrotation_pipeline.adapters.keystores.kubernetes import KeySecrets, KubernetesKeyStore  # noqa: PLC0415
    from keyrotation_pipeline.adapters.keystores.kubernetes_archives import InAws  # noqa: PLC0415
    from keyrotation_pipeline.adapters.keystores.kubernetes_secrets import SecretName  # noqa: PLC0415

    live, archive = SecretName(declared.namespace, declared.name), declared.aws_archive
    place = (
        SecretName(*declared.archive)
        if archive is None
        else InAws(archive.prefix, SystemClock(), archive.region_name, archive.endpoint_url)
    )
    return KubernetesKeyStore(KeySecrets(live, place, Access(declared.kubeconfig, declared.context)))
