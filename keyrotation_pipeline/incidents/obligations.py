"""Duties that outlive an incident: what is presumed to be due of closed ones, until enough officers have settled it."""

from collections.abc import Sequence

from keyrotation_pipeline.audit.assessments import Assessment, assessment_from
from keyrotation_pipeline.audit.history import HistoryEntry
from keyrotation_pipeline.audit.incidents import incidents
from keyrotation_pipeline.audit.verify import require_verified
from keyrotation_pipeline.errors import AuditError, BlockedError
from keyrotation_pipeline.incidents.assessing import assessed
from keyrotation_pipeline.model.breach import AssessmentSigned
from keyrotation_pipeline.model.incidents import IncidentStatus
from keyrotation_pipeline.ports.pipeline import Pipeline


def unsettled(pipeline: Pipeline) -> tuple[Assessment, ...]:
    """Of each closed incident whose duties officers have not settled, where the breach decision stands."""
    every = incidents(pipeline.ledger).by_id.values()
    closed = [each for each in every if each.status is IncidentStatus.CLOSED]
    if not closed:
        return ()
    entries = _believed(pipeline)
    stand = (assessment_from(entries, each) for each in closed)
    return tuple(each for each in stand if not each.is_settled)


def in_words(assessment: Assessment) -> str:
    """One sentence: who is presumed to be told by when, and how to settle it."""
    name, notices = assessment.incident.id, assessment.due
    due = ", ".join(f"{each.to} by {each.last_date:%Y-%m-%d} ({each.paragraph})" for each in notices)
    return (
        f"{name} is closed, and officers have not signed whether it is a breach; until then notices are due to "
        f"{due or 'nobody any more'}; settle it with `keyrotation incident assess {name}`"
    )


def unsettled_in_words(pipeline: Pipeline) -> list[str]:
    """The same as sentences for `status`."""
    return [*map(in_words, unsettled(pipeline))]


def _believed(pipeline: Pipeline) -> Sequence[HistoryEntry]:
    """What people answered and signed; no signature where the audit does not verify, since a roster may be forged."""
    told = assessed(pipeline)
    unsigned = tuple(each for each in told if not isinstance(each.fact, AssessmentSigned))
    if len(unsigned) < len(told):
        try:
            require_verified(pipeline)
        except (AuditError, BlockedError):  # which `status` says by itself
            return unsigned
    return told
