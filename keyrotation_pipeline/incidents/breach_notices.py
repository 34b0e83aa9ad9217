"""Who is to be told of a breach, and by which date.

Source: 45 CFR 164.404 (individuals), 164.406 (media), 164.408 (HHS), 164.410 (business associates), 164.412 (delays).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from keyrotation_pipeline.model.breach import IncidentFacts, LawEnforcementDelay, Role

NOTICE_DAYS = 60
# "500 or more" in all for HHS (164.408(b)), "more than 500" residents of one State for the media (164.406(a)).
HHS_AT_LEAST = 500
MEDIA_MORE_THAN = 500


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


def notices_of(facts: IncidentFacts, *, certain: bool) -> tuple[tuple[Notice, ...], list[str]]:
    """Every notice with its last date, and what is missing to know them all.

    Args:
        certain: unsecured PHI was reached; False where that is not known.
    """
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
