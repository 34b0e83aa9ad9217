"""Archived keys in AWS, each in a secret of its own.

Which archives there are is told by tags of one secret, the live one where that is in AWS, since the list of secrets may
lack new ones for minutes; the list tells of those whose tag was lost.
"""

import re
from collections.abc import Mapping

from keyrotation_pipeline.adapters.keystores.aws_texts import DESTROYED, entry, request_token
from keyrotation_pipeline.adapters.keystores.secrets_manager import CURRENT, MissingSecretError, SecretsManager
from keyrotation_pipeline.errors import KeyStoreDamagedError
from keyrotation_pipeline.fieldcrypto.grammar import VERSION_PATTERN, KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.keys import DamagedKey, KeyEntry
from keyrotation_pipeline.ports.clock import Clock

_INDEX = "keyrotation-archived-"

Archives = Mapping[KeyVersion, tuple[str, ...]]


class AwsArchive:
    """The archive of one live secret, whether that is in AWS or not.

    Args:
        index: name of the secret whose tags tell of archives.
        prefix: with which names of archives begin.
    """

    def __init__(self, aws: SecretsManager, index: str, prefix: str, clock: Clock) -> None:
        self._aws = aws
        self._index = index
        self._prefix = prefix
        self._clock = clock

    @property
    def keeps(self) -> str:
        """See `KeyStore.keeps`."""
        return (
            "in AWS Secrets Manager the version of the archive secret that holds the key loses its label and stays "
            "readable by its version id for whoever may call GetSecretValue, until AWS drops it or an administrator "
            "deletes that secret"
        )

    def names(self, tags: Mapping[str, str]) -> Archives:
        """The names of the secrets in which each version was archived.

        Args:
            tags: of the index.
        """
        pattern = re.compile(rf"{re.escape(self._prefix)}({VERSION_PATTERN})-archived-[0-9]{{8}}")
        told = [name for tag, name in tags.items() if tag.startswith(_INDEX)]
        found: dict[KeyVersion, set[str]] = {}
        for name in (*told, *self._aws.names(self._prefix)):
            if (match := pattern.fullmatch(name)) is not None:
                found.setdefault(KeyVersion.parse(match[1]), set()).add(name)
        return {version: tuple(sorted(names)) for version, names in found.items()}

    def read(self, archives: Archives) -> dict[KeyVersion, KeyEntry]:
        """What is in the archives; nothing of a version whose key is gone for good."""
        entries: dict[KeyVersion, KeyEntry] = {}
        for version, names in archives.items():
            for name in names:
                found = self._entry(version, name)
                if found is not None:
                    entries.setdefault(version, found)
        return entries

    def keep(self, version: KeyVersion, material: KeyMaterial, known: tuple[str, ...], description: str = "") -> None:
        """Make sure that a key is in an archive and reads back from there; then say in a tag where it is.

        Args:
            known: archives of this version that there are.
            description: of a secret that is made; empty: version and day alone.

        Raises:
            KeyStoreDamagedError: it does not read back.
        """
        day = self._clock.now().date()
        name = f"{self._prefix}{version}-archived-{day:%Y%m%d}"
        held = {each: self._entry(version, each) for each in known}
        if others := [each for each, found in held.items() if isinstance(found, KeyMaterial) and found != material]:
            raise KeyStoreDamagedError(
                f"secret {others[0]} holds something else as {version} than the key that is to be archived; find out "
                f"which one encrypted the values under {version}, and take the other away"
            )
        if kept := [each for each, found in held.items() if found == material]:
            name = kept[0]
        else:
            about = {"Status": "Archived", "RotationDate": day.isoformat()}
            text = description or f"Archived key {version} ({day.isoformat()})"
            self._aws.create(name, base64_of(material), request_token(name, material.fingerprint), about, text)
        if self._entry(version, name) != material:
            raise KeyStoreDamagedError(
                f"secret {name} does not hold the key that is to be archived there; find out what it holds"
            )
        self._aws.tag(self._index, {f"{_INDEX}{version}": name})

    def destroy(self, version: KeyVersion, known: tuple[str, ...]) -> None:
        """Put another text in the place of an archived key, and take every label off the version that holds it."""
        for name in known:
            if self._aws.read(name).text != DESTROYED:
                self._aws.put(name, DESTROYED, request_token(DESTROYED, name), CURRENT)
            self._aws.forget_previous(name)
        self._aws.untag(self._index, f"{_INDEX}{version}")

    def _entry(self, version: KeyVersion, name: str) -> KeyEntry | None:
        """The key in an archive; None where it is gone for good, by us or by whoever deleted the secret."""
        try:
            text = self._aws.read(name).text
        except MissingSecretError:
            return None
        except KeyStoreDamagedError as error:
            return DamagedKey(str(error))
        return None if text == DESTROYED else entry(f"secret {name}", str(version), text)
