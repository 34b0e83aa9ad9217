"""Shows in Dagster the backups that the command made."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg

from keyrotation_pipeline.audit.events import AuditEntry, entries
from keyrotation_pipeline.defs.backups import DATABASE_BACKUP, KEY_BACKUP, as_list
from keyrotation_pipeline.defs.partitions import Naming
from keyrotation_pipeline.defs.step_metadata import officers_of
from keyrotation_pipeline.defs.step_runner import DAGSTER_RUN
from keyrotation_pipeline.defs.summaries import SHOWN_FINGERPRINT_CHARS, Names, plain
from keyrotation_pipeline.errors import AuditError, BackupError
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.model.records import read
from keyrotation_pipeline.ports.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class _Made:
    """What the event of a backup says that is shown."""

    set: str
    keys: Mapping[str, str]
    recipients: tuple[str, ...]
    dump: str | None
    dump_needs: tuple[str, ...]
    places: tuple[str, ...]
    removed: tuple[str, ...]
    warnings: tuple[str, ...]


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
    pages = {KEY_BACKUP: _key_metadata(made, officers_of(pipeline)), DATABASE_BACKUP: _dump_metadata(made)}
    for name, metadata in pages.items():
        latest = instance.get_latest_materialization_event(key := naming.asset(name))
        shown = latest.asset_materialization if latest is not None else None
        if shown is None or shown.metadata.get("manifest") != dg.MetadataValue.text(made.set):
            all_metadata = {**metadata, "audit_seq": entry.seq}
            yield dg.AssetMaterialization(key, description=note, partition=day, metadata=all_metadata), entry.at


def _newest(pipeline: Pipeline, synced: int) -> tuple[AuditEntry, _Made] | None:
    """The event of the newest complete set, if it is one of those since `synced`."""
    since = list(entries(pipeline.ledger, EventKind.BACKUP_MADE, after_seq=synced))
    if not since:
        return None
    with suppress(BackupError, AuditError):
        newest = pipeline.vault.standing(pipeline.ledger.keys()).manifest
        for entry in since:
            if newest is not None and entry.facts.get("set") == newest:
                return entry, read(_Made, entry.facts)
    return None


def _key_metadata(made: _Made, names: Names) -> Mapping[str, Any]:
    keys = (f"{version}, fingerprint `{each[:SHOWN_FINGERPRINT_CHARS]}`" for version, each in made.keys.items())
    return {
        "manifest": made.set,
        "keys": as_list(keys),
        "places": as_list(map(plain, made.places)),
        "opens_with": names.of(made.recipients),
        "removed": len(made.removed),
        "warnings": as_list(map(plain, made.warnings)),
    }


def _dump_metadata(made: _Made) -> Mapping[str, Any]:
    return {
        "manifest": made.set,
        "file": made.dump or "none",
        "needs_key_versions": ", ".join(made.dump_needs) or "none",
    }
