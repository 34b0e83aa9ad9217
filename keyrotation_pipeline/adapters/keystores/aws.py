"""Keys in AWS Secrets Manager: the key store of a production on AWS.

    <secret_id>                             {"v2": "<base64>", "v3": "<base64>", "primary": "v3"}
    <archive_prefix>v1-archived-20260105    <base64>, tags Status=Archived, RotationDate=2026-01-05

A change puts the new text as AWSPENDING, reads it back, and moves AWSCURRENT from the version that was read to it: AWS
does this only if AWSCURRENT is still there, which is the compare-and-swap. An archived key is in its own secret before
it leaves the live one. Nothing is ever deleted: a destroyed key's secret gets another text, and AWS drops the old
version, which no label names any longer, in its own time.

Which archives there are is told by tags of the live secret, since the list of secrets may lack new ones for minutes;
the list tells of those whose tag was lost.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from keyrotation_pipeline.adapters.keystores import changes
from keyrotation_pipeline.adapters.keystores.secrets_manager import (
    CURRENT,
    MOST_BYTES,
    PENDING,
    PREVIOUS,
    MissingSecretError,
    SecretsManager,
    SecretVersion,
    StaleVersionError,
)
from keyrotation_pipeline.errors import InvalidKeyError, KeyStoreDamagedError, KeyStoreError
from keyrotation_pipeline.fieldcrypto.grammar import VERSION_PATTERN, KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of, key_from_base64
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.stored_keys import DamagedKey, Entry, StoredKeys
from keyrotation_pipeline.ports.clock import Clock

_VERSION = re.compile(VERSION_PATTERN)
_PRIMARY = "primary"
_INDEX = "keyrotation-archived-"
_DESTROYED = "destroyed"
_LOOKS = 5


@dataclass(frozen=True, slots=True)
class AwsSecret:
    """Which secret, and how archived ones are named; the rest as boto3 takes it."""

    secret_id: str
    archive_prefix: str
    region_name: str | None = None
    endpoint_url: str | None = None


@dataclass(frozen=True, slots=True)
class _Live:
    """The live secret as it is: its version, and the entries of its text, also those that are not ours.

    Args:
        plain: it is the seed's form, one key without a version.
    """

    version: str
    entries: dict[str, Any]
    plain: bool

    def keys(self, secret: str) -> dict[KeyVersion, Entry]:
        return {
            KeyVersion.parse(name): _entry(f"entry {name} of secret {secret}", name, text)
            for name, text in self.entries.items()
            if _VERSION.fullmatch(name)
        }


@dataclass(frozen=True, slots=True)
class _Seen:
    """One look: the live secret, the names of the archives of each version, and what is in them."""

    live: _Live
    archives: Mapping[KeyVersion, tuple[str, ...]]
    stored: StoredKeys


class AwsKeyStore:
    """`ports.KeyStore` in AWS Secrets Manager; the revision is the id of the version under AWSCURRENT."""

    def __init__(self, secret: AwsSecret, clock: Clock) -> None:
        self._secret = secret
        self._clock = clock
        self._aws = SecretsManager(secret.region_name, secret.endpoint_url)

    def __reduce__(self) -> tuple[type["AwsKeyStore"], tuple[AwsSecret, Clock]]:
        return type(self), (self._secret, self._clock)

    def create(self) -> None:
        """Make the secret, with no key in it, unless it is there."""
        self._aws.create(self._id, "{}", _token("new", self._id), {})

    def exists(self) -> bool:
        """Whether the secret is there."""
        try:
            self._aws.read(self._id)
        except MissingSecretError:
            return False
        return True

    def convert(self) -> bool:
        """Turn the seed's plain key into versioned JSON; False if there is none."""
        live = self._live()
        if live.plain:
            self._put(live, live.entries)
        return live.plain

    @property
    def description(self) -> str:
        """The secret, where it is, and where archived keys go."""
        region = f" in {self._secret.region_name}" if self._secret.region_name else ""
        return f"AWS Secrets Manager {self._id}{region}, archive {self._secret.archive_prefix}*"

    def read(self) -> StoredKeys:
        """The live secret and every archived one; looked at again if it was changed meanwhile."""
        return self._look().stored

    def add(self, version: KeyVersion, material: KeyMaterial, revision: str) -> StoredKeys:
        """Store a live key."""
        seen = self._look()
        if changes.needs_adding(seen.stored, version, material, revision):
            self._replace(seen.live, {str(version): base64_of(material)})
        return self.read()

    def set_primary(self, version: KeyVersion, revision: str) -> StoredKeys:
        """Name the version that writes use; it must be live."""
        seen = self._look()
        if changes.needs_promoting(seen.stored, version, revision):
            self._replace(seen.live, {_PRIMARY: str(version)})
        return self.read()

    def archive(self, version: KeyVersion, revision: str) -> StoredKeys:
        """Keep a key in a secret of its own, take it from the live one, and from what AWS keeps as the previous one."""
        seen = self._look()
        if changes.needs_archiving(seen.stored, version, revision):
            self._keep(version, seen.stored.material(version), seen.archives.get(version, ()))
            self._replace(seen.live, {str(version): None})
        self._forget_previous(self._id)
        return self.read()

    def restore(self, version: KeyVersion, revision: str) -> StoredKeys:
        """Give an archived key to the applications again; its archive stays, and is used again when it is archived."""
        seen = self._look()
        if changes.needs_restoring(seen.stored, version, revision):
            self._replace(seen.live, {str(version): base64_of(seen.stored.material(version))})
        return self.read()

    def destroy(self, version: KeyVersion, revision: str) -> StoredKeys:
        """Put another text in the place of an archived key, and take every label off the version that holds it."""
        seen = self._look()
        changes.needs_destroying(seen.stored, version, revision)
        for name in seen.archives.get(version, ()):
            if self._aws.read(name).text != _DESTROYED:
                self._aws.put(name, _DESTROYED, _token(_DESTROYED, name), CURRENT)
            self._forget_previous(name)
        self._aws.untag(self._id, f"{_INDEX}{version}")
        self._forget_previous(self._id)
        return self.read()

    @property
    def _id(self) -> str:
        return self._secret.secret_id

    def _look(self) -> _Seen:
        for _ in range(_LOOKS):
            # In this order a key that is just being moved is seen in at least one place.
            live = self._live()
            tags, stages = self._aws.describe(self._id)
            if CURRENT in stages.get(live.version, ()):
                archives = self._archives(tags)
                pending = next((each for each, labels in stages.items() if PENDING in labels), live.version)
                stored = self._stored(live, self._archived(archives), self._pending(live, pending))
                return _Seen(live, archives, stored)
        raise changes.conflict()

    def _live(self) -> _Live:
        current = self._aws.read(self._id)
        if not isinstance(_entry(self._id, "v1", current.text), DamagedKey):
            return _Live(current.id, {"v1": current.text.strip(), _PRIMARY: "v1"}, plain=True)
        return _Live(current.id, _entries(self._id, current), plain=False)

    def _pending(self, live: _Live, version: str) -> dict[KeyVersion, KeyMaterial]:
        """Keys in a version that was put and never made the current one; none where its text is not ours."""
        if version == live.version:
            return {}
        try:
            sent = self._aws.read(self._id, version)
            keys = _Live(sent.id, _entries(self._id, sent), plain=False).keys(self._id)
        except KeyStoreDamagedError:
            return {}
        known = live.keys(self._id)
        return {each: key for each, key in keys.items() if each not in known and isinstance(key, KeyMaterial)}

    def _stored(
        self, live: _Live, archived: dict[KeyVersion, Entry], pending: dict[KeyVersion, KeyMaterial]
    ) -> StoredKeys:
        named = live.entries.get(_PRIMARY)
        try:
            primary = None if named is None else KeyVersion.parse(str(named))
        except InvalidKeyError:
            raise KeyStoreDamagedError(
                f"{_PRIMARY} of secret {self._id} does not name a key version; write v1, v2, … there"
            ) from None
        # The archives are part of the state, but whoever changes them changes the live secret too, or destroys.
        return StoredKeys.of(live.keys(self._id), archived, primary, _revision(live.version, archived), pending)

    def _archives(self, tags: dict[str, str]) -> dict[KeyVersion, tuple[str, ...]]:
        """The names of the secrets in which each version was archived."""
        prefix = self._secret.archive_prefix
        pattern = re.compile(rf"{re.escape(prefix)}({VERSION_PATTERN})-archived-[0-9]{{8}}")
        told = [name for tag, name in tags.items() if tag.startswith(_INDEX)]
        found: dict[KeyVersion, set[str]] = {}
        for name in (*told, *self._aws.names(prefix)):
            if (match := pattern.fullmatch(name)) is not None:
                found.setdefault(KeyVersion.parse(match[1]), set()).add(name)
        return {version: tuple(sorted(names)) for version, names in found.items()}

    def _archived(self, archives: Mapping[KeyVersion, tuple[str, ...]]) -> dict[KeyVersion, Entry]:
        entries: dict[KeyVersion, Entry] = {}
        for version, names in archives.items():
            for name in names:
                entry = self._archive_entry(version, name)
                if entry is not None:
                    entries.setdefault(version, entry)
        return entries

    def _archive_entry(self, version: KeyVersion, name: str) -> Entry | None:
        """The key in an archive; None where it is gone for good, by us or by whoever deleted the secret."""
        try:
            text = self._aws.read(name).text
        except MissingSecretError:
            return None
        except KeyStoreDamagedError as error:
            return DamagedKey(str(error))
        return None if text == _DESTROYED else _entry(f"secret {name}", str(version), text)

    def _keep(self, version: KeyVersion, material: KeyMaterial, known: tuple[str, ...]) -> None:
        """Make sure that a key is in an archive and reads back from there; then say in a tag where it is."""
        day = self._clock.now().date()
        name = f"{self._secret.archive_prefix}{version}-archived-{day:%Y%m%d}"
        kept = [each for each in known if self._archive_entry(version, each) == material]
        if kept:
            name = kept[0]
        else:
            about = {"Status": "Archived", "RotationDate": day.isoformat()}
            self._aws.create(name, base64_of(material), _token(name, material.fingerprint), about)
        if self._archive_entry(version, name) != material:
            raise KeyStoreDamagedError(
                f"secret {name} does not hold the key that is to be archived there; find out what it holds"
            )
        self._aws.tag(self._id, {f"{_INDEX}{version}": name})

    def _replace(self, live: _Live, difference: dict[str, str | None]) -> None:
        """Put the live text with a difference (None: without the entry), read it back, and make it the current one."""
        if live.plain:
            raise KeyStoreError(
                f"secret {self._id} holds one key without a version; run `keyrotation init --convert` when every "
                "application reads the versioned form"
            )
        self._put(live, {**live.entries, **difference})

    def _put(self, live: _Live, entries: dict[str, Any]) -> None:
        text = json.dumps({name: value for name, value in entries.items() if value is not None})
        if len(text.encode()) > MOST_BYTES:
            raise KeyStoreError(
                f"secret {self._id} would hold more than {MOST_BYTES:,} bytes; move what is no key elsewhere"
            )
        token = _token(live.version, text)
        self._aws.put(self._id, text, token, PENDING)
        if self._aws.read(self._id, token).text != text:
            raise KeyStoreDamagedError(f"secret {self._id} does not read back as it was put; look at its versions")
        try:
            self._aws.move(self._id, CURRENT, source=live.version, target=token)
        except StaleVersionError:
            # Our own move, whose answer was lost, or somebody else's.
            if self._live().version != token:
                raise changes.conflict() from None
        self._take_off(self._id, PENDING, token)

    def _forget_previous(self, secret: str) -> None:
        """Take AWSPREVIOUS off: AWS leaves the old text readable under it."""
        _, stages = self._aws.describe(secret)
        for version, labels in stages.items():
            if PREVIOUS in labels:
                self._take_off(secret, PREVIOUS, version)

    def _take_off(self, secret: str, stage: str, version: str) -> None:
        # Where it is not, an earlier attempt or somebody else has taken it off.
        with suppress(StaleVersionError):
            self._aws.move(secret, stage, source=version)


def _entries(secret: str, current: SecretVersion) -> dict[str, Any]:
    try:
        entries = json.loads(current.text)
    except ValueError:
        entries = None
    if not isinstance(entries, dict):
        raise KeyStoreDamagedError(
            f'secret {secret} is not JSON of the form {{"v1": "<base64>", "primary": "v1"}}; correct it'
        )
    return entries


def _entry(place: str, version: str, text: object) -> Entry:
    try:
        return key_from_base64(str(text))
    except InvalidKeyError:
        return DamagedKey(
            f"{place} is not the base64 of 32 bytes; take it away, then run `keyrotation restore-key {version}`"
        )


def _revision(version: str, archived: dict[KeyVersion, Entry]) -> str:
    """The id of the live version, and which versions are archived."""
    return f"{version} {' '.join(str(each) for each in sorted(archived))}".strip()


def _token(*parts: str) -> str:
    """A client request token: the same for the same request. Keys have 256 random bits, so it tells nothing of them."""
    return str(UUID(bytes=hashlib.sha256("\n".join(parts).encode()).digest()[:16]))
