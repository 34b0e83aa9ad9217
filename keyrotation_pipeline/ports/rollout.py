"""Which application instances are there, and which key versions do they use?"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.fleet import Instance, RolloutMode, RolloutTarget
from keyrotation_pipeline.model.tables import Problem

# Says what is still lacking, from the instances as they are now; None: nothing. It may raise, to end the wait.
Lacking = Callable[[Sequence[Instance]], str | None]
# Told how many instances are where they should be, how many there are, and what is waited for.
ProgressCallback = Callable[[int, int, str], None]


class Rollout(Protocol):
    """How applications get the keys, and how it is known that each has them."""

    @property
    def mode(self) -> RolloutMode:
        """By what a rollout is seen to be done."""

    @property
    def workloads(self) -> tuple[str, ...]:
        """The names of what the rollout itself gives new Pods to; none: applications come by the keys by themselves."""

    def preflight(self, target: KeyVersion) -> tuple[Problem, ...]:
        """What would keep applications from coming by a new version."""

    def waiting(self) -> Mapping[str, str]:
        """What each workload that is not rolled out still waits for, by its name."""

    def instances(self) -> tuple[Instance, ...]:
        """Every instance that is alive, terminating ones too; and the silent ones that may still run."""

    def roll_out(self, goal: RolloutTarget, lacking: Lacking, report: ProgressCallback) -> tuple[Instance, ...]:
        """Do what there is to do to bring every instance to a goal, and wait until nothing is lacking.

        Args:
            lacking: asked at once and then every moment, so that the wait ends soon after a request is paused.
            report: told after each look.

        Returns:
            The instances as they were when nothing was lacking.

        Raises:
            BlockedError: the time-out passed; the sentence is that of `lacking`.
        """
