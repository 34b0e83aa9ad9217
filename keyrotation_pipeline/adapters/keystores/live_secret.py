"""The live secret in AWS Secrets Manager: its text, and what AWS itself does to it.

The second is checked before a rotation, with the secret's replicas and quota.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from keyrotation_pipeline.adapters.keystores.named_versions import compromised_named, owner_named, primary_named
from keyrotation_pipeline.adapters.keystores.secrets_manager import SecretsManager, SecretVersion
from keyrotation_pipeline.errors import InvalidKeyError, KeyStoreDamagedError
from keyrotation_pipeline.fieldcrypto.grammar import VERSION_PATTERN, KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.seal import UNSEALED, Seal
from keyrotation_pipeline.model.environment import Problem
from keyrotation_pipeline.model.keys import DamagedKey, KeyEntry, StoreOwner
from keyrotation_pipeline.ports.clock import Clock

PRIMARY = "primary"
COMPROMISED = "compromised"
# Longer than the others: the secret may have entries of the application, too.
OWNER = "keyrotation_owner"
CANARY_ENTRY = "keyrotation_canary"
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
        seal: of the entries with keys.
    """

    name: str
    version: str
    entries: dict[str, Any] = field(repr=False)
    plain: bool
    seal: Seal = UNSEALED

    @classmethod
    def of(cls, name: str, current: SecretVersion, variable: str | None = None, seal: Seal = UNSEALED) -> "LiveSecret":
        """Parses a version's text in either form.

        Args:
            variable: the entry with the application's own list, which only JSON has.

        Raises:
            KeyStoreDamagedError: it has neither form.
        """
        if variable is None and not isinstance(entry(name, KeyVersion(1), current.text), DamagedKey):
            return cls(name, current.id, {"v1": current.text.strip(), PRIMARY: "v1"}, plain=True)
        try:
            entries = json.loads(current.text)
        except ValueError:
            entries = None
        if not isinstance(entries, dict):
            form = '{"v1": "<base64>", "primary": "v1"}' if variable is None else f'{{"{variable}": "<keys>"}}'
            then = "correct it" if variable is None else "write its text so, and have the application read that entry"
            raise KeyStoreDamagedError(f"secret {name} is not JSON of the form {form}; {then}")
        return cls(name, current.id, entries, plain=False, seal=seal)

    @property
    def materials(self) -> Mapping[KeyVersion, KeyMaterial]:
        """The keys of the entries that hold one."""
        return {version: key for version, key in self.keys().items() if isinstance(key, KeyMaterial)}

    def keys(self) -> dict[KeyVersion, KeyEntry]:
        """Returns the key of each version, or the error that its entry is not a key."""
        return {
            version: entry(f"entry {name} of secret {self.name}", version, text, self.seal)
            for name, text in self.entries.items()
            if _VERSION.fullmatch(name)
            for version in [KeyVersion.parse(name)]
        }

    def unsealed(self) -> Iterator[KeyVersion]:
        """Yields the versions that are not under the seal."""
        for name, text in self.entries.items():
            if _VERSION.fullmatch(name) and not self.seal.is_under(str(text)):
                yield KeyVersion.parse(name)

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
        """See `primary_named`."""
        named = self.entries.get(PRIMARY)
        return primary_named(None if named is None else str(named), f"{PRIMARY} of secret {self.name}")

    def compromised(self) -> frozenset[KeyVersion]:
        """See `compromised_named`."""
        return compromised_named(str(self.entries.get(COMPROMISED, "")), f"{COMPROMISED} of secret {self.name}")

    def owner(self) -> StoreOwner | None:
        """See `owner_named`."""
        named = self.entries.get(OWNER)
        return owner_named(None if named is None else str(named), f"entry {OWNER} of secret {self.name}")


def entry(place: str, version: KeyVersion, text: object, seal: Seal = UNSEALED) -> KeyEntry:
    """Returns the key that a text holds, or an error that names the place.

    Raises:
        KeyStoreUnavailableError: it is sealed, and cannot be opened now.
    """
    try:
        return seal.key_of(version, str(text))
    except InvalidKeyError as error:
        return DamagedKey.of(place, version, error)


# AWS keeps about so many versions of a secret, and drops none on its first day; a rotation puts fewer than so many.
_MOST_VERSIONS, _VERSIONS_OF_A_ROTATION, _KEPT_FOR = 100, 20, timedelta(days=1)
_IN_SYNC = frozenset({"InSync", "InProgress"})


def live_problems(aws: SecretsManager, secret_id: str, clock: Clock) -> Iterator[Problem]:
    """Yields what would stop a change of the secret, or undo it."""
    facts, secret = aws.describe(secret_id), f"secret {secret_id}"
    if facts.rotated_by_aws:
        yield Problem(
            f"AWS rotates {secret} by itself, and would replace its keys; run "
            f"`aws secretsmanager cancel-rotate-secret --secret-id {secret_id}`",
            fatal=True,
            check="key_store_is_not_rotated_by_aws",
        )
    if facts.replicas:
        named = ", ".join(f"{region} ({status or 'unknown'})" for region, status in sorted(facts.replicas.items()))
        broken = [region for region, status in sorted(facts.replicas.items()) if status not in _IN_SYNC]
        do = (
            f"repair that, or run `aws secretsmanager remove-regions-from-replication --secret-id {secret_id} "
            f"--remove-replica-regions {' '.join(broken)}`"
            if broken
            else "applications there get a change later, so see that each reports: `keyrotation rollout`"
        )
        yield Problem(
            f"{secret} has replicas in {named}, and archives have none; {do}",
            fatal=bool(broken),
            check="key_store_replicas_are_in_sync",
        )
    put = aws.versions_since(secret_id, clock.now() - _KEPT_FOR)
    if put > _MOST_VERSIONS - _VERSIONS_OF_A_ROTATION:
        yield Problem(
            f"{secret} got {put} versions within a day, and AWS refuses more than about {_MOST_VERSIONS}; find out "
            "what puts them, and run `keyrotation preflight` tomorrow",
            fatal=True,
            check="key_store_takes_new_versions",
        )
