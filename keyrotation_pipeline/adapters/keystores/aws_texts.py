"""The texts of secrets in AWS: JSON with a key per version, the seed's one plain key, or an archived key."""

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from keyrotation_pipeline.adapters.keystores.secrets_manager import SecretVersion
from keyrotation_pipeline.errors import InvalidKeyError, KeyStoreDamagedError
from keyrotation_pipeline.fieldcrypto.environment import versions_in
from keyrotation_pipeline.fieldcrypto.grammar import VERSION_PATTERN, KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import key_from_base64
from keyrotation_pipeline.model.keys import DamagedKey, KeyEntry

PRIMARY = "primary"
COMPROMISED = "compromised"
# What stands in an archive in the place of a key that is gone for good.
DESTROYED = "destroyed"
_VERSION = re.compile(VERSION_PATTERN)


@dataclass(frozen=True, slots=True)
class LiveSecret:
    """The live secret as it is: its version, and the entries of its text, also those that are not ours.

    Args:
        name: of the secret, for messages.
        version: its id in AWS.
        plain: it is the seed's form, one key without a version.
    """

    name: str
    version: str
    entries: dict[str, Any] = field(repr=False)
    plain: bool

    @classmethod
    def of(cls, name: str, current: SecretVersion) -> "LiveSecret":
        """Read a version's text in either form.

        Raises:
            KeyStoreDamagedError: it has neither.
        """
        if not isinstance(entry(name, "v1", current.text), DamagedKey):
            return cls(name, current.id, {"v1": current.text.strip(), PRIMARY: "v1"}, plain=True)
        return cls.of_json(name, current)

    @classmethod
    def of_json(cls, name: str, current: SecretVersion) -> "LiveSecret":
        """Read a version's text as JSON.

        Raises:
            KeyStoreDamagedError: it is none.
        """
        try:
            entries = json.loads(current.text)
        except ValueError:
            entries = None
        if not isinstance(entries, dict):
            raise KeyStoreDamagedError(
                f'secret {name} is not JSON of the form {{"v1": "<base64>", "primary": "v1"}}; correct it'
            )
        return cls(name, current.id, entries, plain=False)

    def keys(self) -> dict[KeyVersion, KeyEntry]:
        """The key of each version, or that its entry is no key."""
        return {
            KeyVersion.parse(name): entry(f"entry {name} of secret {self.name}", name, text)
            for name, text in self.entries.items()
            if _VERSION.fullmatch(name)
        }

    def primary(self) -> KeyVersion | None:
        """The version that is named as the primary.

        Raises:
            KeyStoreDamagedError: what is named is no version.
        """
        named = self.entries.get(PRIMARY)
        try:
            return None if named is None else KeyVersion.parse(str(named))
        except InvalidKeyError:
            raise KeyStoreDamagedError(
                f"{PRIMARY} of secret {self.name} does not name a key version; write v1, v2, … there"
            ) from None

    def compromised(self) -> frozenset[KeyVersion]:
        """The versions that applications never encrypt under again.

        Raises:
            KeyStoreDamagedError: what is named are no versions.
        """
        try:
            return versions_in(str(self.entries.get(COMPROMISED, "")))
        except InvalidKeyError:
            raise KeyStoreDamagedError(
                f"{COMPROMISED} of secret {self.name} does not name key versions; write them there as v1,v2"
            ) from None


def entry(place: str, version: str, text: object) -> KeyEntry:
    """The key that a text is; a sentence about the place if it is none."""
    try:
        return key_from_base64(str(text))
    except InvalidKeyError:
        return DamagedKey(
            f"{place} is not the base64 of 32 bytes; take it away, then run `keyrotation restore-key {version}`"
        )


def request_token(*parts: str) -> str:
    """A client request token: the same for the same request. Keys have 256 random bits, so it tells nothing of them."""
    return str(UUID(bytes=hashlib.sha256("\n".join(parts).encode()).digest()[:16]))
