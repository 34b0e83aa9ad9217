"""Shows in Dagster what only the ledger knows: steps and backups from elsewhere, partitions, reasons to wait."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import dagster as dg

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.audit.events import AuditEntry, entries
from keyrotation_pipeline.defs.backups import DATABASE_BACKUP, KEY_BACKUP, dump_metadata, key_metadata
from keyrotation_pipeline.defs.checks import not_overdue
from keyrotation_pipeline.defs.outside_reports import Corrections, Seal, report_at
from keyrotation_pipeline.defs.partitions import (
    Naming,
    Ownership,
    partition_of,
    partitions_in_use,
    partitions_to_sync,
    wanted_partitions,
)
from keyrotation_pipeline.defs.resources import PipelineResource
from keyrotation_pipeline.defs.run_requests import conducted_runs
from keyrotation_pipeline.defs.step_metadata import (
    ROLLOUTS,
    CommonFacts,
    asset_of,
    instances_now,
    materialization,
    officers_of,
    with_partitions,
)
from keyrotation_pipeline.defs.step_runner import DAGSTER_RUN
from keyrotation_pipeline.defs.summaries import plain
from keyrotation_pipeline.errors import AuditError, BackupError
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.model.backup_events import BackupFacts
from keyrotation_pipeline.model.progress import TableProgress
from keyrotation_pipeline.model.records import read
from keyrotation_pipeline.model.requests import Step, StepRecord, Walk
from keyrotation_pipeline.model.tables import EncryptedTable, TableName
from keyrotation_pipeline.monitoring.progress import tables_progress, together
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests import takeover
from keyrotation_pipeline.requests.conductor import phase_of
from keyrotation_pipeline.requests.situation import Situation
from keyrotation_pipeline.rotation import runner

A_MOMENT = timedelta(minutes=1)
Outcome = dg.SensorResult | dg.SkipReason


def evaluate(
    context: dg.SensorEvaluationContext, keyrotation: PipelineResource, ownership: Ownership, time_zone: str
) -> Outcome:
    """One tick of the sensor `ledger_mirror`.

    Its cursor is the event of the audit up to which Dagster is in sync, and that of Dagster up to which no report from
    outside is left.
    """
    with keyrotation.open("dagster ledger_mirror") as opened, opened.ledger.reading():
        seal = Seal(keyrotation.signer())
        synced, _, checked = (seal.cursor_in(context.cursor) or "").partition(" ")
        corrections = Corrections(context.instance, ownership, seal)
        checked = corrections.correct(checked or None) or ""
        for message in corrections.messages:
            context.log.warning("corrected %s", message)
        after = 0 if corrections.has_lost or not synced else int(synced)
        for made, at in backup_elsewhere(context.instance, keyrotation.naming, opened, time_zone, after):
            # Dagster ignores what is older than a wiped history.
            report_at(context.instance, seal, made, SystemClock().now() if corrections.has_lost else at)
        result, after = sync(context.instance, keyrotation.naming, opened, seal, after)
        context.update_cursor(seal.on_cursor(f"{after} {checked}"))
        return result if isinstance(result, dg.SkipReason) else _sealed(result, seal)


def _sealed(result: dg.SensorResult, seal: Seal) -> dg.SensorResult:
    events = [seal.on(each) for each in result.asset_events if not isinstance(each, dg.AssetObservation)]
    return dg.SensorResult(asset_events=events, dynamic_partitions_requests=result.dynamic_partitions_requests)


def sync(
    instance: dg.DagsterInstance, naming: Naming, pipeline: Pipeline, seal: Seal, synced: int = 0
) -> tuple[Outcome, int]:
    """Reports, without a run, each recorded step that Dagster lacks, a due rotation that is open now, and partitions.

    Args:
        synced: the event of the audit up to which every step is in Dagster; the new one is returned.
    """
    head, postponed = pipeline.ledger.head(), False
    events: list[dg.AssetMaterialization | dg.AssetCheckEvaluation] = []
    for rotation in _advanced_since(pipeline.ledger, synced if synced <= head.seq else 0):
        if _runs_here(instance, naming, seal, rotation, pipeline.clock.now()):
            postponed = True  # its run materializes them itself, in a moment
            continue
        events += _missing(instance, naming, pipeline, rotation)
    after = synced if postponed else head.seq
    if takeover.current_or_next(pipeline) is not None:
        events += _requested_since(instance, naming, pipeline)
    partitions = partitions_to_sync(instance, naming, wanted_partitions(pipeline.ledger))
    if not events and not partitions:
        return dg.SkipReason("Dagster shows every step that the ledger has"), after
    return dg.SensorResult(asset_events=events, dynamic_partitions_requests=partitions), after


def _requested_since(
    instance: dg.DagsterInstance, naming: Naming, pipeline: Pipeline
) -> Iterator[dg.AssetCheckEvaluation]:
    """The check of the morning again, where that asked for a rotation which has been requested since."""
    key = dg.AssetCheckKey(naming.step(Step.PRIMARY_KEY_ROLLOUT), "rotation_not_overdue")
    record = instance.get_latest_asset_check_evaluation_record(key)
    # A check that was planned in a failed run has another kind of event.
    last: object = None if record is None else record.evaluation
    if not isinstance(last, dg.AssetCheckEvaluation) or last.passed:
        return
    now = not_overdue(pipeline)
    if now.description != last.description:
        yield dg.AssetCheckEvaluation(
            asset_key=key.asset_key,
            check_name=key.name,
            passed=now.passed,
            metadata=now.metadata,
            severity=now.severity,
            description=now.description,
        )


def _advanced_since(ledger: Ledger, seq: int) -> Iterator[Walk]:
    """Every rotation and rollback that finished a step after `seq`, oldest first."""
    advanced = {event.request for event in ledger.events(EventKind.STEP_FINISHED, after_seq=seq)}
    if advanced:
        yield from (each for each in reversed(ledger.requests()) if isinstance(each, Walk) and each.id in advanced)


def _runs_here(instance: dg.DagsterInstance, naming: Naming, seal: Seal, rotation: Walk, now: datetime) -> bool:
    """Whether a run works on it that materializes the finished steps itself."""
    latest = max((each.finished_at for each in rotation.steps), default=now)
    # So does a run from the UI, but anybody who reaches the port can launch one: wait only a minute for it.
    if now - latest < A_MOMENT and partition_of(rotation) in partitions_in_use(instance):
        return True
    return any(past.ended_at is None for _, past in conducted_runs(instance, naming, seal, rotation.id))


def _missing(
    instance: dg.DagsterInstance, naming: Naming, pipeline: Pipeline, rotation: Walk
) -> Iterator[dg.AssetMaterialization]:
    shown: dict[dg.AssetKey, set[str]] = {}
    missing: list[StepRecord] = []
    for record in with_partitions(pipeline, rotation):
        key, partition = asset_of(naming, rotation, record)
        if key is None:
            continue
        if key not in shown:
            shown[key] = set(instance.get_materialized_partitions(key))
        if partition not in shown[key]:
            missing.append(record)
    if missing:
        common = CommonFacts.of(pipeline, rotation, *missing)
        yield from (materialization(naming, common, each, note="run outside Dagster") for each in missing)


def report_wait_status(
    instance: dg.DagsterInstance, naming: Naming, pipeline: Pipeline, result: Outcome, before: str
) -> str:
    """Says what the conductor waits for, and observes the current step with it if it has changed.

    The progress of rows is observed in whole percents, so at most a hundred times a table.

    Args:
        before: the sentence of the last tick.
    """
    rotation = takeover.current_or_next(pipeline)
    message = _message(result)
    if rotation is None:
        return message
    phase = phase_of(rotation)
    if phase == Step.ROWS:
        found = zip(pipeline.tables, tables_progress(pipeline, rotation, pipeline.tables), strict=True)
        tables = _by_asset(list(found))
        for observation in _row_observations(naming, rotation, message, tables, before):
            instance.report_runless_asset_event(observation)
        return "; ".join((*(_percent(progress) for _, progress in tables), message))
    reason = runner.pending(Situation(pipeline), rotation) if phase in set(Step) else None
    if reason and str(reason) not in message:
        message = f"{message}; waiting for {reason}"
    if message != before and not rotation.is_over:
        step = Step(phase) if phase in set(Step) else Step.KEY_VERSION
        metadata = _wait_metadata(rotation, message)
        if step in ROLLOUTS:
            metadata["instances"] = instances_now(pipeline)
        instance.report_runless_asset_event(
            dg.AssetObservation(naming.step(step), description=message, metadata=metadata)
        )
    return message


def _by_asset(found: Sequence[tuple[EncryptedTable, TableProgress]]) -> list[tuple[TableName, TableProgress]]:
    """The progress of each table; of a fleet, of a table in all its databases together."""
    grouped = defaultdict[TableName, list[TableProgress]](list)
    for table, progress in found:
        grouped[table.name.in_any_database].append(progress)
    return [(name, together(str(name), parts)) for name, parts in grouped.items()]


def _row_observations(
    naming: Naming, rotation: Walk, message: str, tables: list[tuple[TableName, TableProgress]], before: str
) -> Iterator[dg.AssetObservation]:
    for table, progress in tables:
        if _percent(progress) not in before:
            numbers: dict[str, float] = {"table_percent": round(100 * progress.share, 1), "table_rows": progress.rows}
            if progress.rows_per_second is not None:
                numbers["table_rows_per_second"] = progress.rows_per_second
            metadata = {
                **_wait_metadata(rotation, message),
                **{name: dg.MetadataValue.float(float(number)) for name, number in numbers.items()},
            }
            yield dg.AssetObservation(naming.rows(table), description=_percent(progress), metadata=metadata)


def _percent(of: TableProgress) -> str:
    return f"{of.table} {of.share:.0%}"


def _wait_metadata(rotation: Walk, message: str) -> dict[str, dg.MetadataValue]:
    return {
        "waiting_for": dg.MetadataValue.text(message),
        "rotation": dg.MetadataValue.text(rotation.id),
    }


def _message(result: Outcome) -> str:
    if isinstance(result, dg.SkipReason):
        return str(result.skip_message)
    return f"started {', '.join(str(request.job_name) for request in result.run_requests or ())}"


def backup_elsewhere(
    instance: dg.DagsterInstance, naming: Naming, pipeline: Pipeline, time_zone: str, synced: int
) -> Iterator[tuple[dg.AssetMaterialization, datetime]]:
    """The newest complete backup, with the time when it was made, if the command made it and Dagster lacks it.

    Whoever owns the database can append the event, so the set must also be the newest in every place.

    Args:
        synced: the event of the audit up to which Dagster is in sync.
    """
    found = _newest(pipeline, synced)
    if found is None or found[0].actor.startswith(DAGSTER_RUN):
        return
    entry, made = found
    day = f"{entry.at.astimezone(ZoneInfo(time_zone)):%Y-%m-%d}"
    note = f"made outside Dagster by {plain(entry.actor)}"
    pages = {KEY_BACKUP: key_metadata(made, officers_of(pipeline)), DATABASE_BACKUP: dump_metadata(made)}
    for name, metadata in pages.items():
        latest = instance.get_latest_materialization_event(key := naming.asset(name))
        shown = latest.asset_materialization if latest is not None else None
        if shown is None or shown.metadata.get("manifest") != dg.MetadataValue.text(made.manifest):
            all_metadata = {**metadata, "audit_seq": entry.seq}
            yield dg.AssetMaterialization(key, description=note, partition=day, metadata=all_metadata), entry.at


def _newest(pipeline: Pipeline, synced: int) -> tuple[AuditEntry, BackupFacts] | None:
    """The event of the newest complete set, if it is one of those since `synced`."""
    since = list(entries(pipeline.ledger, EventKind.BACKUP_MADE, after_seq=synced))
    if not since:
        return None
    with suppress(BackupError, AuditError):
        newest = pipeline.vault.status(pipeline.ledger.keys()).manifest
        for entry in since:
            if newest is not None and entry.facts.get("set") == newest:
                return entry, read(BackupFacts, entry.facts)
    return None
