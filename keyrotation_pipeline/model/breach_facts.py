"""What is known of an incident: the answers from which the breach decision follows.

Source: 45 CFR 164.402, 164.404 and 164.412.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import StrEnum

ORAL_DELAY_DAYS = 30


class Answer(StrEnum):
    """What is known of one question."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


class Role(StrEnum):
    """What the organisation is under HIPAA."""

    COVERED_ENTITY = "covered entity"
    BUSINESS_ASSOCIATE = "business associate"


class Exclusion(StrEnum):
    """The three cases of 164.402(1) that are no breach."""

    GOOD_FAITH_ACCESS = "unintentional access by workforce in good faith, without further use"
    INADVERTENT_DISCLOSURE = "inadvertent disclosure between authorised persons, without further use"
    NOT_RETAINABLE = "good-faith belief that the recipient could not have retained the information"

    @property
    def paragraph(self) -> str:
        """Where it stands."""
        return f"164.402(1)({('i', 'ii', 'iii')[tuple(Exclusion).index(self)]})"


@dataclass(frozen=True, slots=True)
class RiskAssessment:
    """The four factors of 164.402(2), each in writing, and the judgement over all of them."""

    nature_of_phi: str = ""
    unauthorised_person: str = ""
    acquired_or_viewed: str = ""
    mitigation: str = ""
    low_probability: bool = False

    def missing(self) -> Iterator[str]:
        """The factors without a finding."""
        for paragraph, name, finding in (
            ("164.402(2)(i)", "nature and extent of the PHI", self.nature_of_phi),
            ("164.402(2)(ii)", "who used it or received it", self.unauthorised_person),
            ("164.402(2)(iii)", "whether it was acquired or viewed", self.acquired_or_viewed),
            ("164.402(2)(iv)", "how far the risk was mitigated", self.mitigation),
        ):
            if not finding.strip():
                yield f"{name} ({paragraph})"


@dataclass(frozen=True, slots=True)
class Affected:
    """How many people are affected.

    Args:
        by_jurisdiction: residents per State or jurisdiction.
        elsewhere_unknown: people whose State is not known.
        is_complete: whether these are all; False while they are still being counted.
    """

    by_jurisdiction: Mapping[str, int] = field(default_factory=dict)
    elsewhere_unknown: int = 0
    is_complete: bool = True

    @property
    def total(self) -> int:
        """People counted so far."""
        return sum(self.by_jurisdiction.values()) + self.elsewhere_unknown


@dataclass(frozen=True, slots=True)
class LawEnforcementDelay:
    """A law-enforcement official's statement that notice would harm an investigation (164.412).

    Args:
        stated_on: when it was made.
        until: the last day of the period of a written statement; None for an oral one.
    """

    stated_on: date
    until: date | None = None

    @property
    def ends_on(self) -> date:
        """The last day of the delay: as written, or 30 days after an oral statement."""
        return self.until if self.until is not None else self.stated_on + timedelta(days=ORAL_DELAY_DAYS)


@dataclass(frozen=True, slots=True)
class IncidentFacts:
    """What is known of an incident.

    Args:
        known_on: first day on which anybody of the workforce, or an agent, knew of it (164.404(a)(2)).
        diligently_known_on: the day on which reasonable diligence would have shown it, where that is earlier.
        key_breached: whether the key, or a way to use it, got into other hands.
        key_kept_apart: whether the key was kept on another device than the data.
        ciphertext_reached: whether encrypted PHI was acquired, accessed, used or disclosed without permission.
        plaintext_reached: the same of PHI in columns that are not encrypted.
        exclusion: the case of 164.402(1) that applies, if one does.
    """

    role: Role
    known_on: date
    key_breached: Answer = Answer.UNKNOWN
    key_kept_apart: Answer = Answer.UNKNOWN
    ciphertext_reached: Answer = Answer.UNKNOWN
    plaintext_reached: Answer = Answer.UNKNOWN
    diligently_known_on: date | None = None
    exclusion: Exclusion | None = None
    assessment: RiskAssessment = field(default_factory=RiskAssessment)
    affected: Affected | None = None
    delays: Sequence[LawEnforcementDelay] = ()

    @property
    def discovered_on(self) -> date:
        """The day from which the dates run."""
        return min(self.known_on, self.diligently_known_on or self.known_on)
