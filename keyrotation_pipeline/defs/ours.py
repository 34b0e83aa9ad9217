"""What is ours, in a project that has assets, checks and runs of its own."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import dagster as dg


@dataclass(frozen=True, slots=True)
class Ours:
    """Our assets and checks, the ops that make them, and our jobs by name."""

    assets: frozenset[dg.AssetKey]
    checks: frozenset[dg.AssetCheckKey]
    ops: frozenset[str]
    jobs: frozenset[str]

    @classmethod
    def of(cls, definitions: Sequence[dg.AssetsDefinition], ops: Iterable[str], jobs: Iterable[str]) -> "Ours":
        """Of these assets and checks, and of ops and jobs without assets."""
        return cls(
            frozenset(key for each in definitions for key in each.keys),
            frozenset(key for each in definitions for key in each.check_keys),
            frozenset((*ops, *(each.node_def.name for each in definitions))),
            frozenset(jobs),
        )

    def failed(self, run: dg.DagsterRun, failures: Sequence[dg.DagsterEvent]) -> bool:
        """Whether it is one of ours that failed in a run; of a run that came to no step, whether it was to run any."""
        if failures:
            return any(each.step_key in self.ops for each in failures)
        selected = not self.assets.isdisjoint(run.asset_selection or ())
        return selected or run.job_name in self.jobs
