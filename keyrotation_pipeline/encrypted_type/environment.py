"""Reads the application's key ring from its environment, reloadable while it runs."""

import os
import threading
from collections.abc import Mapping

from keyrotation_pipeline.fieldcrypto.keyring import KeyRing


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
