"""How the engine gets worker processes, known before there is any."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from keyrotation_pipeline.ports.keys import KeyStore


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How worker processes are started.

    Args:
        keys: the key store, from which each worker reads the key ring by itself.
        environment: of the workers. It must hold no key. None: the same as ours.
    """

    keys: KeyStore
    environment: Mapping[str, str] | None = field(default=None, repr=False)
