"""Partitions: one per rotation or rollback, named by the key version that it leads to; for rows also by shard.

They are derived from the ledger. Anybody who reaches the UI can add and remove partitions; the sensor `ledger_mirror`
corrects that within seconds, and no step runs because a partition exists.
"""

from collections.abc import Iterable, Sequence

import dagster as dg
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus
from dagster._core.storage.tags import MULTIDIMENSIONAL_PARTITION_PREFIX, PARTITION_NAME_TAG

from keyrotation_pipeline.defs.names import Naming
from keyrotation_pipeline.errors import OutOfOrderError
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.requests import RequestAction, RequestStatus, Step, Walk
from keyrotation_pipeline.ports.pipeline import Pipeline

KEY_VERSION = "key_version"
SHARD = "shard"
FINISHED = {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}
UNFINISHED = [status for status in dg.DagsterRunStatus if status not in FINISHED]
PartitionsRequest = dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest


def key_versions(naming: Naming) -> dg.DynamicPartitionsDefinition:
    """Every key version that a rotation leads to."""
    return dg.DynamicPartitionsDefinition(name=naming.name(KEY_VERSION))


def partition_of(walk: Walk) -> str:
    """``v2``; of a rollback ``v1-back-from-v2``, since a rotation to v1 has materialized ``v1`` already."""
    if walk.action is RequestAction.ROLLBACK:
        return f"{walk.target}-back-from-{walk.source}"
    return str(walk.target)


def wanted_partitions(pipeline: Pipeline) -> frozenset[str]:
    """One partition for each rotation and rollback in the ledger that was not cancelled.

    Before the first one, that of the active key, under which nothing is materialized.
    """
    walks = (each for each in pipeline.ledger.requests() if isinstance(each, Walk))
    wanted = frozenset(partition_of(each) for each in walks if each.status is not RequestStatus.CANCELLED)
    registered = pipeline.ledger.keys()
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


def row_partitions(naming: Naming, shards: int) -> dg.MultiPartitionsDefinition:
    """Key version × shard; `shards` is their number per table."""
    names = [shard_name(index) for index in range(shards)]
    return dg.MultiPartitionsDefinition(
        {KEY_VERSION: key_versions(naming), SHARD: dg.StaticPartitionsDefinition(names)}
    )


def row_partition(walk: Walk, shard: int) -> dg.MultiPartitionKey:
    """The partition of one shard."""
    return dg.MultiPartitionKey({KEY_VERSION: partition_of(walk), SHARD: shard_name(shard)})


def partition_and_shard(context: dg.AssetExecutionContext) -> tuple[str, int | None]:
    """The partition of a run: that of a rotation or rollback, and the shard.

    Raises:
        OutOfOrderError: the run is for several partitions, or for none.
    """
    if not context.has_partition_key:
        raise OutOfOrderError("this run is not for one partition; launch it again for the one that is missing")
    key = context.partition_key
    if isinstance(key, dg.MultiPartitionKey):
        parts = key.keys_by_dimension
        return parts[KEY_VERSION], int(parts[SHARD])
    return key, None
