"""What an application gets from its environment: its key ring, and which Pod it runs in.

Keys come from environment variables; from files that change while the application runs (a mounted Secret, a sidecar's
file, a directory); or from AWS Secrets Manager, for applications that fetch their keys there themselves:

    keys = MountedKeyRing("/run/secrets/pazpaz")
    keys = SecretsManagerKeyRing(boto3.client("secretsmanager"), "pazpaz/encryption-key")

    class Client(Base):
        first_name: Mapped[str | None] = mapped_column(EncryptedType(keys))

Each opens keys that are sealed (`fieldcrypto.seal`) where the process may, each text once, and keeps them in memory.

`attest(engine, keys)` reloads each before a report, so a rotation needs no restart. The client of AWS is the
application's own, so this package does not need boto3.
"""

import json
import os
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from keyrotation_pipeline.errors import InvalidKeyError
from keyrotation_pipeline.fieldcrypto.grammar import VERSION_PATTERN, KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import (
    CANARY_VARIABLE,
    COMPROMISED_VARIABLE,
    FIRST_KEY_VARIABLE,
    PRIMARY_VARIABLE,
    KeyRing,
    keys_in,
    variable_of,
)
from keyrotation_pipeline.fieldcrypto.seal import is_sealed
from keyrotation_pipeline.regular_files import read_text


class _Reloaded(ABC):
    """A key ring that is read at the first call, and again at each `reload`. Safe between threads."""

    def __init__(self) -> None:
        self._ring: KeyRing | None = None
        self._reading = threading.Lock()

    def __call__(self) -> KeyRing:
        """Returns the current ring.

        Raises:
            InvalidKeyError: none was read yet, and it cannot be; names the variable, file or secret, never what it
                holds.
        """
        ring = self._ring
        if ring is None:
            with self._reading:
                ring = self._ring = self._ring or self._read()
        return ring

    def reload(self) -> KeyRing:
        """Reads the keys again and uses their ring from now on; a statement in progress finishes with the old one.

        Raises:
            InvalidKeyError: they cannot be read, or a key is missing or wrong. The old ring stays in use.
        """
        with self._reading:
            ring = self._ring = self._read()
        return ring

    @abstractmethod
    def _read(self) -> KeyRing:
        """Reads the keys, in one thread at a time."""


class EnvironmentKeyRing(_Reloaded):
    """The application's keys, from ``ENCRYPTION_MASTER_KEY``, ``ENCRYPTION_MASTER_KEY_V2`` … and the named primary.

    Call it for the current ring; it reads the variables at the first call and at each `reload`. Safe between threads.

    Args:
        environment: variables by name; the environment of the process when absent.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._environment = os.environ if environment is None else environment

    def _read(self) -> KeyRing:
        return KeyRing.from_environment(dict(self._environment))


# Kubernetes swaps this link in a mounted Secret or ConfigMap: the files behind it all belong to one update.
KUBERNETES_LINK = "..data"
_NAMED = {"primary": PRIMARY_VARIABLE, "compromised": COMPROMISED_VARIABLE, "canary": CANARY_VARIABLE}
_KEY_FILE = re.compile(rf"({VERSION_PATTERN})\.key", re.ASCII)


class MountedKeyRing(_Reloaded):
    """The application's keys, from a directory or a file that something else updates.

    Call it for the current ring; the files are read at the first call and at each `reload`. Safe between threads.

    Args:
        path: a directory with a file per variable (a mounted Secret: ``ENCRYPTION_MASTER_KEY``,
            ``ENCRYPTION_PRIMARY_VERSION`` …); or one with a file per version (``v2.key``, ``primary``, and after a
            compromise ``compromised``); or a file of lines ``NAME=value`` with the same variables.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self._path = Path(path)

    def _read(self) -> KeyRing:
        try:
            variables = _of_directory(self._path) if self._path.is_dir() else _of_file(self._path)
        except (OSError, UnicodeDecodeError) as error:
            failure = type(error).__name__
        else:
            return KeyRing.from_environment(variables)
        raise InvalidKeyError(f"the keys in {self._path} cannot be read ({failure}); mount them there")


def _of_directory(path: Path) -> Mapping[str, str]:
    link = path / KUBERNETES_LINK
    directory = link.resolve() if link.is_dir() else path
    variables = {}
    # The primary before the keys: a version is stored before it is named, and withdrawn after another is. The
    # compromised versions first of all: they are named after another version became the primary.
    for file in sorted(directory.iterdir(), key=_reading_order):
        variable = _variable(file.name)
        if variable is not None and (content := _content(file)) is not None:
            variables[variable] = content
    return variables


def _reading_order(file: Path) -> int:
    name = file.name.lower()
    return 0 if "compromised" in name else 1 if "primary" in name else 2


def _variable(name: str) -> str | None:
    """Returns the variable that a file stands for; None for a file that is not ours."""
    if (key_file := _KEY_FILE.fullmatch(name)) is not None:
        return variable_of(KeyVersion.parse(key_file[1]))
    if name in _NAMED:
        return _NAMED[name]
    return name if name.upper().startswith((FIRST_KEY_VARIABLE, *_NAMED.values())) else None


def _content(file: Path) -> str | None:
    """Reads a file; returns None if it has just been removed."""
    try:
        return read_text(file).strip()
    except FileNotFoundError:
        return None


def _of_file(path: Path) -> Mapping[str, str]:
    lines = (line.strip() for line in read_text(path).splitlines())
    pairs = (line.removeprefix("export ").partition("=") for line in lines if line and not line.startswith("#"))
    return {name.strip(): value.strip().strip("\"'") for name, _, value in pairs}


def pod_of_process() -> Mapping[str, str] | None:
    """Returns namespace and uid of the Pod that this process runs in, from POD_NAMESPACE and POD_UID; None: not set."""
    namespace, uid = os.environ.get("POD_NAMESPACE"), os.environ.get("POD_UID")
    return {"namespace": namespace, "uid": uid} if namespace and uid else None


# Twelve calls per hour and process. The source procedure's alarm fires at a hundred over all processes.
EVERY_SECONDS = 300.0
# After the first failure of an application that has no keys yet; each further one doubles it.
FIRST_PAUSE_SECONDS = 5.0
PRIMARY = "primary"
COMPROMISED = "compromised"
CANARY_ENTRY = "keyrotation_canary"


class _Client(Protocol):
    def get_secret_value(self, *, SecretId: str, VersionStage: str) -> Mapping[str, Any]: ...  # noqa: N803  boto3's


class SecretsManagerKeyRing(_Reloaded):
    """The application's keys, from the secret that the key store ``aws-secrets-manager`` maintains.

    Call it for the current ring; only the first call reads, and `reload` if the last read is long enough ago.
    Safe between threads.

    Args:
        client: boto3's client of Secrets Manager.
        secret_id: name or ARN of a secret with ``{"v1": "<base64>", "v2": "<base64>", "primary": "v2"}``, after a
            compromise with ``"compromised": "v1"`` too; or with one plain base64 key, which is v1.
        every_seconds: the least time between two reads, including failed ones. Until the first one succeeds it is
            shorter: 5 seconds after the first failure, and twice as long after each further one.
    """

    def __init__(self, client: _Client, secret_id: str, *, every_seconds: float = EVERY_SECONDS) -> None:
        super().__init__()
        self._client = client
        self._secret_id = secret_id
        self._every_seconds = every_seconds
        self._failure = ""
        self._pause_seconds = 0.0
        self._next_read_at = 0.0

    def reload(self) -> KeyRing:
        """Reads the secret again after `every_seconds`, and uses its ring from now on; else returns the present one.

        Raises:
            InvalidKeyError: it cannot be read, or a key is missing or wrong; or it could not at the last read, and
                there is no ring yet. The old ring stays in use.
        """
        return super().reload()

    def _read(self) -> KeyRing:
        if time.monotonic() < self._next_read_at:
            if self._ring is None:
                raise InvalidKeyError(self._failure)
            return self._ring
        try:
            ring = self._fetched()
            self._pause_seconds = self._every_seconds
        except InvalidKeyError as error:
            self._failure = str(error)
            self._pause_seconds = min(max(FIRST_PAUSE_SECONDS, 2 * self._pause_seconds), self._every_seconds)
            raise
        finally:
            self._next_read_at = time.monotonic() + self._pause_seconds
        return ring

    def _fetched(self) -> KeyRing:
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
        if _is_key(text) and not is_sealed(text):
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
            CANARY_VARIABLE: str(entries.get(CANARY_ENTRY, "")),
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
    if is_sealed(str(text)):
        return True
    try:
        keys_in({FIRST_KEY_VARIABLE: str(text)})
    except InvalidKeyError:
        return False
    return True
