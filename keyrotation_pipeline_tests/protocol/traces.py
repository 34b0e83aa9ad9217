"""Steps of an audit as the protocol has them: what kind of event follows in which state, without ids, hashes and times.

The explorer collects every step that it reaches into `transitions.txt`. Steps of real audits are looked up there.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from keyrotation_pipeline.audit.events import entry_of
from keyrotation_pipeline.audit.history import LedgerState
from keyrotation_pipeline.model.audit import AuditEvent, EventKind, Fact, Note
from keyrotation_pipeline.model.audit_state import AuditState
from keyrotation_pipeline.model.key_events import KeyRegistered, KeyStateChanged
from keyrotation_pipeline.model.request_events import (
    RequestOpened,
    RolloutConfirmed,
    SignatureAdded,
    StatusChanged,
    StepFinished,
)
from keyrotation_pipeline.model.requests import WALK, Request, RequestAction, RotationType, Walk

RELATION, BEYOND = (Path(__file__).with_name(name) for name in ("transitions.txt", "beyond.txt"))
_INIT = "init records it before any request, where the model begins"
_BACKUP = "backups and recovery tests change no key, request or roster"
_READING = "it says what was counted or read, and decides nothing"
_INCIDENT = "an incident opens requests, and these are modelled"
_PEOPLE = "a note for people"
# Kinds of events that the model leaves out, and why.
LEFT_OUT: Mapping[EventKind, str] = {
    EventKind.HOSTS_PINNED: _INIT,
    EventKind.MEMBER_JOINED: "`init` records a database that a signed rule covers; the model has one database",
    EventKind.HOME_NAMED: _INIT,
    EventKind.SERVER_SEEN: "a request says before it where the database runs; in the model that stays so",
    EventKind.BACKUP_KEY_PINNED: _INIT,
    EventKind.KEY_IMPORT_INTENDED: _INIT,
    EventKind.KEY_ACTIVATION_DECLARED: _INIT,
    EventKind.SOURCE_KEY_IMPORTED: _INIT,
    EventKind.ROSTER_KEEPING_INTENDED: "it comes before any step of any request, when the store names another owner",
    EventKind.KEY_LIST_DELIVERY_INTENDED: "somebody changed the application's list of keys; in the model nobody does",
    EventKind.KEYS_RESEAL_INTENDED: "the same keys under another wrapping key; the model has none",
    EventKind.KEYS_RESEALED: "as above",
    EventKind.WRAPPING_KEY_DESCRIBED: "as above",
    EventKind.BLOCKED: "any step may be refused, for reasons that the model lacks; it changes a sentence alone",
    EventKind.UNBLOCKED: "as above",
    EventKind.PROVEN_AGAIN: "somebody changed a fence after the proof; in the model nobody does",
    EventKind.PACE_SET: "how fast rows are re-encrypted",
    EventKind.KEY_RESTORE_INTENDED: "`restore-key` brings back a lost key; that of a rollback is within its first step",
    EventKind.KEY_RESTORED: "as above",
    EventKind.KEY_BACKED_UP: _BACKUP,
    EventKind.KEY_REPLACEMENT_PROPOSED: "`replace-key` is for a key that opens nothing; every key of the model does",
    EventKind.KEY_REPLACED: "as above",
    EventKind.BACKUP_SEALED: _BACKUP,
    EventKind.UNSIGNED_BACKUP_TRUSTED: _BACKUP,
    EventKind.BACKUP_MADE: _BACKUP,
    EventKind.BACKUP_INCOMPLETE: _BACKUP,
    EventKind.BACKUP_REKEY_INTENDED: _BACKUP,
    EventKind.BACKUP_REKEYED: _BACKUP,
    EventKind.BACKUPS_REMOVAL_INTENDED: _BACKUP,
    EventKind.BACKUPS_EXAMINED: _BACKUP,
    EventKind.RECOVERY_TEST_STARTED: _BACKUP,
    EventKind.RECOVERY_TEST_PASSED: _BACKUP,
    EventKind.RECOVERY_TEST_FAILED: _BACKUP,
    EventKind.RECOVERY_TEST_DUE: _BACKUP,
    EventKind.REHEARSAL_STARTED: _BACKUP,
    EventKind.REHEARSED: _BACKUP,
    EventKind.REHEARSAL_FAILED: _BACKUP,
    EventKind.DATABASE_RESTORE_INTENDED: _BACKUP,
    EventKind.DATABASE_RESTORED: _BACKUP,
    EventKind.SIGNING_BEGUN: _PEOPLE,
    EventKind.COUNTED: _READING,
    EventKind.COUNT_SKIPPED: _READING,
    EventKind.VALUES_DECRYPTED: _READING,
    EventKind.UNDECLARED_COLUMNS_SEARCHED: _READING,
    EventKind.PLAINTEXT_OUTSIDE_ROWS: _READING,
    EventKind.INCIDENT_OPENED: _INCIDENT,
    EventKind.FLAG_REPEATED: _INCIDENT,
    EventKind.FLAG_SET_ASIDE: _INCIDENT,
    EventKind.EMERGENCY_PREPARED: _INCIDENT,
    EventKind.INCIDENT_ACKNOWLEDGED: _INCIDENT,
    EventKind.INCIDENT_CLOSED: _INCIDENT,
    EventKind.INCIDENT_AMENDED: _INCIDENT,
    EventKind.NOTICE_SENT: _INCIDENT,
    EventKind.COMPARISON_STARTED: _INCIDENT,
    EventKind.COMPARISON_FAILED: _INCIDENT,
    EventKind.VALUES_COMPARED: _INCIDENT,
    EventKind.BREACH_ASSESSED: _INCIDENT,
    EventKind.ASSESSMENT_SIGNED: _INCIDENT,
    EventKind.RUN_FAILED: _PEOPLE,
    EventKind.ROLLBACK_POST_MORTEM: _PEOPLE,
    EventKind.REPORT_KEPT: _PEOPLE,
    EventKind.REPORT_WRITTEN: _PEOPLE,
    EventKind.AUDIT_TIMESTAMPED: _PEOPLE,
    EventKind.TIMESTAMP_FAILED: _PEOPLE,
    EventKind.CHECKPOINT_WITNESSED: _PEOPLE,
    EventKind.CHECKPOINT_REFUSED: _PEOPLE,
    EventKind.ALERT_DELIVERED: _PEOPLE,
    EventKind.CHANNEL_FAILED: _PEOPLE,
}


def abstract(state: AuditState, event: AuditEvent) -> str | None:
    """An event in the state before it, as one line; None: the model leaves it out."""
    if event.kind in LEFT_OUT:
        return None
    entry = entry_of(event)
    fact = entry.fact()
    if isinstance(fact, RequestOpened):
        return " | ".join((entry.kind, _kind(fact), _states(state, fact), _unfinished(state)))
    request = state.requests.get(entry.request or "")
    parts = [f"{entry.kind} {_detail(state, request, fact)}".rstrip()]
    return " | ".join([*parts, *(_described(state, request) if request else ())])


def steps(state: LedgerState, later: Iterable[AuditEvent], found: Callable[[str], Any]) -> LedgerState:
    """Replays later events as `LedgerState.apply` does, and calls `found` with each modelled step."""
    after = copied(state)
    for event in later:
        step = abstract(after, event)
        deque(after.read((event,)), maxlen=0)
        if step is not None and event.seq not in after.refused:
            found(step)
    return after


def copied(state: LedgerState) -> LedgerState:
    """The same, to be changed on its own."""
    parts = {each.name: getattr(state, each.name) for each in fields(state)}
    return LedgerState(**{name: part.copy() if hasattr(part, "copy") else part for name, part in parts.items()})


@cache
def relation() -> frozenset[str]:
    """Every step that the explorer has reached."""
    return frozenset(RELATION.read_text().splitlines())


@cache
def beyond() -> frozenset[str]:
    """Steps of tests that lie beyond the bounds in which the explorer has searched; one that it reaches goes."""
    return frozenset(line for line in BEYOND.read_text().splitlines() if not line.startswith("#"))


def _detail(state: AuditState, request: Request | None, fact: Fact | Note | None) -> str:
    detail = ""
    match fact:
        case StatusChanged():
            detail = f"to {fact.after}{' by another request' if fact.by else ''}"
        case StepFinished():
            detail = f"{fact.step}{' shard' if fact.table else ''}"
        case KeyStateChanged():
            detail = f"{_role(request, fact.version)} {fact.before} to {fact.after}"
        case KeyRegistered():
            detail = f"{_role(request, fact.version)} as {fact.state}"
        case RolloutConfirmed():
            detail = str(fact.rollout)
        case SignatureAdded() if request is not None and state.roster is not None:
            enough = len({*request.approvals, fact.officer}) >= state.roster.required
            detail = "the last one needed" if enough else "and more are needed"
    return detail


def _role(request: Request | None, version: object) -> str:
    if request is None:
        return "a version"
    return {request.source: "source", request.target: "target"}.get(version, "another version")  # type: ignore[call-overload,no-any-return]


def _described(state: AuditState, request: Request) -> list[str]:
    parts = [f"{_kind(request)}, {request.status}, {_signed(state, request)}"]
    if isinstance(request, Walk):
        parts.append(_progress(request))
    if isinstance(request, Walk) or request.action is RequestAction.DESTROY:
        parts.append(_states(state, request))
    return parts


def _kind(request: Request | RequestOpened) -> str:
    # What decrypts takes the steps of a rollback, and differs from one in rows alone.
    action = RequestAction.ROLLBACK if request.action is RequestAction.DECRYPT else request.action
    kind = "emergency" if request.type is RotationType.EMERGENCY else str(action)
    return f"{kind} that supersedes" if request.supersedes else kind


def _states(state: AuditState, request: Request | RequestOpened) -> str:
    states = (state.keys[each].state if each in state.keys else "none" for each in (request.source, request.target))
    return "source {}, target {}".format(*states)


def _signed(state: AuditState, request: Request) -> str:
    roster = state.roster_of(request.id)
    officers = {each.fingerprint for each in roster.officers} if roster else set[str]()
    is_signed = roster is not None and len(officers.intersection(request.approvals)) >= roster.required
    return "signed" if is_signed else "not signed"


def _progress(walk: Walk) -> str:
    done = [step for step in WALK if walk.done(step) is not None]
    return f"after {done[-1]}" if done else "before its first step"


def _unfinished(state: AuditState) -> str:
    walks = [each for each in state.requests.values() if isinstance(each, Walk) and not each.is_over]
    return f"next to {len(walks)} unfinished" if walks else "alone"
