"""Takes in the answers of people to the breach decision, and officers' signatures over them.

It also says which duties outlive an incident: what is presumed to be due of closed ones, until enough officers have
settled it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from keyrotation_pipeline.audit.assessments import Assessment, assessment_from, notices_in_words
from keyrotation_pipeline.audit.history import HistoryEntry, history
from keyrotation_pipeline.audit.incidents import incidents
from keyrotation_pipeline.audit.verify import require_verified
from keyrotation_pipeline.errors import ApprovalError, AuditError, BlockedError, IncidentError
from keyrotation_pipeline.model.approval import rendered
from keyrotation_pipeline.model.breach import (
    EXCLUSIONS,
    AssessmentSigned,
    BreachAnswers,
    BreachAssessed,
)
from keyrotation_pipeline.model.incidents import Incident, IncidentStatus, plain_text
from keyrotation_pipeline.model.records import json_safe, read
from keyrotation_pipeline.model.request_events import RosterPinned
from keyrotation_pipeline.model.signed_summary import ASSESSMENT
from keyrotation_pipeline.ports.ledger import Ledger
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.approvals import verified_signature
from keyrotation_pipeline.requests.roster import require_roster

_TEXTS = ("nature_of_phi", "unauthorised_person", "acquired_or_viewed", "mitigation")


def answers_in(content: Mapping[str, Any]) -> BreachAnswers:
    """Answers by name, as options or a file have them.

    Raises:
        IncidentError: names the answer that is none, and what it may be.
    """
    known = set(BreachAnswers.__dataclass_fields__)
    if unknown := sorted(set(content) - known):
        raise IncidentError(f"{unknown[0]!r} is no question of the assessment; those are {', '.join(sorted(known))}")
    try:
        answers = read(BreachAnswers, json_safe(content))
    except (AuditError, TypeError) as error:
        words = str(error).split()
        name = words[2] if isinstance(error, TypeError) else words[-1]
        raise IncidentError(
            f"the answer to {name} is none that it takes: covered entity, business associate, yes, no, unknown, a date "
            "such as 2026-11-24, or a number"
        ) from None
    if answers.exclusion is not None and answers.exclusion not in EXCLUSIONS:
        raise IncidentError(f"the exclusion is none of {', '.join(EXCLUSIONS)} (45 CFR 164.402(1)); give one of them")
    for name in _TEXTS:
        if (text := getattr(answers, name)) is not None:
            plain_text(name.replace("_", " "), text)
    for state in answers.affected:
        plain_text("State", state)
        if state.casefold() in _NO_STATE:
            raise IncidentError(f"{state!r} is no State or jurisdiction; write --elsewhere-unknown N for those people")
    if len({state.casefold() for state in answers.affected}) < len(answers.affected):
        raise IncidentError("one State is named twice; give one number for it")
    return answers


# What people write for those whose State they do not know.
_NO_STATE = frozenset({"elsewhere", "unknown", "other", "others", "elsewhere_unknown", "elsewhere-unknown"})


def _as_named_before(before: BreachAnswers, answers: BreachAnswers) -> BreachAnswers:
    """The answers with each State as it was written first, so that its number is replaced and not counted twice."""
    known = {state.casefold(): state for state in before.affected}
    return replace(answers, affected={known.get(each.casefold(), each): n for each, n in answers.affected.items()})


def assess(pipeline: Pipeline, name: str, answers: BreachAnswers, by: str) -> Assessment:
    """Takes answers in; of a closed incident too, since a count may be raised later.

    Raises:
        IncidentError: there is no such incident, or nothing is answered.
    """
    incident = incidents(pipeline.ledger).incident(name)
    if answers == BreachAnswers():
        raise IncidentError("nothing is answered; give an answer, see `keyrotation incident assess --help`")
    answers = _as_named_before(assessment_of(pipeline, incident).answers, answers)
    pipeline.ledger.append(BreachAssessed(incident.id, by, answers), incident.request)
    return assessment_of(pipeline, incident)


def text_to_sign(pipeline: Pipeline, assessment: Assessment) -> bytes:
    """The canonical text: the incident, each answer, and what follows from them.

    Raises:
        IncidentError: nobody has answered anything.
        ApprovalError: an answer has characters that could mislead.
    """
    if assessment.since is None:
        raise IncidentError(f"nobody has answered anything of {assessment.incident.id}; answer first, then sign")
    decision, answers = assessment.answered or assessment.in_force, enumerate(assessment.answers.lines(), 1)
    seq, _ = assessment.since  # what is signed is anchored at the answers
    return rendered(
        ASSESSMENT,
        (
            ("Incident", assessment.incident.id),
            ("What", assessment.incident.reason),
            ("Database", pipeline.environment.identity().signed(ASSESSMENT)),
            ("Decision", str(decision.outcome)),
            ("Notices", "; ".join(notices_in_words(decision)) or "none"),
            *((f"Answer {number}", f"{name}: {said}") for number, (name, said) in answers),
            ("Answers", assessment.answers.digest()),
            ("Audit head", f"{seq} {pipeline.ledger.replayed().hash_at(seq)}"),
        ),
    )


def sign_assessment(pipeline: Pipeline, name: str, signature: bytes) -> tuple[str, Assessment]:
    """Verifies one officer's detached signature over the answers as they are, and keeps it.

    Returns:
        The officer's name, and the assessment as it then stands.

    Raises:
        ApprovalError: the signature does not count, each reason its own sentence.
        IncidentError: there is no such incident, or nobody has answered anything.
    """
    incident = incidents(pipeline.ledger).incident(name)
    assessment = assessment_of(pipeline, incident)
    text, roster = text_to_sign(pipeline, assessment), require_roster(pipeline)
    since = assessment.since[1] if assessment.since else incident.opened_at
    verified = verified_signature(pipeline, roster, text, signature, since=since, what="the last answer")
    officer = str(roster.name_of(verified.officer))
    if officer in assessment.signed_by:
        otherwise = f", or give an answer again with `keyrotation incident assess {incident.id}` and sign that"
        is_lowered = not assessment.is_settled and len(assessment.signed_by) >= assessment.required
        raise ApprovalError(
            f"{officer} has signed these answers already; another officer must sign them too"
            f"{otherwise if is_lowered else ''}"
        )
    signed = AssessmentSigned(incident.id, verified.officer, signature.hex(), text.decode())
    pipeline.ledger.append(signed, incident.request)
    return officer, assessment_of(pipeline, incident)


def assessment_of(pipeline: Pipeline, incident: Incident) -> Assessment:
    """Where the breach decision stands, with every signature verified again.

    Raises:
        AuditError: there are signatures, and the audit that tells of them does not verify.
    """
    assessments = assessed(pipeline.ledger)
    if any(isinstance(each.fact, AssessmentSigned) for each in assessments):
        require_verified(pipeline)  # whoever forges a roster could else sign
    return assessment_from(assessments, incident)


def assessed(ledger: Ledger) -> tuple[HistoryEntry, ...]:
    """The events that assessments are made of."""
    return history(ledger, RosterPinned.kind, BreachAssessed.kind, AssessmentSigned.kind)


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
        f"{name} is closed, and officers have not signed whether it is a breach, so notices are due to "
        f"{due or 'nobody any more'}; settle it with `keyrotation incident assess {name}`"
    )


def unsettled_in_words(pipeline: Pipeline) -> list[str]:
    """The same as sentences for `status`."""
    return [*map(in_words, unsettled(pipeline))]


def _believed(pipeline: Pipeline) -> Sequence[HistoryEntry]:
    """What people answered and signed; no signature where the audit does not verify, since a roster may be forged."""
    assessments = assessed(pipeline.ledger)
    unsigned = tuple(each for each in assessments if not isinstance(each.fact, AssessmentSigned))
    if len(unsigned) < len(assessments):
        try:
            require_verified(pipeline)
        except (AuditError, BlockedError):  # which `status` says by itself
            return unsigned
    return assessments
