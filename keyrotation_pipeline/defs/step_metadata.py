"""Metadata of a finished step: sentences first, then tables and numbers, which Dagster plots over time."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import dagster as dg

from keyrotation_pipeline.defs.partitions import Naming, partition_of, row_partition
from keyrotation_pipeline.defs.summaries import (
    SHOWN_FINGERPRINT_CHARS,
    Names,
    instance_table,
    markdown,
    next_step,
    plain,
    rows_summary,
    runs_link,
    summary,
)
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.model.audit import utc_minute
from keyrotation_pipeline.model.progress import TableProgress
from keyrotation_pipeline.model.requests import Step, StepRecord, Walk
from keyrotation_pipeline.model.tables import TableName
from keyrotation_pipeline.monitoring.progress import tables_progress
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.roster import pinned_roster
from keyrotation_pipeline.rotation import reencrypt

ROLLOUTS = {Step.DUAL_KEY_ROLLOUT, Step.PRIMARY_KEY_ROLLOUT, Step.ARCHIVED_KEY}


@dataclass(frozen=True, slots=True)
class CommonFacts:
    """What several steps of one rotation show in common, read from the ledger once.

    Args:
        progress: of the declared tables of these steps, by name.
        signed: who signed, and when; a phrase for each.
    """

    pipeline: Pipeline
    rotation: Walk
    names: Names
    signed: tuple[str, ...]
    audit_seq: int
    progress: Mapping[str, TableProgress]

    @classmethod
    def of(cls, pipeline: Pipeline, rotation: Walk, *records: StepRecord) -> "CommonFacts":
        """Reads the ledger now, which costs the same for one step as for many."""
        names, ledger = officers_of(pipeline), pipeline.ledger
        signed = tuple(
            f"{names.of([each.officer])} ({utc_minute(each.signed_at)})" for each in ledger.signatures(rotation.id)
        )
        named = {record.table for record in records}
        tables = [each for each in pipeline.tables if str(each.name) in named]
        progress = tables_progress(pipeline, ledger.walk(rotation.id), tables) if tables else ()
        return cls(pipeline, rotation, names, signed, ledger.head().seq, {each.table: each for each in progress})


def metadata_of(
    naming: Naming, common: CommonFacts, record: StepRecord, *, seconds: float | None = None
) -> Mapping[str, dg.MetadataValue]:
    """Everything a DBA asks of a finished step; never content, never a key.

    Args:
        common: of this step, among others.
        seconds: how long it took, for a step that does not record it.
    """
    pipeline, rotation = common.pipeline, common.rotation
    shown: dict[str, dg.MetadataValue] = {}
    if record.table is not None:
        shown |= _rows(naming, common, record)
    else:
        shown["summary"] = markdown(summary(rotation, record, common.names))
        shown["next"] = markdown(next_step(naming, rotation, record.step, pipeline.tables))
        shown |= _numbers({"seconds": seconds, **record.facts} if seconds is not None else record.facts)
    if (fingerprint := record.facts.get("fingerprint")) is not None:
        shown["fingerprint"] = dg.MetadataValue.text(str(fingerprint)[:SHOWN_FINGERPRINT_CHARS])
    if text := record.facts.get("post_mortem"):
        shown["post_mortem"] = dg.MetadataValue.md(str(text))
    return {**shown, **_request(common, record)}


def asset_of(naming: Naming, rotation: Walk, record: StepRecord) -> tuple[dg.AssetKey | None, str]:
    """The asset and partition of a step; no asset for the record that closes the rows."""
    if record.table is not None:
        table = TableName.parse(record.table)
        return naming.rows(table), row_partition(rotation, table, record.shard)
    return (None if record.step is Step.ROWS else naming.step(record.step)), partition_of(rotation)


def with_partitions(pipeline: Pipeline, rotation: Walk) -> Iterator[StepRecord]:
    """The finished steps that have a partition: of a fleet, in place of shards, each table that is done in a database.

    Such a record has no shard, and the facts of all of them.
    """
    if not pipeline.members:
        yield from rotation.steps
        return
    shards = defaultdict[str, list[StepRecord]](list)
    for record in rotation.steps:
        if record.table is None:
            yield record
        else:
            (of_table := shards[record.table]).append(record)
            if len(of_table) == pipeline.shards:
                yield replace(record, shard=None, facts=reencrypt.sum_of(of_table))


def materialization(
    naming: Naming, common: CommonFacts, record: StepRecord, *, seconds: float | None = None, note: str | None = None
) -> dg.AssetMaterialization:
    """A finished step that has an asset, as an event of a run for several steps, or of no run."""
    key, partition = asset_of(naming, common.rotation, record)
    if key is None:
        raise ValueError(record.step)
    metadata = dict(metadata_of(naming, common, record, seconds=seconds))
    return dg.AssetMaterialization(key, description=note, partition=partition, metadata=metadata)


def _request(common: CommonFacts, record: StepRecord) -> Mapping[str, dg.MetadataValue]:
    rotation = common.rotation
    return {
        "approved_by": markdown(", ".join(common.signed) or "nobody"),
        "reason": markdown(f"{plain(rotation.reason)} ({runs_link(rotation)})"),
        "rotation": dg.MetadataValue.text(rotation.id),
        "from": dg.MetadataValue.text(str(rotation.source)),
        "to": dg.MetadataValue.text(str(rotation.target)),
        "finished_at": dg.MetadataValue.timestamp(record.finished_at),
        "audit_seq": dg.MetadataValue.int(common.audit_seq),
    }


def _rows(naming: Naming, common: CommonFacts, record: StepRecord) -> Mapping[str, dg.MetadataValue]:
    table = common.progress.get(str(record.table))
    if table is None:  # no longer declared
        return _numbers(record.facts)
    shown: dict[str, dg.MetadataValue] = {
        "summary": markdown(rows_summary(record, table)),
        "next": markdown(next_step(naming, common.rotation, Step.ROWS, common.pipeline.tables)),
        "table_percent": dg.MetadataValue.float(round(100 * table.share, 1)),
        "table_rows": dg.MetadataValue.int(table.rows),
    }
    if table.rows_per_second is not None:
        shown["table_rows_per_second"] = dg.MetadataValue.float(table.rows_per_second)
    return shown | _numbers(record.facts)


def instances_now(pipeline: Pipeline) -> dg.MetadataValue:
    """The instances as of now, for a step that waits for them; a finished one says what it saw."""
    try:
        return instance_table(pipeline.rollout.instances(), pipeline.clock.now())
    except KeyRotationError as error:
        return dg.MetadataValue.text(f"cannot be seen now: {error}")


def officers_of(pipeline: Pipeline) -> Names:
    """The names of the pinned officers; whole fingerprints if no roster can be trusted."""
    try:
        roster = pinned_roster(pipeline)
    except KeyRotationError:
        return Names({})
    return Names({each.fingerprint: each.name for each in roster.officers})


def _numbers(facts: Mapping[str, Any]) -> dict[str, dg.MetadataValue]:
    """The numbers, which Dagster plots; the rest is in the sentences."""
    return {
        name: dg.MetadataValue.float(round(fact, 3)) if isinstance(fact, float) else dg.MetadataValue.int(fact)
        for name, fact in facts.items()
        if isinstance(fact, int | float) and not isinstance(fact, bool)
    }
