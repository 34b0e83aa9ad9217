"""Backups: two assets made at one moment, the check that they are whole, and two tests that restore them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg

from keyrotation_pipeline.backups.backup import FEWEST_RECIPIENTS, back_up
from keyrotation_pipeline.backups.catalog import is_intact, kept_sets
from keyrotation_pipeline.backups.manifest_trust import ManifestTrust
from keyrotation_pipeline.backups.recovery_test import RecoveryReport, recovery_test
from keyrotation_pipeline.defs.assets import Asset
from keyrotation_pipeline.defs.partitions import COMPLIANCE_OFFICERS, DATABASE_ADMINISTRATORS, SITE_RELIABILITY, Naming
from keyrotation_pipeline.defs.resources import PipelineParameter, PipelineResource
from keyrotation_pipeline.defs.step_metadata import officers_of
from keyrotation_pipeline.defs.step_runner import actor_of, step_failures
from keyrotation_pipeline.defs.summaries import SHOWN_FINGERPRINT_CHARS, Names, markdown, plain
from keyrotation_pipeline.errors import BackupError
from keyrotation_pipeline.model.audit import utc_minute
from keyrotation_pipeline.model.backup_events import BackupFacts
from keyrotation_pipeline.model.backups import DatabaseCopy
from keyrotation_pipeline.model.progress import duration
from keyrotation_pipeline.model.records import json_safe, read
from keyrotation_pipeline.model.request_events import NOT_REHEARSED, Rehearsed
from keyrotation_pipeline.monitoring.backup_status import backup_lights
from keyrotation_pipeline.ports.backup_places import BackupPlace

KEY_BACKUP = "key_backup"
DATABASE_BACKUP = "database_backup"
RECOVERY_TEST = "recovery_test"
ROTATION_REHEARSAL = "rotation_rehearsal"
GROUP = "backups"
# A quarter has at most 92 days.
TEST_EXPECTED_DAYS, TEST_OVERDUE_DAYS = 93, 100
NOT_DECRYPTED = "nothing was decrypted: only a recovery test shows that it can be"


def backup_assets(naming: Naming, time_zone: str, first_day: date) -> dg.AssetsDefinition:
    """`key_backup` and `database_backup`, one partition a day; together one set, under one manifest.

    Args:
        first_day: the day of the installation.
    """
    zone = ZoneInfo(time_zone)

    @dg.multi_asset(
        name=naming.name("backups"),
        specs=[
            _spec(
                naming, KEY_BACKUP, time_zone, {"key", "gpg", "s3"},
                "Every key that a row or a stored dump may need, each in its own OpenPGP file, in every place.",
            ),
            _spec(
                naming, DATABASE_BACKUP, time_zone, {"postgres", "gpg", "s3"},
                "The whole database, dumped and encrypted at the moment of the keys. It says which versions it needs.",
            ),
        ],
        partitions_def=dg.DailyPartitionsDefinition(first_day.isoformat(), timezone=time_zone, end_offset=1),
        can_subset=True,
        # All days at once are one run, which is refused; not one for each day, each of them a failure in the audit.
        backfill_policy=dg.BackfillPolicy.single_run(),
    )  # fmt: skip
    def backups(
        context: dg.AssetExecutionContext, keyrotation: PipelineParameter
    ) -> Iterator[dg.MaterializeResult[None]]:
        wanted = {key.path[-1] for key in context.selected_asset_keys}
        # A run of the job can be launched without a partition.
        days = context.partition_keys if context.has_partition_key or context.has_partition_key_range else ()
        with step_failures(), keyrotation.open_backups(actor_of(context)) as site:
            today = f"{site.pipeline.clock.now().astimezone(zone):%Y-%m-%d}"
            _require_today(days, today)
            # A dump without the keys of its moment is not a coordinated backup, so the keys are always included.
            done = back_up(site, database=DATABASE_BACKUP in wanted)
            made, names = read(BackupFacts, json_safe(done.facts())), officers_of(site.pipeline)
        pages = {
            KEY_BACKUP: {**key_metadata(made, names), "audit_seq": done.made.anchor.seq},
            DATABASE_BACKUP: {**dump_metadata(made), **_size_metadata(done.made.dump)},
        }
        for name, metadata in pages.items():
            if name in wanted:
                if not days:
                    context.log_event(dg.AssetMaterialization(naming.asset(name), partition=today, metadata=metadata))
                yield dg.MaterializeResult(asset_key=naming.asset(name), metadata=metadata)
        with step_failures():
            done.require_sound_audit()

    return backups


def _require_today(days: Sequence[str], today: str) -> None:
    """Refuses to make a backup under another day's name.

    Raises:
        BackupError: says which day is possible.
    """
    for day in days:
        if day != today:
            raise BackupError(
                f"the backup of {day} was missed, and a backup holds what is there now; materialize the partition "
                f"{today}"
            )


def _test_recovery(context: dg.AssetExecutionContext, keyrotation: PipelineResource) -> Mapping[str, Any]:
    with keyrotation.open_backups(actor_of(context)) as site, keyrotation.recovery_key() as key:
        return _recovery_metadata(recovery_test(site, key))


def _rehearse(context: dg.AssetExecutionContext, keyrotation: PipelineResource) -> Mapping[str, Any]:
    with keyrotation.open_backups(actor_of(context)) as site, keyrotation.recovery_key() as key:
        return _rehearsal_metadata(keyrotation.rehearse(site, key, lambda _progress: None))


def backup_decrypts_check(naming: Naming) -> dg.AssetChecksDefinition:
    """The check `backup_decrypts`."""

    @dg.asset_check(asset=naming.asset(KEY_BACKUP))
    def backup_decrypts(context: dg.AssetCheckExecutionContext, keyrotation: PipelineParameter) -> dg.AssetCheckResult:
        """The newest set of keys and database, and keys since, are whole in every place, read again now.

        Decryption is not tried. What is amber in `status` is a warning here, what is red is an error.
        """
        with step_failures(), keyrotation.open_backups(actor_of(context)) as site:
            lights = backup_lights(site.pipeline, site.pipeline.ledger.keys(), site.pipeline.clock.now())
            wrong = [
                *lights.attention,
                *(message for place in site.places for message in _wrong_in(place, site.trust)),
            ]
            places = ", ".join(place.description for place in site.places)
            warnings = list(lights.warnings)
            if site.recipients < FEWEST_RECIPIENTS:
                warnings.append("only one certificate can decrypt")
        intact = f"every file of the newest set downloads with its hash from {places}; {NOT_DECRYPTED}"
        return dg.AssetCheckResult(
            passed=not wrong and not warnings,
            severity=dg.AssetCheckSeverity.ERROR if wrong else dg.AssetCheckSeverity.WARN,
            description="; ".join(dict.fromkeys([*wrong, *warnings, *([] if wrong else [intact])])),
            metadata={
                "wrong": len(wrong),
                "last_backup": utc_minute(lights.last) if lights.last else "none",
            },
        )

    return backup_decrypts


def _wrong_in(place: BackupPlace, trust: ManifestTrust) -> Iterator[str]:
    try:
        kept = kept_sets(place, trust)
    except BackupError as error:
        yield str(error)
        return
    yield from map(str, kept.refused.values())
    if not kept.sets:
        yield f"{place.description} has no backup; run `keyrotation backup`"
        return
    for file in (file for made in kept.recent for file in made.files):
        if not is_intact(place, file):
            yield f"{file.name} in {place.description} is missing or damaged; run `keyrotation backup`"


def _spec(naming: Naming, name: str, time_zone: str, kinds: set[str], description: str) -> dg.AssetSpec:
    return dg.AssetSpec(
        naming.asset(name),
        group_name=naming.name(GROUP),
        kinds=kinds,
        owners=[SITE_RELIABILITY],
        description=description,
        # Due at 03:00; late when the morning shift starts.
        freshness_policy=dg.FreshnessPolicy.cron(
            deadline_cron="0 6 * * *", lower_bound_delta=timedelta(hours=4), timezone=time_zone
        ),
    )


def key_metadata(made: BackupFacts, names: Names) -> Mapping[str, Any]:
    """What the page of the keys shows of a backup."""
    keys = (f"{version}, fingerprint `{each[:SHOWN_FINGERPRINT_CHARS]}`" for version, each in made.keys.items())
    return {
        "manifest": made.manifest,
        "keys": as_list(keys),
        "places": as_list(map(plain, made.places)),
        "opens_with": names.of(made.recipients),
        "removed": len(made.removed),
        "warnings": as_list(map(plain, made.warnings)),
    }


def dump_metadata(made: BackupFacts) -> Mapping[str, Any]:
    """What the page of the database shows of a backup."""
    return {
        "manifest": made.manifest,
        "file": made.dump or "none",
        "needs_key_versions": ", ".join(made.dump_needs) or "none",
        **({"members": as_list(f"{name}: {each.dump}" for name, each in made.members.items())} if made.members else {}),
    }


def _size_metadata(dump: DatabaseCopy | None) -> Mapping[str, Any]:
    """What only the run knows that made it."""
    if dump is None:
        return {}
    return {
        "size_bytes": dump.file.size_bytes,
        "rows": sum(dump.rows.values()),
        "rows_by_table": _counts(dump.rows),
    }


def _recovery_metadata(report: RecoveryReport) -> Mapping[str, Any]:
    return {
        "place": report.place,
        "manifest": report.made.name,
        "restored": report.newest.name,
        "summary": markdown(_recovery_summary(report)),
        "rows": sum(report.newest.rows.values()),
        "rows_by_table": _counts(dict(report.newest.rows)),
        "relations": report.newest.relations,
        "left_out": as_list(map(plain, report.newest.left_out)),
        "undumped": as_list(map(plain, report.newest.undumped)),
        "server": report.newest.server,
        "warning": report.newest.warning or "none",
        "values_decrypted": report.newest.read.values,
        "older_dump": report.older.name if report.older else "no dump is left that an archived key reads",
        "rekeyed_dump": report.rekeyed.name if report.rekeyed else "no dump was made from an older one",
        **(
            {"members": as_list(f"{each.member}: {each.dump.name}" for each in report.members)}
            if report.members
            else {}
        ),
        "rto_seconds": report.rto_seconds,
        "rpo_seconds": report.rpo_seconds,
        "objectives_missed": as_list(map(plain, report.missed)),
    }


def _recovery_summary(report: RecoveryReport) -> str:
    """What the test restored and how long that took, in sentences of Markdown."""
    values = sum(report.newest.read.by_table().values())
    missed = f" **Missed: {plain('; '.join(report.missed))}.**" if report.missed else " Both are within the objectives."
    return (
        f"`{report.newest.name}` of {plain(report.place)} was fetched, decrypted and restored into a scratch server: "
        f"{sum(report.newest.rows.values()):,} rows, {values:,} values decrypted. "
        f"Recovery took {duration(report.rto_seconds)} (RTO); at most {duration(report.rpo_seconds)} of writes would "
        f"be lost (RPO).{missed}"
    )


def as_list(items: Iterable[str]) -> dg.MetadataValue:
    """Lines of Markdown."""
    return dg.MetadataValue.md("\n".join(f"- {item}" for item in items) or "none")


def _counts(rows: Mapping[str, int]) -> dg.MetadataValue:
    columns = [dg.TableColumn("table", "string"), dg.TableColumn("rows", "int")]
    records = [dg.TableRecord({"table": name, "rows": number}) for name, number in rows.items()]
    return dg.MetadataValue.table(records, schema=dg.TableSchema(columns))


def _rehearsal_metadata(done: Rehearsed) -> Mapping[str, Any]:
    total = done.total_seconds
    findings = "\n".join(f"- **{each.step}**: {each.sentence}" for each in done.findings)
    steps = "\n".join(f"| {step} | {seconds:,.1f} |" for step, seconds in done.predicted_seconds.items())
    return {
        "would_stop_at": dg.MetadataValue.md(findings or "Nothing stopped it."),
        "predicted_seconds": round(total, 1) if total is not None else "the rehearsal did not reach the end",
        "predicted": dg.MetadataValue.md(f"| step | seconds |\n|---|---|\n{steps}"),
        "from": str(done.source),
        "to": str(done.target),
        "backup": done.dump,
        "rows_in_backup": done.dump_rows,
        "rows_now": done.rows_now,
        "not_rehearsed": dg.MetadataValue.md("\n".join(f"- {each}" for each in NOT_REHEARSED)),
    }


BACKUP_TESTS = (
    Asset(
        RECOVERY_TEST, GROUP, {"gpg", "postgres", "s3"}, COMPLIANCE_OFFICERS,
        "The newest backup fetched, decrypted, restored into a scratch server and read; and an older one.",
        _test_recovery,
        deps=(KEY_BACKUP, DATABASE_BACKUP),
        freshness=dg.FreshnessPolicy.time_window(
            fail_window=timedelta(days=TEST_OVERDUE_DAYS), warn_window=timedelta(days=TEST_EXPECTED_DAYS)
        ),
    ),
    Asset(
        ROTATION_REHEARSAL, GROUP, {"gpg", "postgres"}, DATABASE_ADMINISTRATORS,
        "The next rotation carried out on the newest backup, in a scratch server. Nothing real is touched.",
        _rehearse,
        deps=(KEY_BACKUP, DATABASE_BACKUP),
    ),
)  # fmt: skip
