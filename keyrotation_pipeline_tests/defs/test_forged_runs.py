"""Runs that somebody launched with the conductor's tags: they stop nothing, start nothing, and are not in the audit."""

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.run_coordinator import SubmitRunContext
from dagster._core.storage.tags import PRIORITY_TAG
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon

from keyrotation_pipeline.defs.instance import UnconfiguredRunCoordinator
from keyrotation_pipeline.defs.run_requests import URGENT
from keyrotation_pipeline.defs.triggers import BY_HAND_TAG
from keyrotation_pipeline.model.backups import BackupStatus
from keyrotation_pipeline.model.requests import Step, Walk
from keyrotation_pipeline_tests.defs.conftest import Dagster
from keyrotation_pipeline_tests.defs.test_conductor import (
    TRUE_TAGS,
    Walked,
    finished_in_dagster,
    requests,
    shown_by_mirror,
    skipped,
)

FAILURE, STARTING = dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.STARTING


def forge(dagster: Dagster, rotation: Walk, subject: str, attempt: int, status: dg.DagsterRunStatus) -> dg.DagsterRun:
    """A run with every tag that one of the conductor has, but for the seal."""
    tags = {"keyrotation/rotation": rotation.id, "keyrotation/subject": subject, "keyrotation/attempt": str(attempt)}
    run = dg.DagsterRun(subject, tags={**TRUE_TAGS, **tags, "keyrotation/seal": "Zm9yZ2Vk"}, status=status)
    dagster.instance.add_run(run)
    return run


def attempts_of(wanted: list[dg.RunRequest]) -> list[tuple[str | None, str]]:
    return [(each.job_name, each.tags["keyrotation/attempt"]) for each in wanted]


def test_a_high_attempt_starts_no_storm_of_runs(dagster: Dagster, approved: Walk) -> None:
    forge(dagster, approved, "introduce_key", 999_999, FAILURE)
    dagster.world.clock.at = datetime.now(UTC) + timedelta(minutes=11)
    [wanted] = requests(dagster)
    assert attempts_of([wanted]) == [("introduce_key", "1")]
    dagster.instance.add_run(dg.DagsterRun("introduce_key", tags={**TRUE_TAGS, **wanted.tags}, status=STARTING))
    assert skipped(dagster) == "in progress: introduce_key"


@pytest.mark.parametrize(("attempt", "status"), [(3, FAILURE), (1, STARTING)])
def test_no_forged_run_stands_for_the_backup_after_a_rotation(
    dagster: Dagster, approved: Walk, attempt: int, status: dg.DagsterRunStatus
) -> None:
    finished_in_dagster(dagster)
    dagster.world.vault.stands = BackupStatus(None)
    forge(dagster, approved, "backup", attempt, status)
    assert attempts_of(requests(dagster)) == [("backup", "1")]


def test_a_copy_of_a_run_counts_for_nothing(dagster: Dagster, approved: Walk) -> None:
    [wanted] = requests(dagster)
    ours = dg.DagsterRun("introduce_key", tags={**TRUE_TAGS, **wanted.tags}, status=FAILURE)
    copy = dg.DagsterRun("introduce_key", tags=ours.tags, status=STARTING)
    for run in (ours, copy):
        dagster.instance.add_run(run)
    dagster.world.clock.at = datetime.now(UTC) + timedelta(minutes=2)
    assert attempts_of(requests(dagster)) == [("introduce_key", "2")]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_seal_is_for_one_rotation_subject_and_attempt(dagster: Dagster, approved: Walk, which: int) -> None:
    described = [approved.id, "introduce_key", "1"]
    tags = dict(zip(("keyrotation/rotation", "keyrotation/subject", "keyrotation/attempt"), described, strict=True))
    described[which] = "2"

    def run_under(text: str) -> dg.DagsterRun:
        seal = dagster.resource.signer().sign(f"keyrotation-dagster-run-v1\n{text}".encode())
        sealed = {**TRUE_TAGS, **tags, "keyrotation/seal": base64.b64encode(seal).decode()}
        return dg.DagsterRun("introduce_key", tags=sealed, status=STARTING)

    dagster.instance.add_run(run_under("\n".join(described)))
    assert attempts_of(requests(dagster)) == [("introduce_key", "1")]
    dagster.instance.add_run(run_under("\n".join(tags.values())))
    assert skipped(dagster) == "in progress: introduce_key"


def test_a_forged_run_keeps_no_step_from_being_shown(dagster: Dagster, walked: Walked) -> None:
    forge(dagster, walked(Step.KEY_VERSION), "introduce_key", 1, STARTING)
    assert shown_by_mirror(dagster) == ["key_version"]


def test_the_audit_names_no_rotation_for_a_forged_run(dagster: Dagster, approved: Walk) -> None:
    run = forge(dagster, approved, "introduce_key", 7, FAILURE)
    event = dg.DagsterEvent("PIPELINE_FAILURE", run.job_name)
    context = dg.build_run_status_sensor_context(
        sensor_name="run_failure_alert",
        dagster_event=event,
        dagster_instance=dagster.instance,
        dagster_run=run,
        resources={"keyrotation": dagster.resource},
    ).for_run_failure()
    dagster.definitions.get_repository_def().get_sensor_def("run_failure_alert")(context)
    facts = dagster.world.ledger.facts_of("dagster_run_failed")
    assert facts == {"run": run.run_id, "job": "introduce_key", "subject": None, "attempt": None}


def queued(instance: dg.DagsterInstance, tags: dict[str, str]) -> dg.DagsterRun:
    """A run as the daemon queues it, whose requests have no source."""
    here = RegisteredCodeLocationOrigin("keyrotation_pipeline")
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(here, "__repository__"), "evidence")
    run = dg.DagsterRun("evidence", tags=tags, remote_job_origin=origin)
    instance.add_run(run)
    coordinator = UnconfiguredRunCoordinator()
    coordinator.register_instance(instance)
    daemon: Any = None
    coordinator.submit_run(SubmitRunContext(run, workspace=daemon))
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    assert found.status is dg.DagsterRunStatus.QUEUED
    return found


def test_a_run_of_a_backfill_is_marked_whatever_tags_were_given_to_it() -> None:
    forged = {"dagster/schedule_name": "rotation_calendar", **TRUE_TAGS}
    with dg.DagsterInstance.ephemeral() as instance:
        assert queued(instance, {**forged, "dagster/backfill": ""}).tags[BY_HAND_TAG] == "true"
        assert BY_HAND_TAG not in queued(instance, forged).tags, "a run of a schedule or sensor"


@pytest.mark.parametrize("priority", ["99999", "11", "-1", "9" * 30, "high"])
def test_no_run_that_somebody_launches_is_taken_before_those_of_an_emergency(priority: str) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        urgent = queued(instance, URGENT)
        launched = queued(instance, {"dagster/backfill": "", PRIORITY_TAG: priority})
        order = QueuedRunCoordinatorDaemon(1)._priority_sort([launched, urgent])  # noqa: SLF001  as the daemon sorts
    assert [run.run_id for run in order] == [urgent.run_id, launched.run_id]
