"""The answers of people from which the breach decision follows, and what the audit says of them."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import date
from typing import Annotated, Any, ClassVar

from pydantic import Field

from keyrotation_pipeline.model.breach_facts import (
    Affected,
    Answer,
    Exclusion,
    IncidentFacts,
    LawEnforcementDelay,
    RiskAssessment,
    Role,
)
from keyrotation_pipeline.model.events import EventKind, Fact
from keyrotation_pipeline.model.facts import as_json

Count = Annotated[int, Field(ge=0, le=10**10)]
NO_EXCLUSION = "none"
EXCLUSIONS: Mapping[str, Exclusion | None] = {
    NO_EXCLUSION: None,
    **{each.name.lower().replace("_", "-"): each for each in Exclusion},
}


@dataclass(frozen=True, slots=True)
class BreachAnswers:
    """What somebody has answered; None: nothing was said of it.

    Args:
        known_on, diligently_known_on, key_breached, key_kept_apart, ciphertext_reached, plaintext_reached: as
            `IncidentFacts` has them.
        exclusion: a name of `EXCLUSIONS`.
        nature_of_phi, unauthorised_person, acquired_or_viewed, mitigation, low_probability: as `RiskAssessment`.
        affected: people by State or jurisdiction; a State that is named again is counted anew.
        elsewhere_unknown: people whose State is not known.
        count_complete: whether everybody is counted.
        delays: statements of law enforcement, all of them.
    """

    role: Role | None = None
    known_on: date | None = None
    diligently_known_on: date | None = None
    key_breached: Answer | None = None
    key_kept_apart: Answer | None = None
    ciphertext_reached: Answer | None = None
    plaintext_reached: Answer | None = None
    exclusion: str | None = None
    nature_of_phi: str | None = None
    unauthorised_person: str | None = None
    acquired_or_viewed: str | None = None
    mitigation: str | None = None
    low_probability: bool | None = None
    affected: Mapping[str, Count] = field(default_factory=dict)
    elsewhere_unknown: Count | None = None
    count_complete: bool | None = None
    delays: tuple[LawEnforcementDelay, ...] | None = None

    def then(self, later: "BreachAnswers") -> "BreachAnswers":
        """These answers with later ones in their place."""
        said = {each.name: value for each in fields(later) if (value := getattr(later, each.name)) is not None}
        return replace(self, **{**said, "affected": {**self.affected, **later.affected}})

    def lines(self) -> Iterator[tuple[str, str]]:
        """Each thing that was answered, and the answer, in plain words."""
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None and value != {}:
                yield each.name.replace("_", " "), _in_words(value)

    def digest(self) -> str:
        """SHA-256 of the answers, 64 hex digits."""
        return hashlib.sha256(json.dumps(as_json(self), sort_keys=True).encode()).hexdigest()

    def facts(self, presumed: IncidentFacts) -> IncidentFacts:
        """What is known of an incident by these answers; what nobody has answered is as it was presumed."""
        counted = bool(self.affected) or self.elsewhere_unknown is not None
        return IncidentFacts(
            role=self.role or presumed.role,
            known_on=self.known_on or presumed.known_on,
            key_breached=self.key_breached or presumed.key_breached,
            key_kept_apart=self.key_kept_apart or presumed.key_kept_apart,
            ciphertext_reached=self.ciphertext_reached or presumed.ciphertext_reached,
            plaintext_reached=self.plaintext_reached or presumed.plaintext_reached,
            diligently_known_on=self.diligently_known_on,
            exclusion=EXCLUSIONS[self.exclusion or NO_EXCLUSION],
            assessment=RiskAssessment(
                self.nature_of_phi or "",
                self.unauthorised_person or "",
                self.acquired_or_viewed or "",
                self.mitigation or "",
                low_probability=bool(self.low_probability),
            ),
            affected=Affected(self.affected, self.elsewhere_unknown or 0, is_complete=bool(self.count_complete))
            if counted
            else None,
            delays=self.delays or (),
        )


@dataclass(frozen=True, slots=True)
class BreachAssessed(Fact):
    """Somebody has answered questions of the breach decision; later answers take the place of earlier ones."""

    kind: ClassVar = EventKind.BREACH_ASSESSED
    incident: str
    by: str
    answers: BreachAnswers


@dataclass(frozen=True, slots=True)
class AssessmentSigned(Fact):
    """An officer has signed the answers as they are, and what follows from them.

    Args:
        signature: its bytes in hex.
        text: what was signed.
    """

    kind: ClassVar = EventKind.ASSESSMENT_SIGNED
    incident: str
    officer: str
    signature: str
    text: str


def _in_words(value: Any) -> str:  # noqa: ANN401  any answer
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{number} of {state}" for state, number in sorted(value.items()))
    if isinstance(value, tuple):
        return ", ".join(map(_delay_in_words, value)) or "none"
    return value.isoformat() if isinstance(value, date) else str(value)


def _delay_in_words(delay: LawEnforcementDelay) -> str:
    form = "oral" if delay.until is None else "written"
    return f"{form}, stated {delay.stated_on.isoformat()}, ends {delay.ends_on.isoformat()}"
