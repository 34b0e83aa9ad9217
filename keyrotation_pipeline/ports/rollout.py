"""Which application instances are there, and which key versions do they use?"""

from collections.abc import Callable, Sequence
from typing import Protocol

from keyrotation_pipeline.model.instances import Instance


class Rollout(Protocol):
    """How applications come by the keys, and how each is seen to have them."""

    def instances(self) -> tuple[Instance, ...]:
        """Every instance that is alive, terminating ones too."""

    def wait_for(
        self, description: str, settled: Callable[[Sequence[Instance]], Sequence[str]]
    ) -> tuple[Instance, ...]:
        """Wait until `settled` names no instance that lags; give back the instances.

        Raises:
            BlockedError: the time-out passed; names the instances and `description`.
        """
