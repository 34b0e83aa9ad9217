"""The breach decision: the questions, the answers and their signatures, and the deadlines that follow."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from keyrotation_pipeline.model.audit import EventKind, Fact, instant
from keyrotation_pipeline.model.earlier_summaries import FIRST_ASSESSMENT, SECOND_ASSESSMENT
from keyrotation_pipeline.model.incidents import Incident
from keyrotation_pipeline.model.records import Between, as_json
from keyrotation_pipeline.model.requests import Request, RequestStatus, Step, Walk
from keyrotation_pipeline.model.signed_summary import ASSESSMENT, THIRD_ASSESSMENT

ORAL_DELAY_DAYS = 30
ASSESSMENT_HEADERS = (ASSESSMENT, THIRD_ASSESSMENT, SECOND_ASSESSMENT, FIRST_ASSESSMENT)


def is_first_form(text: str) -> bool:
    """Whether the text of an assessment is one of release 0.1.0, with the event of the answers without its hash."""
    return text.startswith(f"{FIRST_ASSESSMENT}\n")


class Answer(StrEnum):
    """The answer to one question."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


class Outcome(StrEnum):
    """The outcome of a breach decision."""

    NOTIFY = "breach of unsecured PHI: notify"
    SAFE_HARBOR = "secured PHI: no notification"
    NO_BREACH = "no breach"
    UNDECIDED = "not decided: presumed a breach until shown otherwise"


# Nobody is to be notified.
NO_NOTICE = frozenset({Outcome.SAFE_HARBOR, Outcome.NO_BREACH})


class Role(StrEnum):
    """The organisation's role under HIPAA."""

    COVERED_ENTITY = "covered entity"
    BUSINESS_ASSOCIATE = "business associate"


class Exclusion(StrEnum):
    """The three cases of 164.402(1) that are no breach."""

    GOOD_FAITH_ACCESS = "unintentional access by workforce in good faith, without further use"
    INADVERTENT_DISCLOSURE = "inadvertent disclosure between authorised persons, without further use"
    NOT_RETAINABLE = "good-faith belief that the recipient could not have retained the information"

    @property
    def paragraph(self) -> str:
        """Its paragraph in 164.402(1)."""
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
    """The known facts of an incident.

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
        """The day that the deadlines count from."""
        return min(self.known_on, self.diligently_known_on or self.known_on)


Count = Annotated[int, Between(0, 10**10)]
NO_EXCLUSION = "none"
EXCLUSIONS: Mapping[str, Exclusion | None] = {
    NO_EXCLUSION: None,
    **{each.name.lower().replace("_", "-"): each for each in Exclusion},
}


@dataclass(frozen=True, slots=True)
class BreachAnswers:
    """The answers so far; None: not answered.

    Args:
        known_on, diligently_known_on, key_breached, key_kept_apart, ciphertext_reached, plaintext_reached: as
            in `IncidentFacts`.
        exclusion: a name of `EXCLUSIONS`.
        nature_of_phi, unauthorised_person, acquired_or_viewed, mitigation, low_probability: as `RiskAssessment`.
        affected: people by State or jurisdiction; a State that is named again replaces its earlier number.
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
        """These answers, updated by later ones."""
        said = {each.name: value for each in fields(later) if (value := getattr(later, each.name)) is not None}
        return replace(self, **{**said, "affected": {**self.affected, **later.affected}})

    def lines(self) -> Iterator[tuple[str, str]]:
        """Each answered question and its answer, in words."""
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None and value != {}:
                yield each.name.replace("_", " "), _in_words(value)

    def digest(self) -> str:
        """SHA-256 of the answers, 64 hex digits."""
        return hashlib.sha256(json.dumps(as_json(self), sort_keys=True).encode()).hexdigest()

    def facts(self, presumed: IncidentFacts) -> IncidentFacts:
        """The facts of an incident by these answers; unanswered questions stay as presumed."""
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
    """Somebody has answered questions of the breach decision. Later answers replace earlier ones."""

    kind: ClassVar = EventKind.BREACH_ASSESSED
    incident: str
    by: str
    answers: BreachAnswers


@dataclass(frozen=True, slots=True)
class AssessmentSigned(Fact):
    """An officer has signed the present answers.

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


# Alerts at half of a stage's time, at four fifths, and at its end.
THRESHOLDS_PERCENT = (50, 80, 100)


class ResponseStage(StrEnum):
    """The stages of the response, each with a deadline."""

    ASSESSED = "assessed"
    DUAL_KEY = "dual_key"
    REENCRYPTED = "reencrypted"
    RETIRED_AND_AUDITED = "retired_and_audited"

    @property
    def within(self) -> timedelta:
        """The time allowed from discovery."""
        return timedelta(hours=_HOURS[self])


_HOURS = {
    ResponseStage.ASSESSED: 4,
    ResponseStage.DUAL_KEY: 8,
    ResponseStage.REENCRYPTED: 24,
    ResponseStage.RETIRED_AND_AUDITED: 48,
}
# Assessed means that officers have signed, or that the incident was closed: what is to be done is decided.
_REACHED_BY = {
    ResponseStage.DUAL_KEY: Step.DUAL_KEY_ROLLOUT,
    ResponseStage.REENCRYPTED: Step.ZERO_OLD_ROWS_PROOF,
    ResponseStage.RETIRED_AND_AUDITED: Step.KEY_ROTATION_AUDIT,
}


@dataclass(frozen=True, slots=True)
class Deadline:
    """One stage of one incident; `reached_at` None: not yet."""

    stage: ResponseStage
    discovered_at: datetime
    reached_at: datetime | None

    @property
    def due_at(self) -> datetime:
        """When the stage is due."""
        return self.discovered_at + self.stage.within

    def seconds_left(self, now: datetime) -> int | None:
        """Negative once it has passed; None once the stage was reached."""
        return None if self.reached_at is not None else int((self.due_at - now).total_seconds())

    def passed_percent(self, now: datetime) -> int | None:
        """The highest threshold that has passed while the stage is not reached; None: none has."""
        if self.reached_at is not None:
            return None
        used = (now - self.discovered_at) / self.stage.within * 100
        return max((percent for percent in THRESHOLDS_PERCENT if used >= percent), default=None)

    def as_json(self, now: datetime) -> dict[str, Any]:
        """As `status --json` and `incident show --json` have it."""
        return {
            "stage": str(self.stage),
            "due_at": instant(self.due_at),
            "reached_at": instant(self.reached_at),
            "seconds_left": self.seconds_left(now),
        }


@dataclass(frozen=True, slots=True)
class Rate:
    """Rows a second: needed from now on to be in time, and measured since writes moved."""

    needed: float
    measured: float

    def __str__(self) -> str:
        return f"needs {self.needed:,.0f} rows/s, doing {self.measured:,.0f}"


def deadlines(incident: Incident, requests: Sequence[Request], signed_at: datetime | None) -> tuple[Deadline, ...]:
    """Every stage of an incident, and when a walk reached it, whatever that was requested for.

    Args:
        signed_at: when enough officers had signed the request that carries it; None: not yet.
    """
    reached: dict[ResponseStage, datetime | None] = {ResponseStage.ASSESSED: signed_at or incident.closed_at}
    for stage, step in _REACHED_BY.items():
        reached[stage] = reached_at(incident, requests, step) or incident.closed_at
    return tuple(Deadline(stage, incident.discovered_at, reached[stage]) for stage in ResponseStage)


def reached_at(incident: Incident, requests: Sequence[Request], step: Step) -> datetime | None:
    """When a walk from the versions of an incident finished a step, since none of them was made the primary again."""
    walks = [each for each in requests if isinstance(each, Walk) and each.status is not RequestStatus.CANCELLED]
    promotions = [(each, record) for each in walks if (record := each.done(Step.PRIMARY_KEY_ROLLOUT)) is not None]
    back = max((at.finished_at for each, at in promotions if each.target in incident.versions), default=None)
    # A walk retires its source and every older version.
    leaving = [each for each in walks if each.source >= max(incident.versions) and each.target not in incident.versions]
    found = (record.finished_at for each in leaving if (record := each.done(step)) is not None)
    return min((at for at in found if back is None or at > back), default=None)


def carried_by(incident: Incident, requests: Sequence[Request]) -> Request | None:
    """The request that replaces an incident's key: the prepared one, or the emergency that took it over."""
    by_id: Mapping[str, Request] = {each.id: each for each in requests}
    carrier = by_id.get(incident.request or "")
    while carrier is not None and carrier.status is RequestStatus.CANCELLED:
        former = carrier.id
        begun = (each for each in requests if each.is_emergency and each.started_at is not None)
        successor = next((each for each in begun if each.supersedes == former), None)
        if successor is None:
            return carrier
        carrier = successor
    return carrier


def rate_needed(rows_left: float, deadline: Deadline, now: datetime) -> float | None:
    """Rows a second from now on, so that the stage is reached in time; None when it is reached or too late."""
    left = deadline.seconds_left(now)
    return None if left is None or left <= 0 else rows_left / left
