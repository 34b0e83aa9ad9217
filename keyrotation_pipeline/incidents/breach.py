"""The breach decision: does an incident have to be notified, to whom, and by which date.

Pure: from what is known of an incident to a decision with its reasons, each with the paragraph that it follows. It
supports counsel and does not replace it.

Source: 45 CFR 164.402 to 164.414; the HHS guidance that specifies when PHI counts as secured (74 FR 19006), which asks
that the key was not breached and was kept apart from the data.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import StrEnum

NOTICE_DAYS = 60
ORAL_DELAY_DAYS = 30
# "500 or more" in all for HHS (164.408(b)), "more than 500" residents of one State for the media (164.406(a)).
HHS_AT_LEAST = 500
MEDIA_MORE_THAN = 500

CAVEATS = (
    "This supports counsel and does not replace it.",
    "State law may ask for more, and sooner.",
    "Rotating the key does not cure ciphertext that was copied before.",
)


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


class Outcome(StrEnum):
    """What follows."""

    NOTIFY = "breach of unsecured PHI: notify"
    SAFE_HARBOR = "secured PHI: no notification"
    NO_BREACH = "no breach"
    UNDECIDED = "not decided: presumed a breach until shown otherwise"


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


@dataclass(frozen=True, slots=True)
class Notice:
    """One notice.

    Args:
        last_date: the day by which it must be given; "without unreasonable delay" holds all the same.
        not_before: the day after a law-enforcement delay that is in force; None without one.
        is_certain: False where it depends on something that is not known yet.
    """

    to: str
    last_date: date
    paragraph: str
    why: str
    not_before: date | None = None
    is_certain: bool = True

    def is_overdue(self, today: date) -> bool:
        """Whether its last date has passed."""
        return today > self.last_date


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
    notices, open_counts = _notices(facts, certain=reached is Answer.YES)
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


def _notices(facts: IncidentFacts, *, certain: bool) -> tuple[tuple[Notice, ...], list[str]]:
    last = facts.discovered_on + timedelta(days=NOTICE_DAYS)
    if facts.role is Role.BUSINESS_ASSOCIATE:
        due, not_before = _delayed(last, facts.delays)
        why = "a business associate notifies the covered entity, with the identity of each person affected"
        return (Notice("covered entity", due, "164.410", why, not_before, certain),), []
    due, not_before = _delayed(last, facts.delays)
    why = "each person whose unsecured PHI was, or is believed to have been, reached"
    individuals = Notice("individuals", due, "164.404", why, not_before, certain)
    media, missing_states = _media(facts, due, not_before, certain=certain)
    hhs, missing_total = _hhs(facts, due, not_before, certain=certain)
    return (individuals, *media, hhs), list(dict.fromkeys([*missing_total, *missing_states]))


def _media(
    facts: IncidentFacts, due: date, not_before: date | None, *, certain: bool
) -> tuple[tuple[Notice, ...], list[str]]:
    """Prominent media of each State with more than 500 residents affected, also where it may still turn out so."""
    affected = facts.affected
    if affected is None:
        why = "if more than 500 residents of one State or jurisdiction are affected"
        return (Notice("media", due, "164.406", why, not_before, is_certain=False),), []
    over = {state: number for state, number in affected.by_jurisdiction.items() if number > MEDIA_MORE_THAN}
    notices = [
        Notice(f"media of {state}", due, "164.406", f"{number} residents, more than 500", not_before, certain)
        for state, number in sorted(over.items())
    ]
    unknown = affected.elsewhere_unknown
    rest = max((number for state, number in affected.by_jurisdiction.items() if state not in over), default=0)
    if not unknown or rest + unknown <= MEDIA_MORE_THAN:
        return tuple(notices), []
    why = f"if more than 500 residents of one State are among the {unknown} whose State is unknown"
    notices.append(Notice("media", due, "164.406", why, not_before, is_certain=False))
    return tuple(notices), [f"the State or jurisdiction of {unknown} people"]


def _hhs(facts: IncidentFacts, due: date, not_before: date | None, *, certain: bool) -> tuple[Notice, list[str]]:
    """The Secretary of HHS: with the individuals from 500 people on, else within 60 days of the year's end."""
    affected = facts.affected
    if affected is not None and affected.total >= HHS_AT_LEAST:
        why = f"{affected.total} people, 500 or more: at the time of the individuals' notice"
        return Notice("HHS", due, "164.408(b)", why, not_before, certain), []
    missing = ["how many people are affected, and in which States"]
    if affected is None:
        why = "until the people are counted: as for 500 or more"
        return Notice("HHS", due, "164.408(b)", why, not_before, is_certain=False), missing
    year_end = date(facts.discovered_on.year, 12, 31)
    annual, annual_not_before = _delayed(year_end + timedelta(days=NOTICE_DAYS), facts.delays)
    why = f"{affected.total} people, fewer than 500: within 60 days of the end of {facts.discovered_on.year}"
    complete = affected.is_complete
    return (
        Notice("HHS", annual, "164.408(c)", why, annual_not_before, certain and complete),
        [] if complete else missing,
    )


def _delayed(last: date, delays: Sequence[LawEnforcementDelay]) -> tuple[date, date | None]:
    """The last date under law-enforcement delays, and the first day on which notice may be given.

    A delay moves the last date to its own last day where that is later, and only if it was stated by then; the 60 days
    are not counted anew after it (164.412).
    """
    due, not_before = last, None
    for stated_on, ends_on in sorted(_periods(delays)):
        if stated_on <= due:
            due = max(due, ends_on)
            first = ends_on + timedelta(days=1)
            not_before = max(not_before or first, first)
    return due, not_before


def _periods(delays: Sequence[LawEnforcementDelay]) -> Iterator[tuple[date, date]]:
    """First and last day of each; an oral one ends when a written one replaces it within its 30 days (164.412(b))."""
    written = [delay.stated_on for delay in delays if delay.until is not None]
    for delay in delays:
        replaced_on = [day for day in written if delay.until is None and delay.stated_on <= day <= delay.ends_on]
        yield delay.stated_on, min(replaced_on, default=delay.ends_on)
