"""The alerts that are due now, from the ledger alone, and their delivery: each once by each channel.

Each alert has one key. A channel that is down is recorded, and blocks nothing.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from keyrotation_pipeline.audit.events import entries
from keyrotation_pipeline.audit.incidents import AlertDelivery, alert_deliveries, incidents
from keyrotation_pipeline.errors import AlertError, BlockedError, KeyRotationError
from keyrotation_pipeline.incidents.assessing import in_words, unsettled
from keyrotation_pipeline.model.audit import RETRIED, EventKind, utc_minute
from keyrotation_pipeline.model.backups import ENDS_SOON
from keyrotation_pipeline.model.breach import Deadline, ResponseStage, carried_by
from keyrotation_pipeline.model.fleet import failing_minutes
from keyrotation_pipeline.model.incident_events import AlertDelivered, ChannelFailed
from keyrotation_pipeline.model.incidents import (
    ESCALATION,
    SUBJECT_CHARS,
    Alert,
    Contact,
    ContactRole,
    Incident,
    IncidentStatus,
    Severity,
)
from keyrotation_pipeline.model.keys import duty_of
from keyrotation_pipeline.model.requests import Announcement, Request, announced_key
from keyrotation_pipeline.model.visible_text import is_hidden
from keyrotation_pipeline.ports.incidents import AlertChannel
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.roster import pinned_roster
from keyrotation_pipeline.rotation.report import clock_of

LOCK = "alerts"
# Before a certificate ends; the first is when `status` begins to warn.
CERTIFICATE_DAYS = (ENDS_SOON.days, 30, 7)
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
        has_none_or_gets_it = contact.email is None or contact.role in self.by_role
        return "" if has_none_or_gets_it else " (gets no mail: add [alerts.smtp])"

    def of(self, notice: Alarm) -> Iterator[AlertChannel]:
        """Each channel once."""
        chosen = [*self.common, *(each for role in sorted(notice.roles) for each in self.by_role.get(role, ()))]
        yield from {channel.name: channel for channel in chosen}.values()


def deliver(pipeline: Pipeline, channels: Channels, notices: Sequence[Alarm]) -> tuple[str, ...]:
    """Delivers what was not delivered yet; returns a sentence for each channel that failed.

    An alert is recorded after it was delivered, so that a crash between the two sends it twice rather than never.
    """
    if not _open(alert_deliveries(pipeline.ledger), channels, notices):
        return ()
    try:
        with pipeline.ledger.lock(LOCK):
            return _deliver(pipeline, channels, notices)
    except BlockedError:
        return ()  # another process is delivering them


def _deliver(pipeline: Pipeline, channels: Channels, notices: Sequence[Alarm]) -> tuple[str, ...]:
    known, down = alert_deliveries(pipeline.ledger), dict[str, str]()
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
            pipeline.ledger.append(AlertDelivered(notice.alert.key, channel.name))
    return tuple(down.values())


def _open(known: AlertDelivery, channels: Channels, notices: Iterable[Alarm]) -> list[tuple[Alarm, AlertChannel]]:
    """What each channel is to get, each key once; channels that failed before come last, since they may be slow."""
    pairs: dict[tuple[str, str], tuple[Alarm, AlertChannel]] = {}
    for notice in notices:
        for channel in channels.of(notice):
            was_delivered = (notice.alert.key, channel.name) in known.alerts
            if not was_delivered and (notice.follows is None or (notice.follows, channel.name) in known.alerts):
                pairs.setdefault((notice.alert.key, channel.name), (notice, channel))
    return sorted(pairs.values(), key=lambda pair: pair[1].name in known.failing)


# Older events are history, and are not sent to a new channel.
NEWS_FOR = timedelta(days=1)
ON_CALL = frozenset({ContactRole.ON_CALL})
SIGNERS = frozenset({ContactRole.SECURITY_OFFICER, ContactRole.OFFICER})


def notices(
    pipeline: Pipeline,
    contacts: Sequence[Contact] = (),
    attention: Iterable[str] = (),
    failed_checks: Iterable[tuple[str, str]] = (),
    announcements: Iterable[Announcement] = (),
    cause: Callable[[str], str | None] = lambda _run: None,
) -> tuple[Alarm, ...]:
    """Every alert that is due now, delivered before or not; see `deliver`.

    Args:
        attention: what `status` says is overdue, blocked or stale.
        failed_checks: asset and name of each Dagster check whose last evaluation failed, with its sentence.
        announcements: of planned rotations.
        cause: why a run of Dagster failed, by its id; None: not known.
    """
    writer = _Writer(pipeline)
    return (
        *writer.of_incidents(contacts),
        *writer.of_duties(),
        *writer.of_flags(),
        *writer.of_announcements(announcements),
        *writer.of_runs(cause),
        *writer.of_channels(),
        *writer.of_checks(failed_checks),
        *writer.of_certificates(),
        *writer.of_applications(),
        *writer.of_attention(attention),
    )


def duty_of_the_quarter(pipeline: Pipeline) -> Alarm:
    """What the procedure's calendar asks for, once a quarter."""
    now, identity = pipeline.clock.now(), pipeline.environment.identity()
    duty = duty_of(now)
    text = (
        f"In {duty.quarter} the procedure's calendar asks to: {duty.message}. `keyrotation status` shows what is due."
    )
    alert = Alert(
        f"calendar/{duty.quarter}", Severity.INFO, f"Key rotation in {duty.quarter}", text, identity.name, now
    )
    return Alarm(alert, frozenset({ContactRole.SECURITY_OFFICER, ContactRole.DATABASE_ADMINISTRATOR}))


class _Writer:
    """Writes the alerts that are due at one moment."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._now = pipeline.clock.now()
        self._database = pipeline.environment.identity().name
        self._requests = pipeline.ledger.requests()
        self._incidents = incidents(pipeline.ledger)

    def of_incidents(self, contacts: Sequence[Contact]) -> Iterator[Alarm]:
        for incident in self._incidents.unfinished:
            carrier = carried_by(incident, self._requests)
            clock = clock_of(self._pipeline, incident, self._requests)
            yield self._opened(incident, contacts)
            yield from self._to_sign(incident, carrier, clock)
            yield from self._escalated(incident)
            yield from self._late(incident, clock)
            yield from self._breach_assessment(incident, clock)

    def of_duties(self) -> Iterator[Alarm]:
        """What is due for closed incidents, once a week until officers have settled it."""
        year, week, _ = self._now.isocalendar()
        for each in unsettled(self._pipeline):
            yield self._notice(
                f"incident/{each.incident.id}/unsettled/{year}-{week:02d}",
                Severity.WARNING,
                f"Incident {each.incident.id}: settle whether it is a breach",
                f"{in_words(each)}.",
                frozenset({ContactRole.COMPLIANCE_OFFICER}),
            )

    def of_flags(self) -> Iterator[Alarm]:
        for flag, (at, reason) in self._incidents.set_aside.items():
            if self._now - at < NEWS_FOR:
                text = f"The flag {flag} was rejected and opens no incident: {reason}."
                yield self._notice(f"flag/{flag}/set-aside", Severity.WARNING, "A flag was rejected", text, ON_CALL)

    def of_announcements(self, announcements: Iterable[Announcement]) -> Iterator[Alarm]:
        """Announcements for everybody; a cancellation only goes to the channels that carried the announcement."""
        for each in announcements:
            notice = self._notice(each.key, Severity.INFO, each.subject, each.text, frozenset(ContactRole))
            yield replace(notice, follows=announced_key(each.request)) if each.cancels else notice

    def of_runs(self, cause: Callable[[str], str | None]) -> Iterator[Alarm]:
        """Once a day for a job and subject, with the cause; none for a run that is retried by itself."""
        seen = set[str]()
        for entry in entries(self._pipeline.ledger, EventKind.RUN_FAILED):
            run, job, subject = (entry.facts.get(name) for name in ("run", "job", "subject"))
            key = f"run/{job}/{subject}/{entry.at:%Y-%m-%d}"
            if self._now - entry.at < NEWS_FOR and RETRIED not in entry.facts and key not in seen:
                seen.add(key)
                what = f"{job} ({subject})" if subject else f"{job}"
                by = entry.facts.get("refused_by")
                why = f"the cluster starts no process for it, {by} refuses it" if by else cause(str(run))
                yield self._notice(
                    key,
                    Severity.WARNING,
                    f"A run of {job} failed",
                    f"The run {run} of {what} failed{f': {why}' if why else ''}. Open it in Dagster's UI for more; "
                    "`keyrotation status` says what the rotation waits for.",
                    ON_CALL,
                )

    def of_channels(self) -> Iterator[Alarm]:
        for channel, (since, reason) in alert_deliveries(self._pipeline.ledger).failing.items():
            text = f"Alerts do not reach {channel} since {utc_minute(since)}: {reason}."
            key = f"channel/{channel}/{since:%Y-%m-%dT%H:%M:%S}"
            yield self._notice(key, Severity.WARNING, "An alert channel is down", text, ON_CALL)

    def of_checks(self, failed: Iterable[tuple[str, str]]) -> Iterator[Alarm]:
        for check, message in failed:
            key = f"check/{check}/{self._now:%Y-%m-%d}"
            yield self._notice(key, Severity.WARNING, f"The check {check} fails", f"{check}: {message}", ON_CALL)

    def of_certificates(self) -> Iterator[Alarm]:
        """Each certificate that ends soon: 60 days before, and again 30 and 7 days before."""
        for each in self._pipeline.signatures.certificates():
            if each.ends_at is None or (message := each.ends_soon(self._now)) is None:
                continue
            ahead = min(days for days in CERTIFICATE_DAYS if each.ends_at - self._now <= timedelta(days=days))
            use = "backups" if each.encrypts else "signatures"
            yield self._notice(
                f"certificate/{each.fingerprint}/{use}/{each.ends_at:%Y-%m-%d}/{ahead}",
                Severity.WARNING,
                "A certificate ends soon",
                f"{message}.",
                SIGNERS,
            )

    def of_applications(self) -> Iterator[Alarm]:
        """An alert for too many failed decryptions, once an hour."""
        try:
            minutes = failing_minutes(self._pipeline.rollout.instances(), self._now)
        except KeyRotationError:
            return  # a cluster that does not answer is already reported by `status`
        if minutes:
            key = f"decrypt-failures/{minutes[-1].at:%Y-%m-%dT%H}"
            yield self._notice(key, Severity.CRITICAL, "Applications cannot decrypt", f"{minutes[-1]}.", ON_CALL)

    def of_attention(self, attention: Iterable[str]) -> Iterator[Alarm]:
        """Each sentence once a week while it applies; changed numbers and dates in it are not a new alert."""
        for message in attention:
            digest = hashlib.sha256(re.sub(r"[0-9]+", "", message).encode()).hexdigest()[:16]
            year, week, _ = self._now.isocalendar()
            key = f"attention/{digest}/{year}-{week:02d}"
            yield self._notice(key, Severity.WARNING, "Key rotation needs attention", f"{message}.", ON_CALL)

    def _opened(self, incident: Incident, contacts: Sequence[Contact]) -> Alarm:
        people = "".join(f"\n  {contact}" for contact in contacts)
        return self._notice(
            f"incident/{incident.id}/opened",
            Severity.CRITICAL,
            f"Incident {incident.id}: {incident.type}",
            f"{incident.description}\nReported by {incident.reported_by}, discovered "
            f"{utc_minute(incident.discovered_at)}. Scope: {incident.scope or 'not known'}. Impact: "
            f"{incident.impact or 'not known'}. Counts as compromised once signed: {_list(incident)}.\n"
            f"Acknowledge it with `keyrotation incident ack {incident.id}`; its deadlines: `keyrotation incident show "
            f"{incident.id}`.{f'{chr(10)}Contacts:{people}' if people else ''}",
            ON_CALL,
        )

    def _to_sign(self, incident: Incident, carrier: Request | None, clock: Sequence[Deadline]) -> Iterator[Alarm]:
        """The exact text and how to sign it, for the officers."""
        if carrier is None or carrier.is_over or clock[0].reached_at is not None:
            return
        text = self._pipeline.ledger.approval_text(carrier.id).decode()
        roster = pinned_roster(self._pipeline)
        yield self._notice(
            f"incident/{incident.id}/sign/{carrier.id}",
            Severity.CRITICAL,
            f"Incident {incident.id}: sign the emergency request",
            f"{roster.required} of {len(roster.officers)} officers sign exactly this text; until then no key changes:"
            f"\n\n{text}\n"
            f"`keyrotation approve {carrier.id}` shows it again, and the line that each of them types",
            SIGNERS,
        )

    def _escalated(self, incident: Incident) -> Iterator[Alarm]:
        if incident.status is not IncidentStatus.OPEN:
            return
        for role, after in ESCALATION:
            if self._now >= incident.opened_at + after:
                minutes = int(after.total_seconds() // 60)
                yield self._notice(
                    f"incident/{incident.id}/escalated/{role}",
                    Severity.CRITICAL,
                    f"Incident {incident.id}: not acknowledged for {minutes} minutes",
                    f"Nobody has acknowledged {incident.id} ({incident.type}) within {minutes} minutes, so it goes to "
                    f"the {role}. Acknowledge it with `keyrotation incident ack {incident.id}`.",
                    frozenset({role}),
                )

    def _late(self, incident: Incident, clock: Sequence[Deadline]) -> Iterator[Alarm]:
        for deadline in clock:
            if (percent := deadline.passed_percent(self._now)) is not None:
                stage, over = deadline.stage.replace("_", " "), percent == 100  # noqa: PLR2004
                yield self._notice(
                    f"incident/{incident.id}/{deadline.stage}/{percent}",
                    Severity.CRITICAL if over else Severity.WARNING,
                    f"Incident {incident.id}: {percent} % of the time to be {stage}",
                    f"{incident.id} is not {stage} yet; that is due by {utc_minute(deadline.due_at)}. "
                    f"See `keyrotation incident show {incident.id}`.",
                    ON_CALL | {ContactRole.SECURITY_OFFICER} if over else ON_CALL,
                )

    def _breach_assessment(self, incident: Incident, clock: Sequence[Deadline]) -> Iterator[Alarm]:
        assessed = next(each for each in clock if each.stage is ResponseStage.ASSESSED)
        if assessed.reached_at is not None or self._now >= assessed.due_at:
            yield self._notice(
                f"incident/{incident.id}/breach-assessment",
                Severity.CRITICAL,
                f"Incident {incident.id}: assess whether it is a breach",
                f"{incident.id} ({incident.type}) was discovered {utc_minute(incident.discovered_at)}. "
                "Assess it by 45 CFR 164.402; notices to individuals are due without unreasonable delay, and at most "
                "60 calendar days after discovery.",
                frozenset({ContactRole.COMPLIANCE_OFFICER}),
            )

    def _notice(
        self, key: str, severity: Severity, subject: str, text: str, roles: frozenset[ContactRole] = frozenset()
    ) -> Alarm:
        # A name in a subject may have any length and any characters.
        plain = "".join(" " if is_hidden(character) else character for character in subject)[:SUBJECT_CHARS].strip()
        return Alarm(Alert(key, severity, plain, text, self._database, self._now), roles)


def _list(incident: Incident) -> str:
    return ", ".join(map(str, incident.versions))
