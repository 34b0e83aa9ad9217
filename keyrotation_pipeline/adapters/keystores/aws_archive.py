"""Archives keys in AWS, each in a secret of its own; and finds keys that somebody put there manually."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from uuid import uuid4

from keyrotation_pipeline.adapters.keystores.live_secret import DESTROYED, LiveSecret, entry
from keyrotation_pipeline.adapters.keystores.secrets_manager import (
    CURRENT,
    PREVIOUS,
    MissingSecretError,
    SecretsManager,
    request_token,
)
from keyrotation_pipeline.errors import KeyStoreDamagedError, KeyStoreError, KeyStoreUnavailableError
from keyrotation_pipeline.fieldcrypto.grammar import VERSION_PATTERN, KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.seal import UNSEALED, Seal
from keyrotation_pipeline.model.environment import Problem
from keyrotation_pipeline.model.keys import DamagedKey, KeyEntry
from keyrotation_pipeline.ports.clock import Clock

# Tags of ours, and those of AWS, which nobody may set.
_OURS = ("keyrotation-", "aws:")
_INDEX = "keyrotation-archived-"
_MOST_TAGS = 50
_PREFLIGHT = "no key is here; the pre-flight makes this secret as archived keys are made, and so sees that it may"

Archives = Mapping[KeyVersion, tuple[str, ...]]


class AwsArchive:
    """The archive of one live secret, which may itself be in AWS or elsewhere.

    Args:
        index: name of the secret whose tags name the archives.
        prefix: prefix of the names of archives.
        seal: of the keys in them.

    Attributes:
        unsealed: versions that were stored otherwise when they were read last.
    """

    def __init__(self, aws: SecretsManager, index: str, prefix: str, clock: Clock, seal: Seal = UNSEALED) -> None:
        self._aws = aws
        self._index = index
        self._prefix = prefix
        self._clock = clock
        self._seal = seal
        self.unsealed: set[KeyVersion] = set()

    @property
    def residual_copies(self) -> str:
        """See `KeyStore.residual_copies`."""
        return (
            "in AWS Secrets Manager the version of the archive secret that holds the key is unlabelled then, and stays "
            "readable by its version id for whoever may call GetSecretValue, which the policies in deploy/aws deny, "
            "until AWS drops it or an administrator deletes that secret"
        )

    def names(self, tags: Mapping[str, str]) -> Archives:
        """Returns the names of the secrets in which each version was archived.

        Args:
            tags: of the index.
        """
        pattern = re.compile(rf"{re.escape(self._prefix)}({VERSION_PATTERN})-archived-[0-9]{{8}}")
        indexed = [name for tag, name in tags.items() if tag.startswith(_INDEX)]
        found: dict[KeyVersion, set[str]] = {}
        for name in (*indexed, *self._aws.names(self._prefix)):
            if (match := pattern.fullmatch(name)) is not None:
                found.setdefault(KeyVersion.parse(match[1]), set()).add(name)
        return {version: tuple(sorted(names)) for version, names in found.items()}

    def problems(self) -> Iterator[Problem]:
        """Yields what would keep a key from being archived: creates a secret as archives are, once, and reads it.

        AWS has no other way to ask for the right to create one, to tag it and to use its KMS key.

        Raises:
            KeyStoreUnavailableError: AWS refuses that, or does not answer.
        """
        index = self._aws.describe(self._index)
        name = f"{self._prefix}preflight"
        tags = self._tags(index.tags)
        if len(tags) > _MOST_TAGS:
            yield Problem(
                f"secret {self._index} has {len(tags)} tags that archives get, and AWS takes {_MOST_TAGS}; remove "
                f"some with `aws secretsmanager untag-resource --secret-id {self._index} --tag-keys …`",
                fatal=True,
                check="keys_can_be_archived",
            )
            return
        if (held := sum(not tag.startswith("aws:") for tag in index.tags)) >= _MOST_TAGS:
            yield Problem(
                f"secret {self._index} has {held} of at most {_MOST_TAGS} tags; make room for the next archived key: "
                "`keyrotation destroy` unneeded ones, or remove tags of others",
                fatal=True,
                check="keys_can_be_archived",
            )
            return
        try:
            if not self._aws.create(name, _PREFLIGHT, str(uuid4()), tags, _PREFLIGHT, index.kms_key):
                if self._aws.describe(name).kms_key != index.kms_key:
                    self._aws.set_kms_key(name, index.kms_key)
                self._aws.read(name)
        except KeyStoreUnavailableError as error:
            raise KeyStoreUnavailableError(f"no secret for an archived key can be created: {error}") from None

    def _tags(self, live: Mapping[str, str]) -> dict[str, str]:
        day = self._clock.now().date()
        theirs = {name: value for name, value in live.items() if not name.startswith(_OURS)}
        return theirs | {"Status": "Archived", "RotationDate": day.isoformat()}

    def read(self, archives: Archives) -> dict[KeyVersion, KeyEntry]:
        """Reads the archives; leaves out versions whose key was destroyed."""
        entries: dict[KeyVersion, KeyEntry] = {}
        for version, names in archives.items():
            for name in names:
                found = self._entry(version, name)
                if found is not None:
                    entries.setdefault(version, found)
        return entries

    def keep(self, version: KeyVersion, material: KeyMaterial, known: tuple[str, ...], description: str = "") -> None:
        """Ensures that a key is in an archive and reads back from there; then records in a tag where it is.

        Args:
            known: the existing archives of this version.
            description: of a new secret; empty: only version and day.

        Raises:
            KeyStoreDamagedError: it does not read back.
        """
        day = self._clock.now().date()
        name = f"{self._prefix}{version}-archived-{day:%Y%m%d}"
        held = {each: self._entry(version, each) for each in known}
        if others := [each for each, found in held.items() if isinstance(found, KeyMaterial) and found != material]:
            raise KeyStoreDamagedError(
                f"secret {others[0]} holds another key as {version}; find out which one encrypted values under "
                f"{version}, and remove the other"
            )
        if matching := [each for each, found in held.items() if found == material]:
            name = matching[0]
        else:
            index, text = self._aws.describe(self._index), description or f"Archived key {version} ({day.isoformat()})"
            token = request_token(name, material.fingerprint)
            sealed = self._seal.text_of(version, material)
            self._aws.create(name, sealed, token, self._tags(index.tags), text, index.kms_key)
        if self._entry(version, name) != material:
            raise KeyStoreDamagedError(
                f"secret {name} does not hold the key to be archived there; find out what it holds"
            )
        tag = f"{_INDEX}{version}"
        self._aws.tag(self._index, {tag: name})
        # Else the key would seem to be in no place, once it has left the live secret.
        self._aws.until_seen(self._index, lambda: self._aws.describe(self._index).tags.get(tag) == name)

    def destroy(self, version: KeyVersion, known: tuple[str, ...]) -> None:
        """Overwrites the text of an archived key, and removes every label from the version that holds it."""
        for name in known:
            held = self._aws.read(name)
            current = held.id
            if held.text != DESTROYED:
                current = str(uuid4())
                self._aws.put(name, DESTROYED, current, CURRENT)
                self._aws.take_off(name, PREVIOUS, held.id)
            self._aws.unlabel_previous(name, current)
        self._aws.untag(self._index, f"{_INDEX}{version}")

    def reseal(self, version: KeyVersion, known: tuple[str, ...]) -> None:
        """Seals an archived key in each of its archives that has it otherwise."""
        for name in known:
            held = self._aws.read(name)
            found = self._entry(version, name)
            if isinstance(found, KeyMaterial) and not self._seal.is_under(held.text):
                current = str(uuid4())
                self._aws.put(name, self._seal.text_of(version, found), current, CURRENT)
                self._aws.take_off(name, PREVIOUS, held.id)
                self._aws.unlabel_previous(name, current)

    def _entry(self, version: KeyVersion, name: str) -> KeyEntry | None:
        """Returns the key in an archive; None if we destroyed it or somebody deleted the secret."""
        try:
            text = self._aws.read(name).text
        except MissingSecretError:
            return None
        except KeyStoreDamagedError as error:
            return DamagedKey(str(error))
        (self.unsealed.discard if text == DESTROYED or self._seal.is_under(text) else self.unsealed.add)(version)
        return None if text == DESTROYED else entry(f"secret {name}", version, text, self._seal)


@dataclass(frozen=True, slots=True)
class ManualSecrets:
    """The keys that were found in separate secrets.

    Args:
        plain: the live secret is one key without a version, which counts as v1.
        keys: those in separate secrets that the live one does not hold.
        places: where they are, in words.
    """

    plain: bool
    keys: Mapping[KeyVersion, KeyMaterial]
    places: Mapping[KeyVersion, str]


def manual_secrets(aws: SecretsManager, live: LiveSecret) -> ManualSecrets:
    """Searches for secrets of single versions next to the live one.

    Raises:
        KeyStoreError: one holds another key than the live secret, or than another one, for its version.
        KeyStoreDamagedError: one of them holds no key.
    """
    pattern = re.compile(rf"{re.escape(live.name)}-({VERSION_PATTERN})(?:-emergency)?")
    keys: dict[KeyVersion, KeyMaterial] = {}
    places = {KeyVersion(1): f"secret {live.name}"} if live.plain else {}
    held = live.keys()
    for name in sorted(aws.names(f"{live.name}-v")):
        if (match := pattern.fullmatch(name)) is None:
            continue
        version = KeyVersion.parse(match[1])
        found = entry(f"secret {name}", version, aws.read(name).text, live.seal)
        if isinstance(found, DamagedKey):
            raise KeyStoreDamagedError(f"secret {name} is not the base64 of 32 bytes; correct it, or delete it")
        if (other := held.get(version) or keys.get(version)) is not None and other != found:
            raise KeyStoreError(
                f"secret {name} and {places.get(version, f'entry {version} of secret {live.name}')} hold different "
                f"keys as {version}; find out which one encrypted the values under it, and delete the other"
            )
        if version not in held:
            keys[version], places[version] = found, f"secret {name}"
    return ManualSecrets(live.plain, keys, places)
