"""The rows: one asset per table, one partition per key version and shard, and the check that no old row is left.

In a fleet there is a partition per key version and database, of which a run does all shards.

A person materializes a partition. The conductor launches runs that take due shards one after another, since starting a
process takes longer than many a shard.
"""

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta

import dagster as dg

from keyrotation_pipeline.defs import launch_refusals
from keyrotation_pipeline.defs.checks import progress_metadata
from keyrotation_pipeline.defs.partitions import (
    DATABASE_ADMINISTRATORS,
    SERVER_TAG,
    Naming,
    database_name,
    row_partitions,
)
from keyrotation_pipeline.defs.resources import PipelineParameter
from keyrotation_pipeline.defs.step_metadata import CommonFacts, materialization, with_partitions
from keyrotation_pipeline.defs.step_runner import actor_of, progress_to, run_rows, step_failures
from keyrotation_pipeline.defs.triggers import is_launched_by_hand, is_scheduled
from keyrotation_pipeline.errors import BlockedError, MemberUnavailableError, OutOfOrderError, PreflightError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import utc_minute
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.requests import Step, StepRecord, Walk
from keyrotation_pipeline.model.tables import EncryptedTable, TableName
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests import takeover
from keyrotation_pipeline.requests.inventory import recount
from keyrotation_pipeline.requests.situation import Situation
from keyrotation_pipeline.rotation import runner

POOL = "reencrypt"
DUE_SHARDS = "due_shards"
NO_LONGER_WRITTEN = {KeyState.DEACTIVATED, KeyState.ARCHIVED, KeyState.COMPROMISED, KeyState.DESTROYED}


def rows_assets(naming: Naming, tables: Sequence[EncryptedTable], shards: int) -> Iterator[dg.AssetsDefinition]:
    """The assets ``rows/<table>``, each of a table in every database that has it."""
    is_fleet = any(table.name.database for table in tables)
    yield from (_rows_asset(naming, each, shards, is_fleet=is_fleet) for each in by_name(tables).values())


def by_name(tables: Iterable[EncryptedTable]) -> Mapping[TableName, Sequence[EncryptedTable]]:
    """The same table in each database that has it, by its name in any."""
    found = defaultdict[TableName, list[EncryptedTable]](list)
    for table in tables:
        found[table.name.in_any_database].append(table)
    return found


def _rows_asset(
    naming: Naming, tables: Sequence[EncryptedTable], shards: int, *, is_fleet: bool
) -> dg.AssetsDefinition:
    name, databases = tables[0].name.in_any_database, [database_name(each.name) for each in tables]
    columns = ", ".join(dict.fromkeys(column for each in tables for column in each.columns))
    how = "in every database of the fleet" if is_fleet else "by page ranges"
    spec = dg.AssetSpec(
        naming.rows(name),
        deps=[
            naming.step(Step.PRIMARY_KEY_ROLLOUT),
            naming.asset("encrypted_columns"),
        ],
        description=f"4. Every row of {name} under the new key, {how}: {columns}.",
        group_name=naming.name("rows"),
        kinds={"postgres"},
        owners=[DATABASE_ADMINISTRATORS],
        metadata={"table": str(name), "columns": columns, "shards": shards},
        partitions_def=row_partitions(naming, databases if is_fleet else (), shards),
    )

    @dg.multi_asset(specs=[spec], name=naming.rows_op(name), pool=naming.name(POOL))
    def rows(context: dg.AssetExecutionContext, keyrotation: PipelineParameter) -> dg.MaterializeResult[None]:
        with step_failures():
            return dg.MaterializeResult(metadata=run_rows(context, keyrotation, tables))

    return rows


def due_shards_op(naming: Naming) -> dg.OpDefinition:
    """The op `due_shards`."""

    @dg.op(name=naming.name(DUE_SHARDS), out={}, pool=naming.name(POOL))
    def due_shards(context: dg.OpExecutionContext, keyrotation: PipelineParameter) -> Iterator[dg.AssetMaterialization]:
        """Re-encrypts the due shards that no other run works on, and materializes the partition of each."""
        with step_failures(), keyrotation.open(actor_of(context)) as opened:
            rotation = takeover.current_or_next(opened)
            if rotation is None:
                _refuse_by_hand(context, "no rotation is open; request one with `keyrotation request --reason TEXT`")
                return
            launch_refusals.lift(opened.ledger, rotation)
            databases = _databases(opened, rotation, context.run.tags.get(SERVER_TAG))
            until = None if databases is None else opened.clock.now() + timedelta(minutes=opened.run_minutes)
            report, done = progress_to(context.log), False
            shown = set[str | None]()
            for record in runner.run_shards(opened, rotation.id, report, databases=databases, until=until):
                done = True
                for each in _with_partition(opened, rotation.id, record, shown):
                    yield materialization(naming, CommonFacts.of(opened, rotation, each), each)
            if not done:
                _refuse_by_hand(context, _nothing_due(opened, rotation))

    return due_shards


def _databases(pipeline: Pipeline, rotation: Walk, server: str | None) -> Container[str] | None:
    """The databases of a fleet whose shards a run takes: those of one server; None: there is no fleet.

    Args:
        server: as a tag of the run says, which anybody can set; of another value: that of the first shard that is due.
    """
    if not pipeline.members:
        return None
    servers = pipeline.servers()
    if server not in servers.values():
        due = (task.shard for task in runner.next_decision(Situation(pipeline), rotation).tasks)
        server = next((servers[shard.table.name.database] for shard in due if shard is not None), None)
    return frozenset(database for database, its in servers.items() if its == server)


def _with_partition(
    pipeline: Pipeline, rotation: str, record: StepRecord, shown: set[str | None]
) -> Iterator[StepRecord]:
    """What a finished shard adds to the partitions: itself; in a fleet its table, with the last one.

    Args:
        shown: tables of a fleet that this run has yielded.
    """
    if not pipeline.members:
        yield record
    elif record.table not in shown:
        found = with_partitions(pipeline, pipeline.ledger.walk(rotation))
        for each in (of_table for of_table in found if of_table.table == record.table):
            shown.add(record.table)
            yield each


def _refuse_by_hand(context: dg.OpExecutionContext, message: str) -> None:
    """Refuses a run that somebody launched; of one by the conductor another may have taken what was due."""
    if is_launched_by_hand(context.run):
        raise OutOfOrderError(message)


def _nothing_due(pipeline: Pipeline, rotation: Walk) -> str:
    decision = runner.next_decision(Situation(pipeline), rotation)
    if any(task.shard is not None for task in decision.tasks):
        return f"other runs work on every due shard of rotation {rotation.id}; wait for them"
    due = ", ".join(map(str, decision.tasks)) or decision.pending
    return f"no shard is due in rotation {rotation.id}; due is: {due}; run `keyrotation rotate {rotation.id}`"


def zero_old_rows_check(naming: Naming, tables: Sequence[EncryptedTable]) -> dg.AssetChecksDefinition:
    """The check `zero_old_rows` of every table, after the proof if both run."""
    named = by_name(tables)
    specs = [
        dg.AssetCheckSpec(
            "zero_old_rows",
            asset=naming.rows(name),
            additional_deps=[naming.step(Step.ZERO_OLD_ROWS_PROOF)],
            description=f"No row of {name} holds a value under a key version that is no longer written.",
        )
        for name in named
    ]

    @dg.multi_asset_check(specs=specs, name=naming.name("zero_old_rows"), can_subset=True)
    def zero_old_rows(
        context: dg.AssetCheckExecutionContext, keyrotation: PipelineParameter
    ) -> Iterator[dg.AssetCheckResult]:
        with step_failures(), keyrotation.open(actor_of(context)) as opened:
            registered = opened.ledger.keys()
            old = tuple(key.version for key in registered if key.state in NO_LONGER_WRITTEN)
            for name, found in named.items():
                key = dg.AssetCheckKey(naming.rows(name), "zero_old_rows")
                if key in context.selected_asset_check_keys:
                    yield _of_all(
                        [_evaluate(opened, key, each, old, scheduled=is_scheduled(context)) for each in found]
                    )

    return zero_old_rows


def _of_all(results: Sequence[dg.AssetCheckResult]) -> dg.AssetCheckResult:
    """The check of a table in all its databases: the worst, which names its own, and how many others failed."""
    if len(results) == 1:
        return results[0]
    failed = sorted((each for each in results if not each.passed), key=lambda each: each.severity.value)
    worst = (failed or results)[0]
    others = f"; {len(failed) - 1} more databases have some or were not checked" if failed[1:] else ""
    total = sum(_number(each.metadata.get("old_rows")) for each in results)
    return dg.AssetCheckResult(
        asset_key=worst.asset_key,
        check_name=worst.check_name,
        passed=not failed,
        severity=worst.severity,
        description=f"{worst.description}{others}" if failed else f"no old row in any of {len(results)} databases",
        metadata={**worst.metadata, "old_rows": total, "databases": len(results), "failed": len(failed)},
    )


def _number(value: object) -> int:
    return value.value or 0 if isinstance(value, dg.IntMetadataValue) else 0


def _evaluate(
    pipeline: Pipeline, key: dg.AssetCheckKey, table: EncryptedTable, old: tuple[KeyVersion, ...], *, scheduled: bool
) -> dg.AssetCheckResult:
    """The check of one table; a table that cannot be read does not stop the checks of the others."""
    try:
        return _zero_old_rows(pipeline, key, table, old, scheduled=scheduled)
    except (PreflightError, BlockedError, MemberUnavailableError) as error:
        locked = isinstance(error, BlockedError)
        return dg.AssetCheckResult(
            asset_key=key.asset_key,
            check_name=key.name,
            passed=False,
            severity=dg.AssetCheckSeverity.WARN if locked else dg.AssetCheckSeverity.ERROR,
            description=f"{table.name} was not checked: {error}",
        )


def _zero_old_rows(
    pipeline: Pipeline, key: dg.AssetCheckKey, table: EncryptedTable, old: tuple[KeyVersion, ...], *, scheduled: bool
) -> dg.AssetCheckResult:
    refused = pipeline.fencing.fences(table)
    counted = _versions_to_count(pipeline.ledger, table, old, refused) if scheduled else old
    remaining = pipeline.fencing.old_rows(table, counted, None).rows if counted else 0
    under_way = remaining > 0 and _is_being_rewritten(pipeline, table, counted)
    if remaining and not under_way:
        recount(pipeline, table)  # so that the audit has it, and no certificate says otherwise
    names = ", ".join(map(str, old)) or "an earlier version"
    return dg.AssetCheckResult(
        asset_key=key.asset_key,
        check_name=key.name,
        passed=remaining == 0,
        severity=dg.AssetCheckSeverity.WARN if under_way else dg.AssetCheckSeverity.ERROR,
        description=f"{remaining:,} rows of {table.name} under {names}"
        + ("" if counted else _refused_and_counted(pipeline.ledger, table))
        + ("; the rotation is not finished yet" if under_way else "")
        + ("; find the writer, then request a rotation" if remaining and not under_way else ""),
        metadata={
            "old_rows": remaining,
            "old_versions": names,
            "refused_by_database": ", ".join(map(str, refused)),
            **progress_metadata(under_way=under_way),
        },
    )


def _is_being_rewritten(pipeline: Pipeline, table: EncryptedTable, old: Sequence[KeyVersion]) -> bool:
    """Whether an unfinished rotation will rewrite every old row: none is under a key that applications lack."""
    running = pipeline.ledger.current()
    if running is None or running.done(Step.ZERO_OLD_ROWS_PROOF) is not None:
        return False
    live = pipeline.keys.read().live
    gone = [version for version in old if version not in live]
    return not gone or pipeline.fencing.old_rows(table, gone, None).rows == 0


def _versions_to_count(
    ledger: Ledger, table: EncryptedTable, old: tuple[KeyVersion, ...], refused: Sequence[KeyVersion]
) -> tuple[KeyVersion, ...]:
    """The old versions that a table may hold: those it does not refuse, and those that the last count found."""
    counts = ledger.counts([table])
    present = {version for count in counts for version, number in count.values_by_version.items() if number}
    return tuple(version for version in old if version not in refused or version in present)


def _refused_and_counted(ledger: Ledger, table: EncryptedTable) -> str:
    times = (utc_minute(count.counted_at) for count in ledger.counts([table]))
    counted = ", ".join(times) or "never"
    return f": the database refuses them (seen now); last counted {counted}"
