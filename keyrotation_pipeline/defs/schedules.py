"""The jobs, and the schedules that launch some of them: a row each."""

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple
from zoneinfo import ZoneInfo

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import (
    UnresolvedAssetJobDefinition as AssetJob,
)  # type only

from keyrotation_pipeline.defs.backups import DATABASE_BACKUP, KEY_BACKUP, RECOVERY_TEST, ROTATION_REHEARSAL
from keyrotation_pipeline.defs.incidents import INCIDENT_ASSETS
from keyrotation_pipeline.defs.inventory import ENCRYPTED_COLUMNS, NO_UNDECLARED_CIPHERTEXT, READINESS
from keyrotation_pipeline.defs.partitions import Naming
from keyrotation_pipeline.defs.reencrypt import due_shards_op
from keyrotation_pipeline.defs.resources import RESOURCE, PipelineParameter, PipelineResource
from keyrotation_pipeline.defs.status_page import STATUS
from keyrotation_pipeline.defs.step_runner import step_failures
from keyrotation_pipeline.model.key_events import RecoveryTestDue
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.monitoring import rolling

INTRODUCE_KEY = "introduce_key"
REENCRYPT_ROWS = "reencrypt_rows"
RETIRE_KEY = "retire_key"
EVIDENCE = "evidence"
DECRYPT = "decrypt_what_is_due"
BACKUP = "backup"
RECOVERY_DRILL = "recovery_drill"
REHEARSAL = "rehearsal"
READY, INCIDENTS = "readiness", "incidents"
# The jobs that the conductor names as its own.
CONDUCTED = (INTRODUCE_KEY, REENCRYPT_ROWS, RETIRE_KEY, EVIDENCE, DECRYPT, BACKUP)
NIGHTLY_REHEARSAL = "nightly_rehearsal"

# `Step.ROWS` without a shard closes the rows; the asset of the proof does that first, so it has no asset of its own.
LEGS = {
    INTRODUCE_KEY: (Step.KEY_VERSION, Step.DUAL_KEY_ROLLOUT, Step.PRIMARY_KEY_ROLLOUT),
    RETIRE_KEY: (
        Step.ZERO_OLD_ROWS_PROOF,
        Step.RETIRED_KEY,
        Step.ARCHIVED_KEY,
        Step.KEY_ROTATION_AUDIT,
        Step.COMPLIANCE_REPORT,
    ),
}
# Name, assets, description; without their checks.
ASSET_JOBS = (
    (INTRODUCE_KEY, LEGS[INTRODUCE_KEY], "The new key: made, read by every instance, made the primary."),
    (RETIRE_KEY, LEGS[RETIRE_KEY], "The proof, the retirement of the old key, and the evidence for the auditor."),
    (BACKUP, (KEY_BACKUP, DATABASE_BACKUP), "Every key and the database, at one moment."),
    (RECOVERY_DRILL, (RECOVERY_TEST,), "Fetch, decrypt, restore and read the backups."),
    (REHEARSAL, (ROTATION_REHEARSAL,), "The next rotation, on the newest backup."),
    (READY, (READINESS.name,), "The pre-flight of a rotation; nothing but its page depends on it."),
    (INCIDENTS, tuple(each.name for each in INCIDENT_ASSETS), "The pages of every unfinished incident, written again."),
)
EVIDENCE_ASSETS = (ENCRYPTED_COLUMNS, STATUS)
Job = AssetJob | dg.JobDefinition
Outcome = dg.RunRequest | dg.SkipReason


def build_jobs(
    naming: Naming, checks: Iterable[dg.AssetCheckKey], keyrotation: dg.ResourceDefinition, *, with_rows: bool
) -> Mapping[str, Job]:
    """Every job by its plain name, each in one process: starting a process takes longer than a step.

    Args:
        checks: those of the job `evidence`.
        with_rows: whether any table is declared.
    """
    selected = {
        name: (dg.AssetSelection.assets(*map(naming.asset, assets)).without_checks(), description)
        for name, assets, description in ASSET_JOBS
    } | {
        EVIDENCE: (
            dg.AssetSelection.assets(*map(naming.asset, EVIDENCE_ASSETS)).without_checks()
            | dg.AssetSelection.checks(*checks),
            "Every check, changing nothing: reads all after a rotation or on demand, a daily share when scheduled.",
        ),
        DECRYPT: (
            dg.AssetSelection.checks(
                dg.AssetCheckKey(naming.step(Step.RETIRED_KEY), "every_value_decrypts"),
                dg.AssetCheckKey(naming.asset(ENCRYPTED_COLUMNS), NO_UNDECLARED_CIPHERTEXT),
            ),
            "Decrypt the share of all values that is due, and search the share of everything else.",
        ),
    }
    jobs: dict[str, Job] = {
        name: dg.define_asset_job(
            naming.name(name), selection, description=description, executor_def=dg.in_process_executor
        )
        for name, (selection, description) in selected.items()
    }
    return {**jobs, REENCRYPT_ROWS: _rows(naming, keyrotation)} if with_rows else jobs


def _rows(naming: Naming, keyrotation: dg.ResourceDefinition) -> dg.JobDefinition:
    due_shards = due_shards_op(naming)

    # With its resource here: Dagster warns of a sensor over a job whose resource is bound later.
    @dg.job(
        name=naming.name(REENCRYPT_ROWS),
        resource_defs={RESOURCE: keyrotation},
        description="Shards under the new key, one after another; several such runs work side by side.",
        executor_def=dg.in_process_executor,
    )
    def reencrypt_rows() -> None:
        due_shards()

    return reencrypt_rows


class Schedule(NamedTuple):
    """A schedule as Dagster shows it, without the prefix.

    Args:
        cron: in UTC if `utc`, else in the time zone of the configuration.
        outcome: what to launch, given the day of the tick in that time zone.
    """

    name: str
    job: str
    cron: str
    description: str
    outcome: Callable[[PipelineResource, str], Outcome]
    utc: bool = False


def schedules(naming: Naming, time_zone: str, *, rehearse_nightly: bool) -> Iterator[dg.ScheduleDefinition]:
    """The schedule of each row at the end of this file; that of the rehearsal only if the configuration asks for it."""
    for row in SCHEDULES:
        if row.name != NIGHTLY_REHEARSAL or rehearse_nightly:
            yield build_schedule(naming, row, time_zone)


def build_schedule(naming: Naming, row: Schedule, time_zone: str) -> dg.ScheduleDefinition:
    """The schedule of a row, switched on; after downtime Dagster launches it for the last missed tick only."""
    zone = "UTC" if row.utc else time_zone

    @dg.schedule(
        name=naming.name(row.name),
        job_name=naming.name(row.job),
        cron_schedule=row.cron,
        execution_timezone=zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=row.description,
    )
    def schedule(context: dg.ScheduleEvaluationContext, keyrotation: PipelineParameter) -> Outcome:
        keyrotation.record_heartbeat(row.name)
        day = f"{context.scheduled_execution_time.astimezone(ZoneInfo(zone)):%Y-%m-%d}"
        with step_failures():
            outcome = row.outcome(keyrotation, day)
        if isinstance(outcome, dg.SkipReason):
            return outcome
        # Dagster launches nothing for a tick of which it finds a run with the same key, or any run if there is no key,
        # and anybody can put the name and time of a tick on a run: nobody can guess this one.
        return outcome.with_replaced_attrs(run_key=secrets.token_hex(8))

    return schedule


def _daily_share(keyrotation: PipelineResource, _day: str) -> Outcome:
    with keyrotation.open("dagster rolling_decrypt") as opened:
        if rolling.due_now(opened, rolling.DECRYPT) or rolling.due_now(opened, rolling.SEARCH):
            return dg.RunRequest()
    return dg.SkipReason("today's share is read, or this is not one of the set hours, or a rotation reads everything")


def _recovery_test(keyrotation: PipelineResource, day: str) -> Outcome:
    """The test; without a recovery key on this machine it is recorded as due, for an officer."""
    if keyrotation.has_recovery_key():
        return dg.RunRequest()
    with keyrotation.open("dagster quarterly_recovery_test") as opened:
        opened.ledger.append(RecoveryTestDue(day))
    return dg.SkipReason(
        "a recovery test is due, and [recovery] names no key; have an officer run "
        "`keyrotation recovery-test --key FILE`"
    )


SCHEDULES = (
    Schedule(
        "rotation_calendar", EVIDENCE, "0 6 * * *",
        "Every check, every morning: `rotation_not_overdue` warns 60 days before a rotation is due.",
        lambda _keyrotation, _day: dg.RunRequest(),
        utc=True,
    ),
    Schedule(
        "rolling_decrypt", DECRYPT, "20 * * * *",
        "Each day a share of all values is decrypted, and a share of everything else searched, within the set hours.",
        _daily_share,
        utc=True,
    ),
    Schedule(
        "weekly_readiness", READY, "30 6 * * 1",
        "Every Monday, the pre-flight of a rotation: what would stop one is seen before it is due.",
        lambda _keyrotation, _day: dg.RunRequest(),
        utc=True,
    ),
    # After downtime its run refuses if its day is over.
    Schedule(
        "daily_key_backup", BACKUP, "0 3 * * *",
        "Every key and the database, every night.",
        lambda _keyrotation, day: dg.RunRequest(partition_key=day),
    ),
    Schedule(
        "quarterly_recovery_test", RECOVERY_DRILL, "0 4 1 1,4,7,10 *",
        "A recovery test each quarter; without a recovery key on this machine it is listed as due.",
        _recovery_test,
    ),
    # After the night's backup.
    Schedule(
        NIGHTLY_REHEARSAL, REHEARSAL, "0 5 * * *",
        "The next rotation, rehearsed on last night's backup.",
        lambda _keyrotation, _day: dg.RunRequest(),
    ),
)  # fmt: skip
