"""One look at the applications, the key store and the database: each is read once, when it is first needed."""

from dataclasses import dataclass
from functools import cached_property

from keyrotation_pipeline.audit.divergence import divergence, warning
from keyrotation_pipeline.errors import KeyRotationError, KeyStoreError
from keyrotation_pipeline.model.fleet import Instance
from keyrotation_pipeline.model.keys import KeyRecord, StoredKeys
from keyrotation_pipeline.ports.pipeline import Pipeline


@dataclass
class Situation:
    """What one decision, or one page of the status, rests on; a new look takes a new value."""

    pipeline: Pipeline

    def ask(self) -> None:
        """Asks key store and applications now: neither is in the database, and either may take long to answer."""
        _ = self._keys, self._answer

    @property
    def stored(self) -> StoredKeys:
        """The key store.

        Raises:
            KeyStoreError: it cannot be read; asked again, it is the same.
        """
        if isinstance(self._keys, KeyStoreError):
            raise self._keys
        return self._keys

    @cached_property
    def _keys(self) -> StoredKeys | KeyStoreError:
        try:
            return self.pipeline.keys.read()
        except KeyStoreError as error:
            return error

    @cached_property
    def registered(self) -> tuple[KeyRecord, ...]:
        """Every key version that the audit knows."""
        return self.pipeline.ledger.keys()

    @property
    def instances(self) -> tuple[Instance, ...]:
        """The application's instances.

        Raises:
            KeyRotationError: they cannot be seen now; asked again, it is the same.
        """
        if isinstance(self._answer, KeyRotationError):
            raise self._answer
        return self._answer

    @property
    def unreachable(self) -> KeyRotationError | None:
        """Why instances cannot be seen now."""
        return self._answer if isinstance(self._answer, KeyRotationError) else None

    @cached_property
    def _answer(self) -> tuple[Instance, ...] | KeyRotationError:
        try:
            return self.pipeline.rollout.instances()
        except KeyRotationError as error:
            return error

    @cached_property
    def inconsistent(self) -> str | None:
        """How key store and audit differ, as after the restore of a database; None: they agree."""
        return warning(divergence(self.pipeline, self.stored))
