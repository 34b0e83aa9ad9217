"""Signatures on the assessments of incidents, each verified anew over the answers as they were when it was made."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from keyrotation_pipeline.audit.events import Entry
from keyrotation_pipeline.errors import ApprovalError
from keyrotation_pipeline.model.approval import Roster
from keyrotation_pipeline.model.breach import AssessmentSigned, BreachAnswers, BreachAssessed
from keyrotation_pipeline.model.request_events import RosterPinned
from keyrotation_pipeline.ports.approvals import SignatureVerifier

HEADER = "keyrotation-assessment-v1"
KINDS = (RosterPinned.kind, BreachAssessed.kind, AssessmentSigned.kind)


def is_of_answers(text: str, incident: str, answers: BreachAnswers, seq: int) -> bool:
    """Whether a text names this incident, these answers and the event that completed them."""
    header, *lines = text.split("\n")
    named = {f"Incident: {incident}", f"Answers: {answers.digest()}", f"Audit event: {seq}"}
    return header == HEADER and named <= set(lines)


@dataclass(slots=True)
class _Heard:
    """The answers of each incident, with the event that completed them, and the roster of the moment."""

    roster: Roster | None = None
    answers: dict[str, tuple[BreachAnswers, int]] = field(default_factory=dict)

    def fault(self, entry: Entry, signed: AssessmentSigned, verifier: SignatureVerifier) -> str | None:
        """Why a signature is not what it is filed as; None: it is."""
        answers, seq = self.answers.get(signed.incident, (BreachAnswers(), 0))
        if not is_of_answers(signed.text, signed.incident, answers, seq):
            return "is over other answers"
        try:
            signature = bytes.fromhex(signed.signature)
            officers = self.roster.officers if self.roster else ()
            found = verifier.was_good(signed.text.encode(), signature, officers, entry.at)
        except (ApprovalError, ValueError) as error:
            return f"does not verify: {str(error).partition(';')[0]}"
        return None if found.officer == signed.officer else f"is by {found.officer[-16:]}"


def faults(told: Iterable[Entry], verifier: SignatureVerifier) -> Iterator[str]:
    """A phrase for each signature on an assessment that is not what it is filed as.

    Args:
        told: events of `KINDS`, in order.
    """
    heard = _Heard()
    for entry in told:
        match entry.fact():
            case RosterPinned() as pinned:
                heard.roster = pinned.roster
            case BreachAssessed(incident=incident, answers=later):
                before, _ = heard.answers.get(incident, (BreachAnswers(), 0))
                heard.answers[incident] = (before.then(later), entry.seq)
            case AssessmentSigned() as signed if (why := heard.fault(entry, signed, verifier)) is not None:
                who = f"the signature of {signed.officer[-16:]} on the assessment of {signed.incident}"
                yield f"{who} (event {entry.seq}) {why}"
