"""Archives keys in AWS, each in a secret of its own; and finds keys that somebody put there manually."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from keyrotation_pipeline.adapters.keystores.secrets_manager import (
    CURRENT,
    DESTROYED,
    LiveSecret,
    MissingSecretError,
    SecretsManager,
    entry,
    request_token,
)
from keyrotation_pipeline.errors import KeyStoreDamagedError, KeyStoreError
from keyrotation_pipeline.fieldcrypto.grammar import VERSION_PATTERN, KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.keys import DamagedKey, KeyEntry
from keyrotation_pipeline.ports.clock import Clock

_INDEX = "keyrotation-archived-"

Archives = Mapping[KeyVersion, tuple[str, ...]]


class AwsArchive:
    """The archive of one live secret, which may itself be in AWS or elsewhere.

    Args:
        index: name of the secret whose tags name the archives.
        prefix: prefix of the names of archives.
    """

    def __init__(self, aws: SecretsManager, index: str, prefix: str, clock: Clock) -> None:
        self._aws = aws
        self._index = index
        self._prefix = prefix
        self._clock = clock

    @property
    def residual_copies(self) -> str:
        """See `KeyStore.residual_copies`."""
        return (
            "in AWS Secrets Manager the version of the archive secret that holds the key loses its label and stays "
            "readable by its version id for whoever may call GetSecretValue, until AWS drops it or an administrator "
            "deletes that secret"
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
                f"secret {others[0]} holds something else as {version} than the key to be archived; find out "
                f"which one encrypted the values under {version}, and remove the other"
            )
        if matching := [each for each, found in held.items() if found == material]:
            name = matching[0]
        else:
            about = {"Status": "Archived", "RotationDate": day.isoformat()}
            text = description or f"Archived key {version} ({day.isoformat()})"
            self._aws.create(name, base64_of(material), request_token(name, material.fingerprint), about, text)
        if self._entry(version, name) != material:
            raise KeyStoreDamagedError(
                f"secret {name} does not hold the key to be archived there; find out what it holds"
            )
        self._aws.tag(self._index, {f"{_INDEX}{version}": name})

    def destroy(self, version: KeyVersion, known: tuple[str, ...]) -> None:
        """Overwrites the text of an archived key, and removes every label from the version that holds it."""
        for name in known:
            if self._aws.read(name).text != DESTROYED:
                self._aws.put(name, DESTROYED, request_token(DESTROYED, name), CURRENT)
            self._aws.forget_previous(name)
        self._aws.untag(self._index, f"{_INDEX}{version}")

    def _entry(self, version: KeyVersion, name: str) -> KeyEntry | None:
        """Returns the key in an archive; None if we destroyed it or somebody deleted the secret."""
        try:
            text = self._aws.read(name).text
        except MissingSecretError:
            return None
        except KeyStoreDamagedError as error:
            return DamagedKey(str(error))
        return None if text == DESTROYED else entry(f"secret {name}", str(version), text)


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
        found = entry(f"secret {name}", match[1], aws.read(name).text)
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
