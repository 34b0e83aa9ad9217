"""Decides whether a breach must be notified, to whom and by when; and the default facts until people answer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta, timezone

from keyrotation_pipeline.model.breach import Answer, IncidentFacts, LawEnforcementDelay, Outcome, Role
from keyrotation_pipeline.model.incidents import Incident, IncidentType

NOTICE_DAYS = 60
# "500 or more" in all for HHS (164.408(b)), "more than 500" residents of one State for the media (164.406(a)).
HHS_AT_LEAST = 500
MEDIA_MORE_THAN = 500


@dataclass(frozen=True, slots=True)
class BreachNotice:
    """One notice.

    Args:
        last_date: the day by which it must be given; "without unreasonable delay" still applies.
        not_before: the day after a law-enforcement delay that is in force; None without one.
        is_certain: False where it depends on something not yet known.
    """

    to: str
    last_date: date
    paragraph: str
    why: str
    not_before: date | None = None
    is_certain: bool = True


def notices_of(facts: IncidentFacts, *, certain: bool) -> tuple[tuple[BreachNotice, ...], list[str]]:
    """Every notice with its last date, and the facts that are missing.

    Args:
        certain: unsecured PHI was reached; False where that is not known.
    """
    due, not_before = _delayed(facts.discovered_on + timedelta(days=NOTICE_DAYS), facts.delays)
    if facts.role is Role.BUSINESS_ASSOCIATE:
        why = "a business associate notifies the covered entity, with the identity of each person affected"
        return (BreachNotice("covered entity", due, "164.410", why, not_before, certain),), []
    why = "each person whose unsecured PHI was, or is believed to have been, reached"
    individuals = BreachNotice("individuals", due, "164.404", why, not_before, certain)
    media, missing_states = _media(facts, due, not_before, certain=certain)
    hhs, missing_total = _hhs(facts, due, not_before, certain=certain)
    return (individuals, *media, hhs), list(dict.fromkeys([*missing_total, *missing_states]))


def _media(
    facts: IncidentFacts, due: date, not_before: date | None, *, certain: bool
) -> tuple[tuple[BreachNotice, ...], list[str]]:
    """Prominent media of each State with more than 500 residents affected, or perhaps affected."""
    affected = facts.affected
    if affected is None:
        why = "if more than 500 residents of one State or jurisdiction are affected"
        return (BreachNotice("media", due, "164.406", why, not_before, is_certain=False),), []
    over = {state: number for state, number in affected.by_jurisdiction.items() if number > MEDIA_MORE_THAN}
    notices = [
        BreachNotice(f"media of {state}", due, "164.406", f"{number} residents, more than 500", not_before, certain)
        for state, number in sorted(over.items())
    ]
    if not affected.is_complete:
        why = "until all are counted: as for more than 500 residents of another State or jurisdiction"
        notices.append(BreachNotice("media", due, "164.406", why, not_before, is_certain=False))
        return tuple(notices), []
    unknown = affected.elsewhere_unknown
    rest = max((number for state, number in affected.by_jurisdiction.items() if state not in over), default=0)
    if not unknown or rest + unknown <= MEDIA_MORE_THAN:
        return tuple(notices), []
    why = f"if more than 500 residents of one State are among the {unknown} whose State is unknown"
    notices.append(BreachNotice("media", due, "164.406", why, not_before, is_certain=False))
    return tuple(notices), [f"the State or jurisdiction of {unknown} people"]


def _hhs(facts: IncidentFacts, due: date, not_before: date | None, *, certain: bool) -> tuple[BreachNotice, list[str]]:
    """The Secretary of HHS: with the individuals from 500 people on, else within 60 days of the year's end.

    An incomplete count is not known to stay below 500.
    """
    affected = facts.affected
    if affected is not None and affected.total >= HHS_AT_LEAST:
        why = f"{affected.total} people, 500 or more: at the time of the individuals' notice"
        return BreachNotice("HHS", due, "164.408(b)", why, not_before, certain), []
    if affected is None or not affected.is_complete:
        so_far = "" if affected is None else f"{affected.total} people so far; "
        why = f"{so_far}until all are counted: as for 500 or more"
        missing = ["how many people are affected, and in which States"]
        return BreachNotice("HHS", due, "164.408(b)", why, not_before, is_certain=False), missing
    year_end = date(facts.discovered_on.year, 12, 31)
    annual, annual_not_before = _delayed(year_end + timedelta(days=NOTICE_DAYS), facts.delays)
    why = f"{affected.total} people, fewer than 500: within 60 days of the end of {facts.discovered_on.year}"
    return BreachNotice("HHS", annual, "164.408(c)", why, annual_not_before, certain), []


def _delayed(last: date, delays: Sequence[LawEnforcementDelay]) -> tuple[date, date | None]:
    """The last date under law-enforcement delays, and the first day on which notice may be given.

    A delay moves the last date to its own last day where that is later, and only if it was stated by then; the 60 days
    do not start again after it (164.412).
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


CAVEATS = (
    "This supports counsel and does not replace it.",
    "State law may ask for more, and sooner.",
    "Rotating the key does not cure ciphertext that was copied before.",
)


@dataclass(frozen=True, slots=True)
class BreachDecision:
    """The decision: what follows and why, each notice with its last date, and what is missing to decide."""

    outcome: Outcome
    discovered_on: date
    reasons: tuple[str, ...]
    notices: tuple[BreachNotice, ...]
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
    """The same for encrypted PHI alone."""
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


# The calendar day of discovery is the clinic's, which may be a day earlier than in UTC: the earliest is safe.
_EARLIEST_DAY = timezone(timedelta(hours=-12))
_KEY_IN_OTHER_HANDS = frozenset({IncidentType.KEY_EXPOSED, IncidentType.UNAUTHORIZED_ACCESS})


def presumed_facts(incident: Incident) -> IncidentFacts:
    """The default facts from the incident alone; `decide_breach` names what people must answer."""
    breached = Answer.YES if incident.type in _KEY_IN_OTHER_HANDS else Answer.UNKNOWN
    known_on = incident.discovered_at.astimezone(_EARLIEST_DAY).date()
    return IncidentFacts(Role.COVERED_ENTITY, known_on, key_breached=breached)
