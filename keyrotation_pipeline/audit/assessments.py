"""The breach decision of each incident, replayed from the audit: who said what and when, and what holds.

One person alone must not end a duty to notify. So answers hold at once as far as they add to what is due; as far as
they would lighten it (no breach, a later date, a notice that falls away), they hold when enough officers have signed
exactly these answers. Until then what held before still holds.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from keyrotation_pipeline.audit.history import HistoryEntry
from keyrotation_pipeline.model.approval import Roster
from keyrotation_pipeline.model.audit import counted
from keyrotation_pipeline.model.breach import (
    NO_NOTICE,
    AssessmentSigned,
    BreachAnswers,
    BreachAssessed,
    Outcome,
    is_first_form,
)
from keyrotation_pipeline.model.breach_decision import BreachDecision, BreachNotice, decide_breach, presumed_facts
from keyrotation_pipeline.model.incidents import Incident, SentNotice


@dataclass(frozen=True, slots=True)
class Assessment:
    """Where the breach decision of an incident stands.

    Args:
        in_force: what holds now.
        answered: what follows from the latest answers once they are signed; None: they hold, or there are none.
        answers: all of them, the later ones in place of the earlier.
        signed_by: officers who have signed these answers, and of answers that are not settled have not left.
        required: how many must.
        is_settled: enough officers have signed the answers as they are, when the last of them signed.
        since: the event of the last answers, and when it was; None: nobody has answered.
        history: when, and a sentence.
    """

    incident: Incident
    in_force: BreachDecision
    answered: BreachDecision | None
    answers: BreachAnswers
    signed_by: tuple[str, ...]
    required: int
    is_settled: bool
    since: tuple[int, datetime] | None
    history: tuple[tuple[datetime, str], ...]

    @property
    def due(self) -> tuple[BreachNotice, ...]:
        """The notices in force that nobody has reported as given."""
        return tuple(each for each in self.in_force.notices if self.incident.notice(each.to) is None)

    @property
    def is_settled_as_none(self) -> bool:
        """Whether they have signed that nobody is to be notified."""
        return self.is_settled and self.in_force.outcome in NO_NOTICE

    def lines(self) -> tuple[str, ...]:
        """For people: what holds, who is to be told by when, what is missing, and what waits for signatures."""
        lines = lines_of(self.in_force, self.incident)
        if self.answered is None:
            return lines
        # Also if fewer suffice than did: a change of the roster decides nothing.
        missing = max(self.required - len(self.signed_by), 1)
        waits = (
            f"Answered, and in force with {counted(missing, 'more signature')} by `keyrotation incident assess "
            f"{self.incident.id} --text`: {self.answered.outcome}"
        )
        return (
            *lines,
            waits,
            *(f"It would follow: {each}" for each in (*self.answered.reasons, *notices_in_words(self.answered))),
        )


def assessment_from(entries: Iterable[HistoryEntry], incident: Incident) -> Assessment:
    """Where the breach decision of an incident stands by its events; one with a fault counts for nothing."""
    made = _Assessing(incident)
    for entry in entries:
        made.roster = entry.roster
        match entry.fact if entry.fault is None else None:
            case BreachAssessed(incident=incident.id, by=by, answers=answers):
                made.answered(entry.seq, entry.at, by, answers)
            case AssessmentSigned(incident=incident.id) as signed:
                made.signed(entry.at, signed)
    return made.assessment()


def lines_of(decision: BreachDecision, incident: Incident) -> tuple[str, ...]:
    """A decision for people: what follows, who is or was to be told by when, what is missing, and what it is not."""
    missing = (f"Not known yet: {each}" for each in decision.missing)
    head = f"Breach by 45 CFR 164.402: {decision.outcome}"
    return (head, *decision.reasons, *_due_or_given(decision, incident), *missing, *decision.caveats)


@dataclass
class _Assessing:
    """The assessment while the audit is read."""

    incident: Incident
    roster: Roster | None = None
    answers: BreachAnswers = field(default_factory=BreachAnswers)
    since: tuple[int, datetime] | None = None
    signers: dict[str, str] = field(default_factory=dict)
    settled: bool = False
    history: list[tuple[datetime, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.in_force = self._decided()

    def _decided(self) -> BreachDecision:
        return decide_breach(self.answers.facts(presumed_facts(self.incident)))

    def answered(self, seq: int, at: datetime, by: str, answers: BreachAnswers) -> None:
        """Answers take the place of earlier ones; nobody has signed them yet."""
        self.answers, self.since = self.answers.then(answers), (seq, at)
        self.signers.clear()
        self.settled = False
        after = self._decided()
        self.in_force = _stricter(self.in_force, after) if _lightens(after, self.in_force) else after
        said = "; ".join(f"{name}: {value}" for name, value in answers.lines())
        self.history.append((at, f"breach assessment by {by}: {said}"))

    def signed(self, at: datetime, fact: AssessmentSigned) -> None:
        """A good signature over the answers as they are here, by the roster of its time."""
        if self.roster is None or (name := self.roster.name_of(fact.officer)) is None:
            return
        is_another = fact.officer not in self.signers
        self.signers[fact.officer] = name
        self.history.append((at, f"breach assessment signed by {name}"))
        # Officers who have left count for no decision that is not made yet.
        counted = self.signers if is_first_form(fact.text) else self._present()
        if is_another and 0 < self.roster.required <= len(counted):
            self.in_force, self.settled = self._decided(), True

    def _present(self) -> Mapping[str, str]:
        known = self.roster
        return {each: name for each, name in self.signers.items() if known and known.name_of(each) is not None}

    def assessment(self) -> Assessment:
        """What holds by all that was read."""
        after = self._decided()
        return Assessment(
            incident=self.incident,
            in_force=self.in_force,
            answered=None if after == self.in_force else after,
            answers=self.answers,
            signed_by=tuple((self.signers if self.settled else self._present()).values()),
            required=self.roster.required if self.roster else 0,
            is_settled=self.settled,
            since=self.since,
            history=tuple(self.history),
        )


def _lightens(after: BreachDecision, before: BreachDecision) -> bool:
    """Whether less would be due, or later, or less surely."""
    if after.outcome in NO_NOTICE or before.outcome in NO_NOTICE:
        return before.outcome not in NO_NOTICE
    return any(not any(_covers(new, old) for new in after.notices) for old in before.notices)


def _covers(new: BreachNotice, old: BreachNotice) -> bool:
    """Whether a notice does what another one would."""
    same = new.to == old.to or (old.to == "media" and new.to.startswith("media"))
    surely = new.is_certain or not old.is_certain
    waits_no_longer = new.not_before is None or (old.not_before is not None and new.not_before <= old.not_before)
    return same and surely and waits_no_longer and new.last_date <= old.last_date


def _stricter(before: BreachDecision, after: BreachDecision) -> BreachDecision:
    """What held before, with whatever the answers add to it."""
    due = {each.to: each.last_date for each in before.notices}
    added = (each for each in after.notices if each.to not in due or each.last_date < due[each.to])
    outcome = after.outcome if after.outcome is Outcome.NOTIFY else before.outcome
    return replace(before, outcome=outcome, notices=(*before.notices, *added))


def _due_or_given(decision: BreachDecision, incident: Incident) -> Iterator[str]:
    """Each notice that is due, or when it was given; then those that were given and are not, or no longer, due."""
    for each, message in zip(decision.notices, notices_in_words(decision), strict=True):
        given = incident.notice(each.to)
        yield message if given is None else _given(given, each)
    due = [each.to for each in decision.notices]
    yield from (_given(each) for each in incident.notices if not any(each.covers(to) for to in due))


def _given(given: SentNotice, due: BreachNotice | None = None) -> str:
    late = "" if due is None else f", {'late' if given.sent_on > due.last_date else 'in time'} ({due.paragraph})"
    return f"Notice to {given.to}: sent {given.sent_on}{late}, reported by {given.reported_by}"


def notices_in_words(decision: BreachDecision) -> Iterator[str]:
    """Each notice: to whom, by when, and by which rule."""
    for each in decision.notices:
        when = "" if each.not_before is None else f", not before {each.not_before:%Y-%m-%d}"
        sure = "" if each.is_certain else ", unless it is shown not to be due"
        yield (
            f"Notice to {each.to}: without unreasonable delay, at the latest {each.last_date:%Y-%m-%d} "
            f"({each.paragraph}){when}{sure}"
        )
