"""Stores keys in a Kubernetes Secret: the key store of a production on Kubernetes.

    Secret <name>            ENCRYPTION_MASTER_KEY, ENCRYPTION_MASTER_KEY_V2 …, ENCRYPTION_PRIMARY_VERSION,
                             after a compromise ENCRYPTION_COMPROMISED_VERSIONS
                             for an application with a library of its own also its list of the same keys, by its name
                             annotation keyrotation/owner: whose they are: home, databases, pinned roster, and the
                             audit when they were last changed (JSON)
    Secret <archive_name>    v1, v2 …: keys that applications no longer get; or AWS Secrets Manager (`InAws`)

The live Secret is what Pods get as their environment or as a mounted volume. A change is a merge patch of our own
entries under the resource version that was read: that is the compare-and-swap. Entries of others are not changed. A key
is in the archive, read back, before it leaves the live Secret, and stays in the archive until it is destroyed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from keyrotation_pipeline.adapters.cluster import Access
from keyrotation_pipeline.adapters.keystores import changes
from keyrotation_pipeline.adapters.keystores.key_list import KeyList
from keyrotation_pipeline.adapters.keystores.kubernetes_archives import Archived, InAws, open_archive
from keyrotation_pipeline.adapters.keystores.kubernetes_secrets import (
    LAST_APPLIED,
    MissingSecretError,
    Secret,
    SecretName,
    Secrets,
    require_mutable,
)
from keyrotation_pipeline.adapters.keystores.named_versions import owner_named, primary_named, text_of_owner
from keyrotation_pipeline.adapters.keystores.seal_checks import seal_problems
from keyrotation_pipeline.errors import InvalidKeyError, KeyStoreDamagedError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import (
    CANARY_VARIABLE,
    COMPROMISED_VARIABLE,
    PRIMARY_VARIABLE,
    compromised_in,
    variable_of,
    version_in,
    versions_as_text,
)
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.seal import UNSEALED, Seal
from keyrotation_pipeline.fieldcrypto.wrapping_keys import CANARY, WrappingKeyState
from keyrotation_pipeline.model.environment import Problem
from keyrotation_pipeline.model.keys import KeyEntry, StoredKeys, StoreOwner
from keyrotation_pipeline.ports.clock import Clock

_ATTEMPTS = 5
OWNER = "keyrotation/owner"
ROSTER = "keyrotation/roster"  # of earlier versions
DESCRIPTION = "keyrotation/description"


@dataclass(frozen=True, slots=True)
class KeySecrets:
    """The Secret, its archive, and the cluster.

    Args:
        key_list: the application's own list, an entry of the live Secret; None: it reads the versions.
        seal: of the keys in both.
    """

    live: SecretName
    archive: SecretName | InAws
    access: Access
    key_list: KeyList | None = None
    seal: Seal = UNSEALED


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """One snapshot: the live Secret, the archive, and their state as a store."""

    live: Secret
    archive: Archived
    stored: StoredKeys


class KubernetesKeyStore:
    """`ports.KeyStore` in a Secret and its archive; the revision combines those of both.

    Args:
        has_answered: see `Cluster`; a worker process gets the store of its parent.
    """

    def __init__(self, secrets: KeySecrets, clock: Clock, has_answered: bool = False) -> None:  # noqa: FBT001, FBT002 - pickled
        self._secrets = secrets
        self._clock = clock
        self._list = secrets.key_list
        self._api = Secrets(secrets.access, clock, has_answered=has_answered)
        self._archive = open_archive(secrets.archive, self._api, secrets.seal)

    def __reduce__(self) -> tuple[type["KubernetesKeyStore"], tuple[KeySecrets, Clock, bool]]:
        return type(self), (self._secrets, self._clock, self._api.has_answered)

    def create(self) -> None:
        """Creates the Secret and the archive without a key, unless they exist."""
        if not self.exists():
            self._api.make(self._secrets.live)
        self._archive.create()

    def exists(self) -> bool:
        """Returns whether the live Secret exists."""
        try:
            self._api.read(self._secrets.live)
        except MissingSecretError:
            return False
        return True

    def listed(self) -> str | None:
        """Returns the application's own list as it is; None: there is none."""
        return self._list_in(self._api.read(self._secrets.live))

    @property
    def description(self) -> str:
        """The Secret, and where archived keys go."""
        live, seal = self._secrets.live, self._secrets.seal.description
        return f"Kubernetes Secret {live.namespace}/{live.name}, archive {self._archive.description}{seal}"

    @property
    def residual_copies(self) -> str:
        """See `KeyStore.residual_copies`."""
        here = "in Kubernetes the key stays in backups of etcd, and in its history until that is compacted"
        return f"{here}; {there}" if (there := self._archive.residual_copies) else here

    def place_of(self, version: KeyVersion) -> str:
        """Returns the entry of the live Secret."""
        return f"entry {variable_of(version)} of {self._secrets.live}"

    def preflight(self) -> tuple[Problem, ...]:
        """See `KeyStore.preflight`."""
        listed = () if self._list is None else self._list.problems(self.read())
        sealed = seal_problems(self._secrets.seal, self.read().unsealed) if self._secrets.seal.wrapping else ()
        return (*listed, *sealed, *self._archive.problems())

    def read(self) -> StoredKeys:
        """Reads the Secret and its archive; retries if the Secret changed meanwhile."""
        return self._read_snapshot().stored

    def made(self, version: KeyVersion) -> None:  # noqa: ARG002
        """See `KeyStore.made`."""
        return

    def add(self, version: KeyVersion, material: KeyMaterial, revision: str, *, archived: bool = False) -> StoredKeys:
        """Stores a live key, or one that is archived from the start."""
        seen = self._read_snapshot()
        # If it is in both places, the archived one may still differ.
        if isinstance(archived_key := seen.archive.entries.get(version), KeyMaterial) and archived_key != material:
            raise changes.different(version)
        if changes.needs_adding(seen.stored, version, material, revision):
            if archived:
                seen.archive.keep(version, material)
            else:
                self._change(seen, {variable_of(version): self._secrets.seal.text_of(version, material)})
        return self.read()

    def replace(self, version: KeyVersion, material: KeyMaterial, revision: str) -> StoredKeys:
        """Replaces a live key by another."""
        seen = self._read_snapshot()
        if changes.needs_replacing(seen.stored, version, material, revision):
            self._change(seen, {variable_of(version): self._secrets.seal.text_of(version, material)})
        return self.read()

    def set_primary(self, version: KeyVersion, revision: str, description: str = "") -> StoredKeys:
        """Names the version that writes use; it must be live."""
        seen = self._read_snapshot()
        if changes.needs_promoting(seen.stored, version, revision):
            self._change(seen, {PRIMARY_VARIABLE: str(version)}, {DESCRIPTION: description} if description else {})
        elif seen.stored.undelivered is not None:
            self._change(seen, {})
        return self.read()

    def archive(self, version: KeyVersion, revision: str, description: str = "") -> StoredKeys:
        """Stores a key in the archive, then removes it from the live Secret and from kubectl's copy of its text.

        No outage is waited for: the retirement calls this while it holds locks on the application's tables.
        """
        with self._api.hurried():
            seen = self._read_snapshot()
            entry = variable_of(version)
            if changes.needs_archiving(seen.stored, version, revision):
                seen.archive.keep(version, seen.stored.material(version), description)
                self._change(seen, {entry: None})
            elif any(map(seen.live.last_applied, [entry] if self._list is None else [entry, self._list.name])):
                self._change(seen, {entry: None})
            return self.read()

    def restore(self, version: KeyVersion, revision: str) -> StoredKeys:
        """Gives an archived key to the applications again; its copy in the archive stays."""
        seen = self._read_snapshot()
        if changes.needs_restoring(seen.stored, version, revision):
            self._change(
                seen, {variable_of(version): self._secrets.seal.text_of(version, seen.stored.material(version))}
            )
        return self.read()

    def destroy(self, version: KeyVersion, revision: str) -> StoredKeys:
        """Removes a key from the archive."""
        seen = self._read_snapshot()
        changes.needs_destroying(seen.stored, version, revision)
        seen.archive.destroy(version)
        return self.read()

    def publish_compromised(self, versions: frozenset[KeyVersion], revision: str) -> StoredKeys:
        """See `KeyStore.publish_compromised`."""
        seen = self._read_snapshot()
        if changes.needs_publishing(seen.stored, versions, revision):
            published = versions_as_text(seen.stored.compromised | versions)
            self._change(seen, {COMPROMISED_VARIABLE: published})
        return self.read()

    @property
    def sealed_by(self) -> str:
        """See `KeyStore.sealed_by`."""
        return self._secrets.seal.name

    def wrapping_key(self) -> WrappingKeyState | None:
        """See `KeyStore.wrapping_key`."""
        return self._secrets.seal.state()

    def offer_canary(self, canary: KeyMaterial, revision: str) -> StoredKeys:
        """See `KeyStore.offer_canary`."""
        seen = self._read_snapshot()
        if changes.needs_canary(seen.stored, canary, revision):
            self._change(seen, {CANARY_VARIABLE: self._secrets.seal.text_of(CANARY, canary)})
        return self.read()

    def reseal(self, revision: str) -> StoredKeys:
        """See `KeyStore.reseal`; with each key goes kubectl's copy of it."""
        wanted = changes.needs_resealing(stored := self.read(), revision)
        if wanted and self._list is not None:
            self._list.require_removable(self._list_in(self._read_snapshot().live), stored)
        for version in stored.unsealed if wanted else ():
            seen = self._read_snapshot()
            key, entry = seen.stored.material(version), variable_of(version)
            seen.archive.reseal(version)
            if version in seen.stored.live:
                copied = {LAST_APPLIED: None} if seen.live.last_applied(entry) else {}
                self._change(seen, {entry: self._secrets.seal.text_of(version, key)}, copied)
        seen = self._read_snapshot()
        if wanted and self._list is not None and self._list.name in seen.live.data:
            copied = {LAST_APPLIED: None} if seen.live.last_applied(self._list.name) else {}
            self._change(seen, {self._list.name: None}, copied)
        return self.read()

    def name_owner(self, owner: StoreOwner, revision: str) -> StoredKeys:
        """Stores whose the keys are in an annotation of the live Secret."""
        seen = self._read_snapshot()
        if changes.needs_naming(seen.stored, owner, revision):
            self._change(seen, {}, {OWNER: text_of_owner(owner), ROSTER: None})
        return self.read()

    def _read_snapshot(self) -> _Snapshot:
        for _ in range(_ATTEMPTS):
            live, archive = self._api.read(self._secrets.live), self._archive.read()
            # The live one did not change while the archive was read, so both belong to one moment.
            if self._api.read(self._secrets.live).revision == live.revision:
                revision, roster = f"{live.revision} {archive.revision}", live.annotations.get(ROSTER)
                stored = StoredKeys.of(
                    _live(live, self._secrets.seal),
                    archive.entries,
                    _primary(live),
                    revision,
                    roster=roster,
                    compromised=_compromised(live),
                    owner=owner_named(live.annotations.get(OWNER), f"annotation {OWNER} of {live.name}"),
                )
                if (seal := self._secrets.seal).wrapping is not None:
                    outside = [each for each in _live(live, seal) if not seal.is_under(live.text(variable_of(each)))]
                    canary = live.text(CANARY_VARIABLE) if CANARY_VARIABLE in live.data else None
                    if self._list is not None:
                        outside += self._list.exposed(self._list_in(live), stored.live)
                    stored = stored.under(seal.name, (*outside, *archive.unsealed), seal.canary_of(canary))
                if self._list is not None:
                    stored = self._list.judged(self._list_in(live), stored)
                return _Snapshot(live, archive, stored)
        raise changes.conflict()

    def _list_in(self, live: Secret) -> str | None:
        if self._list is None or self._list.name not in live.data:
            return None
        text = live.text(self._list.name)
        return text if text or not live.data[self._list.name] else "not text"

    def _change(
        self,
        seen: _Snapshot,
        entries: Mapping[str, str | None],
        annotations: Mapping[str, str | None] | None = None,
    ) -> None:
        # Checks both before the first change: an immutable archive must not be discovered only at the retirement.
        require_mutable(seen.live)
        seen.archive.require_mutable()
        self._api.patch(seen.live, {**entries, **self._renewed(seen, entries)}, annotations or {})

    def _renewed(self, seen: _Snapshot, entries: Mapping[str, str | None]) -> Mapping[str, str]:
        """Returns the application's list as it must be with a change of entries; nothing if it is to stay."""
        if self._list is None:
            return {}
        then = seen.live.changed(entries)
        text = self._list.renewed(
            self._list_in(seen.live), _live(then, self._secrets.seal), _primary(then), seen.stored
        )
        return {} if text is None else {self._list.name: text}


def _live(secret: Secret, seal: Seal) -> dict[KeyVersion, KeyEntry]:
    entries: dict[KeyVersion, KeyEntry] = {}
    for name in secret.data:
        try:
            version = version_in(name)
        except InvalidKeyError as error:
            raise KeyStoreDamagedError(f"{secret.name}: {error}") from None
        if version is not None:
            entries[version] = secret.key(name, version, seal)
    return entries


def _primary(secret: Secret) -> KeyVersion | None:
    """Returns the named version; None if none is named, even for a single key: another may be added to it."""
    text = secret.text(PRIMARY_VARIABLE).strip() if PRIMARY_VARIABLE in secret.data else None
    return primary_named(text, f"{PRIMARY_VARIABLE} of {secret.name}")


def _compromised(secret: Secret) -> frozenset[KeyVersion]:
    if COMPROMISED_VARIABLE not in secret.data:
        return frozenset()
    try:
        return compromised_in({COMPROMISED_VARIABLE: secret.text(COMPROMISED_VARIABLE)})
    except InvalidKeyError as error:
        raise KeyStoreDamagedError(f"{secret.name}: {error}") from None
