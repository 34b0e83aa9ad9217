"""Reads the application's key ring from its environment, or from files that change while the application runs.

Such files are a mounted Secret, a sidecar's file, a directory:

    keys = MountedKeyRing("/run/secrets/pazpaz")

    class Client(Base):
        first_name: Mapped[str | None] = mapped_column(EncryptedType(keys))

`attest(engine, keys)` reloads it before each report, so a rotation needs no restart.
"""

import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path

from keyrotation_pipeline.errors import InvalidKeyError
from keyrotation_pipeline.fieldcrypto.grammar import VERSION_PATTERN, KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import (
    COMPROMISED_VARIABLE,
    FIRST_KEY_VARIABLE,
    PRIMARY_VARIABLE,
    KeyRing,
    variable_of,
)


class EnvironmentKeyRing:
    """The application's keys, from ``ENCRYPTION_MASTER_KEY``, ``ENCRYPTION_MASTER_KEY_V2`` … and the named primary.

    Call it for the current ring; it reads the variables at the first call and at each `reload`. Safe between threads.

    Args:
        environment: variables by name; the environment of the process when absent.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = os.environ if environment is None else environment
        self._ring: KeyRing | None = None
        self._reading = threading.Lock()

    def __call__(self) -> KeyRing:
        """Returns the current ring.

        Raises:
            InvalidKeyError: the first read failed; names the variable.
        """
        ring = self._ring
        if ring is None:
            with self._reading:
                ring = self._ring = self._ring or KeyRing.from_environment(dict(self._environment))
        return ring

    def reload(self) -> KeyRing:
        """Reads the variables again and uses their ring from now on; a statement in progress finishes with the old one.

        Raises:
            InvalidKeyError: a variable is missing or wrong; names it. The old ring stays in use.
        """
        with self._reading:
            ring = self._ring = KeyRing.from_environment(dict(self._environment))
        return ring


__all__ = ["MountedKeyRing"]

# Kubernetes swaps this link in a mounted Secret or ConfigMap: the files behind it all belong to one update.
KUBERNETES_LINK = "..data"
_NAMED = {"primary": PRIMARY_VARIABLE, "compromised": COMPROMISED_VARIABLE}
_KEY_FILE = re.compile(rf"({VERSION_PATTERN})\.key", re.ASCII)


class MountedKeyRing:
    """The application's keys, from a directory or a file that something else updates.

    Call it for the current ring; the files are read at the first call and at each `reload`. Safe between threads.

    Args:
        path: a directory with a file per variable (a mounted Secret: ``ENCRYPTION_MASTER_KEY``,
            ``ENCRYPTION_PRIMARY_VERSION`` …); or one with a file per version (``v2.key``, ``primary``, and after a
            compromise ``compromised``); or a file of lines ``NAME=value`` with the same variables.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._ring: KeyRing | None = None
        self._reading = threading.Lock()

    def __call__(self) -> KeyRing:
        """Returns the current ring.

        Raises:
            InvalidKeyError: the first reading failed; names the path and the variable, never what it holds.
        """
        return self._ring or self.reload()

    def reload(self) -> KeyRing:
        """Reads the files again and uses their ring from now on; a statement in progress finishes with the old one.

        Raises:
            InvalidKeyError: a key is missing or wrong. The old ring stays in use.
        """
        with self._reading:
            try:
                variables = _of_directory(self._path) if self._path.is_dir() else _of_file(self._path)
            except (OSError, UnicodeDecodeError) as error:
                failure = type(error).__name__
            else:
                ring = self._ring = KeyRing.from_environment(variables)
                return ring
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
    return name if name.upper().startswith((FIRST_KEY_VARIABLE, PRIMARY_VARIABLE, COMPROMISED_VARIABLE)) else None


def _content(file: Path) -> str | None:
    """Reads a file; returns None if it has just been removed."""
    try:
        return file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None


def _of_file(path: Path) -> Mapping[str, str]:
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    pairs = (line.removeprefix("export ").partition("=") for line in lines if line and not line.startswith("#"))
    return {name.strip(): value.strip().strip("\"'") for name, _, value in pairs}


def pod_of_process() -> Mapping[str, str] | None:
    """Returns namespace and uid of the Pod that this process runs in, from POD_NAMESPACE and POD_UID; None: not set."""
    namespace, uid = os.environ.get("POD_NAMESPACE"), os.environ.get("POD_UID")
    return {"namespace": namespace, "uid": uid} if namespace and uid else None
