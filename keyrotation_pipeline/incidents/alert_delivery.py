"""Delivers each alert once by each channel; a channel that is down is recorded, and blocks nothing."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from keyrotation_pipeline.audit.incidents import AlertDelivery, told
from keyrotation_pipeline.errors import AlertError, BlockedError
from keyrotation_pipeline.model.incident_events import AlertTold, ChannelFailed
from keyrotation_pipeline.model.incidents import Alert, Contact, ContactRole
from keyrotation_pipeline.ports.incidents import AlertChannel
from keyrotation_pipeline.ports.pipeline import Pipeline

LOCK = "alerts"
# Dagster ends a sensor tick after a minute; what is left is delivered at the next one.
BUDGET_SECONDS = 25.0


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alert, and who must get it in addition to the common channels.

    Args:
        follows: key of the alert that a channel must have delivered before this one.
    """

    alert: Alert
    roles: frozenset[ContactRole] = frozenset()
    follows: str | None = None


@dataclass(frozen=True, slots=True)
class Channels:
    """Every alert channel.

    Args:
        common: get every alert: a topic, a webhook.
        by_role: mail to the contacts with that role.
        contacts: the emergency contact list, for people to call.
        time_zone: of the dates in alerts.
    """

    common: tuple[AlertChannel, ...] = ()
    by_role: Mapping[ContactRole, tuple[AlertChannel, ...]] = field(default_factory=dict)
    contacts: tuple[Contact, ...] = ()
    time_zone: str = "UTC"

    @property
    def in_words(self) -> tuple[str, ...]:
        """Everybody who gets alerts or calls, each in a few words."""
        mailed = (f"{role} by {channel.name}" for role, each in sorted(self.by_role.items()) for channel in each)
        called = (f"{each}{self._unmailed(each)}" for each in self.contacts)
        return tuple(dict.fromkeys((*(channel.name for channel in self.common), *mailed, *called)))

    def _unmailed(self, contact: Contact) -> str:
        by_mail = contact.email is None or contact.role in self.by_role
        return "" if by_mail else " (gets no mail: add [alerts.smtp])"

    def of(self, notice: Alarm) -> Iterator[AlertChannel]:
        """Each channel once."""
        chosen = [*self.common, *(each for role in sorted(notice.roles) for each in self.by_role.get(role, ()))]
        yield from {channel.name: channel for channel in chosen}.values()


def deliver(pipeline: Pipeline, channels: Channels, notices: Sequence[Alarm]) -> tuple[str, ...]:
    """Delivers what was not delivered yet; returns a sentence for each channel that failed.

    An alert is recorded after it was delivered, so that a crash between the two sends it twice rather than never.
    """
    if not _open(told(pipeline.ledger), channels, notices):
        return ()
    try:
        with pipeline.ledger.lock(LOCK):
            return _deliver(pipeline, channels, notices)
    except BlockedError:
        return ()  # another process is delivering them


def _deliver(pipeline: Pipeline, channels: Channels, notices: Sequence[Alarm]) -> tuple[str, ...]:
    known, down = told(pipeline.ledger), dict[str, str]()
    until = pipeline.clock.monotonic() + BUDGET_SECONDS
    for notice, channel in _open(known, channels, notices):
        if channel.name in down or pipeline.clock.monotonic() > until:
            continue
        try:
            channel.deliver(notice.alert)
        except AlertError as error:
            down[channel.name] = str(error)
            if channel.name not in known.failing:
                pipeline.ledger.append(ChannelFailed(channel.name, str(error)))
        else:
            pipeline.ledger.append(AlertTold(notice.alert.key, channel.name))
    return tuple(down.values())


def _open(known: AlertDelivery, channels: Channels, notices: Iterable[Alarm]) -> list[tuple[Alarm, AlertChannel]]:
    """What each channel is to get; channels that failed before come last, since they may be slow."""
    pairs = [
        (notice, channel)
        for notice in notices
        for channel in channels.of(notice)
        if (notice.alert.key, channel.name) not in known.alerts
        and (notice.follows is None or (notice.follows, channel.name) in known.alerts)
    ]
    return sorted(pairs, key=lambda pair: pair[1].name in known.failing)
