"""Stores keys in AWS Secrets Manager: the key store of a production on AWS.

    <secret_id>                             {"v2": "<base64>", "v3": "<base64>", "primary": "v3"}
                                            after a compromise also "compromised": "v1,v2"
                                            description: Encryption key v3 (rotated 2026-01-05), authorised by …
                                            for an application with a library of its own also its list of the same
                                            keys, under its name: "FIELD_KEYS": "<base64url>,<base64url>"
                                            "keyrotation_owner": whose they are: home, databases, pinned roster, and
                                            the audit when they were last changed (JSON in a text)
    <archive_prefix>v1-archived-20260105    <base64>, tags Status=Archived, RotationDate=2026-01-05
                                            description: Archived key v1 (rotated 2026-01-05), authorised by …

A change puts the new text as AWSPENDING, reads it back, moves AWSCURRENT from the version that was read to it, and
waits until AWS's answers show that. AWS moves the label only if it is still there: that is the compare-and-swap. An
archived key is stored in its own secret before it leaves the live one. Nothing is ever deleted: the secret of a
destroyed key gets another text, and AWS drops the old version, which is unlabelled then, at some later time.
"""

import dataclasses
import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from keyrotation_pipeline.adapters.keystores import changes
from keyrotation_pipeline.adapters.keystores.aws_archive import Archives, AwsArchive, ManualSecrets, manual_secrets
from keyrotation_pipeline.adapters.keystores.key_list import KeyList
from keyrotation_pipeline.adapters.keystores.live_secret import (
    CANARY_ENTRY,
    COMPROMISED,
    OWNER,
    PRIMARY,
    LiveSecret,
    live_problems,
)
from keyrotation_pipeline.adapters.keystores.named_versions import text_of_owner
from keyrotation_pipeline.adapters.keystores.seal_checks import seal_problems
from keyrotation_pipeline.adapters.keystores.secrets_manager import (
    CURRENT,
    MOST_BYTES,
    PAUSE_SECONDS,
    PENDING,
    PREVIOUS,
    MissingSecretError,
    SecretFacts,
    SecretsManager,
    SecretVersion,
    StaleVersionError,
    request_token,
)
from keyrotation_pipeline.errors import InvalidKeyError, KeyStoreDamagedError, KeyStoreError, KeyStoreUnavailableError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing, versions_as_text
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.seal import UNSEALED, Seal
from keyrotation_pipeline.fieldcrypto.wrapping_keys import CANARY, WrappingKeyState
from keyrotation_pipeline.model.environment import Problem
from keyrotation_pipeline.model.keys import KeyEntry, StoredKeys, StoreOwner
from keyrotation_pipeline.ports.clock import Clock, attempts

_PATIENCE_SECONDS = 10.0
_ROSTER = "keyrotation-roster"  # a tag of earlier versions


@dataclass(frozen=True, slots=True)
class AwsSecret:
    """The secret, and how archived ones are named; the rest as boto3 takes it.

    Args:
        key_list: the application's own list, an entry of the same secret; None: it reads the versions.
    """

    secret_id: str
    archive_prefix: str
    region_name: str | None = None
    endpoint_url: str | None = None
    key_list: KeyList | None = None
    seal: Seal = UNSEALED


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """One snapshot: the live secret, the names of the archives of each version, and their content.

    Args:
        tagged: it has the tag in which earlier versions stored the roster's digest.
    """

    live: LiveSecret
    archives: Archives
    stored: StoredKeys
    tagged: bool


class AwsKeyStore:
    """`ports.KeyStore` in AWS Secrets Manager; the revision is the id of the version under AWSCURRENT."""

    def __init__(self, secret: AwsSecret, clock: Clock) -> None:
        self._secret = secret
        self._clock = clock
        self._list = secret.key_list
        self._aws = SecretsManager(clock, secret.region_name, secret.endpoint_url)
        self._archive = AwsArchive(self._aws, secret.secret_id, secret.archive_prefix, clock, secret.seal)

    def __reduce__(self) -> tuple[type["AwsKeyStore"], tuple[AwsSecret, Clock]]:
        return type(self), (self._secret, self._clock)

    def create(self) -> None:
        """Creates the secret without a key, unless it exists."""
        self._aws.create(self._id, "{}", request_token("new", self._id), {})

    def exists(self) -> bool:
        """Returns whether the secret exists."""
        try:
            self._aws.read(self._id)
        except MissingSecretError:
            return False
        return True

    def convert(self, ring: KeyRing) -> bool:
        """Converts one plain key to versioned JSON with these keys and their primary; returns False if already done."""
        live = self._live()
        if live.plain:
            keys = {
                str(version): self._secret.seal.text_of(version, ring.material(version)) for version in ring.versions
            }
            self._put(live, {**keys, PRIMARY: str(ring.primary)})
        return live.plain

    def manual_secrets(self) -> ManualSecrets:
        """See `manual_secrets`."""
        return manual_secrets(self._aws, self._live())

    def listed(self) -> str | None:
        """Returns the application's own list as it is; None: there is none."""
        return None if self._list is None else self._live().list_text(self._list.name)

    @property
    def description(self) -> str:
        """The secret, where it is, and where archived keys go."""
        region = f" in {self._secret.region_name}" if self._secret.region_name else ""
        archive = f"archive {self._secret.archive_prefix}*{self._secret.seal.description}"
        return f"AWS Secrets Manager {self._id}{region}, {archive}"

    @property
    def residual_copies(self) -> str:
        """See `KeyStore.residual_copies`."""
        return self._archive.residual_copies

    def place_of(self, version: KeyVersion) -> str:
        """Returns the entry of the live secret."""
        return f"entry {version} of secret {self._id}"

    def preflight(self) -> tuple[Problem, ...]:
        """See `KeyStore.preflight`; with the live secret itself, its replicas and its quota."""
        listed = () if self._list is None else self._list.problems(self.read())
        sealed = seal_problems(self._secret.seal, self.read().unsealed) if self._secret.seal.wrapping else ()
        return (*listed, *sealed, *live_problems(self._aws, self._id, self._clock), *self._archive.problems())

    def read(self) -> StoredKeys:
        """Reads the live secret and every archived one; retries if the live one changed meanwhile."""
        return self._read_snapshot().stored

    def made(self, version: KeyVersion) -> None:  # noqa: ARG002
        """See `KeyStore.made`."""
        return

    def add(self, version: KeyVersion, material: KeyMaterial, revision: str, *, archived: bool = False) -> StoredKeys:
        """Stores a live key, or one that is archived from the start."""
        seen = self._read_snapshot()
        if changes.needs_adding(seen.stored, version, material, revision):
            if archived:
                self._archive.keep(version, material, seen.archives.get(version, ()))
            else:
                self._replace(seen, {str(version): self._secret.seal.text_of(version, material)})
        return self.read()

    def replace(self, version: KeyVersion, material: KeyMaterial, revision: str) -> StoredKeys:
        """Replaces a live key by another."""
        seen = self._read_snapshot()
        if changes.needs_replacing(seen.stored, version, material, revision):
            current = self._replace(seen, {str(version): self._secret.seal.text_of(version, material)})
            self._unlabel(seen.live, current)
        return self.read()

    def set_primary(self, version: KeyVersion, revision: str, description: str = "") -> StoredKeys:
        """Names the version that writes use; it must be live."""
        seen = self._read_snapshot()
        if changes.needs_promoting(seen.stored, version, revision):
            self._replace(seen, {PRIMARY: str(version)})
        elif seen.stored.undelivered is not None:
            self._replace(seen, {})
        if description:
            with suppress(KeyStoreUnavailableError):  # an older policy may not grant it, and nothing depends on it
                self._aws.set_description(self._id, description)
        return self.read()

    def archive(self, version: KeyVersion, revision: str, description: str = "") -> StoredKeys:
        """Stores a key in its own secret, and removes it from the live one and from AWS's previous version of that."""
        seen = self._read_snapshot()
        current = seen.live.version
        if changes.needs_archiving(seen.stored, version, revision):
            known = seen.archives.get(version, ())
            self._archive.keep(version, seen.stored.material(version), known, description)
            current = self._replace(seen, {str(version): None})
        self._unlabel(seen.live, current)
        return self.read()

    def restore(self, version: KeyVersion, revision: str) -> StoredKeys:
        """Gives an archived key to the applications again; its archive stays for when it is archived again."""
        seen = self._read_snapshot()
        if changes.needs_restoring(seen.stored, version, revision):
            self._replace(seen, {str(version): self._secret.seal.text_of(version, seen.stored.material(version))})
        return self.read()

    def destroy(self, version: KeyVersion, revision: str) -> StoredKeys:
        """Overwrites the text of an archived key, and removes every label from the version that holds it.

        AWS overwrites it unconditionally, so the live text is put again first: whoever decides from a late answer, or
        loses a race, fails there and destroys nothing.
        """
        seen = self._read_snapshot()
        current = seen.live.version
        if changes.needs_destroying(seen.stored, version, revision) and not seen.live.plain:
            current = self._replace(seen, {})
        self._archive.destroy(version, seen.archives.get(version, ()))
        self._unlabel(seen.live, current)
        return self.read()

    def publish_compromised(self, versions: frozenset[KeyVersion], revision: str) -> StoredKeys:
        """See `KeyStore.publish_compromised`."""
        seen = self._read_snapshot()
        if changes.needs_publishing(seen.stored, versions, revision):
            self._replace(seen, {COMPROMISED: versions_as_text(seen.stored.compromised | versions)})
        return self.read()

    @property
    def sealed_by(self) -> str:
        """See `KeyStore.sealed_by`."""
        return self._secret.seal.name

    def wrapping_key(self) -> WrappingKeyState | None:
        """See `KeyStore.wrapping_key`."""
        return self._secret.seal.state()

    def offer_canary(self, canary: KeyMaterial, revision: str) -> StoredKeys:
        """See `KeyStore.offer_canary`."""
        seen = self._read_snapshot()
        if changes.needs_canary(seen.stored, canary, revision):
            self._replace(seen, {CANARY_ENTRY: self._secret.seal.text_of(CANARY, canary)})
        return self.read()

    def reseal(self, revision: str) -> StoredKeys:
        """See `KeyStore.reseal`; versions of a secret without a label keep the earlier text until AWS drops them."""
        seen = self._read_snapshot()
        if changes.needs_resealing(seen.stored, revision):
            live = {version: seen.stored.material(version) for version in seen.live.unsealed()}
            for version in sorted(self._archive.unsealed):
                self._archive.reseal(version, seen.archives.get(version, ()))
            texts: dict[str, str | None] = {
                str(version): self._secret.seal.text_of(version, key) for version, key in live.items()
            }
            if self._list is not None and self._list.name in seen.live.entries:
                self._list.require_removable(seen.live.list_text(self._list.name), seen.stored)
                texts[self._list.name] = None
            if texts:
                self._unlabel(seen.live, self._replace(seen, texts))
        return self.read()

    def name_owner(self, owner: StoreOwner, revision: str) -> StoredKeys:
        """Stores whose the keys are, in an entry of the live secret; a plain key has none, since its text is not ours.

        What an earlier version stored as a tag is removed.
        """
        seen = self._read_snapshot()
        if not seen.live.plain and changes.needs_naming(seen.stored, owner, revision):
            self._replace(seen, {OWNER: text_of_owner(owner)})
            if seen.tagged:
                self._aws.untag(self._id, _ROSTER)
                self._aws.until_seen(self._id, lambda: _ROSTER not in self._aws.describe(self._id).tags)
        return self.read()

    @property
    def _id(self) -> str:
        return self._secret.secret_id

    def _read_snapshot(self) -> _Snapshot:
        for _ in attempts(self._clock, pause_seconds=PAUSE_SECONDS, patience_seconds=_PATIENCE_SECONDS):
            # In this order a key that is being moved is seen in at least one place.
            live = self._live()
            facts = self._aws.describe(self._id)
            if CURRENT in facts.labels.get(live.version, ()):
                archives = self._archive.names(facts.tags)
                stored = self._stored(live, facts, self._archive.read(archives))
                return _Snapshot(live, archives, stored, _ROSTER in facts.tags)
        raise changes.conflict()

    def _live(self) -> LiveSecret:
        return self._parsed(self._aws.read(self._id))

    def _parsed(self, found: SecretVersion) -> LiveSecret:
        return LiveSecret.of(self._id, found, None if self._list is None else self._list.name, self._secret.seal)

    def _stored(self, live: LiveSecret, facts: SecretFacts, archived: dict[KeyVersion, KeyEntry]) -> StoredKeys:
        pending: dict[KeyVersion, KeyMaterial] = {}
        left: dict[KeyVersion, str] = {}
        known, roster = live.keys(), facts.tags.get(_ROSTER)
        for version, labels in facts.labels.items():
            if version == live.version or not labels:
                continue
            earlier, listed = self._labelled(version, labels[0])
            for each, key in earlier.items():
                if each not in known and archived.get(each) == key:
                    left[each] = self._left_behind(each, version, labels[0])
                elif each not in known and PENDING in labels:
                    pending[each] = key
            for each, archived_key in archived.items():
                if each not in known and archived_key in listed:
                    left[each] = self._left_behind(each, version, labels[0])
        # The archives are part of the state, but every change of them changes the live secret too, except a
        # destruction.
        revision = " ".join([live.version, *map(str, sorted(archived)), *([roster] if roster else [])])
        compromised = live.compromised()
        stored = StoredKeys.of(
            known, archived, live.primary(), revision, pending, roster, compromised, left, live.owner()
        )
        stored = replace(stored, unversioned=live.plain)
        if self._list is None:
            return self._under_seal(live, stored)
        return self._list.judged(live.list_text(self._list.name), self._under_seal(live, stored))

    def _under_seal(self, live: LiveSecret, stored: StoredKeys) -> StoredKeys:
        if (seal := self._secret.seal).wrapping is None:
            return stored
        outside = [*live.unsealed(), *self._archive.unsealed]
        if self._list is not None:
            outside += self._list.exposed(live.list_text(self._list.name), stored.live)
        return stored.under(seal.name, outside, seal.canary_of(live.entries.get(CANARY_ENTRY)))

    def _labelled(self, version: str, label: str) -> tuple[Mapping[KeyVersion, KeyMaterial], Collection[KeyMaterial]]:
        """Returns the keys in a version that is not current, by version and in the application's list.

        Both are empty if its text is not ours, or its label has moved.
        """
        try:
            found = self._aws.read(self._id, label)
            if found.id != version:
                return {}, ()
            secret = self._parsed(found)
        except KeyStoreDamagedError:
            return {}, ()
        except KeyStoreUnavailableError as error:
            raise KeyStoreUnavailableError(
                f"what secret {self._id} holds under the label {label} is not known ({error}); if it cannot be read, "
                f"run `{self._command(version, label)}`"
            ) from None
        listed: Collection[KeyMaterial] = ()
        if self._list is not None:
            with suppress(KeyStoreDamagedError, InvalidKeyError):
                listed = self._list.keys(secret.list_text(self._list.name))
        return secret.materials, listed

    def _left_behind(self, version: KeyVersion, id_: str, label: str) -> str:
        return (
            f"{version} is archived, but secret {self._id} still gives its key under the label {label}; run "
            f"`{self._command(id_, label)}`"
        )

    def _command(self, version: str, label: str) -> str:
        return (
            f"aws secretsmanager update-secret-version-stage --secret-id {self._id} --version-stage {label} "
            f"--remove-from-version-id {version}"
        )

    def _unlabel(self, live: LiveSecret, current: str) -> None:
        """Leaves no label on what the live secret was before."""
        if current != live.version:
            self._aws.take_off(self._id, PREVIOUS, live.version)
        self._aws.unlabel_previous(self._id, current)

    def _replace(self, seen: _Snapshot, difference: Mapping[str, str | None]) -> str:
        """Changes the live text by a difference (None: removes the entry), and the application's list with it.

        Returns:
            The id of the new version.
        """
        live = seen.live
        if live.plain:
            raise KeyStoreError(
                f"secret {self._id} holds one key without a version; run `keyrotation init --convert` when every "
                "application reads the versioned form"
            )
        after = {name: text for name, text in {**live.entries, **difference}.items() if text is not None}
        if self._list is not None:
            name, then = self._list.name, dataclasses.replace(live, entries=after)
            if (text := self._list.renewed(live.list_text(name), then.keys(), then.primary(), seen.stored)) is not None:
                after[name] = text
        return self._put(live, after)

    def _put(self, live: LiveSecret, entries: dict[str, Any]) -> str:
        """Makes a version with these entries current, and waits until AWS answers with it; returns its id."""
        text = json.dumps(entries)
        if len(text.encode()) > MOST_BYTES:
            raise KeyStoreError(
                f"secret {self._id} would hold more than {MOST_BYTES:,} bytes; move whatever is not a key elsewhere"
            )
        put = str(uuid4())
        self._aws.put(self._id, text, put, PENDING)
        self._aws.until_seen(self._id, lambda: self._reads_back(live, put, text))
        try:
            self._aws.move(self._id, CURRENT, source=live.version, target=put)
        except StaleVersionError:
            # Either our own move, whose answer was lost, or somebody else's.
            if self._current_after(live) != put:
                raise changes.conflict() from None
        self._current_after(live)
        self._aws.take_off(self._id, PENDING, put)
        return put

    def _reads_back(self, live: LiveSecret, put: str, text: str) -> bool:
        found = None
        with suppress(MissingSecretError):  # not seen yet; or another writer took the label, was faster, and removed it
            found = self._aws.read(self._id, PENDING)
        if found is not None and found.id == put:
            if found.text != text:
                raise KeyStoreDamagedError(f"secret {self._id} does not read back as it was put; check its versions")
            return True
        if self._live().version != live.version:
            raise changes.conflict()
        return False

    def _current_after(self, live: LiveSecret) -> str:
        """Returns the version that replaced the one that was read, once AWS answers with it."""
        current = live.version

        def is_another() -> bool:
            nonlocal current
            current = self._live().version
            return current != live.version

        self._aws.until_seen(self._id, is_another)
        return current
