"""Parses the text of a secret in AWS Secrets Manager."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from keyrotation_pipeline.adapters.keystores.secrets_manager import SecretVersion
from keyrotation_pipeline.errors import InvalidKeyError, KeyStoreDamagedError
from keyrotation_pipeline.fieldcrypto.grammar import VERSION_PATTERN, KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import key_from_base64
from keyrotation_pipeline.fieldcrypto.keyring import versions_in
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.keys import DamagedKey, KeyEntry

PRIMARY = "primary"
COMPROMISED = "compromised"
# Replaces a destroyed key in an archive.
DESTROYED = "destroyed"
_VERSION = re.compile(VERSION_PATTERN)


@dataclass(frozen=True, slots=True)
class LiveSecret:
    """The live secret as it is: its version, and the entries of its text, including those that are not ours.

    Args:
        name: of the secret, for messages.
        version: its id in AWS.
        plain: the source procedure's form, one key without a version.
    """

    name: str
    version: str
    entries: dict[str, Any] = field(repr=False)
    plain: bool

    @classmethod
    def of(cls, name: str, current: SecretVersion, variable: str | None = None) -> "LiveSecret":
        """Parses a version's text in either form.

        Args:
            variable: the entry with the application's own list, which only JSON has.

        Raises:
            KeyStoreDamagedError: it has neither form.
        """
        if variable is None and not isinstance(entry(name, "v1", current.text), DamagedKey):
            return cls(name, current.id, {"v1": current.text.strip(), PRIMARY: "v1"}, plain=True)
        return cls.of_json(name, current, variable)

    @classmethod
    def of_json(cls, name: str, current: SecretVersion, variable: str | None = None) -> "LiveSecret":
        """Parses a version's text as JSON.

        Raises:
            KeyStoreDamagedError: it is not JSON.
        """
        try:
            entries = json.loads(current.text)
        except ValueError:
            entries = None
        if not isinstance(entries, dict):
            form = '{"v1": "<base64>", "primary": "v1"}' if variable is None else f'{{"{variable}": "<keys>"}}'
            then = "correct it" if variable is None else "write its text so, and have the application read that entry"
            raise KeyStoreDamagedError(f"secret {name} is not JSON of the form {form}; {then}")
        return cls(name, current.id, entries, plain=False)

    @property
    def materials(self) -> Mapping[KeyVersion, KeyMaterial]:
        """The keys of the entries that hold one."""
        return {version: key for version, key in self.keys().items() if isinstance(key, KeyMaterial)}

    def keys(self) -> dict[KeyVersion, KeyEntry]:
        """Returns the key of each version, or the error that its entry is not a key."""
        return {
            KeyVersion.parse(name): entry(f"entry {name} of secret {self.name}", name, text)
            for name, text in self.entries.items()
            if _VERSION.fullmatch(name)
        }

    def list_text(self, variable: str) -> str | None:
        """Returns the application's own list of keys as it is; None: there is none.

        Raises:
            KeyStoreDamagedError: the entry is no text.
        """
        text = self.entries.get(variable)
        if text is not None and not isinstance(text, str):
            raise KeyStoreDamagedError(
                f"entry {variable} of secret {self.name} is not text; write the keys there as one text, as the "
                "application reads them"
            )
        return text

    def primary(self) -> KeyVersion | None:
        """Returns the version that is named as the primary.

        Raises:
            KeyStoreDamagedError: the named one is not a version.
        """
        named = self.entries.get(PRIMARY)
        try:
            return None if named is None else KeyVersion.parse(str(named))
        except InvalidKeyError:
            raise KeyStoreDamagedError(
                f"{PRIMARY} of secret {self.name} does not name a key version; write v1, v2, … there"
            ) from None

    def compromised(self) -> frozenset[KeyVersion]:
        """Returns the versions that applications never encrypt under again.

        Raises:
            KeyStoreDamagedError: the named ones are not versions.
        """
        try:
            return versions_in(str(self.entries.get(COMPROMISED, "")))
        except InvalidKeyError:
            raise KeyStoreDamagedError(
                f"{COMPROMISED} of secret {self.name} does not name key versions; write them there as v1,v2"
            ) from None


def entry(place: str, version: str, text: object) -> KeyEntry:
    """Returns the key that a text holds, or an error that names the place."""
    try:
        return key_from_base64(str(text))
    except InvalidKeyError:
        return DamagedKey(
            f"{place} is not the base64 of 32 bytes; remove it, then run `keyrotation restore-key {version}`"
        )
