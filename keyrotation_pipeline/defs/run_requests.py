"""Run requests of the conductor, and its earlier runs: what it launches for the due tasks, and when it retries."""

import re
import secrets
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._core.storage.tags import MAX_RUNTIME_SECONDS_TAG, PRIORITY_TAG

from keyrotation_pipeline.defs.outside_reports import Seal
from keyrotation_pipeline.defs.partitions import ROTATION_TAG, SERVER_TAG, Naming, partition_of
from keyrotation_pipeline.defs.schedules import BACKUP, EVIDENCE, INTRODUCE_KEY, LEGS, REENCRYPT_ROWS, RETIRE_KEY
from keyrotation_pipeline.defs.triggers import BY_HAND_TAG
from keyrotation_pipeline.model.requests import RotationType, Step, Walk
from keyrotation_pipeline.monitoring.scheduler_health import CONDUCTOR
from keyrotation_pipeline.requests.conductor import Task

SUBJECT_TAG = "keyrotation/subject"
ATTEMPT_TAG = "keyrotation/attempt"
SEAL_TAG = "keyrotation/seal"
# On runs that take shards: the launcher gives those of an emergency more resources.
MODE_TAG = "keyrotation/mode"
SENSOR_TAG = "dagster/sensor_name"
# Of the runs of an emergency: Dagster's queue takes them before all others that wait, which have 0.
URGENT = {PRIORITY_TAG: "10"}
# Other runs are ended after a day (`dagster.yaml`). One for rows takes shards until none is due; what it did remains.
LONG = {MAX_RUNTIME_SECONDS_TAG: str(7 * 86400)}
ATTEMPT = re.compile(r"[1-9][0-9]{0,5}", re.ASCII)

RETRY = timedelta(minutes=1)
RETRY_LATER = timedelta(minutes=10)
ATTEMPTS_BEFORE_LATER = 10
# The source procedure, section 5.2.
PARALLEL_IN_EMERGENCY = 4
# Each attempt dumps the whole database; after the last one the nightly backup takes over.
BACKUP_ATTEMPTS, BACKUP_RETRY = 3, timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class ConductorRun:
    """One run that the conductor launched for a subject; `ended_at` is None while it is queued or running."""

    subject: str
    attempt: int
    ended_at: datetime | None
    succeeded: bool = False

    @classmethod
    def from_tags(
        cls, naming: Naming, job: str, tags: Mapping[str, str], ended_at: datetime | None, *, succeeded: bool = False
    ) -> "ConductorRun | None":
        """The run that its tags describe; None if the conductor cannot have launched it.

        Anybody who reaches Dagster can put any tag on a run: only the seal shows whose it is (`conducted_runs`). The
        conductor does not wait for others: each step guards itself against being done twice.
        """
        subject, attempt = tags.get(SUBJECT_TAG, ""), tags.get(ATTEMPT_TAG, "")
        ours = tags.get(SENSOR_TAG) == naming.name(CONDUCTOR) and BY_HAND_TAG not in tags
        if not ours or not ATTEMPT.fullmatch(attempt) or job != naming.name(_job_of(subject)):
            return None
        return cls(subject, int(attempt), ended_at, succeeded)


def _job_of(subject: str) -> str:
    return subject.partition("/")[0]


def conducted_runs(
    instance: dg.DagsterInstance, naming: Naming, seal: Seal, rotation: str
) -> Iterator[tuple[dg.DagsterRun, ConductorRun]]:
    """Each run that the conductor launched for a rotation, oldest first, as Dagster has it and as its tags describe it.

    Of two with the same seal the later one has copied it.
    """
    seen = set[tuple[str, int]]()
    for record in instance.get_run_records(dg.RunsFilter(tags={ROTATION_TAG: rotation}), ascending=True):
        run = record.dagster_run
        ended_at = record.update_timestamp.replace(tzinfo=UTC) if run.is_finished else None
        past = ConductorRun.from_tags(naming, run.job_name, run.tags, ended_at, succeeded=run.is_success)
        if past is None or not seal.is_on_run(_described(run.tags), run.tags.get(SEAL_TAG, "")):
            continue
        if (past.subject, past.attempt) not in seen:
            seen.add((past.subject, past.attempt))
            yield run, past


def sealed(request: dg.RunRequest, seal: Seal) -> dg.RunRequest:
    """The request of a run, with the seal by which `conducted_runs` knows the run again."""
    tags = {**request.tags, SEAL_TAG: seal.on_run(_described(request.tags))}
    return request.with_replaced_attrs(tags=tags)


def _described(tags: Mapping[str, str]) -> str:
    return "\n".join(tags.get(tag, "") for tag in (ROTATION_TAG, SUBJECT_TAG, ATTEMPT_TAG))


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What to launch now; and why other due tasks are not launched: they run already, or are retried later."""

    requests: Sequence[dg.RunRequest]
    in_progress: Sequence[str]
    next_try_at: datetime | None


def plan_runs(
    naming: Naming,
    rotation: Walk,
    tasks: Sequence[Task],
    past: Iterable[ConductorRun],
    now: datetime,
    parallel_shards: int,
    servers: Mapping[str, str] | None = None,
) -> RunPlan:
    """Plans the runs for the due tasks: never two for one subject at a time, and for each a pause after its last.

    Args:
        servers: of a fleet, the server of each database; each gets runs of its own.
    """
    if not servers or tasks[0].shard is None:
        return _plan(naming, rotation, tasks, past, now, parallel_shards)
    of_server, past = defaultdict[str, list[Task]](list), tuple(past)
    for task in tasks:
        if task.shard is not None:
            of_server[servers[task.shard.table.name.database]].append(task)
    plans = [_plan(naming, rotation, due, past, now, parallel_shards, server) for server, due in of_server.items()]
    return RunPlan(
        [request for plan in plans for request in plan.requests],
        [subject for plan in plans for subject in plan.in_progress],
        min((plan.next_try_at for plan in plans if plan.next_try_at is not None), default=None),
    )


def _plan(
    naming: Naming,
    rotation: Walk,
    tasks: Sequence[Task],
    past: Iterable[ConductorRun],
    now: datetime,
    parallel_shards: int,
    server: str | None = None,
) -> RunPlan:
    wanted = subjects(rotation, tasks, parallel_shards, server)
    newest = {run.subject: run for run in sorted(past, key=lambda run: run.attempt) if run.subject in wanted}
    in_progress = [subject for subject, run in newest.items() if run.ended_at is None]
    again_at = {subject: run.ended_at + pause_after(run) for subject, run in newest.items() if run.ended_at is not None}
    pausing = {subject: at for subject, at in again_at.items() if now < at}
    # Each of these has one of the due tasks: launch no more than there are others.
    busy = {*in_progress, *pausing}
    idle = [subject for subject in wanted if subject not in busy][: max(len(tasks) - len(busy), 0)]
    attempts = {subject: newest[subject].attempt + 1 if subject in newest else 1 for subject in idle}
    requests = [
        request_for(naming, rotation, tasks[0], subject, attempt, server) for subject, attempt in attempts.items()
    ]
    return RunPlan(requests, in_progress, min(pausing.values(), default=None))


def pause_after(run: ConductorRun) -> timedelta:
    """A minute between the first attempts, since the holder of an old snapshot may go away; then ten.

    After one that succeeded a minute, too: its time was over, or others had all that was due.
    """
    return RETRY if run.succeeded or run.attempt < ATTEMPTS_BEFORE_LATER else RETRY_LATER


def subjects(rotation: Walk, tasks: Sequence[Task], parallel_shards: int, server: str | None = None) -> Sequence[str]:
    """The subjects of the runs for these tasks: a leg of the rotation; for shards ``reencrypt_rows/1``, ``/2`` ….

    Each of the latter takes whatever shard is due, one after another; of a fleet, on its server:
    ``reencrypt_rows/<system identifier>/1``.
    """
    if tasks[0].shard is None:
        return (INTRODUCE_KEY if tasks[0].step in LEGS[INTRODUCE_KEY] else RETIRE_KEY,)
    emergency = rotation.type is RotationType.EMERGENCY
    at_a_time = max(parallel_shards, PARALLEL_IN_EMERGENCY) if emergency else parallel_shards
    job = REENCRYPT_ROWS if server is None else f"{REENCRYPT_ROWS}/{server}"
    return tuple(f"{job}/{number}" for number in range(1, at_a_time + 1))


def request_for(
    naming: Naming, rotation: Walk, task: Task, subject: str, attempt: int, server: str | None = None
) -> dg.RunRequest:
    """The run for a due task: a leg continues from there to its end, a run for shards takes all that are due."""
    tags = URGENT if rotation.type is RotationType.EMERGENCY else {}
    if task.shard is not None:
        of_server = {} if server is None else {SERVER_TAG: server}
        return _request(naming, rotation, subject, attempt, {MODE_TAG: str(rotation.type), **of_server, **LONG, **tags})
    leg = LEGS[subject]
    first = leg.index(task.step) if task.step is not Step.ROWS else 0
    assets = [naming.step(step) for step in leg[first:]]
    return _request(naming, rotation, subject, attempt, tags, partition_of(rotation), assets)


def next_backup_attempt(tried: Iterable[ConductorRun], now: datetime) -> int | None:
    """Which attempt of the backup after a rotation is due; None: it is too early, or the last one was made.

    Args:
        tried: the attempts so far, all of which have ended.
    """
    last = max(tried, key=lambda run: run.attempt, default=None)
    if last is None or last.ended_at is None:
        return 1
    return last.attempt + 1 if now >= last.ended_at + BACKUP_RETRY and last.attempt < BACKUP_ATTEMPTS else None


def backup_request(naming: Naming, rotation: Walk, attempt: int, day: str) -> dg.RunRequest:
    """The full backup after a finished rotation, no matter who ran that."""
    return _request(naming, rotation, BACKUP, attempt, partition=day)


def evidence_request(naming: Naming, rotation: Walk) -> dg.RunRequest:
    """Every check once after a finished rotation, no matter who ran that."""
    return _request(naming, rotation, EVIDENCE, 1)


def _request(
    naming: Naming,
    rotation: Walk,
    subject: str,
    attempt: int,
    tags: Mapping[str, str] | None = None,
    partition: str | None = None,
    assets: Sequence[dg.AssetKey] | None = None,
) -> dg.RunRequest:
    """The run for a subject, as `ConductorRun` describes it.

    Nobody can guess its key: Dagster never launches a run whose key it has seen, even on a forged run.
    """
    return dg.RunRequest(
        run_key=f"{rotation.id}/{subject}/{attempt}/{secrets.token_hex(8)}",
        job_name=naming.name(_job_of(subject)),
        tags={ROTATION_TAG: rotation.id, SUBJECT_TAG: subject, ATTEMPT_TAG: str(attempt), **(tags or {})},
        partition_key=partition,
        asset_selection=assets,
        asset_check_keys=None if assets is None else [],
    )
