"""Where can a whole rotation be rehearsed without touching anything real?"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.ports.pipeline import Pipeline


class Signing(Protocol):
    """Signs for the throw-away officers."""

    def __call__(self, text: bytes) -> tuple[bytes, ...]:
        """Returns as many detached signatures as a request needs."""


@dataclass(frozen=True, slots=True)
class RehearsalStage:
    """A separate pipeline over a restored database, and officers who sign whatever is rehearsed."""

    pipeline: Pipeline
    sign: Signing


class Stages(Protocol):
    """Opens rehearsal stages."""

    def opened(self, url: str, ring: KeyRing) -> AbstractContextManager[RehearsalStage]:
        """Yields a stage over the restored database at `url`; nothing of it remains when the context ends.

        The restored database's own requests and keys are dropped: the stage starts with `ring` and an empty ledger.
        Keys are held in memory only.

        Raises:
            HomeError: this machine has no in-memory file system.
        """

    def plainly(self) -> AbstractContextManager[None]:
        """Converts whatever the database refuses inside to a RehearsalError that names the error, without content."""
