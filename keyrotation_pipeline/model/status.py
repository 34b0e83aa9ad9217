"""Status and readiness as values, which the command line, Dagster and `status --json` show alike; heartbeats."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import AuditHead, instant, names
from keyrotation_pipeline.model.breach import Deadline, Rate
from keyrotation_pipeline.model.fleet import awaits
from keyrotation_pipeline.model.incidents import Contact, Incident
from keyrotation_pipeline.model.keys import KeyRecord
from keyrotation_pipeline.model.progress import PaceSet
from keyrotation_pipeline.model.request_events import Rehearsed
from keyrotation_pipeline.model.requests import PendingRequest, Request, Walk
from keyrotation_pipeline.model.tables import EncryptedTable, Problem, TableCount

SCHEMA = 1
SHOWN_FINGERPRINT_CHARS = 16
MINUTE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class TableStatus:
    """One declared table.

    Args:
        count: as it was last taken; None: never.
        values_by_version: in order of version, with 0 for a registered version without values; empty if never counted.
        fenced_against: versions that the database refuses at this moment.
    """

    table: EncryptedTable
    count: TableCount | None
    values_by_version: Mapping[KeyVersion, int]
    fenced_against: tuple[KeyVersion, ...]

    def as_json(self) -> dict[str, Any]:
        """As `status --json` has it."""
        count = self.count
        return {
            "table": str(self.table.name),
            "columns": list(self.table.columns),
            "rows": count.rows if count else None,
            "values_by_version": {str(version): number for version, number in self.values_by_version.items()},
            "unencrypted": count.unencrypted if count else None,
            "unreadable": count.unreadable if count else None,
            "fenced_against": names(self.fenced_against),
            "counted_at": instant(count.counted_at) if count else None,
        }


def failure_of(walk: Walk) -> str | None:
    """What stopped a walk's last attempt; None: nothing, or it only waited in vain for instances or an officer."""
    return None if walk.blocked_by is None or awaits(walk.blocked_by, walk.id) else walk.blocked_by


@dataclass(frozen=True, slots=True)
class RotationStatus:
    """The rotation that is open.

    Args:
        phase: the step that it is in, or what it is before and after all of them.
        progress: 0 to 1.
        eta_seconds: how long all of it still takes, as far as nobody is waited for; None where nobody works at it.
        waiting_for: why it does not go on by itself, or why it goes slower; None if it does.
        pace: what an operator has set; None: as configured, and not in the JSON.
    """

    walk: Walk
    phase: str
    approvals_required: int
    progress: float
    eta_seconds: int | None
    waiting_for: str | None
    pace: PaceSet | None = None

    @property
    def blocked_by(self) -> str | None:
        """What stopped the last attempt, unless it waited in vain: then `waiting_for` says what is lacking now."""
        return failure_of(self.walk)

    def as_json(self) -> dict[str, Any]:
        """As `status --json` has it."""
        return {
            "id": self.walk.id,
            "type": self.walk.kind,
            "phase": self.phase,
            "from": str(self.walk.source),
            "to": str(self.walk.target),
            "approvals": len(self.walk.approvals),
            "approvals_required": self.approvals_required,
            "started_at": instant(self.walk.started_at),
            "progress": self.progress,
            "eta_seconds": self.eta_seconds,
            "waiting_for": self.waiting_for,
            "blocked_by": self.blocked_by,
            **({"pace": str(self.pace)} if self.pace else {}),
        }


@dataclass(frozen=True, slots=True)
class OpenIncident:
    """An incident that nobody has closed.

    Args:
        carrier: the emergency request that deals with it; None: there is none yet.
        clock: its stages, in order.
        pace: the rate needed against the rate measured, while rows are re-encrypted.
        at: when this was looked at.
    """

    incident: Incident
    carrier: Request | None
    clock: tuple[Deadline, ...]
    pace: Rate | None
    at: datetime

    @property
    def clock_in_words(self) -> str:
        """The next stage that is not reached, and how long there is for it."""
        for deadline in self.clock:
            seconds = deadline.seconds_left(self.at)
            if seconds is not None:
                hours, minutes = divmod(abs(seconds) // MINUTE_SECONDS, MINUTE_SECONDS)
                left = f"{hours} h {minutes:02d} min"
                stage = deadline.stage.replace("_", " ")
                return f"{stage} was due {left} ago" if seconds < 0 else f"{left} left to be {stage}"
        return "every stage is reached"

    def as_json(self) -> dict[str, Any]:
        """As `status --json` has it; the first six as `incident list --json` has them."""
        return {
            "id": self.incident.id,
            "type": str(self.incident.type),
            "status": str(self.incident.status),
            "discovered_at": instant(self.incident.discovered_at),
            "request": self.carrier.id if self.carrier is not None else None,
            "versions": names(self.incident.versions),
            "clock": self.clock_in_words,
            "stages": [
                {
                    "stage": str(each.stage),
                    "due_at": instant(each.due_at),
                    "reached_at": instant(each.reached_at),
                    "seconds_left": each.seconds_left(self.at),
                }
                for each in self.clock
            ],
            "pace": str(self.pace) if self.pace else None,
        }


@dataclass(frozen=True, slots=True)
class LastRehearsal:
    """A rehearsal that was carried out, and when."""

    at: datetime
    rehearsed: Rehearsed

    @property
    def in_words(self) -> str:
        """What it found."""
        done = self.rehearsed
        if done.total_seconds is None:
            return f"{done.source} to {done.target} would stop at {done.findings[0].step}"
        return f"{done.source} to {done.target} in {done.total_seconds:,.0f} s besides the rollouts; nothing stopped it"

    def as_json(self) -> dict[str, Any]:
        """As `status --json` has it."""
        done = self.rehearsed
        seconds = done.total_seconds
        return {
            "at": instant(self.at),
            "request": done.request,
            "predicted_seconds": None if seconds is None else round(seconds, 1),
            "findings": [f"{each.step}: {each.sentence}" for each in done.findings],
        }


@dataclass(frozen=True, slots=True)
class Status:
    """Where everything stands.

    Args:
        database: its name and host; never a password.
        primary: None where the key store names none or cannot be read, which `attention` says.
        last_backup_versions: the key versions that this backup holds, by its signed manifest.
        incidents: those that nobody has closed.
        requests: those that are not over, newest first.
        attention: one sentence for each thing that is overdue, blocked or stale.
        warnings: one for each that will be; they do not count for `--exit-code`.
        contacts: the emergency contact list of the configuration.
        next_rotation_rule: why it is due then, and what is not known of it.
        rehearsal: the newest one from the present primary; None: there is none.
    """

    generated_at: datetime
    database: str
    key_versions: tuple[KeyRecord, ...]
    primary: KeyVersion | None
    tables: tuple[TableStatus, ...]
    rotation: RotationStatus | None
    last_backup: datetime | None
    last_recovery_test: datetime | None
    incidents: tuple[OpenIncident, ...]
    requests: tuple[PendingRequest, ...]
    audit: AuditHead
    next_rotation_due: datetime | None
    attention: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    next_rotation_rule: str | None = None
    rehearsal: LastRehearsal | None = None
    last_backup_versions: tuple[KeyVersion, ...] = ()
    contacts: tuple[Contact, ...] = ()

    @property
    def other_requests(self) -> tuple[PendingRequest, ...]:
        """The requests besides the rotation."""
        return tuple(each for each in self.requests if not self.rotation or each.request.id != self.rotation.walk.id)

    def as_json(self) -> dict[str, Any]:
        """The object of `status --json`, which programs read: a change of it is a new `schema`."""
        return {
            "schema": SCHEMA,
            "generated_at": instant(self.generated_at),
            "database": self.database,
            "key_versions": [
                {
                    "version": str(record.version),
                    "state": str(record.state),
                    "fingerprint": record.fingerprint[:SHOWN_FINGERPRINT_CHARS],
                    "created_at": instant(record.created_at),
                }
                for record in self.key_versions
            ],
            "primary": str(self.primary) if self.primary else None,
            "tables": [table.as_json() for table in self.tables],
            "rotation": self.rotation.as_json() if self.rotation else None,
            "last_backup": instant(self.last_backup),
            "last_backup_versions": names(self.last_backup_versions),
            "last_recovery_test": instant(self.last_recovery_test),
            "last_rehearsal": self.rehearsal.as_json() if self.rehearsal else None,
            "incidents_open": len(self.incidents),
            "incidents": [incident.as_json() for incident in self.incidents],
            "requests": [request.as_json() for request in self.requests],
            "contacts": [contact.as_json() for contact in self.contacts],
            "audit": {"seq": self.audit.seq, "head": self.audit.hash},
            "next_rotation_due": instant(self.next_rotation_due),
            "attention": list(self.attention),
            "warnings": list(self.warnings),
        }


class Light(StrEnum):
    """Green: looked at and good. Amber: to be known before, or not seen. Red: a request is refused, or cannot begin."""

    GREEN = "green"
    AMBER = "amber"
    RED = "red"


@dataclass(frozen=True, slots=True)
class Check:
    """One box of the checklist.

    Args:
        name: the truth wanted, as an identifier.
        value: what was seen.
        do: what to do about it; empty: nothing.
    """

    name: str
    light: Light
    value: str
    do: str = ""


def green(name: str, value: str) -> Check:
    """Looked at, and good."""
    return Check(name, Light.GREEN, value)


def amber(name: str, value: str, do: str) -> Check:
    """To be known before; or it was not seen."""
    return Check(name, Light.AMBER, value, do)


def red(name: str, value: str, do: str) -> Check:
    """What a request is refused for, or what stops its rotation before anything is done."""
    return Check(name, Light.RED, value, do)


def in_two(sentence: str) -> tuple[str, str]:
    """A sentence as this program writes them: what is the case, and what to do about it."""
    value, _, do = sentence.partition("; ")
    return value, do


def of_problem(problem: Problem) -> Check:
    """A problem of the pre-flight as a check."""
    return Check(problem.check, Light.RED if problem.fatal else Light.AMBER, *in_two(problem.sentence))


@dataclass(frozen=True, slots=True)
class Readiness:
    """Every check, in the order of the list."""

    checks: tuple[Check, ...]

    @property
    def ready(self) -> bool:
        """Whether no check is red."""
        return not self.of(Light.RED)

    def of(self, light: Light) -> Sequence[Check]:
        """The checks of one light."""
        return tuple(check for check in self.checks if check.light is light)

    def as_json(self) -> dict[str, Any]:
        """The object of `preflight --json`, without what says where and when."""
        return {
            "ready": self.ready,
            "checks": [
                {"name": each.name, "light": str(each.light), "value": each.value, "do": each.do}
                for each in self.checks
            ],
        }


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The last look of one sensor or schedule.

    Args:
        name: of it.
        at: when it looked; where a schedule never did, since when it is expected to.
        stopped: sensors and schedules that it found switched off, with when it first did.
    """

    name: str
    at: datetime
    stopped: Mapping[str, datetime]
