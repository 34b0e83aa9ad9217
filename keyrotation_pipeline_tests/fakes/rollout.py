"""Application instances: set by a test, or processes that take keys from the key store and report them."""

# ruff: noqa: ARG002 - a fake has the whole signature of its port.
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from keyrotation_pipeline.errors import RolloutPendingError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.environment import Problem
from keyrotation_pipeline.model.fleet import Gone, Instance, RolloutMode, RolloutTarget
from keyrotation_pipeline.ports.clock import attempts
from keyrotation_pipeline.ports.rollout import PendingCheck, ProgressCallback
from keyrotation_pipeline_tests.fakes.clock import FakeClock
from keyrotation_pipeline_tests.fakes.keys import FakeKeyStore

# Fingerprints of keys.
Held = Mapping[KeyVersion, str]


@dataclass(frozen=True, slots=True)
class Reported:
    """A report as it is stored: the keys that it proves, and what it names."""

    proves: Held
    reads: tuple[KeyVersion, ...]
    writes: KeyVersion
    at: datetime
    nonce: str | None = None


@dataclass(frozen=True, slots=True)
class Process:
    """An application process; a dead one holds nothing, and its last report stays.

    Args:
        writes: the version that it writes under; None: none.
    """

    holds: Held = field(default_factory=dict)
    writes: KeyVersion | None = None
    reported: Reported | None = None


@dataclass
class FakeRollout:
    """`Rollout` over processes; without any, one instance that always uses what the key store gives it.

    Args:
        running: what is seen, instead of processes.
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
    processes: dict[str, Process] = field(default_factory=dict)
    ttl_seconds: float = 60.0

    # What processes do.

    def load(self, name: str) -> None:
        """A process starts, or reads its keys again, as the key store shows them."""
        stored = self.keys.read()
        held = {version: stored.material(version).fingerprint for version in stored.live}
        before = self.processes.get(name, Process())
        self.processes[name] = replace(before, holds=held, writes=stored.primary)

    def report(self, name: str, nonce: str | None = None) -> None:
        """It reports what it holds and writes under; `nonce` is what the database asked for when it began to."""
        process = self.processes[name]
        assert process.writes is not None, "an application without a primary does not start"
        reads, at = tuple(sorted(process.holds)), self.clock.now()
        self.processes[name] = replace(process, reported=Reported(process.holds, reads, process.writes, at, nonce))

    def die(self, name: str) -> None:
        self.processes[name] = Process(reported=self.processes[name].reported)

    def leave(self, name: str) -> None:
        """It ends with a farewell."""
        del self.processes[name]

    # What the port asks for.

    def preflight(self, target: KeyVersion) -> tuple[Problem, ...]:
        return self.problems

    def waiting(self) -> Mapping[str, str]:
        return {}

    def instances(self) -> tuple[Instance, ...]:
        if self.running is not None:
            return self.running
        if self.processes:
            return tuple(self._seen())
        primary, reads = self.keys.primary_version, tuple(sorted(self.keys.live))
        return () if primary is None else (Instance("web-1", reads, primary, self.clock.at),)

    def _seen(self) -> Iterator[Instance]:
        stored = self.keys.contents()
        known = {version: stored.material(version).fingerprint for version in (*stored.live, *stored.archived)}
        for name, process in sorted(self.processes.items()):
            if (said := process.reported) is None:
                continue
            named = sorted({*said.reads, said.writes})
            proven = {version for version in named if version in known and said.proves.get(version) == known[version]}
            unproven = tuple(version for version in named if version not in proven)
            silent = said.at + timedelta(seconds=self.ttl_seconds) <= self.clock.now()
            if not proven:
                yield Instance(name, (), None, said.at, silent, names_primary=False, unproven=unproven)
                continue
            yield Instance(
                name, tuple(version for version in said.reads if version in proven),
                said.writes if said.writes in proven else None, said.at, silent, unproven=unproven, nonce=said.nonce,
            )  # fmt: skip

    def forget(self, gone: Collection[Gone] = ()) -> None:
        if self.running is not None:
            self.running = tuple(each for each in self.running if Gone(each.name, each.reported_at) not in gone)
        for name, process in self.processes.items():
            if process.reported is not None and Gone(name, process.reported.at) in gone:
                self.processes[name] = replace(process, reported=None)

    def roll_out(self, target: RolloutTarget, pending: PendingCheck, report: ProgressCallback) -> tuple[Instance, ...]:
        patience = 0.0 if self.mode is RolloutMode.CONFIRM else self.timeout_seconds
        for waited in attempts(self.clock, pause_seconds=1, patience_seconds=patience):
            if waited:
                self.meanwhile()
            instances = self.instances()
            reason = pending(instances)
            there = sum(target.met_by(each) for each in instances if not each.silent)
            report(there, len(instances), reason)
            if reason is None:
                return instances
        raise RolloutPendingError(str(reason))
