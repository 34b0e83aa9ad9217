"""A failed run is a fact that the audit keeps."""

import dagster as dg

from keyrotation_pipeline.defs.launches import PastRun
from keyrotation_pipeline.defs.names import ROTATION_TAG, Naming
from keyrotation_pipeline.defs.ours import Ours
from keyrotation_pipeline.defs.refusals import sentence_of
from keyrotation_pipeline.defs.resources import PipelineParameter
from keyrotation_pipeline.model.audit import EventKind, Note


def run_failure_alert_sensor(naming: Naming, ours: Ours) -> dg.SensorDefinition:
    """The sensor `run_failure_alert`."""

    @dg.run_failure_sensor(
        name=naming.name("run_failure_alert"),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=10,
    )
    def run_failure_alert(context: dg.RunFailureSensorContext, keyrotation: PipelineParameter) -> dg.SkipReason | None:
        """Logs a failed run and appends it to the audit: by run, job and subject, without the text of its error."""
        run = context.dagster_run
        if not ours.failed(run, context.get_step_failure_events()):
            return dg.SkipReason("a run of others")
        context.log.error("run %s of %s failed; open it in the UI for the reason", run.run_id, run.job_name)
        # What is not the conductor's own may bear any text, and name a rotation that it is not of.
        conducted = PastRun.believed(naming, run.job_name, run.tags, None)
        facts = {
            "run": run.run_id,
            "job": run.job_name,
            "subject": conducted.subject if conducted else None,
            "attempt": str(conducted.attempt) if conducted else None,
        }
        try:
            with keyrotation.open("dagster run_failure_alert") as opened:
                rotation = run.tags.get(ROTATION_TAG) if conducted else None
                known = rotation if any(each.id == rotation for each in opened.ledger.requests()) else None
                opened.ledger.append(Note(EventKind.RUN_FAILED, facts), known)
        except Exception as error:  # noqa: BLE001  a tick is stored: no text but our own sentences
            return dg.SkipReason(sentence_of(error))
        return None

    return run_failure_alert
