"""Incidents, replayed from the audit: only events open, acknowledge and close one."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from keyrotation_pipeline.audit.events import entries
from keyrotation_pipeline.errors import IncidentError
from keyrotation_pipeline.model.audit import EventKind, Fact, Note
from keyrotation_pipeline.model.incident_events import (
    AlertTold,
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
from keyrotation_pipeline.model.incidents import Incident, IncidentStatus, SentNotice
from keyrotation_pipeline.ports.ledger import Ledger

_KINDS = (
    EventKind.INCIDENT_OPENED,
    EventKind.FLAG_REPEATED,
    EventKind.FLAG_SET_ASIDE,
    EventKind.EMERGENCY_PREPARED,
    EventKind.INCIDENT_ACKNOWLEDGED,
    EventKind.INCIDENT_CLOSED,
    EventKind.INCIDENT_AMENDED,
    EventKind.NOTICE_SENT,
)


_TEXTS = ("scope", "impact", "root_cause", "remediation", "lessons")


@dataclass(frozen=True, slots=True)
class Incidents:
    """Every incident, and every flag that was taken.

    Args:
        by_id: in the order in which they were opened.
        flags: keys of the flags that were taken, each once.
        news: digest of what was reported, and the incident that it opened.
        set_aside: flags that nobody can act on, each with the moment and the reason.
    """

    by_id: dict[str, Incident] = field(default_factory=dict)
    flags: set[str] = field(default_factory=set)
    news: dict[str, str] = field(default_factory=dict)
    set_aside: dict[str, tuple[datetime, str]] = field(default_factory=dict)

    def apply(self, fact: Fact | Note | None, at: datetime) -> None:
        """Take in one event, which follows the earlier ones."""
        if (rule := _RULES.get(type(fact))) is not None:
            rule(self, fact, at)

    @property
    def unfinished(self) -> tuple[Incident, ...]:
        """The open ones, oldest first."""
        return tuple(each for each in self.by_id.values() if each.status is not IncidentStatus.CLOSED)

    def incident(self, name: str) -> Incident:
        """Find one by its id, case-insensitively.

        Raises:
            IncidentError: there is none.
        """
        if (found := self.by_id.get(name.strip().upper())) is None:
            raise IncidentError(
                f"there is no incident {name[:40]!r}; `keyrotation incident list` shows those there are"
            )
        return found


def incidents(ledger: Ledger) -> Incidents:
    """Every incident of the audit."""
    return incidents_of((entry.fact(), entry.at) for entry in entries(ledger, *_KINDS))


def incidents_of(told: Iterable[tuple[Fact | Note | None, datetime]]) -> Incidents:
    """Every incident of these events, which are in order."""
    found = Incidents()
    for fact, at in told:
        found.apply(fact, at)
    return found


@dataclass(frozen=True, slots=True)
class AlertDelivery:
    """Which alerts were delivered by which channel, and since when a channel fails.

    Args:
        alerts: (alert's key, channel).
        failing: by channel: since when, and why.
    """

    alerts: set[tuple[str, str]] = field(default_factory=set)
    failing: dict[str, tuple[datetime, str]] = field(default_factory=dict)


def told(ledger: Ledger) -> AlertDelivery:
    """Replay deliveries; a channel that accepts an alert no longer counts as failing."""
    state = AlertDelivery()
    for entry in entries(ledger, EventKind.ALERT_TOLD, EventKind.CHANNEL_FAILED):
        match entry.fact():
            case AlertTold(alert=alert, channel=channel):
                state.alerts.add((alert, channel))
                state.failing.pop(channel, None)
            case ChannelFailed(channel=channel, reason=reason):
                state.failing.setdefault(channel, (entry.at, reason))
    return state


def _opened(state: Incidents, fact: IncidentOpened, _at: datetime) -> None:
    # The first event of an id counts; a second one does not replace the incident.
    state.by_id.setdefault(
        fact.id,
        Incident(
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
        ),
    )
    state.news.setdefault(fact.news, fact.id)
    if fact.flag is not None:
        state.flags.add(fact.flag)


def _repeated(state: Incidents, fact: FlagRepeated, _at: datetime) -> None:
    state.flags.add(fact.flag)


def _set_aside(state: Incidents, fact: FlagSetAside, at: datetime) -> None:
    state.flags.add(fact.flag)
    state.set_aside[fact.flag] = (at, fact.reason)


def _prepared(state: Incidents, fact: EmergencyPrepared, _at: datetime) -> None:
    _change(state, fact.incident, request=fact.request)


def _acknowledged(state: Incidents, fact: IncidentAcknowledged, _at: datetime) -> None:
    incident = state.by_id.get(fact.incident)
    if incident is not None and incident.acknowledged_at is None:
        _change(state, fact.incident, acknowledged_at=fact.at, acknowledged_by=fact.by)


def _closed(state: Incidents, fact: IncidentClosed, _at: datetime) -> None:
    _change(state, fact.incident, closed_at=fact.at, closed_by=fact.by, **_given(fact, _TEXTS[2:]))


def _amended(state: Incidents, fact: IncidentAmended, _at: datetime) -> None:
    # Also of a closed incident: people learn and do things after it.
    if (found := state.by_id.get(fact.incident)) is not None:
        state.by_id[fact.incident] = replace(
            found,
            actions=(*found.actions, *fact.actions),
            prevention=(*found.prevention, *fact.prevention),
            **_given(fact, _TEXTS),
        )


def _notified(state: Incidents, fact: NoticeSent, _at: datetime) -> None:
    if (found := state.by_id.get(fact.incident)) is not None:
        sent = SentNotice(fact.to, fact.sent_on, fact.by, fact.at)
        state.by_id[fact.incident] = replace(found, notices=(*found.notices, sent))


def _given(fact: IncidentAmended | IncidentClosed, names: Iterable[str]) -> dict[str, Any]:
    """The texts that an event has; a missing one leaves the former text."""
    return {name: text for name in names if (text := getattr(fact, name)) is not None}


def _change(state: Incidents, incident: str, **changes: Any) -> None:  # noqa: ANN401  fields of an incident
    if (found := state.by_id.get(incident)) is not None and found.closed_at is None:
        state.by_id[incident] = replace(found, **changes)


_RULES: dict[type[Fact | Note | None], Callable[[Incidents, Any, datetime], None]] = {
    IncidentOpened: _opened,
    FlagRepeated: _repeated,
    FlagSetAside: _set_aside,
    EmergencyPrepared: _prepared,
    IncidentAcknowledged: _acknowledged,
    IncidentClosed: _closed,
    IncidentAmended: _amended,
    NoticeSent: _notified,
}
