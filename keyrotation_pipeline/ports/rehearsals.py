"""Where can a whole rotation be carried out that touches nothing real?"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.ports.pipeline import Pipeline


class Signing(Protocol):
    """The throw-away officers."""

    def __call__(self, text: bytes) -> tuple[bytes, ...]:
        """As many detached signatures as a request needs."""


@dataclass(frozen=True, slots=True)
class RehearsalStage:
    """A pipeline of its own over a restored database, and officers who sign whatever is to be rehearsed."""

    pipeline: Pipeline
    sign: Signing


class Stages(Protocol):
    """Makes stages."""

    def opened(self, url: str, ring: KeyRing) -> AbstractContextManager[RehearsalStage]:
        """A stage over the restored database at `url`, until the context ends; nothing of it stays.

        What the restored database remembers of rotations is dropped: the stage begins with `ring` and a memory of its
        own. Keys are held in memory only.

        Raises:
            HomeError: this machine has no memory for files.
        """

    def plainly(self) -> AbstractContextManager[None]:
        """Whatever the database refuses inside is a RehearsalError that says which error it was, without content."""
