"""Decides the next step: one pure function for the sensor, `keyrotation rotate` and `--dry-run`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from keyrotation_pipeline.model.audit import counted, utc_minute
from keyrotation_pipeline.model.pending import PendingCode, PendingReason
from keyrotation_pipeline.model.requests import WALK, Request, RequestStatus, Step, Walk
from keyrotation_pipeline.model.tables import EncryptedTable, Shard


@dataclass(frozen=True, slots=True)
class Task:
    """One thing to do: a step, or for `Step.ROWS` one shard of one table."""

    step: Step
    shard: Shard | None = None

    def __str__(self) -> str:
        return f"{self.step}/{self.shard.table.name} shard {self.shard.key}" if self.shard else str(self.step)


@dataclass(frozen=True, slots=True)
class Decision:
    """The tasks that may run now, concurrently; or none, and why."""

    tasks: tuple[Task, ...]
    pending: PendingReason | None = None


def decide(rotation: Walk, required: int, tables: Sequence[EncryptedTable], shards: int, now: datetime) -> Decision:
    """Decides the next tasks of a rotation from its state alone.

    Args:
        required: signatures that the pinned roster asks for.
        shards: per table.
        now: aware; a request past its dates has nothing due.
    """
    if (pending := _pending(rotation, required, now)) is not None:
        return Decision((), pending)
    for step in WALK:
        if rotation.done(step) is None:
            return Decision(_open_shards(rotation, tables, shards) if step is Step.ROWS else (Task(step),))
    return Decision((), PendingReason(PendingCode.OVER, "nobody", f"rotation {rotation.id} has nothing left to do"))


def command_of_walk(request: Request) -> str:
    """The command that carries out an approved rotation or rollback."""
    return f"keyrotation rotate {request.id}"


def renewal_of_walk(request: Request) -> str:
    """How to continue a walk when its signatures no longer count."""
    if request.started_at is None:
        return f"withdraw it with `keyrotation cancel {request.id}`, and request it again"
    return "cancel it if its key is not the primary yet, else take it over with `keyrotation request`"


def too_early(request: Request, now: datetime) -> PendingReason | None:
    """When a request may start; None once it may start or has started."""
    if request.not_before is None or request.started_at is not None or now >= request.not_before:
        return None
    return PendingReason(
        PendingCode.NOT_BEFORE,
        "the date",
        f"rotation {request.id} does not start before {utc_minute(request.not_before)}",
        f"wait until then, or withdraw it with `keyrotation cancel {request.id}`",
    )


def past_dates(request: Request, renewal: str, now: datetime) -> PendingReason | None:
    """Which date of a request has passed, and how to continue; None while none has."""
    if request.started_at is None and now > request.start_by:
        why, do = f"did not start by {utc_minute(request.start_by)}", "cancel it and request a new one"
    elif now > request.finish_by:
        why, do = f"was to be finished by {utc_minute(request.finish_by)}", renewal
    else:
        return None
    details = "its signatures no longer count"
    return PendingReason(PendingCode.EXPIRED, "officers", f"request {request.id} {why}", do, details=details)


def phase_of(rotation: Walk) -> str:
    """The phase that users see: a step's name, or `requested`, `cancelled`, `finished`."""
    if rotation.status in {RequestStatus.CANCELLED, RequestStatus.FINISHED}:
        return str(rotation.status)
    if rotation.started_at is None:
        return str(RequestStatus.REQUESTED)
    return str(next((step for step in WALK if rotation.done(step) is None), RequestStatus.FINISHED))


def _pending(rotation: Walk, required: int, now: datetime) -> PendingReason | None:
    name = f"rotation {rotation.id}"
    if rotation.is_over:
        next_one = "open the next one with `keyrotation request`"
        return PendingReason(PendingCode.OVER, "nobody", f"{name} is {rotation.status}", next_one)
    if rotation.status is RequestStatus.PAUSED:
        resume = f"continue with `keyrotation resume {rotation.id}`"
        return PendingReason(PendingCode.PAUSED, "an operator", f"{name} is paused", resume)
    if (missing := required - len(rotation.approvals)) > 0:
        why, sign = (
            f"{name} needs {counted(missing, 'more approval')}",
            f"sign with `keyrotation approve {rotation.id}`",
        )
        return PendingReason(PendingCode.APPROVALS, "officers", why, sign, rotation.requested_at)
    return too_early(rotation, now) or past_dates(rotation, renewal_of_walk(rotation), now)


def _open_shards(rotation: Walk, tables: Sequence[EncryptedTable], shards: int) -> tuple[Task, ...]:
    # By database, then shard, then table: concurrent processes then work on different tables, of which small ones have
    # only a first shard, and finish one database before the next. With every shard done, one more task closes the step.
    done = {(record.table, record.shard) for record in rotation.steps if record.step is Step.ROWS}
    by_database = dict[str, list[tuple[str, EncryptedTable]]]()
    for table in tables:
        by_database.setdefault(table.name.database, []).append((str(table.name), table))
    open_shards = tuple(
        Task(Step.ROWS, Shard(table, index, shards))
        for named in by_database.values()
        for index in range(shards)
        for name, table in named
        if (name, index) not in done
    )
    return open_shards or (Task(Step.ROWS),)
