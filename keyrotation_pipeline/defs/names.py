"""What assets, jobs, sensors and everything else of ours is called, in one place.

In a project of somebody else each name carries a prefix, since Dagster wants most of them once per project, and takes
pools and dynamic partitions of one name for the same in a whole instance.
"""

import hashlib
import re
from dataclasses import dataclass

import dagster as dg

from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.model.tables import TableName

ROTATION_TAG = "keyrotation/rotation"


@dataclass(frozen=True, slots=True)
class Naming:
    """Every name, behind the prefix.

    Args:
        prefix: what asset keys begin with; empty in a code location of our own.
    """

    prefix: tuple[str, ...] = ()

    def asset(self, *path: str) -> dg.AssetKey:
        """``key_backup``; with the prefix ``rotation`` it is ``rotation/key_backup``."""
        return dg.AssetKey([*self.prefix, *path])

    def step(self, step: Step) -> dg.AssetKey:
        """The asset of a step of the walk."""
        return self.asset(str(step))

    def rows(self, table: TableName) -> dg.AssetKey:
        """``rows/clients``, ``rows/billing.Invoices``."""
        return self.asset("rows", _plain(str(table), r"[^A-Za-z0-9_.-]"))

    def rows_op(self, table: TableName) -> str:
        """The op of that asset; Dagster allows letters, digits and underscores."""
        return self.name(f"rows__{_plain(str(table), r'[^A-Za-z0-9_]')}")

    def name(self, plain: str) -> str:
        """Of a job, schedule, sensor, op, group, pool or set of partitions: ``backup``, ``rotation_backup``."""
        return "_".join((*self.prefix, plain))


# In a code location of our own.
OWN = Naming()


def _plain(name: str, refused: str) -> str:
    plain = re.sub(refused, "_", name)
    # Two names that differ only in what was replaced must stay two names.
    return plain if plain == name else f"{plain}_{hashlib.sha256(name.encode()).hexdigest()[:6]}"
