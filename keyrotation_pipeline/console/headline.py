"""The one sentence of the console: what the state is, who or what is waited for, and the command that helps."""

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial

from keyrotation_pipeline.model.audit import utc_minute
from keyrotation_pipeline.model.pending import PendingReason
from keyrotation_pipeline.model.progress import about_left
from keyrotation_pipeline.model.requests import (
    WALK,
    PendingRequest,
    Request,
    RequestAction,
    RequestStatus,
    Step,
    Walk,
    with_short_ids,
)
from keyrotation_pipeline.model.status import Fault, OpenIncident, RotationStatus, Status, in_two

SHOWN_AS_FINISHED = timedelta(days=1)
STEP_NAMES = {
    Step.KEY_VERSION: "makes and backs up the new key",
    Step.DUAL_KEY_ROLLOUT: "brings the new key to every instance",
    Step.PRIMARY_KEY_ROLLOUT: "moves writes to the new key",
    Step.ROWS: "re-encrypts rows",
    Step.ZERO_OLD_ROWS_PROOF: "proves that no old value is left",
    Step.RETIRED_KEY: "retires the old key",
    Step.ARCHIVED_KEY: "archives the old key",
    Step.KEY_ROTATION_AUDIT: "completes the audit record",
    Step.COMPLIANCE_REPORT: "writes the report",
}


class Tone(StrEnum):
    """How urgent a state is; each has a mark and a word of its own, besides its colour."""

    CALM = "calm"
    WORKING = "working"
    WAITING = "waiting"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Headline:
    """What is the case now.

    Args:
        sentence: of at most 25 words or so, without a command.
        command: what to type next; None: nothing is to be done by hand.
        do: what to do, where that is more than the command; with backticks around commands.
        of: the message of the status that says just this.
        detail: the whole sentence of `keyrotation status`, where it says more than the short one and the command.
    """

    tone: Tone
    sentence: str
    command: str | None = None
    detail: str | None = None
    do: str | None = None
    of: str | None = None

    @property
    def next(self) -> str | None:
        """What to do, in words where there are some; None: nothing is to be done by hand."""
        return self.do or (None if self.command is None else f"`{self.command}`")


def headline(status: Status, last: Request | None) -> Headline:
    """The sentence for a status.

    Args:
        last: the request that ended last; it is news for a day.
    """
    said = _headline(status, last)
    command = None if said.command is None else with_short_ids(said.command)
    sentence = with_short_ids(said.sentence)
    do = with_short_ids(said.do) if said.do else None
    return replace(said, sentence=sentence, command=command, detail=_further(said.detail, sentence, command), do=do)


# What joins a command to a sentence.
_JOINTS = frozenset({"do", "it", "with", "run", "sign", "continue", "then", "by", "since", "utc"})


def _further(detail: str | None, sentence: str, command: str | None) -> str | None:
    """The whole sentence; None where all its words stand in the short one and in the command."""
    if detail is None:
        return None
    known = _JOINTS.union(*(_words_of(each) for each in (sentence, command or "")))
    return None if _words_of(with_short_ids(detail)) <= known else detail


def _words_of(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


def _headline(status: Status, last: Request | None) -> Headline:
    return next((said for each in _FIRST if (said := each(status)) is not None), None) or _idle(status, last)


def _fault(kind: Fault, status: Status) -> Headline | None:
    return _of_sentence(Tone.FAILED, status.faults[kind]) if kind in status.faults else None


def _incident(status: Status) -> Headline | None:
    """One that nobody deals with yet; the rotation under way is the answer to the others."""
    walk = None if status.rotation is None else status.rotation.walk.id
    awaited = (each for each in status.incidents if each.carrier is None or each.carrier.id != walk)
    return _about_incident(status, next((each for each in awaited if not each.is_rotated), None))


def _incident_to_close(status: Status) -> Headline | None:
    return _about_incident(status, next((each for each in status.incidents if each.is_rotated), None))


def _about_incident(status: Status, shown: OpenIncident | None) -> Headline | None:
    if shown is None:
        return None
    said = f"Incident {shown.incident.id} is open: {_next_stage(shown)}."
    return _of_sentence(Tone.FAILED, _about(status.attention, shown.incident.id) or said, said)


def _walk(status: Status) -> Headline | None:
    return None if status.rotation is None else _of_rotation(status, status.rotation)


def _request(status: Status) -> Headline | None:
    return _unsigned(status.other_requests[0]) if status.other_requests else None


def _attention(status: Status) -> Headline | None:
    return _of_sentence(Tone.FAILED, status.attention[0]) if status.attention else None


# What somebody must know first, at night: whether the records can be believed, since whoever forged them may ask for
# signatures; whether keys and database belong together, since everything is refused until they do; whether
# applications fail; then what has a deadline.
_FIRST: Sequence[Callable[[Status], Headline | None]] = (
    partial(_fault, Fault.AUDIT),
    partial(_fault, Fault.KEYS),
    partial(_fault, Fault.APPLICATIONS),
    _incident,
    _walk,
    _incident_to_close,
    _request,
    _attention,
)


def _since(reason: PendingReason | None) -> str:
    return "" if reason is None or reason.since is None else f", since {utc_minute(reason.since)}"


def _next_stage(shown: OpenIncident) -> str:
    """With a date instead of the time left, which would be another each minute."""
    due = next((each for each in shown.clock if each.reached_at is None), None)
    if due is None:
        return "every stage is reached"
    return f"it is to be {due.stage.replace('_', ' ')} by {utc_minute(due.due_at)}"


def _of_rotation(status: Status, rotation: RotationStatus) -> Headline:
    walk = rotation.walk
    name = _named(walk)
    if rotation.blocked_by:
        (short, command), (_, do) = _short(rotation.blocked_by), in_two(rotation.blocked_by)
        said = f"{name} stopped at {_step(rotation)}: {short}."
        return Headline(Tone.FAILED, said, command or _rotate(walk), rotation.blocked_by, do or None)
    if walk.status is RequestStatus.PAUSED:
        since = _since(rotation.pending)
        return Headline(Tone.WAITING, f"{name} is paused{since}.", f"keyrotation resume {walk.id}")
    pending = next((each for each in status.requests if each.request.id == walk.id), None)
    if walk.started_at is None and pending is not None and len(pending.signed_by) < pending.required:
        return _to_sign(name, pending)
    if (reason := rotation.pending) is not None and not rotation.is_slowed:
        said = f"{name} waits: {reason.why}{_since(reason)}."
        command = _command_about(walk, reason.to_do) or _rotate(walk)
        return Headline(Tone.WAITING, said, command, rotation.waiting_for, reason.to_do or None)
    left = about_left(rotation.eta_seconds)
    doing = STEP_NAMES[Step(rotation.phase)] if rotation.phase in set(Step) else "is about to start"
    if not rotation.at_work:
        return Headline(Tone.WAITING, f"{name}: {_step(rotation)} is next; no process works at it now.", _rotate(walk))
    far = (
        f"{rotation.progress:.0%} of the walk"
        if rotation.tables == () or rotation.phase != Step.ROWS
        else _rows(rotation)
    )
    how = ", slower than it could" if reason is not None else ""
    return Headline(
        Tone.WORKING, f"{name} {doing}: {far}{left}{how}.", f"keyrotation pause {walk.id}", rotation.waiting_for
    )


def _step(rotation: RotationStatus) -> str:
    """The step under way, or the first, as the steps of the page call it."""
    step = next((each for each in WALK if each == rotation.phase), WALK[0])
    return f"“{rotation.walk.label(step)}”"


def _rows(rotation: RotationStatus) -> str:
    return f"{sum(each.share for each in rotation.tables) / len(rotation.tables):.0%} of the pages"


def _to_sign(name: str, pending: PendingRequest) -> Headline:
    """Whom a request waits for; the command is that of one officer."""
    missing, more = pending.missing, pending.required - len(pending.signed_by)
    if len(missing) == more:
        named = " and ".join(f"the {each}" if each.endswith("Officer") else each for each in missing)
    else:
        named = f"{more} {'signature' if more == 1 else 'signatures'} ({', '.join(missing[:-1])} or {missing[-1]})"
    since = utc_minute(pending.request.requested_at)
    return Headline(Tone.WAITING, f"{name} waits for {named}, requested {since}.", _approve(pending))


def _unsigned(pending: PendingRequest) -> Headline:
    request = pending.request
    asked = _ASKED[request.action].format(request.source)
    if len(pending.signed_by) < pending.required:
        return _to_sign(asked, pending)
    return Headline(Tone.WAITING, f"{asked} is signed, and not carried out yet.")


_ASKED = {
    RequestAction.ROTATE: "The rotation of {}",
    RequestAction.ROLLBACK: "The rollback of {}",
    RequestAction.DECRYPT: "The decryption of {}",
    RequestAction.RECONCILE: "The reconciliation",
    RequestAction.DESTROY: "The destruction of {}",
    RequestAction.POLICY: "The change of policy",
    RequestAction.REPLACE_KEY: "The replacement of {}",
}


def is_news(last: Request, now: datetime) -> bool:
    """Whether a request has finished within a day."""
    ended = last.finished_at if last.status is RequestStatus.FINISHED else None
    return ended is not None and now - ended < SHOWN_AS_FINISHED


def _idle(status: Status, last: Request | None) -> Headline:
    due = status.next_rotation_due
    then = "" if due is None else f" The next rotation is due by {due:%-d %B %Y}."
    if isinstance(last, Walk) and is_news(last, status.generated_at):
        ended = utc_minute(last.finished_at or status.generated_at)
        return Headline(Tone.CALM, f"{_named(last)} finished at {ended}.{then}", "keyrotation report")
    return Headline(Tone.CALM, f"Nothing to do. {status.primary} is the primary key.{then}")


def _of_sentence(tone: Tone, sentence: str, otherwise: str | None = None) -> Headline:
    (short, command), (_, do) = _short(sentence), in_two(sentence)
    of = sentence if otherwise is None else None
    return Headline(tone, otherwise or f"{short[:1].upper()}{short[1:]}.", command, sentence, do or None, of)


def _about(sentences: tuple[str, ...], name: str) -> str | None:
    return next((each for each in sentences if name in each), None)


def _short(sentence: str) -> tuple[str, str | None]:
    """The first part of a sentence, and the first command in it."""
    value, _ = in_two(sentence)
    return value.replace("`", ""), next(iter(_commands_in(sentence)), None)


def _commands_in(sentence: str) -> list[str]:
    return [part for part in sentence.split("`")[1::2] if part.startswith("keyrotation ")]


def _command_about(walk: Walk, do: str) -> str | None:
    """The first command that names the request, since a page of the docs helps nobody at night; else the first one."""
    commands = _commands_in(do)
    return next((each for each in commands if walk.id in each), next(iter(commands), None))


def _named(walk: Walk) -> str:
    kind = {"emergency": "Emergency ", "rollback": "Rollback ", "decrypt": "Decryption "}.get(walk.kind, "")
    return f"{kind}{walk.source} → {walk.target}"


def _rotate(walk: Walk) -> str:
    return f"keyrotation rotate {walk.id}"


def _approve(pending: PendingRequest) -> str:
    """What shows an officer the text, then how to sign it, by OpenPGP or SSH."""
    return f"keyrotation approve {pending.request.id} --as {shlex.quote(pending.missing[0])}"
