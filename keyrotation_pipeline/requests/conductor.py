"""What comes next: one pure function, asked by the sensor, by `keyrotation rotate` and by `--dry-run`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from keyrotation_pipeline.model.columns import EncryptedTable, Shard
from keyrotation_pipeline.model.request import WALK, Request, RequestAction, RequestStatus, Step, Walk


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do: a step, or for `Step.ROWS` one shard of one table."""

    step: Step
    shard: Shard | None = None

    def __str__(self) -> str:
        return f"{self.step}/{self.shard.table.name} shard {self.shard.key}" if self.shard else str(self.step)


@dataclass(frozen=True, slots=True)
class Decision:
    """The actions that may run now, side by side; or none, and the sentence that says why."""

    actions: tuple[Action, ...]
    waiting_for: str | None = None


def decide(rotation: Walk, required: int, tables: Sequence[EncryptedTable], shards: int, now: datetime) -> Decision:
    """Decide the next actions of a rotation from its state alone.

    Args:
        required: signatures that the pinned roster asks for.
        shards: shards a table.
        now: aware; a request past its dates has nothing that is due.
    """
    if (waiting_for := _waiting_for(rotation, required, now)) is not None:
        return Decision((), waiting_for)
    for step in WALK:
        if rotation.done(step) is None:
            return Decision(_open_shards(rotation, tables, shards) if step is Step.ROWS else (Action(step),))
    return Decision((), f"rotation {rotation.id} has nothing left to do")


def command_of(request: Request) -> str:
    """What carries an approved request out."""
    if request.action == RequestAction.DESTROY:
        return f"keyrotation destroy {request.source}"
    return f"keyrotation rotate {request.id}" if request.action.walks else f"keyrotation {request.action}"


def past_dates(rotation: Request, now: datetime) -> str | None:
    """The sentence that says which date of a request has passed, and the way on; None while none has."""
    if rotation.started_at is None and now > rotation.start_by:
        return (
            f"rotation {rotation.id} did not start by {rotation.start_by:%Y-%m-%d %H:%M} UTC; "
            "cancel it and request a new one"
        )
    if now > rotation.finish_by and not rotation.action.walks:
        return (
            f"request {rotation.id} was to be finished by {rotation.finish_by:%Y-%m-%d %H:%M} UTC; "
            f"cancel it, then run `{command_of(rotation)}` for a new one"
        )
    if now > rotation.finish_by:
        return (
            f"rotation {rotation.id} was to be finished by {rotation.finish_by:%Y-%m-%d %H:%M} UTC, so its signatures "
            "no longer count; take it over with `keyrotation request`, or cancel it if its key is not the primary yet"
        )
    return None


def phase_of(rotation: Walk) -> str:
    """The phase that users see: a step's name, or `requested`, `cancelled`, `finished`."""
    if rotation.status in {RequestStatus.CANCELLED, RequestStatus.FINISHED}:
        return str(rotation.status)
    if rotation.started_at is None:
        return str(RequestStatus.REQUESTED)
    return str(next((step for step in WALK if rotation.done(step) is None), RequestStatus.FINISHED))


def _waiting_for(rotation: Walk, required: int, now: datetime) -> str | None:
    if rotation.is_over:
        return f"rotation {rotation.id} is {rotation.status}; open the next one with `keyrotation request`"
    if rotation.status is RequestStatus.PAUSED:
        return f"rotation {rotation.id} is paused; go on with `keyrotation resume {rotation.id}`"
    if (missing := required - len(rotation.approvals)) > 0:
        return (
            f"rotation {rotation.id} needs {missing} more approval(s); "
            f"sign with `keyrotation approve {rotation.id} --text`"
        )
    return past_dates(rotation, now)


def _open_shards(rotation: Walk, tables: Sequence[EncryptedTable], shards: int) -> tuple[Action, ...]:
    # With every shard done, one more action closes the step itself.
    open_shards = tuple(
        Action(Step.ROWS, Shard(table, index, shards))
        for table in tables
        for index in range(shards)
        if rotation.done(Step.ROWS, str(table.name), index) is None
    )
    return open_shards or (Action(Step.ROWS),)
