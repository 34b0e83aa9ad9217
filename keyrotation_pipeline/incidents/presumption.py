"""What an incident is presumed to be while people have not answered: a breach, with the dates that follow."""

from datetime import timedelta, timezone

from keyrotation_pipeline.incidents.breach import BreachDecision, decide_breach
from keyrotation_pipeline.incidents.breach_facts import Answer, IncidentFacts, Role
from keyrotation_pipeline.model.incident import Incident, IncidentType

# The calendar day of discovery is that of the clinic, which may be a day earlier than in UTC: the earliest is safe.
_EARLIEST_DAY = timezone(timedelta(hours=-12))
_KEY_IN_OTHER_HANDS = frozenset({IncidentType.KEY_EXPOSED, IncidentType.UNAUTHORIZED_ACCESS})


def presumed_decision(incident: Incident) -> BreachDecision:
    """The decision from nothing but what the incident says; `missing` names the questions that people must answer."""
    breached = Answer.YES if incident.type in _KEY_IN_OTHER_HANDS else Answer.UNKNOWN
    known_on = incident.discovered_at.astimezone(_EARLIEST_DAY).date()
    return decide_breach(IncidentFacts(Role.COVERED_ENTITY, known_on, key_breached=breached))


def lines_of(decision: BreachDecision) -> tuple[str, ...]:
    """The decision for people: what follows, who is to be told by when, what is missing, and what it is not."""
    notices = (
        f"Notice to {each.to}: without unreasonable delay, at the latest {each.last_date:%Y-%m-%d} ({each.paragraph})"
        for each in decision.notices
    )
    missing = (f"Not known yet: {each}" for each in decision.missing)
    return (f"Breach by 45 CFR 164.402: {decision.outcome}", *decision.reasons, *notices, *missing, *decision.caveats)
