"""Status and readiness as values, which the command line, Dagster and `status --json` show alike; heartbeats."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import AuditHead, instant, names
from keyrotation_pipeline.model.breach import Deadline, Rate
from keyrotation_pipeline.model.environment import Problem
from keyrotation_pipeline.model.incidents import Contact, Incident
from keyrotation_pipeline.model.keys import KeyRecord, WrappingKeyOrigin
from keyrotation_pipeline.model.member_answers import MemberAnswer
from keyrotation_pipeline.model.members import some
from keyrotation_pipeline.model.pending import PendingReason
from keyrotation_pipeline.model.progress import PaceSet, TableProgress
from keyrotation_pipeline.model.request_events import Rehearsed
from keyrotation_pipeline.model.requests import WALK, PendingRequest, Request, RequestStatus, Walk
from keyrotation_pipeline.model.tables import EncryptedTable, TableCount


class Fault(StrEnum):
    """What is wrong with the ground on which everything else stands."""

    AUDIT = "audit"
    KEYS = "keys"
    APPLICATIONS = "applications"


SCHEMA = 1
SHOWN_FINGERPRINT_CHARS = 16
MINUTE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class TableStatus:
    """One declared table.

    Args:
        count: the last one; None: never counted.
        values_by_version: in order of version, with 0 for a registered version without values; empty if never counted.
        fenced_against: versions that the database now refuses.
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
            "identified_by": str(self.table.format.identified_by),
            "rows": count.rows if count else None,
            "values_by_version": {str(version): number for version, number in self.values_by_version.items()},
            "unencrypted": count.unencrypted if count else None,
            "unreadable": count.unreadable if count else None,
            "fenced_against": names(self.fenced_against),
            "counted_at": instant(count.counted_at) if count else None,
        }


@dataclass(frozen=True, slots=True)
class RotationStatus:
    """The rotation that is open.

    Args:
        phase: its present step, or its status before and after all steps.
        progress: 0 to 1.
        eta_seconds: the remaining time, without waits for people; None where it is not running.
        pending: why it does not proceed by itself, or why it is slower; None if it proceeds.
        at_work: whether a process works at one of its steps at this moment; not in the JSON.
        pace: what an operator has set; None: as configured, and not in the JSON.
        tables: progress of each table; not in the JSON.
    """

    walk: Walk
    phase: str
    approvals_required: int
    progress: float
    eta_seconds: int | None
    pending: PendingReason | None
    at_work: bool
    pace: PaceSet | None = None
    tables: tuple[TableProgress, ...] = ()

    @property
    def waiting_for(self) -> str | None:
        """The reason in words, and what helps."""
        return None if self.pending is None else self.pending.with_since

    @property
    def is_slowed(self) -> bool:
        """Whether a process works at it, though slower than it could, to leave the server to the application."""
        return self.at_work and self.pending is not None and self.pending.only_slows

    @property
    def step_in_words(self) -> str:
        """Its present step as people call it, with its number; or its status before and after all steps."""
        step = next((each for each in WALK if each == self.phase), None)
        return self.phase if step is None else f"step {WALK.index(step) + 1} of {len(WALK)}, {self.walk.label(step)}"

    @property
    def blocked_by(self) -> str | None:
        """What stopped the last attempt, unless that timed out: then `pending` says what is missing now."""
        return self.walk.failure

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
        carrier: its emergency request; None: there is none yet.
        clock: its stages, in order.
        pace: the rate needed against the rate measured, while rows are re-encrypted.
        at: the time of this status.
    """

    incident: Incident
    carrier: Request | None
    clock: tuple[Deadline, ...]
    pace: Rate | None
    at: datetime

    @property
    def is_rotated(self) -> bool:
        """Whether its emergency rotation has finished, so that only closing it is left."""
        return self.carrier is not None and self.carrier.status is RequestStatus.FINISHED

    @property
    def clock_in_words(self) -> str:
        """The next stage that is not reached, and the time left for it."""
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
            "stages": [each.as_json(self.at) for each in self.clock],
            "pace": str(self.pace) if self.pace else None,
        }


@dataclass(frozen=True, slots=True)
class LastRehearsal:
    """A rehearsal, and when it ran.

    Args:
        without: members of the fleet that were no part of it.
    """

    at: datetime
    rehearsed: Rehearsed
    without: tuple[str, ...] = ()

    @property
    def in_words(self) -> str:
        """Its result in words."""
        done = self.rehearsed
        if done.total_seconds is None:
            return f"{done.source} to {done.target} would stop at {done.findings[0].step}"
        without = f", without {some(self.without)}," if self.without else ""
        return (
            f"{done.source} to {done.target}{without} in {done.total_seconds:,.0f} s plus the rollouts; nothing "
            "stopped it"
        )

    def as_json(self) -> dict[str, Any]:
        """As `status --json` has it."""
        done = self.rehearsed
        seconds = done.total_seconds
        return {
            "at": instant(self.at),
            "request": done.request,
            "predicted_seconds": None if seconds is None else round(seconds, 1),
            "findings": [f"{each.step}: {each.sentence}" for each in done.findings],
            **({"without": list(self.without)} if self.without else {}),
        }


NO_BACKUP_KNOWN = "none is known to be complete now"


@dataclass(frozen=True, slots=True)
class Status:
    """The whole status.

    Args:
        database: its name and host; never a password.
        primary: None if the key store names none or cannot be read, as `attention` then says.
        last_backup: when the newest one that is complete in every place was made; None: none is known to be.
        last_backup_versions: the key versions that this backup holds, by its signed manifest.
        incidents: open ones.
        requests: those that are not over, newest first.
        attention: one sentence for each thing that is overdue, blocked or stale.
        members: of a fleet: the place of each, as officers signed it.
        answers: of a fleet: what each member answered when it was last asked.
        alerted: those of `attention` that have alerts of their own: of incidents and of failing applications.
        warnings: one for each future problem; they do not count for `--exit-code`.
        contacts: the emergency contact list of the configuration.
        backup_signer: fingerprint of the key of this home that signs backups; None: it has none.
        recovery_test_failed: when the last recovery test failed; None: it passed, or there was none.
        empty_versions: those without a value in any table, by counts that were taken since they could last be written.
        not_counted_since: those that became the primary after a table was last counted.
        next_rotation_rule: why it is due then, and what is not known about that.
        rehearsal: the newest one from the present primary; None: there is none.
        wrapping_key: where that of stored keys comes from; None: there is none, or it never said so.
        faults: of the audit, of the keys and the database, of applications: the first of each that `attention` has,
            too. Not in the JSON.
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
    backup_signer: str | None = None
    recovery_test_failed: datetime | None = None
    empty_versions: tuple[KeyVersion, ...] = ()
    not_counted_since: tuple[KeyVersion, ...] = ()
    alerted: frozenset[str] = frozenset()
    members: Mapping[str, str] = field(default_factory=dict)
    answers: Mapping[str, MemberAnswer] = field(default_factory=dict)
    wrapping_key: WrappingKeyOrigin | None = None
    faults: Mapping[Fault, str] = field(default_factory=dict)

    @property
    def other_requests(self) -> tuple[PendingRequest, ...]:
        """The requests other than the rotation."""
        return tuple(each for each in self.requests if not self.rotation or each.request.id != self.rotation.walk.id)

    @property
    def attention_in_short(self) -> tuple[str, ...]:
        """What needs attention, without the reason that stands with the rotation already."""
        if self.rotation is None:
            return self.attention
        pending = self.rotation.pending
        reasons = [each for each in (self.rotation.blocked_by, pending and str(pending)) if each]
        return tuple(_without_one_of(reasons, each) for each in self.attention)

    def _of_members(self) -> dict[str, Any]:
        asked = {
            name: {
                "asked_at": instant(each.asked_at),
                "answered_at": instant(each.answered_at),
                "problem": each.problem,
            }
            for name, each in self.answers.items()
        }
        return {"members": dict(self.members), "member_answers": asked}

    def as_json(self) -> dict[str, Any]:
        """The object of `status --json`, which programs read: a change of it is a new `schema`."""
        return {
            "schema": SCHEMA,
            "generated_at": instant(self.generated_at),
            "database": self.database,
            **(self._of_members() if self.members else {}),
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
            "backup_signer": self.backup_signer,
            "last_recovery_test": instant(self.last_recovery_test),
            "recovery_test_failed": instant(self.recovery_test_failed),
            "last_rehearsal": self.rehearsal.as_json() if self.rehearsal else None,
            **_of_wrapping_key(self.wrapping_key),
            "incidents_open": len(self.incidents),
            "incidents": [incident.as_json() for incident in self.incidents],
            "requests": [request.as_json() for request in self.requests],
            "contacts": [contact.as_json() for contact in self.contacts],
            "audit": {"seq": self.audit.seq, "head": self.audit.hash},
            "next_rotation_due": instant(self.next_rotation_due),
            "attention": list(self.attention),
            "warnings": list(self.warnings),
        }


def _of_wrapping_key(known: WrappingKeyOrigin | None) -> dict[str, Any]:
    if known is None:
        return {}
    said = {"origin": list(known.origin.said), "exposed": list(known.origin.exposed)}
    return {"wrapping_key": {"name": known.name, **said, "asked_at": instant(known.asked_at)}}


class Light(StrEnum):
    """Green: checked and good. Amber: for information, or not checked. Red: a request is refused, or cannot start."""

    GREEN = "green"
    AMBER = "amber"
    RED = "red"


@dataclass(frozen=True, slots=True)
class Check:
    """One item of the checklist.

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
    """A check that is good."""
    return Check(name, Light.GREEN, value)


def amber(name: str, value: str, do: str) -> Check:
    """A check for information, or one that could not be made."""
    return Check(name, Light.AMBER, value, do)


def red(name: str, value: str, do: str) -> Check:
    """A check to act on before a rotation is requested: most of these refuse the request, or stop its rotation."""
    return Check(name, Light.RED, value, do)


def _without_one_of(reasons: Iterable[str], message: str) -> str:
    reason = next((each for each in reasons if message.endswith(each)), "")
    return message.removesuffix(reason).rstrip(":; ") or message


def in_two(message: str) -> tuple[str, str]:
    """Split a sentence of this program: what is the case, and what to do about it."""
    value, _, do = message.partition("; ")
    return value, do


def without_repeats(messages: Iterable[str]) -> tuple[str, ...]:
    """Each message once, and none that another ends with, such as ``officer Ada: certificate ada.asc has expired``."""
    distinct = tuple(dict.fromkeys(messages))
    return tuple(each for each in distinct if not any(other.endswith(f": {each}") for other in distinct))


def of_problem(problem: Problem) -> Check:
    """A problem of the pre-flight as a check."""
    return Check(problem.check, Light.RED if problem.fatal else Light.AMBER, *in_two(problem.message))


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
        """The object of `preflight --json`, without database and time."""
        return {
            "ready": self.ready,
            "checks": [
                {"name": each.name, "light": str(each.light), "value": each.value, "do": each.do}
                for each in self.checks
            ],
        }


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The last tick of one sensor or schedule.

    Args:
        name: of the sensor or schedule.
        at: when it ran; for a schedule that never ran, since when it is expected to.
        stopped: sensors and schedules that it found switched off, with when it first did.
    """

    name: str
    at: datetime
    stopped: Mapping[str, datetime]
