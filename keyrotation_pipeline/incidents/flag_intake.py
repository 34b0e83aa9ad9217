"""Polls the sources of flags: takes each flag once, and prepares an emergency request for each incident."""

from collections.abc import Sequence
from dataclasses import dataclass

from keyrotation_pipeline.audit.incidents import incidents
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.incidents.opening import Taken, prepare_requests, take_flags
from keyrotation_pipeline.incidents.report import kept_report
from keyrotation_pipeline.model.incidents import Incident
from keyrotation_pipeline.ports.incidents import FlagSource
from keyrotation_pipeline.ports.pipeline import Pipeline

# A flood of flags keeps one poll busy for at most this long.
ROUNDS = 10
REPORTING_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class FlagIntake:
    """The flags that one poll took, and a sentence for each problem."""

    taken: tuple[Taken, ...]
    trouble: tuple[str, ...]

    def __str__(self) -> str:
        opened = [each.incident for each in self.taken if each.incident is not None and not each.repeated]
        aside = sum(each.set_aside is not None for each in self.taken)
        repeated = sum(each.repeated for each in self.taken)
        parts = [f"opened {', '.join(filter(None, opened))}"] if opened else []
        parts += [f"{repeated} repeated"] if repeated else []
        parts += [f"{aside} rejected"] if aside else []
        return "; ".join((*parts, *self.trouble)) or "no new flag was raised"


def poll_flags(pipeline: Pipeline, sources: Sequence[FlagSource], requested_by: str) -> FlagIntake:
    """Take all raised flags, and store new report versions. A source that does not answer does not stop the others."""
    taken: list[Taken] = []
    trouble: list[str] = []
    for _ in range(ROUNDS):
        with pipeline.ledger.reading():
            known = incidents(pipeline.ledger)
            rows = pipeline.ledger.raised_flags(known.flags)
        if not rows:
            break
        taken += take_flags(pipeline, rows)
    for source in sources:
        try:
            taken += take_flags(pipeline, source.raised())
        except KeyRotationError as error:
            trouble.append(str(error))
    if not taken and not known.unfinished:
        return FlagIntake((), tuple(trouble))
    trouble += prepare_requests(pipeline, requested_by)
    try:
        until = pipeline.clock.monotonic() + REPORTING_SECONDS
        for incident in _from_another_each_time(pipeline, incidents(pipeline.ledger).unfinished):
            if pipeline.clock.monotonic() > until:
                break  # a flood of flags must not starve the next poll
            kept_report(pipeline, incident.id)
    except KeyRotationError as error:
        trouble.append(f"no version of a report could be stored: {error}")
    return FlagIntake(tuple(taken), tuple(trouble))


def _from_another_each_time(pipeline: Pipeline, unfinished: Sequence[Incident]) -> Sequence[Incident]:
    """All of them, starting at a different one each minute, so that the last ones get their turn too."""
    first = int(pipeline.clock.now().timestamp() // 60) % max(len(unfinished), 1)
    return (*unfinished[first:], *unfinished[:first])
