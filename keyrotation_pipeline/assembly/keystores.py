"""Opens the key store from settings."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.keystores.file import FileKeyStore
from keyrotation_pipeline.errors import ConfigurationError, InvalidKeyError, KeyStoreError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import PRIMARY_VARIABLE, KeyRing, primary_in
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.key_trial import GivenKeys
from keyrotation_pipeline.ports.keys import KeyStore
from keyrotation_pipeline.settings import Settings
from keyrotation_pipeline.settings.sections import AwsStoreSettings, KeysSettings, KubernetesStoreSettings

if TYPE_CHECKING:
    from keyrotation_pipeline.adapters.keystores.aws import AwsKeyStore
    from keyrotation_pipeline.adapters.keystores.kubernetes import KubernetesKeyStore


def open_key_store(settings: Settings) -> KeyStore:
    """Returns the key store of `[keys]`; connects to nothing yet."""
    return _remote(settings.keys) or FileKeyStore(settings.keys_directory)


def create_key_store(settings: Settings) -> None:
    """Creates the key store if it is lost or was never created; an existing one is left unchanged."""
    if (remote := _remote(settings.keys)) is not None:
        remote.create()
    else:
        FileKeyStore.create(settings.keys_directory)


def keys_in_store(settings: Settings, environment: Mapping[str, str]) -> GivenKeys | None:
    """Returns the keys that the application's store already holds; None if it holds none or does not exist yet.

    In AWS this includes keys in separate secrets, as the source procedure creates them (``pazpaz/encryption-key-v2``).

    Args:
        environment: where the store names no primary, `PRIMARY_VARIABLE` in it does.

    Raises:
        KeyStoreError: it cannot be read, or holds several keys and nothing names the primary.
    """
    in_aws, remote = settings.keys.store == "aws-secrets-manager", _remote(settings.keys)
    if not in_aws and not (remote.exists() if remote is not None else settings.keys_directory.is_dir()):
        return None
    if remote is not None:
        remote.create()  # of several secrets, some may not exist yet
    store = open_key_store(settings)
    stored = store.read()
    places: Mapping[KeyVersion, str] = {}
    keys, primary = {version: stored.material(version) for version in stored.live}, stored.primary
    if in_aws and settings.keys.aws is not None:
        found = _aws(settings.keys.aws).manual_secrets()
        # Once the live secret names its primary, it holds all that applications use: ignore other secrets.
        if found.plain or primary is None:
            keys, places = {**found.keys, **keys}, found.places
            primary = None if len(keys) > 1 else primary
    if not keys:
        return None
    if primary is None:
        primary = _named_primary(keys, environment)
    return GivenKeys(
        KeyRing(keys, primary, stored.compromised), lambda version: places.get(version) or store.place_of(version)
    )


def _named_primary(keys: Mapping[KeyVersion, KeyMaterial], environment: Mapping[str, str]) -> KeyVersion:
    try:
        return primary_in(environment, keys)
    except InvalidKeyError:
        held = ", ".join(map(str, sorted(keys)))
        raise KeyStoreError(
            f"the key store holds {held} and does not say under which one applications write; name it in "
            f"{PRIMARY_VARIABLE} (v1, v2, …), then run `keyrotation init` again"
        ) from None


def convert_key_store(settings: Settings, ring: KeyRing) -> None:
    """Converts one plain key in AWS to the versioned form with these keys; repeating it changes nothing.

    Raises:
        ConfigurationError: the keys are not in AWS.
    """
    if settings.keys.aws is None or settings.keys.store != "aws-secrets-manager":
        raise ConfigurationError('--convert is for [keys] store = "aws-secrets-manager" only; leave it out')
    _aws(settings.keys.aws).convert(ring)


def _remote(keys: KeysSettings) -> "AwsKeyStore | KubernetesKeyStore | None":
    """Returns the store that is a service; None: the keys are in files."""
    if keys.store == "aws-secrets-manager" and keys.aws is not None:
        return _aws(keys.aws)
    if keys.store == "kubernetes-secret" and keys.kubernetes is not None:
        return _kubernetes(keys.kubernetes)
    return None


def _aws(declared: AwsStoreSettings) -> "AwsKeyStore":
    from keyrotation_pipeline.adapters.keystores.aws import AwsKeyStore, AwsSecret  # noqa: PLC0415  boto3 takes a second to import

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
