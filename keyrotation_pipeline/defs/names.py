"""Names, owners and ownership of everything that the pipeline defines in Dagster.

In somebody else's project each name carries a prefix, since Dagster requires most names to be unique in a project, and
treats pools and dynamic partitions of one name as the same in a whole instance.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import dagster as dg

from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.model.tables import TableName

ROTATION_TAG = "keyrotation/rotation"

# Owners: the roles of the source procedure (section 1.3).
DATABASE_ADMINISTRATORS = "team:database-administrators"
SECURITY_OFFICERS = "team:security-officers"
SITE_RELIABILITY = "team:site-reliability"
COMPLIANCE_OFFICERS = "team:compliance-officers"


@dataclass(frozen=True, slots=True)
class Naming:
    """Every name, with the prefix.

    Args:
        prefix: the first parts of every asset key; empty in our own code location.
    """

    prefix: tuple[str, ...] = ()

    def asset(self, *path: str) -> dg.AssetKey:
        """``key_backup``; with the prefix ``rotation`` it is ``rotation/key_backup``."""
        return dg.AssetKey([*self.prefix, *map(str, path)])  # a `Step` is not plain enough for Dagster to store

    def step(self, step: Step) -> dg.AssetKey:
        """The asset of a step of the rotation."""
        return self.asset(step)

    def rows(self, table: TableName) -> dg.AssetKey:
        """``rows/clients``, ``rows/billing.Invoices``."""
        return self.asset("rows", _plain(str(table), r"[^A-Za-z0-9_.-]"))

    def rows_op(self, table: TableName) -> str:
        """The op of that asset; Dagster allows letters, digits and underscores."""
        return self.name(f"rows__{_plain(str(table), r'[^A-Za-z0-9_]')}")

    def name(self, plain: str) -> str:
        """Of a job, schedule, sensor, op, group, pool or set of partitions: ``backup``, ``rotation_backup``."""
        return "_".join((*self.prefix, plain))


# In our own code location.
OWN = Naming()


@dataclass(frozen=True, slots=True)
class Ownership:
    """Which assets, checks, ops and jobs are the pipeline's, in a project that has others."""

    assets: frozenset[dg.AssetKey]
    checks: frozenset[dg.AssetCheckKey]
    ops: frozenset[str]
    jobs: frozenset[str]

    @classmethod
    def of(cls, definitions: Sequence[dg.AssetsDefinition], ops: Iterable[str], jobs: Iterable[str]) -> "Ownership":
        """Of these assets and checks, and of ops and jobs without assets."""
        return cls(
            frozenset(key for each in definitions for key in each.keys),
            frozenset(key for each in definitions for key in each.check_keys),
            frozenset((*ops, *(each.node_def.name for each in definitions))),
            frozenset(jobs),
        )

    def failed(self, run: dg.DagsterRun, failures: Sequence[dg.DagsterEvent]) -> bool:
        """Whether an op of the pipeline failed; in a run that started no op, whether the run is of the pipeline."""
        if failures:
            return any(each.step_key in self.ops for each in failures)
        selected = not self.assets.isdisjoint(run.asset_selection or ())
        return selected or run.job_name in self.jobs


def _plain(name: str, refused: str) -> str:
    plain = re.sub(refused, "_", name)
    # Two names that differ only in what was replaced must stay two names.
    return plain if plain == name else f"{plain}_{hashlib.sha256(name.encode()).hexdigest()[:6]}"
