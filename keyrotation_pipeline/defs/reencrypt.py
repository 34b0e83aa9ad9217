"""The rows: an asset a table, a partition a key version and shard, and the check that no old row is left.

A person materializes a partition; the conductor starts runs that take due shards one after another, since a process
takes longer to start than many a shard takes.
"""

import time
from collections.abc import Iterator, Sequence

import dagster as dg

from keyrotation_pipeline.defs.evidence import materialization
from keyrotation_pipeline.defs.names import rows_key, rows_op_name, step_key
from keyrotation_pipeline.defs.owners import DATABASE_ADMINISTRATORS
from keyrotation_pipeline.defs.partitions import row_partitions
from keyrotation_pipeline.defs.performing import actor_of, perform, progress_to
from keyrotation_pipeline.defs.refusals import refusals
from keyrotation_pipeline.defs.resources import PipelineParameter
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.columns import EncryptedTable
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.request import Step
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests import superseding
from keyrotation_pipeline.rotation import performing

POOL = "reencrypt"
NO_LONGER_WRITTEN = {KeyState.DEACTIVATED, KeyState.ARCHIVED, KeyState.COMPROMISED, KeyState.DESTROYED}


def rows_asset(table: EncryptedTable, shards: int) -> dg.AssetsDefinition:
    """The asset ``rows/<table>``."""
    spec = dg.AssetSpec(
        rows_key(table.name),
        deps=[
            step_key(Step.PRIMARY_KEY_ROLLOUT),
            "encrypted_columns",
        ],
        description=f"4. Every row of {table.name} under the new key, by page ranges: {', '.join(table.columns)}.",
        group_name="rows",
        kinds={"postgres"},
        owners=[DATABASE_ADMINISTRATORS],
        metadata={"table": str(table.name), "columns": ", ".join(table.columns), "shards": shards},
        partitions_def=row_partitions(shards),
    )

    @dg.multi_asset(specs=[spec], name=rows_op_name(table.name), pool=POOL)
    def rows(context: dg.AssetExecutionContext, pipeline: PipelineParameter) -> dg.MaterializeResult[None]:
        return perform(context, pipeline, Step.ROWS, table=table)

    return rows


@dg.op(out={}, pool=POOL)
def due_shards(context: dg.OpExecutionContext, pipeline: PipelineParameter) -> Iterator[dg.AssetMaterialization]:
    """Re-encrypts what is due and nobody else is at, a shard after another, and materializes the partition of each."""
    with refusals(), pipeline.open(actor_of(context)) as opened:
        rotation = superseding.next_up(opened)
        if rotation is None:
            return
        began = time.monotonic()
        for record in performing.run_shards(opened, rotation.id, progress_to(context.log)):
            yield materialization(opened, rotation, record, seconds=time.monotonic() - began)
            began = time.monotonic()


def zero_old_rows_check(tables: Sequence[EncryptedTable]) -> dg.AssetChecksDefinition:
    """The check `zero_old_rows` of every table: one count each, after the proof when both run."""
    specs = [
        dg.AssetCheckSpec(
            "zero_old_rows",
            asset=rows_key(table.name),
            additional_deps=[step_key(Step.ZERO_OLD_ROWS_PROOF)],
            description=f"No row of {table.name} holds a value under a key version that is no longer written.",
        )
        for table in tables
    ]

    @dg.multi_asset_check(specs=specs, name="zero_old_rows", can_subset=True)
    def zero_old_rows(
        context: dg.AssetCheckExecutionContext, pipeline: PipelineParameter
    ) -> Iterator[dg.AssetCheckResult]:
        with refusals(), pipeline.open(actor_of(context)) as opened:
            registered = opened.ledger.keys()
            old = tuple(key.version for key in registered if key.state in NO_LONGER_WRITTEN)
            for table in tables:
                if dg.AssetCheckKey(rows_key(table.name), "zero_old_rows") in context.selected_asset_check_keys:
                    yield _zero_old_rows(opened, table, old)

    return zero_old_rows


def _zero_old_rows(pipeline: Pipeline, table: EncryptedTable, old: tuple[KeyVersion, ...]) -> dg.AssetCheckResult:
    remaining = pipeline.database.old_rows(table, old, None).rows if old else 0
    refused = pipeline.database.fences(table)
    running = pipeline.ledger.current()
    under_way = running is not None and running.done(Step.ZERO_OLD_ROWS_PROOF) is None
    names = ", ".join(map(str, old)) or "an earlier version"
    return dg.AssetCheckResult(
        asset_key=rows_key(table.name),
        check_name="zero_old_rows",
        passed=remaining == 0,
        severity=dg.AssetCheckSeverity.WARN if under_way else dg.AssetCheckSeverity.ERROR,
        description=f"{remaining:,} rows of {table.name} under {names}"
        + ("; the rotation is not through yet" if remaining and under_way else "")
        + ("; find the writer, then request a rotation" if remaining and not under_way else ""),
        metadata={"old_rows": remaining, "old_versions": names, "refused_by_database": ", ".join(map(str, refused))},
    )
