"""Keys in a Kubernetes Secret: the key store of a production on Kubernetes.

    Secret <name>            ENCRYPTION_MASTER_KEY, ENCRYPTION_MASTER_KEY_V2 …, ENCRYPTION_PRIMARY_VERSION,
                             after a compromise ENCRYPTION_COMPROMISED_VERSIONS
                             annotation keyrotation/roster: SHA-256 of the pinned roster
    Secret <archive_name>    v1, v2 …: keys that applications no longer get; or AWS Secrets Manager (`InAws`)

The live Secret is what Pods get as their environment or as a mounted volume. A change is a merge patch of our own
entries under the resource version that was read, which is the compare-and-swap; what others keep there stays. A key
is in the archive, read back, before it leaves the live Secret, and stays in the archive until it is destroyed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from keyrotation_pipeline.adapters.cluster import Access
from keyrotation_pipeline.adapters.keystores import changes
from keyrotation_pipeline.adapters.keystores.kubernetes_archives import Archived, InAws, open_archive
from keyrotation_pipeline.adapters.keystores.kubernetes_secrets import (
    MissingSecretError,
    Secret,
    SecretName,
    Secrets,
    require_mutable,
)
from keyrotation_pipeline.errors import InvalidKeyError, KeyStoreDamagedError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.keyring import (
    COMPROMISED_VARIABLE,
    PRIMARY_VARIABLE,
    compromised_in,
    variable_of,
    version_in,
    versions_as_text,
)
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.keys import KeyEntry, StoredKeys

_LOOKS = 5
ROSTER = "keyrotation/roster"
DESCRIPTION = "keyrotation/description"


@dataclass(frozen=True, slots=True)
class KeySecrets:
    """Which Secret, where its archive is, and where the cluster is."""

    live: SecretName
    archive: SecretName | InAws
    access: Access


@dataclass(frozen=True, slots=True)
class _Seen:
    """One look: the live Secret, the archive, and what they are as a store."""

    live: Secret
    archive: Archived
    stored: StoredKeys


class KubernetesKeyStore:
    """`ports.KeyStore` in a Secret and its archive; the revision is that of each."""

    def __init__(self, secrets: KeySecrets) -> None:
        self._secrets = secrets
        self._api = Secrets(secrets.access)
        self._archive = open_archive(secrets.archive, self._api)

    def __reduce__(self) -> tuple[type["KubernetesKeyStore"], tuple[KeySecrets]]:
        return type(self), (self._secrets,)

    def create(self) -> None:
        """Make the Secret and the archive, with no key in them, unless they are there."""
        if not self.exists():
            self._api.make(self._secrets.live)
        self._archive.create()

    def exists(self) -> bool:
        """Whether the live Secret is there."""
        try:
            self._api.read(self._secrets.live)
        except MissingSecretError:
            return False
        return True

    @property
    def description(self) -> str:
        """The Secret, and where archived keys go."""
        live = self._secrets.live
        return f"Kubernetes Secret {live.namespace}/{live.name}, archive {self._archive.description}"

    @property
    def residual_copies(self) -> str:
        """See `KeyStore.residual_copies`."""
        here = "in Kubernetes the key stays in backups of etcd, and in its history until that is compacted"
        return f"{here}; {there}" if (there := self._archive.residual_copies) else here

    def place_of(self, version: KeyVersion) -> str:
        """The entry of the live Secret."""
        return f"entry {variable_of(version)} of {self._secrets.live}"

    def read(self) -> StoredKeys:
        """The Secret and its archive; looked at again if the Secret was changed meanwhile."""
        return self._look().stored

    def add(self, version: KeyVersion, material: KeyMaterial, revision: str, *, archived: bool = False) -> StoredKeys:
        """Store a live key, or one that is archived from its beginning."""
        seen = self._look()
        # Of one that is in both places, the archived one may still be another.
        if isinstance(kept := seen.archive.entries.get(version), KeyMaterial) and kept != material:
            raise changes.different(version)
        if changes.needs_adding(seen.stored, version, material, revision):
            if archived:
                seen.archive.keep(version, material)
            else:
                self._change(seen, {variable_of(version): base64_of(material)})
        return self.read()

    def replace(self, version: KeyVersion, material: KeyMaterial, revision: str) -> StoredKeys:
        """Put another key in the place of a live one."""
        seen = self._look()
        if changes.needs_replacing(seen.stored, version, material, revision):
            self._change(seen, {variable_of(version): base64_of(material)})
        return self.read()

    def set_primary(self, version: KeyVersion, revision: str, description: str = "") -> StoredKeys:
        """Name the version that writes use; it must be live."""
        seen = self._look()
        if changes.needs_promoting(seen.stored, version, revision):
            self._change(seen, {PRIMARY_VARIABLE: str(version)}, {DESCRIPTION: description} if description else {})
        return self.read()

    def archive(self, version: KeyVersion, revision: str, description: str = "") -> StoredKeys:
        """Keep a key in the archive, then take it from the live Secret, and from what kubectl keeps of its text."""
        seen = self._look()
        entry = variable_of(version)
        if changes.needs_archiving(seen.stored, version, revision):
            seen.archive.keep(version, seen.stored.material(version), description)
            self._change(seen, {entry: None})
        elif seen.live.last_applied(entry):
            self._change(seen, {entry: None})
        return self.read()

    def restore(self, version: KeyVersion, revision: str) -> StoredKeys:
        """Give an archived key to the applications again; its copy in the archive stays."""
        seen = self._look()
        if changes.needs_restoring(seen.stored, version, revision):
            self._change(seen, {variable_of(version): base64_of(seen.stored.material(version))})
        return self.read()

    def destroy(self, version: KeyVersion, revision: str) -> StoredKeys:
        """Remove a key from the archive."""
        seen = self._look()
        changes.needs_destroying(seen.stored, version, revision)
        seen.archive.destroy(version)
        return self.read()

    def publish_compromised(self, versions: frozenset[KeyVersion], revision: str) -> StoredKeys:
        """See `KeyStore.publish_compromised`."""
        seen = self._look()
        if changes.needs_telling(seen.stored, versions, revision):
            told = versions_as_text(seen.stored.compromised | versions)
            self._change(seen, {COMPROMISED_VARIABLE: told})
        return self.read()

    def pin_roster(self, digest: str, revision: str) -> StoredKeys:
        """Keep the digest of the pinned roster in an annotation of the live Secret."""
        seen = self._look()
        if changes.needs_pinning(seen.stored, digest, revision):
            self._change(seen, {}, {ROSTER: digest})
        return self.read()

    def _look(self) -> _Seen:
        for _ in range(_LOOKS):
            live, archive = self._api.read(self._secrets.live), self._archive.read()
            # While the live one stayed as it was, the archive was as it was read: so they stood together.
            if self._api.read(self._secrets.live).revision == live.revision:
                revision, roster = f"{live.revision} {archive.revision}", live.annotations.get(ROSTER)
                stored = StoredKeys.of(
                    _live(live),
                    archive.entries,
                    _primary(live),
                    revision,
                    roster=roster,
                    compromised=_compromised(live),
                )
                return _Seen(live, archive, stored)
        raise changes.conflict()

    def _change(
        self,
        seen: _Seen,
        entries: Mapping[str, str | None],
        annotations: Mapping[str, str] | None = None,
    ) -> None:
        # Both before the first change: that the archive takes none must not be found out at the retirement.
        require_mutable(seen.live)
        seen.archive.require_mutable()
        self._api.patch(seen.live, entries, annotations or {})


def _stored(live: Secret, archive: Archived) -> StoredKeys:
    return StoredKeys.of(
        _live(live),
        archive.entries,
        _primary(live),
        f"{live.revision} {archive.revision}",
        roster=live.annotations.get(ROSTER),
        compromised=_compromised(live),
    )


def _live(secret: Secret) -> dict[KeyVersion, KeyEntry]:
    entries: dict[KeyVersion, KeyEntry] = {}
    for name in secret.data:
        try:
            version = version_in(name)
        except InvalidKeyError as error:
            raise KeyStoreDamagedError(f"{secret.name}: {error}") from None
        if version is not None:
            entries[version] = secret.key(name, version)
    return entries


def _primary(secret: Secret) -> KeyVersion | None:
    """The named version. None where nothing names one, also not a key that stands alone: another may be added to it."""
    if PRIMARY_VARIABLE not in secret.data:
        return None
    try:
        return KeyVersion.parse(secret.text(PRIMARY_VARIABLE).strip())
    except InvalidKeyError:
        raise KeyStoreDamagedError(
            f"{PRIMARY_VARIABLE} of {secret.name} does not name a key version; write v1, v2, … there"
        ) from None


def _compromised(secret: Secret) -> frozenset[KeyVersion]:
    if COMPROMISED_VARIABLE not in secret.data:
        return frozenset()
    try:
        return compromised_in({COMPROMISED_VARIABLE: secret.text(COMPROMISED_VARIABLE)})
    except InvalidKeyError as error:
        raise KeyStoreDamagedError(f"{secret.name}: {error}") from None
