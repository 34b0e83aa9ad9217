"""Which application instances are there, and which key versions do they use?"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.environment import Problem
from keyrotation_pipeline.model.fleet import Gone, Instance, RolloutMode, RolloutTarget
from keyrotation_pipeline.model.pending import PendingReason

# Returns what is still missing, given the current instances; None: nothing. It may raise, to end the wait.
PendingCheck = Callable[[Sequence[Instance]], PendingReason | None]
# Called with how many instances are done, how many there are, and what is waited for.
ProgressCallback = Callable[[int, int, PendingReason | None], None]


class Rollout(Protocol):
    """Gets the keys to applications, and observes that each has them."""

    @property
    def mode(self) -> RolloutMode:
        """How a rollout is observed."""

    @property
    def workloads(self) -> tuple[str, ...]:
        """The names of the workloads that the rollout itself restarts; none: applications fetch the keys themselves."""

    def preflight(self, target: KeyVersion) -> tuple[Problem, ...]:
        """Lists what would prevent applications from getting a new version."""

    def waiting(self) -> Mapping[str, str]:
        """Returns what each workload that is not rolled out still waits for, by its name."""

    def instances(self) -> tuple[Instance, ...]:
        """Returns every live instance, also terminating ones, and the silent ones that may still run."""

    def forget(self, gone: Collection[Gone] = ()) -> None:
        """Forgets instances that have ended: by their own sign-off, or as officers have just been seen to sign.

        Args:
            gone: the ones in a verified confirmation. One that has reported since stays.
        """

    def roll_out(self, target: RolloutTarget, pending: PendingCheck, report: ProgressCallback) -> tuple[Instance, ...]:
        """Brings every instance to a target, and waits until nothing is missing.

        Args:
            pending: called at once and at every poll, so that the wait ends soon after a request is paused.
            report: called after each poll.

        Returns:
            The instances as they were when nothing was missing.

        Raises:
            RolloutPendingError: it timed out; the sentence is that of `pending`.
            BlockedError: it cannot be done, or something else than the applications was waited for in vain.
        """
