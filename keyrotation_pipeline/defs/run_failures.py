"""Failed runs: recorded in the audit once each, and what alerts say of their cause."""

from collections.abc import Callable, Sequence
from itertools import takewhile

import dagster as dg
from dagster._core.storage.tags import WILL_RETRY_TAG

from keyrotation_pipeline.audit.events import entries
from keyrotation_pipeline.defs import launch_refusals
from keyrotation_pipeline.defs.outside_reports import Seal
from keyrotation_pipeline.defs.partitions import ROTATION_TAG, Naming, Ownership
from keyrotation_pipeline.defs.resources import PipelineParameter, PipelineResource
from keyrotation_pipeline.defs.run_requests import BACKUP_ATTEMPTS, ConductorRun, conducted_runs
from keyrotation_pipeline.defs.schedules import BACKUP, EVIDENCE
from keyrotation_pipeline.defs.step_runner import message_of
from keyrotation_pipeline.model.audit import RETRIED, EventKind, Note
from keyrotation_pipeline.model.requests import Walk
from keyrotation_pipeline.model.visible_text import visible

Conducted = Sequence[tuple[dg.DagsterRun, ConductorRun]]
# The conductor retries without end; so many failures in a row are worth an alert.
FAILURES_BEFORE_ALERT = 3
MAX_CAUSE_CHARS = 500


def run_failure_alert_sensor(naming: Naming, ownership: Ownership) -> dg.SensorDefinition:
    """The sensor `run_failure_alert`."""

    @dg.run_failure_sensor(
        name=naming.name("run_failure_alert"),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=10,
        description="Appends each failed run to the audit. The event names run, job and subject, not the error.",
    )
    def run_failure_alert(context: dg.RunFailureSensorContext, keyrotation: PipelineParameter) -> dg.SkipReason | None:
        run = context.dagster_run
        if not ownership.failed(run, context.get_step_failure_events()):
            return dg.SkipReason("the failed run is not one of the pipeline")
        context.log.error("run %s of %s failed; open it in the UI for the reason", run.run_id, run.job_name)
        try:
            refused_by = launch_refusals.refused_by(context.failure_event.message or "")
            return _record(context.instance, run, refused_by, naming, keyrotation)
        except Exception as error:  # noqa: BLE001  as in `build_sensor`
            return dg.SkipReason(message_of(error))

    return run_failure_alert


def _record(
    instance: dg.DagsterInstance,
    run: dg.DagsterRun,
    refused_by: str | None,
    naming: Naming,
    keyrotation: PipelineResource,
) -> dg.SkipReason | None:
    """Records a run, unless it is recorded: whoever sets the sensor's cursor back has every failed run seen again.

    Args:
        refused_by: what of the cluster refuses its process, so that a retry alone does not help.
    """
    # The tags of any other run can hold any text, and name a rotation that the run does not belong to.
    rotation = run.tags.get(ROTATION_TAG)
    seal = Seal(keyrotation.signer())
    ours = () if rotation is None else tuple(conducted_runs(instance, naming, seal, rotation))
    conducted = next((past for each, past in ours if each.run_id == run.run_id), None)
    is_retried = refused_by is None and _is_retried(instance, run, conducted, ours)
    facts = {
        "run": run.run_id,
        "job": run.job_name,
        "subject": conducted.subject if conducted else None,
        "attempt": str(conducted.attempt) if conducted else None,
        **({"refused_by": refused_by} if refused_by else {}),
        **({RETRIED: "yes"} if is_retried else {}),
    }
    with keyrotation.open("dagster run_failure_alert") as opened, opened.ledger.lock(f"failed run {run.run_id}"):
        if any(each.facts.get("run") == run.run_id for each in entries(opened.ledger, EventKind.RUN_FAILED)):
            return dg.SkipReason("the failed run is recorded")
        rotation = rotation if conducted else None
        known = next((each for each in opened.ledger.requests() if each.id == rotation), None)
        opened.ledger.append(Note(EventKind.RUN_FAILED, facts), known.id if known else None)
        if refused_by and isinstance(known, Walk):
            launch_refusals.block(opened.ledger, known, run.job_name, refused_by)
    return None


def _is_retried(
    instance: dg.DagsterInstance, run: dg.DagsterRun, conducted: ConductorRun | None, ours: Conducted
) -> bool:
    """Whether a failed run is retried by itself: by Dagster, or by the conductor, and not for the third time in a row.

    Args:
        conducted: what the run is for; None: the conductor has not launched it.
        ours: the conductor's runs of the same rotation.
    """
    if instance.run_retries_enabled and run.tags.get(WILL_RETRY_TAG) == "true":  # else anybody can have set it
        return True
    if conducted is None or conducted.subject == EVIDENCE:
        return False
    if conducted.subject == BACKUP:
        return conducted.attempt < BACKUP_ATTEMPTS
    of_subject = [each for each in ours if each[1].subject == conducted.subject]
    earlier = (each for each in of_subject if each[1].attempt < conducted.attempt)
    latest_first = sorted(earlier, key=lambda each: each[1].attempt, reverse=True)
    failed_before = takewhile(lambda each: each[0].status is dg.DagsterRunStatus.FAILURE, latest_first)
    return len(list(failed_before)) + 1 < FAILURES_BEFORE_ALERT


def causes(instance: dg.DagsterInstance) -> Callable[[str], str | None]:
    """A function that tells why a run failed, from what Dagster stores of it: our own sentence, never another text."""

    def cause(run_id: str) -> str | None:
        found = instance.get_run_record_by_id(run_id)
        if found is None:
            return None
        failures = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.STEP_FAILURE, limit=1).records
        if failures:
            event = failures[0].event_log_entry.get_dagster_event()
            reported = event.step_failure_data.user_failure_data
            return visible(reported.description[:MAX_CAUSE_CHARS]) if reported and reported.description else None
        if found.start_time is None:
            return "it did not begin, since no worker started for it in time or the code server did not answer"
        return "it ended without the failure of a step: its process was ended, or it took too long"

    return cause
