"""Incidents, replayed from the audit: only events open, acknowledge and close one."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from keyrotation_pipeline.audit.events import AuditEntry, Rules, entries
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.approval import header_of
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.model.audit_state import (
    AuditState,
    ImpossibleError,
    Incidents,
    names_database,
    require,
    require_lines,
)
from keyrotation_pipeline.model.breach import (
    ASSESSMENT_HEADERS,
    AssessmentSigned,
    BreachAnswers,
    BreachAssessed,
    is_first_form,
)
from keyrotation_pipeline.model.comparison import Comparison, ValuesCompared
from keyrotation_pipeline.model.incident_events import (
    AlertDelivered,
    ChannelFailed,
    EmergencyPrepared,
    FlagRepeated,
    FlagSetAside,
    IncidentAcknowledged,
    IncidentAmended,
    IncidentClosed,
    IncidentOpened,
    NoticeSent,
)
from keyrotation_pipeline.model.incidents import Incident, SentNotice
from keyrotation_pipeline.model.keys import GONE
from keyrotation_pipeline.model.requests import held_in
from keyrotation_pipeline.ports.ledger import Ledger

_TEXTS = ("scope", "impact", "root_cause", "remediation", "lessons")


def incidents(ledger: Ledger) -> Incidents:
    """Every incident of the audit, as it is now."""
    return ledger.replayed().incidents


@dataclass(frozen=True, slots=True)
class AlertDelivery:
    """Which alerts were delivered by which channel, and since when a channel fails.

    Args:
        alerts: (alert's key, channel).
        failing: by channel: since when, and why.
    """

    alerts: set[tuple[str, str]] = field(default_factory=set)
    failing: dict[str, tuple[datetime, str]] = field(default_factory=dict)


def alert_deliveries(ledger: Ledger) -> AlertDelivery:
    """Replay deliveries; a channel that accepts an alert no longer counts as failing."""
    state = AlertDelivery()
    for entry in entries(ledger, EventKind.ALERT_DELIVERED, EventKind.CHANNEL_FAILED):
        match entry.fact():
            case AlertDelivered(alert=alert, channel=channel):
                state.alerts.add((alert, channel))
                state.failing.pop(channel, None)
            case ChannelFailed(channel=channel, reason=reason):
                state.failing.setdefault(channel, (entry.at, reason))
    return state


def _opened(state: AuditState, _entry: AuditEntry, fact: IncidentOpened) -> None:
    known = state.incidents
    require(fact.id not in known.by_id, "opens an incident that is there already")
    known.by_id[fact.id] = Incident(
        id=fact.id,
        type=fact.type,
        description=fact.description,
        discovered_at=fact.discovered_at,
        opened_at=fact.opened_at,
        reported_by=fact.reported_by,
        versions=fact.versions,
        scope=fact.scope,
        impact=fact.impact,
        flag=fact.flag,
    )
    known.news.setdefault(fact.news, fact.id)
    if fact.flag is not None:
        known.flags.add(fact.flag)


def _repeated(state: AuditState, _entry: AuditEntry, fact: FlagRepeated) -> None:
    state.incidents.flags.add(fact.flag)


def _set_aside(state: AuditState, entry: AuditEntry, fact: FlagSetAside) -> None:
    state.incidents.flags.add(fact.flag)
    state.incidents.set_aside[fact.flag] = (entry.at, fact.reason)


def _prepared(state: AuditState, _entry: AuditEntry, fact: EmergencyPrepared) -> None:
    incident = _unfinished(state, fact.incident)
    held = held_in(state.texts.get(fact.request, b""))
    # Another request, a finished one above all, would hide that the key is still in use.
    require(held.issuperset(incident.versions), "prepares a request that does not hold its versions compromised")
    _change(state, incident, request=fact.request)


def _acknowledged(state: AuditState, _entry: AuditEntry, fact: IncidentAcknowledged) -> None:
    incident = _unfinished(state, fact.incident)
    if incident.acknowledged_at is None:
        _change(state, incident, acknowledged_at=fact.at, acknowledged_by=fact.by)


def _closed(state: AuditState, _entry: AuditEntry, fact: IncidentClosed) -> None:
    incident = _unfinished(state, fact.incident)
    in_use = unretired(state, incident)
    if in_use:
        # One person alone could otherwise cancel the emergency and end the incident.
        settled = state.is_settled_as_none(incident.id)
        require(settled, f"closes an incident although {in_use[0]} is in use and officers have signed no decision")
    _change(state, incident, closed_at=fact.at, closed_by=fact.by, **_given(fact, _TEXTS[2:]))


def unretired(state: AuditState, incident: Incident) -> list[KeyVersion]:
    """The versions of an incident that nothing in the audit has taken out of use: it is not closed by one person."""
    registered = (each for each in incident.versions if each in state.keys)
    return [each for each in registered if state.keys[each].state not in GONE and each not in state.retired]


def _amended(state: AuditState, _entry: AuditEntry, fact: IncidentAmended) -> None:
    # Also of a closed incident: people learn and do things after it.
    found = _known(state, fact.incident)
    _change(
        state,
        found,
        actions=(*found.actions, *fact.actions),
        prevention=(*found.prevention, *fact.prevention),
        **_given(fact, _TEXTS),
    )


def _notified(state: AuditState, _entry: AuditEntry, fact: NoticeSent) -> None:
    found = _known(state, fact.incident)
    _change(state, found, notices=(*found.notices, SentNotice(fact.to, fact.sent_on, fact.by, fact.at)))


def _compared(state: AuditState, entry: AuditEntry, fact: ValuesCompared) -> None:
    # Also of a closed incident, as it can be amended.
    found = _known(state, fact.incident)
    _change(state, found, comparisons=(*found.comparisons, Comparison(entry.seq, fact)))


def _given(fact: IncidentAmended | IncidentClosed, names: Iterable[str]) -> dict[str, Any]:
    """The texts that an event has; a missing one leaves the former text."""
    return {name: text for name in names if (text := getattr(fact, name)) is not None}


def _known(state: AuditState, incident: str) -> Incident:
    if (found := state.incidents.by_id.get(incident)) is None:
        raise ImpossibleError("is of an incident that was never opened")
    return found


def _unfinished(state: AuditState, incident: str) -> Incident:
    found = _known(state, incident)
    require(found.closed_at is None, "is of an incident that is closed")
    return found


def _change(state: AuditState, incident: Incident, **changes: Any) -> None:  # noqa: ANN401  fields of an incident
    state.incidents.by_id[incident.id] = replace(incident, **changes)


def _assessed(state: AuditState, entry: AuditEntry, fact: BreachAssessed) -> None:
    before, _ = state.answers.get(fact.incident, (BreachAnswers(), 0))
    state.answers[fact.incident] = before.then(fact.answers), entry.seq
    state.agreed.pop(fact.incident, None)
    state.settled.discard(fact.incident)


def _assessment_signed(state: AuditState, entry: AuditEntry, fact: AssessmentSigned) -> None:
    answers, seq = state.answers.get(fact.incident, (BreachAnswers(), 0))
    text, is_first = fact.text.encode(), is_first_form(fact.text)
    header = header_of(text, ASSESSMENT_HEADERS)
    since = {"Audit event": str(seq)} if is_first else {"Audit head": f"{seq} {state.hash_at(seq)}"}
    decision = require_lines(text, {"Incident": fact.incident, "Answers": answers.digest(), **since}, header).get(
        "Decision", ""
    )
    require(is_first or names_database(text, state.place, header), "is about an incident of another database")
    state.verified(text, fact.signature, fact.officer, since=None, at=entry.at)
    officers, before = state.agreed.get(fact.incident, (frozenset[str](), decision))
    require(before == decision, "is over another decision than the signatures before")
    state.agreed[fact.incident] = (signers := officers | {fact.officer}), decision
    # By the roster of this moment: one that later asks for fewer settles nothing, nor does a second signature of one.
    if fact.officer not in officers and state.roster is not None:
        counted = signers if is_first else {each for each in signers if state.roster.name_of(each) is not None}
        if 0 < state.roster.required <= len(counted):
            state.settled.add(fact.incident)


INCIDENT_RULES: Rules = {
    IncidentOpened: _opened,
    FlagRepeated: _repeated,
    FlagSetAside: _set_aside,
    EmergencyPrepared: _prepared,
    IncidentAcknowledged: _acknowledged,
    IncidentClosed: _closed,
    IncidentAmended: _amended,
    NoticeSent: _notified,
    ValuesCompared: _compared,
    BreachAssessed: _assessed,
    AssessmentSigned: _assessment_signed,
}
