"""Which runs the conductor starts, from the decision and from the runs so far."""

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import dagster as dg

from keyrotation_pipeline.defs.jobs import EVIDENCE, INTRODUCE_KEY, LEGS, REENCRYPT_ROWS, RETIRE_KEY
from keyrotation_pipeline.defs.names import ROTATION_TAG, rows_key, step_key
from keyrotation_pipeline.defs.partitions import row_partition
from keyrotation_pipeline.defs.run_coordinator import BY_HAND_TAG
from keyrotation_pipeline.model.request import Step, Walk
from keyrotation_pipeline.requests.conductor import Task

SUBJECT_TAG = "keyrotation/subject"
ATTEMPT_TAG = "keyrotation/attempt"
# On runs of shards: how many of a mode run at a time is limited in dagster.yaml, what each may use by the launcher.
MODE_TAG = "keyrotation/mode"
SENSOR_TAG = "dagster/sensor_name"
CONDUCTOR = "rotation_conductor"
ATTEMPT = re.compile(r"[1-9][0-9]{0,5}", re.ASCII)

RETRY = timedelta(minutes=1)
RETRY_LATER = timedelta(minutes=10)
ATTEMPTS_BEFORE_LATER = 10


@dataclass(frozen=True, slots=True)
class PastRun:
    """One run that the conductor started for a subject; `ended_at` is None while it is queued or runs."""

    subject: str
    attempt: int
    ended_at: datetime | None

    @classmethod
    def believed(cls, job: str, tags: Mapping[str, str], ended_at: datetime | None) -> "PastRun | None":
        """The run that its tags tell of, if the conductor can have started it; else None.

        Whoever reaches Dagster can put any tag on a run. A run from the UI is marked as such when it is queued, and is
        nothing that the conductor waits for: what it must not do twice is guarded where it is done.
        """
        subject, attempt = tags.get(SUBJECT_TAG, ""), tags.get(ATTEMPT_TAG, "")
        ours = tags.get(SENSOR_TAG) == CONDUCTOR and BY_HAND_TAG not in tags
        if not ours or not ATTEMPT.fullmatch(attempt) or job != _job_of(subject):
            return None
        return cls(subject, int(attempt), ended_at)


def _job_of(subject: str) -> str:
    return subject if subject in LEGS or subject == EVIDENCE else REENCRYPT_ROWS


@dataclass(frozen=True, slots=True)
class Launches:
    """What to start now, and why what is due is not started."""

    requests: Sequence[dg.RunRequest]
    in_progress: Sequence[str]
    next_try_at: datetime | None


def launches(rotation: Walk, tasks: Sequence[Task], past: Iterable[PastRun], now: datetime) -> Launches:
    """Choose the runs for the due tasks: none twice at a time, and after a failure not before a while has passed."""
    newest: Mapping[str, PastRun] = {run.subject: run for run in sorted(past, key=lambda run: run.attempt)}
    requests, in_progress, tries = [], [], []
    for task in tasks:
        last = newest.get(subject_of(task))
        if last is None:
            requests.append(request_for(rotation, task, 1))
        elif last.ended_at is None:
            in_progress.append(last.subject)
        elif now >= (again := last.ended_at + pause_after(last.attempt)):
            requests.append(request_for(rotation, task, last.attempt + 1))
        else:
            tries.append(again)
    return Launches(requests, in_progress, min(tries, default=None))


def pause_after(attempts: int) -> timedelta:
    """A minute between the first attempts, since a holder of an old snapshot may leave; then ten."""
    return RETRY if attempts < ATTEMPTS_BEFORE_LATER else RETRY_LATER


def subject_of(task: Task) -> str:
    """What a run is about: a leg of the walk, or one shard of one table."""
    if task.shard is not None:
        return str(task)
    return INTRODUCE_KEY if task.step in LEGS[INTRODUCE_KEY] else RETIRE_KEY


def request_for(rotation: Walk, task: Task, attempt: int) -> dg.RunRequest:
    """The run for one due task; a leg goes on from there to its end."""
    subject = subject_of(task)
    run_key = _run_key(rotation, subject, attempt)
    tags = {ROTATION_TAG: rotation.id, SUBJECT_TAG: subject, ATTEMPT_TAG: str(attempt)}
    if task.shard is not None:
        return dg.RunRequest(
            run_key=run_key,
            job_name=REENCRYPT_ROWS,
            asset_selection=[rows_key(task.shard.table.name)],
            asset_check_keys=[],
            partition_key=row_partition(rotation.target, task.shard.index),
            tags={**tags, MODE_TAG: str(rotation.type)},
        )
    leg = LEGS[subject]
    first = leg.index(task.step) if task.step is not Step.ROWS else 0
    return dg.RunRequest(
        run_key=run_key,
        job_name=subject,
        asset_selection=[step_key(step) for step in leg[first:]],
        asset_check_keys=[],
        partition_key=str(rotation.target),
        tags=tags,
    )


def evidence_request(rotation: Walk) -> dg.RunRequest:
    """Every check once after a finished rotation, whoever ran it."""
    return dg.RunRequest(
        run_key=_run_key(rotation, EVIDENCE, 1),
        job_name=EVIDENCE,
        tags={ROTATION_TAG: rotation.id, SUBJECT_TAG: EVIDENCE, ATTEMPT_TAG: "1"},
    )


def _run_key(rotation: Walk, subject: str, attempt: int) -> str:
    """Not to be guessed: Dagster never starts a run whose key it has seen, even on a run that somebody made up."""
    return f"{rotation.id}/{subject}/{attempt}/{secrets.token_hex(8)}"
