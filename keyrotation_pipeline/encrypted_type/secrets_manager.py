"""Reads a key ring from AWS Secrets Manager, for applications that fetch their keys there themselves.

    keys = SecretsManagerKeyRing(boto3.client("secretsmanager"), "pazpaz/encryption-key")
    attest(engine, keys)

`attest` reloads it, so a rotation needs no restart. It takes the application's own client, so this package does not
need boto3.
"""

import json
import threading
import time
from collections.abc import Mapping
from typing import Any, Protocol

from keyrotation_pipeline.errors import InvalidKeyError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import (
    COMPROMISED_VARIABLE,
    FIRST_KEY_VARIABLE,
    PRIMARY_VARIABLE,
    KeyRing,
    keys_in,
    variable_of,
)

__all__ = ["SecretsManagerKeyRing"]

# Twelve calls per hour and process. The source procedure's alarm fires at a hundred over all processes.
EVERY_SECONDS = 300.0
PRIMARY = "primary"
COMPROMISED = "compromised"


class _Client(Protocol):
    def get_secret_value(self, *, SecretId: str, VersionStage: str) -> Mapping[str, Any]: ...  # noqa: N803  boto3's


class SecretsManagerKeyRing:
    """The application's keys, from the secret that the key store ``aws-secrets-manager`` maintains.

    Call it for the current ring; only the first call reads, and `reload` if the last read is long enough ago.
    Safe between threads.

    Args:
        client: boto3's client of Secrets Manager.
        secret_id: name or ARN of a secret with ``{"v1": "<base64>", "v2": "<base64>", "primary": "v2"}``, after a
            compromise with ``"compromised": "v1"`` too; or with one plain base64 key, which is v1.
        every_seconds: the least time between two reads, including failed ones.
    """

    def __init__(self, client: _Client, secret_id: str, *, every_seconds: float = EVERY_SECONDS) -> None:
        self._client = client
        self._secret_id = secret_id
        self._every_seconds = every_seconds
        self._ring: KeyRing | None = None
        self._read_at = 0.0
        self._reading = threading.Lock()

    def __call__(self) -> KeyRing:
        """Returns the current ring.

        Raises:
            InvalidKeyError: the first reading failed; names the secret and the entry, never what it holds.
        """
        return self._ring or self.reload()

    def reload(self) -> KeyRing:
        """Reads the secret again after `every_seconds`, and uses its ring from now on; else returns the present one.

        Raises:
            InvalidKeyError: it cannot be read, or a key is missing or wrong. The old ring stays in use.
        """
        with self._reading:
            now = time.monotonic()
            if self._ring is not None and now - self._read_at < self._every_seconds:
                return self._ring
            self._read_at = now
            ring = self._ring = self._read()
            return ring

    def _read(self) -> KeyRing:
        try:
            # Without a label AWS returns the same, but the application's policy allows only this call.
            answer = self._client.get_secret_value(SecretId=self._secret_id, VersionStage="AWSCURRENT")
            text = answer["SecretString"]
        except Exception as error:  # noqa: BLE001  botocore's errors, which are not imported here; they may hold anything
            failure = type(error).__name__
        else:
            return KeyRing.from_environment(self._variables(text))
        raise InvalidKeyError(
            f"secret {self._secret_id} cannot be read from AWS ({failure}); check its name, region and rights"
        )

    def _variables(self, text: str) -> dict[str, str]:
        """Converts the secret to the variables in which other applications get their keys."""
        if _is_key(text):
            return {FIRST_KEY_VARIABLE: text}
        try:
            entries = json.loads(text)
        except ValueError:
            entries = None
        if not isinstance(entries, dict):
            raise InvalidKeyError(
                f'secret {self._secret_id} is not JSON of the form {{"v1": "<base64>", …}}; correct it'
            )
        variables = {
            PRIMARY_VARIABLE: str(entries.get(PRIMARY, "")),
            COMPROMISED_VARIABLE: str(entries.get(COMPROMISED, "")),
        }
        for name, key in entries.items():
            try:
                variable = variable_of(KeyVersion.parse(name))
            except InvalidKeyError:
                continue  # an entry that is not ours
            if not _is_key(key):
                raise InvalidKeyError(
                    f"entry {name} of secret {self._secret_id} is not the base64 of 32 bytes; correct it"
                )
            variables[variable] = key
        return variables


def _is_key(text: object) -> bool:
    try:
        keys_in({FIRST_KEY_VARIABLE: str(text)})
    except InvalidKeyError:
        return False
    return True
