"""Keys in a Kubernetes Secret: the key store of a production on Kubernetes.

    Secret <name>            ENCRYPTION_MASTER_KEY, ENCRYPTION_MASTER_KEY_V2 …, ENCRYPTION_PRIMARY_VERSION
    Secret <archive_name>    v1, v2 …: keys that applications no longer get

The live Secret is what Pods get as their environment or as a mounted volume. A change is a merge patch of our own
entries under the resource version that was read, which is the compare-and-swap; what others keep there stays. A key
is in the archive, read back, before it leaves the live Secret, and stays in the archive until it is destroyed.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from keyrotation_pipeline.adapters.cluster import SECRET, Access, Cluster, Json, RefusalError, UnreachableError
from keyrotation_pipeline.adapters.keystores import changes
from keyrotation_pipeline.errors import InvalidKeyError, KeyStoreDamagedError, KeyStoreError, KeyStoreUnavailableError
from keyrotation_pipeline.fieldcrypto.environment import PRIMARY_VARIABLE, variable_of, version_in
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of, key_from_base64
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.stored_keys import DamagedKey, Entry, StoredKeys

# Where `kubectl apply` keeps the whole text that it was given, keys among it.
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_LOOKS = 5


@dataclass(frozen=True, slots=True)
class SecretName:
    """A Secret."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"Secret {self.name} in namespace {self.namespace}"


@dataclass(frozen=True, slots=True)
class KeySecrets:
    """Which two Secrets, and where the cluster is."""

    live: SecretName
    archive: SecretName
    access: Access


class MissingSecretError(KeyStoreDamagedError):
    """There is no such Secret."""


@dataclass(frozen=True, slots=True, repr=False)
class _Secret:
    """A Secret as it was read. It holds keys, and is never shown."""

    name: SecretName
    revision: str
    data: Mapping[str, str]
    annotations: Mapping[str, str]
    immutable: bool

    @classmethod
    def of(cls, name: SecretName, answer: Json) -> "_Secret":
        metadata = answer.get("metadata") or {}
        return cls(
            name,
            str(metadata.get("resourceVersion")),
            answer.get("data") or {},
            metadata.get("annotations") or {},
            immutable=answer.get("immutable") is True,
        )

    def text(self, entry: str) -> str:
        """What an entry holds; not the text of a key where it is not even base64."""
        try:
            return base64.b64decode(self.data[entry], validate=True).decode("ascii")
        except (binascii.Error, ValueError):
            return ""

    def last_applied(self, entry: str) -> bool:
        """Whether kubectl's copy of the text holds an entry, or cannot be read."""
        try:
            applied = json.loads(self.annotations.get(LAST_APPLIED, "{}"))
            return any(entry in (applied.get(part) or ()) for part in ("data", "stringData"))
        except (ValueError, AttributeError, TypeError):
            return True


@dataclass(frozen=True, slots=True)
class _Seen:
    """One look: both Secrets, every entry of the archive, and what that is as a store."""

    live: _Secret
    archive: _Secret
    archived: Mapping[KeyVersion, Entry]
    stored: StoredKeys


class KubernetesKeyStore:
    """`ports.KeyStore` in two Secrets; the revision is the resource version of each."""

    def __init__(self, secrets: KeySecrets) -> None:
        self._secrets = secrets
        self._cluster = Cluster(secrets.access)

    def __reduce__(self) -> tuple[type["KubernetesKeyStore"], tuple[KeySecrets]]:
        return type(self), (self._secrets,)

    def create(self) -> None:
        """Make both Secrets, with no key in them, unless they are there."""
        for name in (self._secrets.live, self._secrets.archive):
            try:
                self._read(name)
            except MissingSecretError:
                self._make(name)

    def exists(self) -> bool:
        """Whether the live Secret is there."""
        try:
            self._read(self._secrets.live)
        except MissingSecretError:
            return False
        return True

    @property
    def description(self) -> str:
        """Both Secrets."""
        live, archive = self._secrets.live, self._secrets.archive
        return f"Kubernetes Secret {live.namespace}/{live.name}, archive {archive.namespace}/{archive.name}"

    @property
    def keeps(self) -> str:
        """See `KeyStore.keeps`."""
        return "in Kubernetes the key stays in backups of etcd, and in its history until that is compacted"

    def read(self) -> StoredKeys:
        """Both Secrets; looked at again if the live one was changed meanwhile."""
        return self._look().stored

    def add(self, version: KeyVersion, material: KeyMaterial, revision: str) -> StoredKeys:
        """Store a live key."""
        seen = self._look()
        # Of one that is in both places, the archived one may still be another.
        if isinstance(kept := seen.archived.get(version), KeyMaterial) and kept != material:
            raise changes.different(version)
        if changes.needs_adding(seen.stored, version, material, revision):
            self._patch(seen, seen.live, {variable_of(version): base64_of(material)})
        return self.read()

    def set_primary(self, version: KeyVersion, revision: str) -> StoredKeys:
        """Name the version that writes use; it must be live."""
        seen = self._look()
        if changes.needs_promoting(seen.stored, version, revision):
            self._patch(seen, seen.live, {PRIMARY_VARIABLE: str(version)})
        return self.read()

    def archive(self, version: KeyVersion, revision: str) -> StoredKeys:
        """Keep a key in the archive, then take it from the live Secret, and from what kubectl keeps of its text."""
        seen = self._look()
        entry = variable_of(version)
        if changes.needs_archiving(seen.stored, version, revision):
            self._keep(seen, version)
            self._patch(seen, seen.live, {entry: None})
        elif seen.live.last_applied(entry):
            self._patch(seen, seen.live, {entry: None})
        return self.read()

    def restore(self, version: KeyVersion, revision: str) -> StoredKeys:
        """Give an archived key to the applications again; its copy in the archive stays."""
        seen = self._look()
        if changes.needs_restoring(seen.stored, version, revision):
            self._patch(seen, seen.live, {variable_of(version): base64_of(seen.stored.material(version))})
        return self.read()

    def destroy(self, version: KeyVersion, revision: str) -> StoredKeys:
        """Remove a key from the archive."""
        seen = self._look()
        if changes.needs_destroying(seen.stored, version, revision) or seen.archive.last_applied(str(version)):
            self._patch(seen, seen.archive, {str(version): None})
        return self.read()

    def _look(self) -> _Seen:
        for _ in range(_LOOKS):
            live, archive = self._read(self._secrets.live), self._read(self._secrets.archive)
            # While the live one stayed as it was, the archive was as it was read: so they stood together.
            if self._read(self._secrets.live).revision == live.revision:
                archived = _archived(archive)
                revision = f"{live.revision} {archive.revision}"
                return _Seen(live, archive, archived, StoredKeys.of(_live(live), archived, _primary(live), revision))
        raise changes.conflict()

    def _keep(self, seen: _Seen, version: KeyVersion) -> None:
        """Make sure that a live key is in the archive and reads back from there."""
        material = seen.stored.material(version)
        if version not in seen.archived:
            self._patch(seen, seen.archive, {str(version): base64_of(material)})
        if _archived(self._read(self._secrets.archive)).get(version) != material:
            raise KeyStoreDamagedError(
                f"{self._secrets.archive} holds something else as {version} than the key that is to be archived; find "
                f"out which one encrypted the values under {version}, and take the other away"
            )

    def _read(self, name: SecretName) -> _Secret:
        try:
            return _Secret.of(name, self._cluster.get(SECRET, name.namespace, name.name))
        except RefusalError as refusal:
            failure = _refused("read", name, refusal.status)
        except UnreachableError as error:
            failure = _unreachable(name, error)
        raise failure from None

    def _make(self, name: SecretName) -> None:
        try:
            self._cluster.create(SECRET, name.namespace, name.name, {"type": "Opaque"})
        except RefusalError as refusal:
            failure: KeyStoreError = _not_made(name, refusal.status)
        except UnreachableError as error:
            failure = _unreachable(name, error)
        else:
            return
        raise failure from None

    def _patch(self, seen: _Seen, secret: _Secret, entries: Mapping[str, str | None]) -> None:
        """Change entries (None: take away) if the Secret is still as it was read.

        What kubectl keeps of its text goes with an entry that is taken away.
        """
        for each in (seen.live, seen.archive):
            _require_mutable(each)
        coded = {name: None if text is None else _coded(text) for name, text in entries.items()}
        metadata: dict[str, Any] = {"resourceVersion": secret.revision}
        if any(text is None and secret.last_applied(name) for name, text in entries.items()):
            metadata["annotations"] = {LAST_APPLIED: None}
        name = secret.name
        try:
            self._cluster.patch(SECRET, name.namespace, name.name, {"metadata": metadata, "data": coded})
        except RefusalError as refusal:
            # Our own patch, whose answer was lost, or somebody else's.
            if refusal.status == HTTPStatus.CONFLICT and self._holds(name, coded):
                return
            failure = _refused("patch", name, refusal.status)
        except UnreachableError as error:
            failure = _unreachable(name, error)
        else:
            return
        raise failure from None

    def _holds(self, name: SecretName, coded: Mapping[str, str | None]) -> bool:
        now = self._read(name)
        taken_away = [entry for entry, text in coded.items() if text is None]
        return all(now.data.get(entry) == text for entry, text in coded.items()) and not any(
            now.last_applied(entry) for entry in taken_away
        )


def _live(secret: _Secret) -> dict[KeyVersion, Entry]:
    entries: dict[KeyVersion, Entry] = {}
    for name in secret.data:
        try:
            version = version_in(name)
        except InvalidKeyError as error:
            raise KeyStoreDamagedError(f"{secret.name}: {error}") from None
        if version is not None:
            entries[version] = _entry(secret, name, version)
    return entries


def _archived(secret: _Secret) -> dict[KeyVersion, Entry]:
    entries: dict[KeyVersion, Entry] = {}
    for name in secret.data:
        try:
            version = KeyVersion.parse(name)
        except InvalidKeyError:
            continue
        entries[version] = _entry(secret, name, version)
    return entries


def _entry(secret: _Secret, name: str, version: KeyVersion) -> Entry:
    try:
        return key_from_base64(secret.text(name))
    except InvalidKeyError:
        return DamagedKey(
            f"entry {name} of {secret.name} does not hold the base64 of 32 bytes; take it away, then run "
            f"`keyrotation restore-key {version}`"
        )


def _primary(secret: _Secret) -> KeyVersion | None:
    """The named version. A key that stands alone is not named: the seed's applications promote what is added."""
    if PRIMARY_VARIABLE not in secret.data:
        return None
    try:
        return KeyVersion.parse(secret.text(PRIMARY_VARIABLE).strip())
    except InvalidKeyError:
        raise KeyStoreDamagedError(
            f"{PRIMARY_VARIABLE} of {secret.name} does not name a key version; write v1, v2, … there"
        ) from None


def _coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _require_mutable(secret: _Secret) -> None:
    if secret.immutable:
        raise KeyStoreError(
            f"{secret.name} is immutable, so no key can be added or taken away; make it again from its own content "
            "without `immutable: true`"
        )


def _refused(verb: str, name: SecretName, status: int) -> KeyStoreError:
    match status:
        case HTTPStatus.NOT_FOUND:
            return MissingSecretError(
                f"there is no {name}; if it was deleted, put its keys back with `keyrotation restore-key`, else check "
                "[keys.kubernetes-secret], or have `keyrotation init` make it"
            )
        case HTTPStatus.CONFLICT:
            return changes.conflict()
        case HTTPStatus.UNPROCESSABLE_ENTITY | HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return KeyStoreError(
                f"the cluster takes no such change of {name} (HTTP {status}); see whether it became immutable, or "
                "holds nearly 1 MiB"
            )
    return KeyStoreUnavailableError(f"{_why(verb, name, status)}, and try again")


def _why(verb: str, name: SecretName, status: int) -> str:
    match status:
        case HTTPStatus.UNAUTHORIZED:
            return f"the cluster does not know who wants to {verb} {name}; renew the credentials"
        case HTTPStatus.FORBIDDEN:
            return (
                f"the cluster forbids this account to {verb} {name}; give it the Role in "
                "deploy/kubernetes, or see which quota or admission rule forbids it"
            )
        case HTTPStatus.TOO_MANY_REQUESTS:
            return f"the cluster throttles calls that {verb} {name}; wait a minute"
        case _:
            return f"the cluster fails to {verb} {name} (HTTP {status}); see to its cause"


def _not_made(name: SecretName, status: int) -> KeyStoreError:
    if status == HTTPStatus.NOT_FOUND:
        return KeyStoreDamagedError(f"there is no namespace {name.namespace}; correct [keys.kubernetes-secret]")
    return KeyStoreUnavailableError(
        f"there is no {name}, and this account cannot make it (HTTP {status}); run "
        f"`kubectl create secret generic {name.name} --namespace {name.namespace}`, and try again"
    )


def _unreachable(name: SecretName, error: UnreachableError) -> KeyStoreError:
    return KeyStoreUnavailableError(f"{name} cannot be reached: {error}, and try again")
