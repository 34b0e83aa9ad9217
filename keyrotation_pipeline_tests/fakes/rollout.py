"""Application instances that a test sets."""

# ruff: noqa: ARG002 - a fake has the whole signature of its port.
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from keyrotation_pipeline.errors import BlockedError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.fleet import Gone, Instance, RolloutMode, RolloutTarget
from keyrotation_pipeline.model.tables import Problem
from keyrotation_pipeline.ports.clock import attempts
from keyrotation_pipeline.ports.rollout import Lacking, ProgressCallback
from keyrotation_pipeline_tests.fakes.clock import FakeClock
from keyrotation_pipeline_tests.fakes.keys import FakeKeyStore


@dataclass
class FakeRollout:
    """`Rollout` whose instances a test sets; with none set, one instance that uses what the key store gives it.

    Args:
        running: what is reported, instead of following the key store.
        meanwhile: what happens at each pause of a wait.
    """

    keys: FakeKeyStore
    clock: FakeClock
    running: tuple[Instance, ...] | None = None
    mode: RolloutMode = RolloutMode.ATTEST
    timeout_seconds: float = 0.0
    problems: tuple[Problem, ...] = ()
    workloads: tuple[str, ...] = ()
    meanwhile: Callable[[], None] = lambda: None

    def preflight(self, target: KeyVersion) -> tuple[Problem, ...]:
        return self.problems

    def waiting(self) -> Mapping[str, str]:
        return {}

    def instances(self) -> tuple[Instance, ...]:
        if self.running is not None:
            return self.running
        primary, reads = self.keys.primary_version, tuple(sorted(self.keys.live))
        return () if primary is None else (Instance("web-1", reads, primary, self.clock.at),)

    def forget(self, gone: Collection[Gone] = ()) -> None:
        if self.running is not None:
            self.running = tuple(each for each in self.running if Gone(each.name, each.reported_at) not in gone)

    def roll_out(self, goal: RolloutTarget, lacking: Lacking, report: ProgressCallback) -> tuple[Instance, ...]:
        patience = 0.0 if self.mode is RolloutMode.CONFIRM else self.timeout_seconds
        for waited in attempts(self.clock, pause_seconds=1, patience_seconds=patience):
            if waited:
                self.meanwhile()
            instances = self.instances()
            sentence = lacking(instances)
            there = sum(goal.met_by(each) for each in instances if not each.silent)
            report(there, len(instances), sentence or "")
            if sentence is None:
                return instances
        raise BlockedError(sentence)
