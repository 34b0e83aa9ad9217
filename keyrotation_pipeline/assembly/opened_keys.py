"""Opens the keys of an application whose library reads a list from its environment, and cannot open sealed ones.

It needs what `EncryptedType` would: the sealed texts, and the right to open them. It asks neither home nor database.
"""

from contextlib import suppress
from pathlib import Path

from keyrotation_pipeline.adapters.keystores.key_list import in_order
from keyrotation_pipeline.encrypted_type import EnvironmentKeyRing, MountedKeyRing, SecretsManagerKeyRing
from keyrotation_pipeline.errors import ConfigurationError, InvalidKeyError
from keyrotation_pipeline.fieldcrypto.codecs.format import notation_of
from keyrotation_pipeline.fieldcrypto.keyring import CANARY_VARIABLE, KeyRing
from keyrotation_pipeline.fieldcrypto.seal import UNSEALED
from keyrotation_pipeline.fieldcrypto.wrapping_keys import CANARY
from keyrotation_pipeline.settings.loading import child_environment
from keyrotation_pipeline.settings.value_formats import FormatSettings


def key_ring(mounted: Path | None, secret: str | None) -> KeyRing:
    """Returns the opened keys: of a directory or file, of a secret in AWS, else of the environment.

    Raises:
        InvalidKeyError: they cannot be read or opened; names the place.
    """
    if mounted is not None:
        return MountedKeyRing(mounted)()
    if secret is None:
        return EnvironmentKeyRing()()
    import boto3  # noqa: PLC0415  takes a second to import

    return SecretsManagerKeyRing(boto3.client("secretsmanager"), secret)()


def environment_with(ring: KeyRing, declared: FormatSettings) -> dict[str, str]:
    """Returns our environment with the application's list, and without the sealed keys and what opens them.

    A canary that opens is in it, too, so that the child can report that it does.

    Raises:
        ConfigurationError: the application reads no list.
    """
    if declared.keys is None:
        raise ConfigurationError(
            f'`keyrotation exec` is for libraries that read a list, and [format] name = "{declared.name}" has none; '
            "open its keys in the application (`keyrotation docs sealed-keys`)"
        )
    notation = notation_of(declared.value_format, declared.encoding_of_keys)
    keys = in_order({version: ring.material(version) for version in ring.versions}, ring.primary)
    variables = {declared.keys.env: notation.text_of(keys or ())}
    with suppress(InvalidKeyError):
        if (canary := ring.canary()) is not None:
            variables[CANARY_VARIABLE] = UNSEALED.text_of(CANARY, canary)
    return child_environment(**variables)
