"""The nine steps of a walk as the console draws them, from left to right."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from keyrotation_pipeline.model.progress import duration
from keyrotation_pipeline.model.requests import WALK, Step, Walk
from keyrotation_pipeline.model.status import RotationStatus


class Mark(StrEnum):
    """What became of a step so far."""

    DONE = "done"
    RUNNING = "running"
    WAITING = "waiting"
    FAILED = "failed"
    SKIPPED = "skipped"
    TO_COME = "to come"


# Who acts in a step.
ACTORS = {
    Step.KEY_VERSION: "pipeline",
    Step.DUAL_KEY_ROLLOUT: "applications",
    Step.PRIMARY_KEY_ROLLOUT: "applications",
    Step.ROWS: "pipeline",
    Step.ZERO_OLD_ROWS_PROOF: "database",
    Step.RETIRED_KEY: "pipeline",
    Step.ARCHIVED_KEY: "applications",
    Step.KEY_ROTATION_AUDIT: "pipeline",
    Step.COMPLIANCE_REPORT: "pipeline",
}


@dataclass(frozen=True, slots=True)
class StepView:
    """One step.

    Args:
        label: a few words for people.
        actor: who acts in it, or who is waited for.
        note: when it was done, how far it is, or what it waits for, in a few words; may be empty.
    """

    step: Step
    label: str
    actor: str
    mark: Mark
    note: str


def steps_of(rotation: RotationStatus) -> tuple[StepView, ...]:
    """Every step of an open walk."""
    present = next((step for step in WALK if rotation.walk.done(step) is None), None)
    return tuple(
        StepView(step, rotation.walk.label(step), _actor(rotation, step, present), *_marked(rotation, step, present))
        for step in WALK
    )


def finished_steps(walk: Walk) -> tuple[StepView, ...]:
    """Every step of a walk that is over, with dates where they differ; one that was cancelled has skipped some."""
    done = {step: record for step in WALK if (record := walk.done(step)) is not None}
    days = {each.finished_at.date() for each in done.values()} | (
        {walk.finished_at.date()} if walk.finished_at else set()
    )
    form = "%H:%M" if len(days) == 1 else "%Y-%m-%d %H:%M"
    return tuple(
        StepView(
            step,
            walk.label(step),
            ACTORS[step],
            Mark.DONE if step in done else Mark.SKIPPED,
            f"{done[step].finished_at:{form}}" if step in done else "",
        )
        for step in WALK
    )


def _actor(rotation: RotationStatus, step: Step, present: Step | None) -> str:
    awaited = rotation.pending.who if rotation.pending is not None and step is present else ""
    return {"officers": "officers", "instances": "applications"}.get(awaited, ACTORS[step])


def _marked(rotation: RotationStatus, step: Step, present: Step | None) -> tuple[Mark, str]:
    record = rotation.walk.done(step)
    if record is not None:
        return Mark.DONE, f"{record.finished_at:%H:%M}"
    if step is not present:
        return Mark.TO_COME, ""
    if rotation.blocked_by:
        return Mark.FAILED, "failed"
    if rotation.waiting_for and not rotation.is_slowed:
        return Mark.WAITING, "waits" if _actor(rotation, step, present) == "pipeline" else "awaited"
    return Mark.RUNNING if rotation.at_work else Mark.WAITING, ", ".join(_rate(rotation, step)) or "next"


def _rate(rotation: RotationStatus, step: Step) -> Iterator[str]:
    if step is Step.ROWS and rotation.tables:
        share = sum(each.share for each in rotation.tables) / len(rotation.tables)
        yield f"{share:.0%}"
        pace = sum(each.rows_per_second or 0 for each in rotation.tables if each.running)
        if pace:
            yield f"{pace:,.0f} rows/s"
    elif rotation.at_work:
        yield "running"
    if rotation.eta_seconds is not None and rotation.at_work:
        yield f"{duration(rotation.eta_seconds)} left"
