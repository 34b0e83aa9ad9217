"""Names and owners of everything that the pipeline defines in Dagster, and the partitions.

There is one partition per rotation or rollback, named by the key version that it leads to; for rows also by shard, or
in a fleet by database, since Dagster has two dimensions and no more. They are derived from the ledger. Anybody who
reaches the UI can add and remove partitions; the sensor `ledger_mirror` corrects that within seconds, and no step runs
because a partition exists.

In somebody else's project each name carries a prefix, since Dagster requires most names to be unique in a project, and
treats pools and dynamic partitions of one name as the same in a whole instance.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import dagster as dg
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus
from dagster._core.storage.tags import MULTIDIMENSIONAL_PARTITION_PREFIX, PARTITION_NAME_TAG

from keyrotation_pipeline.errors import OutOfOrderError
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.requests import RequestStatus, Step, Walk
from keyrotation_pipeline.model.tables import TableName
from keyrotation_pipeline.ports.ledger import Ledger

ROTATION_TAG = "keyrotation/rotation"
# On runs that take shards of a fleet: an instance may limit how many there are of each value at a time.
SERVER_TAG = "keyrotation/server"

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
        """``rows/clients``, ``rows/billing.Invoices``; of a fleet, the table in whichever databases it is."""
        return self.asset("rows", _plain(str(table.in_any_database), r"[^A-Za-z0-9_.-]"))

    def rows_op(self, table: TableName) -> str:
        """The op of that asset; Dagster allows letters, digits and underscores."""
        return self.name(f"rows__{_plain(str(table.in_any_database), r'[^A-Za-z0-9_]')}")

    def name(self, plain: str) -> str:
        """Of a job, schedule, sensor, op, group, pool or set of partitions: ``backup``, ``rotation_backup``.

        A name that begins with the prefix's last part already is not given it twice: ``rotation_conductor``.
        """
        *before, last = self.prefix or ("",)
        repeated = bool(last) and f"{plain}_".startswith(f"{last}_")
        return "_".join(filter(None, (*before, "" if repeated else last, plain)))


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


KEY_VERSION = "key_version"
SHARD = "shard"
DATABASE = "database"
# The partition of the home's own database: no member can have this name, which has a hyphen.
OWN_DATABASE = "own-database"
FINISHED = {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}
UNFINISHED = [status for status in dg.DagsterRunStatus if status not in FINISHED]
PartitionsRequest = dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest


def key_versions(naming: Naming) -> dg.DynamicPartitionsDefinition:
    """Every key version that a rotation leads to."""
    return dg.DynamicPartitionsDefinition(name=naming.name(KEY_VERSION))


def partition_of(walk: Walk) -> str:
    """``v2``; of a rollback ``v1-back-from-v2``, since a rotation to v1 has materialized ``v1`` already."""
    if walk.action.goes_back:
        return f"{walk.target}-back-from-{walk.source}"
    return str(walk.target)


def wanted_partitions(ledger: Ledger) -> frozenset[str]:
    """One partition for each rotation and rollback in the ledger that was not cancelled.

    Before the first one, that of the active key, under which nothing is materialized.
    """
    walks = (each for each in ledger.requests() if isinstance(each, Walk))
    wanted = frozenset(partition_of(each) for each in walks if each.status is not RequestStatus.CANCELLED)
    registered = ledger.keys()
    return wanted or frozenset(str(each.version) for each in registered if each.state is KeyState.ACTIVE)


def missing_partitions(
    instance: dg.DagsterInstance, naming: Naming, wanted: Iterable[str]
) -> Sequence[dg.AddDynamicPartitionsRequest]:
    """The requests of a sensor that add those of these partitions that are missing."""
    missing = sorted(set(wanted).difference(instance.get_dynamic_partitions(naming.name(KEY_VERSION))))
    return [key_versions(naming).build_add_request(missing)] if missing else []


def partitions_to_sync(
    instance: dg.DagsterInstance, naming: Naming, wanted: Iterable[str]
) -> Sequence[PartitionsRequest]:
    """The requests of a sensor that leave only these partitions, and those still in use."""
    surplus = set(instance.get_dynamic_partitions(naming.name(KEY_VERSION))).difference(wanted)
    removed = (
        sorted(surplus - partitions_in_use(instance))
        if surplus and not _is_backfill_unfinished(instance, naming)
        else []
    )
    removal = [key_versions(naming).build_delete_request(removed)] if removed else []
    return [*missing_partitions(instance, naming, wanted), *removal]


def partitions_in_use(instance: dg.DagsterInstance) -> frozenset[str]:
    """The partitions of unfinished runs."""
    tags = (PARTITION_NAME_TAG, f"{MULTIDIMENSIONAL_PARTITION_PREFIX}{KEY_VERSION}")
    runs = [each.dagster_run for each in instance.get_run_records(dg.RunsFilter(statuses=UNFINISHED))]
    return frozenset(run.tags[tag] for run in runs for tag in tags if tag in run.tags)


def _is_backfill_unfinished(instance: dg.DagsterInstance, naming: Naming) -> bool:
    """Whether an unfinished backfill is of a step; without its partition Dagster fails it with an error of its own."""
    unfinished = instance.get_backfills(filters=BulkActionsFilter(statuses=[BulkActionStatus.REQUESTED]))
    steps, rows = set(map(naming.step, Step)), naming.asset("rows").path
    selected = (key for backfill in unfinished for key in backfill.asset_selection or ())
    return any(key in steps or key.path[: len(rows)] == rows for key in selected)


def shard_name(index: int) -> str:
    """``00`` for shard 0."""
    return f"{index:02d}"


def database_name(table: TableName) -> str:
    """The partition of the database that a table is in."""
    return table.database or OWN_DATABASE


def row_partitions(naming: Naming, databases: Sequence[str], shards: int) -> dg.MultiPartitionsDefinition:
    """Key version × shard; in a fleet key version × database, and a run takes all shards of a table in it.

    Args:
        databases: of a fleet, those that have the table, as `database_name` names them; none: there is no fleet.
        shards: their number per table.
    """
    by_shard = [shard_name(index) for index in range(shards)]
    second = {DATABASE: databases} if databases else {SHARD: by_shard}
    named = {name: dg.StaticPartitionsDefinition(keys) for name, keys in second.items()}
    return dg.MultiPartitionsDefinition({KEY_VERSION: key_versions(naming), **named})


def row_partition(walk: Walk, table: TableName, shard: int | None) -> dg.MultiPartitionKey:
    """The partition of one shard; of a fleet, where `shard` is None, that of a table in one database."""
    second = {DATABASE: database_name(table)} if shard is None else {SHARD: shard_name(shard)}
    return dg.MultiPartitionKey({KEY_VERSION: partition_of(walk), **second})


@dataclass(frozen=True, slots=True)
class RunPartition:
    """The partition of a run.

    Args:
        walk: that of a rotation or rollback.
        shard: of rows; None, too, in a fleet.
        database: of rows in a fleet, as `database_name` names it.
    """

    walk: str
    shard: int | None = None
    database: str | None = None

    @classmethod
    def of(cls, context: dg.AssetExecutionContext) -> "RunPartition":
        """The one that a run is for.

        Raises:
            OutOfOrderError: the run is for several partitions, or for none.
        """
        if not context.has_partition_key:
            raise OutOfOrderError("this run is not for one partition; launch it again for the one that is missing")
        key = context.partition_key
        if not isinstance(key, dg.MultiPartitionKey):
            return cls(key)
        parts = key.keys_by_dimension
        return cls(parts[KEY_VERSION], int(parts[SHARD]) if SHARD in parts else None, parts.get(DATABASE))
