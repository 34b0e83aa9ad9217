"""What an incident is presumed to be while people have not answered: a breach, with the dates that follow."""

from datetime import timedelta, timezone

from keyrotation_pipeline.model.breach import Answer, IncidentFacts, Role
from keyrotation_pipeline.model.incidents import Incident, IncidentType

# The calendar day of discovery is that of the clinic, which may be a day earlier than in UTC: the earliest is safe.
_EARLIEST_DAY = timezone(timedelta(hours=-12))
_KEY_IN_OTHER_HANDS = frozenset({IncidentType.KEY_EXPOSED, IncidentType.UNAUTHORIZED_ACCESS})


def presumed_facts(incident: Incident) -> IncidentFacts:
    """What is known from nothing but what the incident says; `decide_breach` names what people must answer."""
    breached = Answer.YES if incident.type in _KEY_IN_OTHER_HANDS else Answer.UNKNOWN
    known_on = incident.discovered_at.astimezone(_EARLIEST_DAY).date()
    return IncidentFacts(Role.COVERED_ENTITY, known_on, key_breached=breached)
