"""Keys as somebody put them into AWS before this pipeline: one plain key, and secrets with one key each.

Source: the source procedure, sections 4.1 (``pazpaz/encryption-key-v2``) and 5.1 (``…-v2-emergency``).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from keyrotation_pipeline.adapters.keystores.aws_texts import LiveSecret, entry
from keyrotation_pipeline.adapters.keystores.secrets_manager import SecretsManager
from keyrotation_pipeline.errors import KeyStoreDamagedError, KeyStoreError
from keyrotation_pipeline.fieldcrypto.grammar import VERSION_PATTERN, KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.keys import DamagedKey


@dataclass(frozen=True, slots=True)
class ManualSecrets:
    """What was found.

    Args:
        plain: the live secret is one key without a version, which counts as v1.
        keys: those in secrets of their own that the live one does not hold.
        places: where they are, in words.
    """

    plain: bool
    keys: Mapping[KeyVersion, KeyMaterial]
    places: Mapping[KeyVersion, str]


def manual_secrets(aws: SecretsManager, live: LiveSecret) -> ManualSecrets:
    """Look for secrets of single versions beside the live one.

    Raises:
        KeyStoreError: one holds another key than the live secret, or than another one, for its version.
        KeyStoreDamagedError: one holds no key.
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
