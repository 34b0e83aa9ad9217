"""Why a request does not proceed: who is waited for, why, since when, and what helps."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Self

from keyrotation_pipeline.fieldcrypto.keyring import PRIMARY_VARIABLE
from keyrotation_pipeline.model.audit import utc_minute, utc_second
from keyrotation_pipeline.model.fleet import Confirmation, Gone, Instance, RolloutMode, RolloutTarget, TargetKind

MOST_WORDS = 25
# How a shard begins the note that it goes on, though with longer rests.
GOING_SLOWER = "going slower"
_COMMAND = re.compile("`[^`]*`")


class PendingCode(StrEnum):
    """The kinds of reasons, for metrics and for programs."""

    APPROVALS = "approvals"
    CONFIRMATION = "confirmation"
    INSTANCES = "instances"
    SILENT_INSTANCES = "silent_instances"
    NO_INSTANCES = "no_instances"
    UNREACHABLE = "unreachable"
    PEOPLE = "people"
    PAUSED = "paused"
    NOT_BEFORE = "not_before"
    EXPIRED = "expired"
    OVER = "over"
    EMERGENCY = "emergency"
    INCIDENT = "incident"
    CANNOT_START = "cannot_start"
    NEWER_VERSION = "newer_version"
    CHANGED = "changed"
    INCONSISTENT = "inconsistent"
    DATABASE = "database"
    SLOWED = "slowed"
    CLUSTER = "cluster"


_OF_APPLICATIONS = frozenset(
    {PendingCode.CONFIRMATION, PendingCode.INSTANCES, PendingCode.SILENT_INSTANCES, PendingCode.NO_INSTANCES}
)


@dataclass(frozen=True, slots=True)
class PendingReason:
    """Why a request does not proceed by itself now.

    Args:
        who: who or what is waited for, such as ``officers``.
        why: what is the case.
        do: the command that helps, or what to do; empty: nothing helps but time. Together with `why` and `then` it has
            at most `MOST_WORDS` words, commands apart.
        since: None: not known.
        then: what else to do, with what joins it to that, where nobody waits for it any more.
        details: what else there is to say, for who asks.
    """

    code: PendingCode
    who: str
    why: str
    do: str = ""
    since: datetime | None = None
    details: str = ""
    then: str = ""

    @classmethod
    def of(cls, code: PendingCode, who: str, message: str) -> Self:
        """A reason from a message of this program, which says what is the case, then what to do about it."""
        why, _, do = message.partition("; ")
        return cls(code, who, why, do)

    def __str__(self) -> str:
        return f"{self.while_waiting}{self.then}"

    @property
    def while_waiting(self) -> str:
        """The reason in words, and what helps, while something waits for it."""
        return f"{self.why}; {self.do}" if self.do else self.why

    @property
    def to_do(self) -> str:
        """What helps, and what to do then."""
        return f"{self.do}{self.then}"

    @property
    def with_since(self) -> str:
        """The reason with the time since when, where that is known."""
        return str(self) if self.since is None else f"{self} (since {utc_second(self.since)})"

    @property
    def only_slows(self) -> bool:
        """Whether everything that is waited for goes on, though slower."""
        return self.code is PendingCode.SLOWED

    @property
    def is_of_applications(self) -> bool:
        """Whether a rollout waits for instances, or for an officer who confirms it."""
        return self.code in _OF_APPLICATIONS


of_cluster = partial(PendingReason.of, PendingCode.CLUSTER, "the cluster")


def pending_rollout(
    target: RolloutTarget,
    mode: RolloutMode,
    instances: Sequence[Instance],
    confirmation: Confirmation,
    request: str,
    nonces: Collection[str] | None = None,
) -> PendingReason | None:
    """What a rollout waits for, by the instances' reports and the officers' confirmations; None: it is done.

    Args:
        nonces: an instance's own report must name one of these, to be newer than the rollout's beginning; None: any.

    A report that an instance lags counts in every mode: no signature makes it read a key. How an instance chooses its
    primary depends on its code: before the key is made, a silent one that chose correctly is not waited for if another
    one reports.
    """
    if mode is RolloutMode.SERVER:
        return None  # no instance has a key that it could report
    alive = [instance for instance in instances if not instance.silent]
    if lagging := [each for each in alive if not target.met_by(each) or _is_older(each, nonces)]:
        return _lagging(lagging, target, request)
    if mode is RolloutMode.NONE:
        return None
    known = target.kind is TargetKind.NAMES and bool(alive)
    silent = [
        each
        for each in instances
        if each.silent
        and Gone(each.name, each.reported_at) not in confirmation.gone
        and not (known and target.met_by(each))
    ]
    if silent:
        return _silent(silent, request)
    if confirmation.officers or (alive and mode is not RolloutMode.CONFIRM):
        return None
    return _unconfirmed(target, request) if mode is RolloutMode.CONFIRM else _no_instances(target, request)


def paused_sentence(request: str) -> str:
    """What ends an attempt while the request is paused."""
    return f"rotation {request} was paused; continue with `keyrotation resume {request}`"


def _is_older(instance: Instance, nonces: Collection[str] | None) -> bool:
    """Whether a report may have been prepared before the request was opened, or before the key store changed."""
    return instance.nonce is not None and nonces is not None and instance.nonce not in nonces


def _lagging(lagging: Sequence[Instance], target: RolloutTarget, request: str) -> PendingReason:
    named = [f"{each.name} ({_reported(each, target)})" for each in lagging]
    rest, do, then = f": not seen to {target}", _remedy(target), _then(request)
    why, details = _with_names(named, rest, f"{do}{then}"), f"{'; '.join(named)}{rest}"
    return PendingReason(PendingCode.INSTANCES, "instances", why, do, details=details, then=then)


def _silent(silent: Sequence[Instance], request: str) -> PendingReason:
    named = [f"{each.name} (last report {utc_minute(each.reported_at)})" for each in silent]
    rest, then = ": silent, and not known to have ended", _then(request)
    do = f"let an officer confirm its end: `keyrotation confirm {request}`"
    why, details = _with_names(named, rest, f"{do}{then}"), f"{'; '.join(named)}{rest}"
    return PendingReason(PendingCode.SILENT_INSTANCES, "instances", why, do, details=details, then=then)


def _no_instances(target: RolloutTarget, request: str) -> PendingReason:
    return PendingReason(
        PendingCode.NO_INSTANCES,
        "instances",
        "no application instance reports itself",
        f"add `attest()` (`keyrotation docs applications`), or `keyrotation confirm {request}`",
        details=f"{_required(target)}; that none reports itself does not prove it",
        then=_then(request),
    )


def _unconfirmed(target: RolloutTarget, request: str) -> PendingReason:
    return PendingReason(
        PendingCode.CONFIRMATION,
        "officers",
        f"no officer has confirmed yet that every application instance {_is_there(target)}",
        f"`keyrotation confirm {request}`",
        details=_required(target),
        then=_then(request),
    )


def _is_there(target: RolloutTarget) -> str:
    return "names its primary" if target.kind is TargetKind.NAMES else target.statement()


def _required(target: RolloutTarget) -> str:
    return f"what must be true: every application instance {target.statement()}"


def words(text: str) -> int:
    """How many words a text has, apart from the commands in it."""
    return len(_COMMAND.sub("", text).split())


def _with_names(named: Sequence[str], rest: str, do: str) -> str:
    """As many names as leave the sentence short enough, and how many more there are; at least one."""
    number = len(named)
    shown: list[str] = []
    for name in named:
        if shown and words(f"{', '.join([*shown, name])} and {number} more{rest}; {do}") > MOST_WORDS:
            break
        shown.append(name)
    more = f" and {number - len(shown)} more" if number > len(shown) else ""
    return f"{', '.join(shown)}{more}{rest}"


def _then(request: str) -> str:
    return f"; then run `keyrotation rotate {request}`"


def _remedy(target: RolloutTarget) -> str:
    if target.begun:
        return "deploy what reads both (`keyrotation docs plaintext`), or reload what lags"
    if target.kind is not TargetKind.NAMES:
        return "reload or restart what lags"
    primary = ", ".join(map(str, target.versions))
    return f"set {PRIMARY_VARIABLE}={primary} (a plain key in AWS: `keyrotation init --convert`) and restart it"


_BEGINNINGS = {TargetKind.WRITES: "the primary was changed", TargetKind.WITHOUT: "the key was withdrawn"}


def _lacking(instance: Instance, target: RolloutTarget) -> str:
    """What an instance that reads the target lacks of reading the old form, too."""
    if others := ", ".join(each for each in target.begun if target.differs(instance, each)):
        return f"another legacy of {others} than is declared, or another key"
    wanted = "" if target.before is None else f"={target.before.number}"
    return f"no encrypted_from{wanted} for {', '.join(target.begun)}"


def _reported(instance: Instance, target: RolloutTarget) -> str:
    if instance.writes is None or instance.unproven:
        return instance.problem or "not known what it reads"
    if target.met_by(instance):
        return f"no report since {_BEGINNINGS.get(target.kind, 'this request was opened')}"
    if target.kind is TargetKind.NAMES:
        return f"writes {instance.writes}, and does not report that as a named primary"
    if target.kind is TargetKind.WRITES:
        return f"writes {instance.writes}"
    if target.begun and set(target.versions) <= set(instance.reads):
        return f"reports {_lacking(instance, target)}"
    return f"reads {', '.join(map(str, instance.reads))}"
