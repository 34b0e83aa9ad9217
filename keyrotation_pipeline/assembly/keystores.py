"""Opens the key store and the places of backups from settings."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from keyrotation_pipeline.adapters.backups.directory import BackupDirectory
from keyrotation_pipeline.adapters.backups.encrypted_files import EncryptedKeys
from keyrotation_pipeline.adapters.backups.key_vault import KeyVault
from keyrotation_pipeline.adapters.backups.signing_key import SigningKey
from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.keystores.file import FileKeyStore
from keyrotation_pipeline.adapters.keystores.key_list import KeyList
from keyrotation_pipeline.adapters.keystores.transit import TransitKeyStore, problems_of
from keyrotation_pipeline.adapters.openpgp import GnuPG
from keyrotation_pipeline.adapters.openpgp.recipients import BackupRecipients
from keyrotation_pipeline.adapters.secret_directories import wipe_abandoned, wipe_abandoned_keys
from keyrotation_pipeline.assembly.home import SIGNING_KEY
from keyrotation_pipeline.backups.manifest_trust import ManifestTrust
from keyrotation_pipeline.errors import ConfigurationError, InvalidKeyError, KeyStoreError
from keyrotation_pipeline.fieldcrypto.codecs.format import marked_format_of
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import KeyNotation
from keyrotation_pipeline.fieldcrypto.formats.vault_transit.server import server_at
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import PRIMARY_VARIABLE, KeyRing, primary_in
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial, SourceKey
from keyrotation_pipeline.fieldcrypto.seal import UNSEALED, Seal, reach, withhold
from keyrotation_pipeline.fieldcrypto.wrapping_keys import PKCS11, WrappingKey, kind_of
from keyrotation_pipeline.fieldcrypto.wrapping_keys.aws_kms import AwsKmsKey
from keyrotation_pipeline.fieldcrypto.wrapping_keys.pkcs11 import Pkcs11Key
from keyrotation_pipeline.model.key_trial import GivenKeys
from keyrotation_pipeline.model.keys import StoredKeys
from keyrotation_pipeline.ports.backup_places import BackupPlace
from keyrotation_pipeline.ports.backups import BackupVault
from keyrotation_pipeline.ports.clock import Clock
from keyrotation_pipeline.ports.keys import KeyStore
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.settings import Settings
from keyrotation_pipeline.settings.backups import S3Settings
from keyrotation_pipeline.settings.hosts import backups_sealed_by, unsigned_modules
from keyrotation_pipeline.settings.key_stores import AwsStoreSettings, KubernetesStoreSettings, SealSettings

if TYPE_CHECKING:
    from keyrotation_pipeline.adapters.keystores.aws import AwsKeyStore
    from keyrotation_pipeline.adapters.keystores.kubernetes import KubernetesKeyStore


def open_key_store(settings: Settings, home: Callable[[], str | None] | None = None) -> KeyStore:
    """Returns the key store of `[keys]`; connects to nothing yet.

    Args:
        home: returns the id of the home, for which keys are sealed; None: no key will be.
    """
    seal = _seal(settings.keys.seal, home)
    if (remote := _remote(settings, seal)) is not None:
        return remote
    files = FileKeyStore(settings.keys_directory, settings.key_variable, settings.key_notation, seal)
    return files if settings.format.held_at is None else TransitKeyStore(files, settings.format.held_at)


# Members of a fleet may be counted at the same time, and a token has one session.
_READING = Lock()


def every_key(store: KeyStore) -> KeyRing:
    """Returns a ring of every key in a store, archived ones too, as counting needs it and applications do not get it.

    Raises:
        KeyStoreDamagedError: as `StoredKeys.ring`.
    """
    with _READING:
        stored = store.read()
        ring = stored.ring()
    archived = {version: key for version, key in stored.archived.items() if isinstance(key, KeyMaterial)}
    return KeyRing({**archived, **{version: ring.material(version) for version in ring.versions}}, ring.primary)


def create_key_store(settings: Settings) -> None:
    """Creates the key store if it is lost or was never created; an existing one is left unchanged."""
    if (remote := _remote(settings)) is not None:
        remote.create()
    else:
        FileKeyStore.create(settings.keys_directory, settings.key_variable, settings.key_notation)


def keys_in_store(settings: Settings, environment: Mapping[str, str]) -> GivenKeys | None:
    """Returns the keys that the application's store already holds; None if it holds none or does not exist yet.

    In AWS this includes keys in separate secrets, as the source procedure creates them (``pazpaz/encryption-key-v2``).

    Args:
        environment: where the store names no primary, `PRIMARY_VARIABLE` in it does.

    Raises:
        KeyStoreError: it cannot be read, or holds several keys and nothing names the primary.
    """
    in_aws, remote = settings.keys.store == "aws-secrets-manager", _remote(settings)
    if not in_aws and not (remote.exists() if remote is not None else settings.keys_directory.is_dir()):
        return None
    if remote is not None:
        remote.create()  # of several secrets, some may not exist yet
    store = open_key_store(settings)
    stored = store.read()
    places: Mapping[KeyVersion, str] = {}
    keys, primary = {version: stored.material(version) for version in stored.live}, stored.primary
    if in_aws and settings.keys.aws is not None:
        found = _aws(settings.keys.aws, seal=_seal(settings.keys.seal)).manual_secrets()
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


def listed_keys(settings: Settings, environment: Mapping[str, str]) -> GivenKeys | None:
    """Returns the keys of an application that reads its own list, one of which encrypts; None: there is none.

    Before they are imported they are those of the list in the environment, else of the one that the key store has
    under the same name; the oldest becomes v1. Then they keep their versions, and a key that is not among them is
    refused.

    Raises:
        InvalidKeyError: an entry is not a key, or values name two of them by the same text.
        KeyStoreError: an entry is another key than those that were imported; or the two lists differ.
    """
    if (name := settings.key_variable) is None:
        return None
    remote = _remote(settings)
    there = remote.exists() if remote is not None else settings.keys_directory.is_dir()
    if there and remote is not None:
        remote.create()  # its archive may not exist yet
    store = open_key_store(settings)
    notation = settings.key_notation
    given = notation.keys_in(environment[name], name) if environment.get(name, "").strip() else ()
    if there and (stored := store.read()).primary is not None:
        _require_imported(given, stored, name, notation)
        return GivenKeys(stored.ring(), store.place_of)
    # A list is imported as a whole: until then the store names no primary.
    place, text = name, remote.listed() if there and remote is not None else None
    if text is not None and text.strip():
        place = f"the entry {name} in {store.description}"
        kept = notation.keys_in(text, place)
        if given and given != kept:
            raise KeyStoreError(
                f"{name} in the environment and {place} are different lists; unset {name}, or correct the entry"
            )
        given = kept
    if not given:
        return None
    versions = {KeyVersion(number): key for number, key in enumerate(reversed(given), 1)}
    size = len(given)
    places = {version: f"key {notation.place(size - version.number + 1, size)} of {place}" for version in versions}
    ring = KeyRing(versions, KeyVersion(len(given)))
    if (code := marked_format_of(settings.format.value_format)) is not None:
        code.markers(ring)  # raises where values name two keys alike
    return GivenKeys(ring, places.__getitem__)


def source_keys(settings: Settings, environment: Mapping[str, str]) -> Mapping[str, SourceKey]:
    """Returns the one key of each library that columns come from, by the name of its variable, if that is set.

    Raises:
        InvalidKeyError: it is longer than any key.
    """
    names = dict.fromkeys(p.source_key for table in settings.declared_tables for p in table.places if p.source_key)
    return {name: SourceKey(environment[name].encode(), name) for name in names if environment.get(name)}


def transit_keys(settings: Settings) -> GivenKeys:
    """Returns what each usable version of a key that a server holds is recognised by: as it is stored, or recomputed.

    Raises:
        KeyStoreError: the server does not encrypt with one of them, or no longer has one that was imported.
    """
    address = settings.format.held_at or ""
    server = server_at(address)
    policy = server.policy()
    if problem := next(problems_of(address, policy), None):
        raise KeyStoreError(problem)
    store = open_key_store(settings)
    stored = store.read() if settings.keys_directory.is_dir() else None
    if stored is not None and stored.primary is not None:
        stored.ring()  # raises where the server no longer has one of them
    known = dict(stored.live) if stored is not None else {}
    keys = {version: key for version, key in known.items() if isinstance(key, KeyMaterial)}
    for number in range(max(policy.min_decryption, policy.min_available, 1), policy.latest + 1):
        version = KeyVersion(number)
        if version in known or (stored is not None and version in stored.archived):
            continue
        if number < policy.min_encryption:
            raise KeyStoreError(
                f"{address} decrypts under {version} and does not encrypt with it, so it cannot be tried; have "
                "min_encryption_version set to 0 until `keyrotation init` is done"
            )
        keys[version] = server.reference(number)
    primary = KeyVersion(policy.latest) if stored is None or stored.primary is None else stored.primary
    return GivenKeys(KeyRing(keys, primary), store.place_of)


def _require_imported(given: Sequence[KeyMaterial], stored: StoredKeys, name: str, notation: KeyNotation) -> None:
    for place, key in enumerate(given, 1):
        if key not in stored.live.values():
            raise KeyStoreError(
                f"entry {notation.place(place, len(given))} of {name} is no imported key; leave {name} as the key "
                "store delivers it, and run `keyrotation request` for a new key"
            )


def _named_primary(keys: Mapping[KeyVersion, KeyMaterial], environment: Mapping[str, str]) -> KeyVersion:
    try:
        return primary_in(environment, keys)
    except InvalidKeyError:
        held = ", ".join(map(str, sorted(keys)))
        raise KeyStoreError(
            f"the key store holds {held}, and not which one applications write under; set {PRIMARY_VARIABLE} to it, "
            "then run `keyrotation init` again"
        ) from None


def convert_key_store(settings: Settings, ring: KeyRing) -> None:
    """Converts one plain key in AWS to the versioned form with these keys; repeating it changes nothing.

    Raises:
        ConfigurationError: the keys are not in AWS.
    """
    if settings.keys.aws is None or settings.keys.store != "aws-secrets-manager":
        raise ConfigurationError('--convert is for [keys] store = "aws-secrets-manager" only; leave it out')
    # Not sealed yet: applications read them, and show first that they open a canary.
    _aws(settings.keys.aws).convert(ring)


def _seal(declared: SealSettings | None, home: Callable[[], str | None] | None = None) -> Seal:
    """Returns the seal of `[keys.seal]`; connects to nothing yet."""
    if declared is None:
        return UNSEALED
    present, *earlier = (reach(_wrapping_key(declared, each)) for each in (declared.name, *declared.earlier))
    return Seal(present, tuple(earlier), declared.recovery == "sealed", home)


def _wrapping_key(declared: SealSettings, name: str) -> WrappingKey:
    """Returns the key with this name, reached as `[keys.seal]` says; one of another kind as the environment says."""
    kind = kind_of(name)
    if kind == PKCS11:
        if declared.module is None or declared.pin is None:
            return Pkcs11Key.of(name)
        return Pkcs11Key(name, str(declared.module), declared.pin.get_secret_value(), declared.replica_token_label)
    return AwsKmsKey(name, declared.region_name, declared.endpoint_url)


def withhold_modules(settings: Settings, signed: Collection[str] | None) -> None:
    """Has no PKCS#11 module loaded that officers have not signed: it is code.

    Args:
        signed: the hosts; None: nothing is pinned yet.
    """
    unsigned = set() if signed is None else set(unsigned_modules(settings, signed))
    seal = settings.keys.seal
    for name in () if seal is None else (seal.name, *seal.earlier):
        opener = (kind_of(name), name)
        why = (
            f"cannot be opened by the module {seal.module if seal else ''}, which officers have not signed; restore "
            "it, or have it signed with `keyrotation policy --reason TEXT`"
        )
        withhold(opener, why if opener in unsigned else None)


def sealing_problem(settings: Settings) -> str | None:
    """Returns why keys from backups cannot be sealed again; None: they can be, or there is no seal."""
    declared = settings.keys.seal
    if declared is None:
        return None
    return next(_seal(declared.model_copy(update={"recovery": "officers"})).problems(), None)


def backup_seal(settings: Settings, ledger: Ledger) -> Seal:
    """Returns the seal of keys in backups, as officers signed it last.

    Raises:
        ConfigurationError: as `backups_sealed_by`.
    """
    state, declared = ledger.replayed(), settings.keys.seal
    name = backups_sealed_by(settings, state.hosts)
    if declared is None or name is None:
        return UNSEALED
    return Seal(reach(_wrapping_key(declared, name)), alone=declared.recovery == "sealed", home=lambda: state.home)


def _remote(settings: Settings, seal: Seal | None = None) -> "AwsKeyStore | KubernetesKeyStore | None":
    """Returns the store that is a service; None: the keys are in files."""
    keys, seal = settings.keys, seal or _seal(settings.keys.seal)
    if keys.store == "aws-secrets-manager" and keys.aws is not None:
        return _aws(keys.aws, _key_list(settings, f"secret {keys.aws.secret_id}"), seal)
    if keys.store == "kubernetes-secret" and keys.kubernetes is not None:
        return _kubernetes(keys.kubernetes, settings, seal)
    return None


def _key_list(settings: Settings, place: str) -> KeyList | None:
    """Returns the application's own list in a store that is a service; None: it has none."""
    if (name := settings.key_variable) is None:
        return None
    return KeyList(name, f"entry {name} of {place}", settings.key_notation, settings.keys.seal is not None)


def _aws(declared: AwsStoreSettings, key_list: KeyList | None = None, seal: Seal = UNSEALED) -> "AwsKeyStore":
    from keyrotation_pipeline.adapters.keystores.aws import AwsKeyStore, AwsSecret  # noqa: PLC0415  boto3 takes a second to import

    prefix = declared.archive_prefix or f"{declared.secret_id}-"
    secret = AwsSecret(declared.secret_id, prefix, declared.region_name, declared.endpoint_url, key_list, seal)
    return AwsKeyStore(secret, SystemClock())


def _kubernetes(declared: KubernetesStoreSettings, settings: Settings, seal: Seal) -> "KubernetesKeyStore":
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
    access = Access(declared.kubeconfig, declared.context)
    secrets = KeySecrets(live, place, access, _key_list(settings, str(live)), seal)
    return KubernetesKeyStore(secrets, SystemClock())


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
    key_files = EncryptedKeys(local, recipients(settings, ledger, clock), partial(backup_seal, settings, ledger))
    return KeyVault(database, local, offsite(settings, clock), key_files, clock, trust, ledger.pinned_roster)


def wipe_leftovers(settings: Settings) -> None:
    """Wipes what killed processes left: recovery keys with their agents, and restored databases."""
    wipe_abandoned_keys()
    wipe_abandoned([scratch(settings)])


def scratch(settings: Settings) -> Path:
    """Returns the directory in which databases are restored temporarily."""
    return settings.home / "recovery"


def recipients(settings: Settings, ledger: Ledger, clock: Clock) -> BackupRecipients:
    """Returns the recipients that backups are encrypted to."""
    gpg = GnuPG(settings.home / "gnupg", clock)
    return BackupRecipients(gpg, settings.recipients, ledger.pinned_roster)


def offsite(settings: Settings, clock: Clock) -> tuple[BackupPlace, ...]:
    """Returns the bucket, if there is one."""
    return () if settings.backup.s3 is None else (opened_bucket(settings.backup.s3, clock),)


def opened_bucket(s3: S3Settings, clock: Clock) -> BackupPlace:
    """Returns a bucket; connects to nothing yet."""
    from keyrotation_pipeline.adapters.backups.s3 import Bucket, S3Bucket  # noqa: PLC0415  boto3 takes a second to import

    prefix = s3.prefix.strip("/")
    folder = f"{prefix}/" if prefix else ""
    named = Bucket(s3.bucket, folder, s3.region_name, s3.endpoint_url, s3.storage_class, s3.object_lock_days)
    return S3Bucket(named, clock)
