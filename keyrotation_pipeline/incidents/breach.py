"""The breach decision: does an incident have to be notified, to whom, and by which date.

Pure: from what is known of an incident to a decision with its reasons, each with the paragraph that it follows. It
supports counsel and does not replace it.

Source: 45 CFR 164.402 to 164.414; the HHS guidance that specifies when PHI counts as secured (74 FR 19006), which asks
that the key was not breached and was kept apart from the data.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from keyrotation_pipeline.incidents.breach_notices import Notice, notices_of
from keyrotation_pipeline.model.breach import Answer, IncidentFacts

CAVEATS = (
    "This supports counsel and does not replace it.",
    "State law may ask for more, and sooner.",
    "Rotating the key does not cure ciphertext that was copied before.",
)


class Outcome(StrEnum):
    """What follows."""

    NOTIFY = "breach of unsecured PHI: notify"
    SAFE_HARBOR = "secured PHI: no notification"
    NO_BREACH = "no breach"
    UNDECIDED = "not decided: presumed a breach until shown otherwise"


@dataclass(frozen=True, slots=True)
class BreachDecision:
    """The decision: what follows and why, each notice with its last date, and what is missing to decide."""

    outcome: Outcome
    discovered_on: date
    reasons: tuple[str, ...]
    notices: tuple[Notice, ...]
    missing: tuple[str, ...]
    caveats: tuple[str, ...] = CAVEATS


def decide_breach(facts: IncidentFacts) -> BreachDecision:
    """Decide by 45 CFR 164.402 to 164.414.

    What is not known counts against the organisation, which has the burden of proof (164.414(b)): the notices are
    given with their dates, and the outcome says that it is not decided.
    """
    reached, reasons, missing = _unsecured_phi_reached(facts)
    if reached is Answer.NO:
        secured = facts.ciphertext_reached is not Answer.NO
        return _closed(facts, Outcome.SAFE_HARBOR if secured else Outcome.NO_BREACH, reasons)
    if facts.exclusion is not None:
        reasons.append(f"{facts.exclusion} ({facts.exclusion.paragraph}); keep the proof six years (164.414(b))")
        return _closed(facts, Outcome.NO_BREACH, reasons)
    unassessed = list(facts.assessment.missing())
    if facts.assessment.low_probability and not unassessed:
        reasons.append(
            "the risk assessment over all four factors shows a low probability of compromise (164.402(2)); keep it "
            "six years (164.414(b))"
        )
        return _closed(facts, Outcome.NO_BREACH, reasons)
    reasons.append("a breach is presumed unless the four factors show a low probability of compromise (164.402(2))")
    if facts.assessment.low_probability:
        missing += [f"risk assessment: {each}" for each in unassessed]
    notices, open_counts = notices_of(facts, certain=reached is Answer.YES)
    outcome = Outcome.NOTIFY if reached is Answer.YES else Outcome.UNDECIDED
    return BreachDecision(outcome, facts.discovered_on, tuple(reasons), notices, (*missing, *open_counts))


def _closed(facts: IncidentFacts, outcome: Outcome, reasons: Sequence[str]) -> BreachDecision:
    return BreachDecision(outcome, facts.discovered_on, tuple(reasons), (), ())


def _unsecured_phi_reached(facts: IncidentFacts) -> tuple[Answer, list[str], list[str]]:
    """Whether unsecured PHI was reached, why, and which answers would decide it."""
    if facts.plaintext_reached is Answer.YES:
        return Answer.YES, ["PHI in columns without encryption was reached, unsecured whatever the key (164.402)"], []
    ciphertext, why, missing = _unsecured_ciphertext_reached(facts)
    if ciphertext is Answer.YES:
        return Answer.YES, [why], []
    reasons = [why] if why else []
    if facts.plaintext_reached is Answer.NO:
        reasons.append("no PHI in columns without encryption was reached")
    else:
        missing = [*missing, "whether PHI in columns without encryption was reached"]
    if not missing:
        return Answer.NO, reasons, []
    return Answer.UNKNOWN, [*reasons, "what is not known counts as reached until shown otherwise (164.414(b))"], missing


def _unsecured_ciphertext_reached(facts: IncidentFacts) -> tuple[Answer, str, list[str]]:
    """The same of encrypted PHI alone."""
    if facts.ciphertext_reached is Answer.NO:
        return Answer.NO, "no encrypted PHI was reached", []
    readable, why, missing = _ciphertext_readable(facts)
    if readable is Answer.NO:
        return Answer.NO, f"encrypted PHI is secured: {why} (164.402, unsecured PHI)", []
    if facts.ciphertext_reached is Answer.UNKNOWN:
        return Answer.UNKNOWN, "", [*missing, "whether encrypted PHI was reached"]
    if readable is Answer.UNKNOWN:
        return Answer.UNKNOWN, "", missing
    return Answer.YES, f"encrypted PHI was reached, and {why} (164.402, unsecured PHI)", []


def _ciphertext_readable(facts: IncidentFacts) -> tuple[Answer, str, list[str]]:
    """Whether ciphertext that was reached counts as unsecured, why, and what would decide it."""
    if facts.key_breached is Answer.YES:
        return Answer.YES, "its key was breached", []
    if facts.key_kept_apart is Answer.NO:
        return Answer.YES, "its key was not kept apart from the data", []
    missing = []
    if facts.key_breached is Answer.UNKNOWN:
        missing.append("whether the key was breached")
    if facts.key_kept_apart is Answer.UNKNOWN:
        missing.append("whether the key was kept apart from the data")
    if missing:
        return Answer.UNKNOWN, "", missing
    return Answer.NO, "its key was not breached and was kept apart from the data", []
