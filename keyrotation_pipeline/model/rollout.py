"""The three rollouts of a walk, and what precedes them: what every instance is brought to, and what is lacking."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from keyrotation_pipeline.fieldcrypto.environment import PRIMARY_VARIABLE
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.instances import Instance

# What applications have to do, as everybody who asks for a rotation is told.
LINES_OF_CODE = (
    "from keyrotation_pipeline.encrypted_type import attest",
    "attest(engine, key_ring)  # once a process, with its SQLAlchemy engine and what EncryptedType was given",
)


# What an application does that does not wait for a new primary to be named.
CHOOSES_ITSELF = (
    "one that chooses its key itself, as in section 4.2 of the source procedure, writes under the new key as soon as "
    "it gets it"
)


class RolloutMode(StrEnum):
    """How it is known that a rollout is done, as `[rollout] mode` names it."""

    ATTEST = "attest"
    KUBERNETES = "kubernetes"
    CONFIRM = "confirm"
    NONE = "none"

    def rule(self, source: KeyVersion, target: KeyVersion, workloads: Sequence[str] = ()) -> str:
        """What officers sign about it, in words.

        Args:
            workloads: that the rollout itself gives new Pods to.
        """
        match self:
            case RolloutMode.KUBERNETES:
                return (
                    f"kubernetes: {', '.join(workloads)} get a new Pod template for each rollout; writes move to "
                    f"{target} only when every Pod that gets the keys was started with {target}, terminating ones "
                    f"included, and every instance that reports itself reads it; {source} is archived when all are "
                    "without it"
                )
            case RolloutMode.ATTEST:
                return (
                    f"attest: {target} is made only when an application instance reports, and every one that does "
                    f"names its primary; writes move to {target} only when every application instance reports that it "
                    f"reads {target}, by calling attest(engine, key_ring) of keyrotation_pipeline.encrypted_type; "
                    "where none reports, or one fell silent, an officer confirms it by signature"
                )
            case RolloutMode.CONFIRM:
                return (
                    f"confirm: an officer confirms by signature that every application instance reads {target}, then "
                    f"that every one writes {target}, then that every one is without {source}; each is waited for"
                )
            case RolloutMode.NONE:
                return (
                    f"none: nobody is asked whether applications read {target} before writes move to it; an instance "
                    "that does not fails from then on"
                )


class Aim(StrEnum):
    """Which of the three rollouts it is, or what precedes them, as a confirmation names it."""

    NAMES = "names"
    READS = "reads"
    WRITES = "writes"
    WITHOUT = "without"


@dataclass(frozen=True, slots=True)
class Goal:
    """What one rollout brings every application instance to.

    Args:
        versions: the one that is read, or written; or those that are let go; or the primary before the new key.
    """

    aim: Aim
    versions: tuple[KeyVersion, ...]

    def met_by(self, instance: Instance) -> bool:
        """Whether an instance had reached the goal when it last reported itself; one that never did had not."""
        if instance.writes is None:
            return False
        match self.aim:
            case Aim.NAMES:
                return instance.names_primary
            case Aim.READS:
                return set(self.versions) <= set(instance.reads)
            case Aim.WRITES:
                return instance.writes in self.versions
            case Aim.WITHOUT:
                return not set(self.versions) & {*instance.reads, instance.writes}

    def statement(self) -> str:
        """What is then true of every instance: ``reads v2``, ``writes v2``, ``is without v1``."""
        versions = ", ".join(map(str, self.versions))
        if self.aim is Aim.NAMES:
            return f"writes {versions} for as long as {versions} is named as the primary, whatever newer key it gets"
        verb = {Aim.READS: "reads", Aim.WRITES: "writes", Aim.WITHOUT: "is without"}[self.aim]
        return f"{verb} {versions}"

    def __str__(self) -> str:
        versions = ", ".join(map(str, self.versions))
        if self.aim is Aim.NAMES:
            return "name its primary"
        verb = {Aim.READS: "read", Aim.WRITES: "write", Aim.WITHOUT: "be without"}[self.aim]
        return f"{verb} {versions}"


@dataclass(frozen=True, slots=True)
class Gone:
    """A silent instance that an officer says has ended: by the report that was its last."""

    name: str
    reported_at: datetime

    @classmethod
    def of(cls, instances: Iterable[Instance]) -> tuple["Gone", ...]:
        """Those of the instances that are silent, by name."""
        silent = (instance for instance in instances if instance.silent)
        return tuple(cls(each.name, each.reported_at) for each in sorted(silent, key=lambda each: each.name))


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What officers confirmed of one rollout, every signature verified just now.

    Args:
        officers: names; empty: nobody has confirmed it.
        gone: the silent instances that are known to have ended.
    """

    officers: tuple[str, ...] = ()
    gone: frozenset[Gone] = field(default_factory=frozenset)


@dataclass(frozen=True, slots=True)
class Lack:
    """What keeps a rollout from being done; false when it is done.

    Args:
        lagging: instances that report, and report something else than the goal.
        silent: instances that may still run, and of which nobody knows.
        unseen: no instance reports, and no officer has confirmed.
        unconfirmed: an officer has to confirm, and none has.
    """

    lagging: tuple[Instance, ...] = ()
    silent: tuple[Instance, ...] = ()
    unseen: bool = False
    unconfirmed: bool = False

    def __bool__(self) -> bool:
        return bool(self.lagging or self.silent or self.unseen or self.unconfirmed)


def lack_of(goal: Goal, mode: RolloutMode, instances: Sequence[Instance], confirmation: Confirmation) -> Lack:
    """Judge a rollout by what is seen of the instances, and by what officers confirmed.

    An instance that reports that it lags is believed in every mode: no signature makes it read a key. How an instance
    chooses its primary is a matter of its code: before the key is made, one that is silent and chose well is not waited
    for beside one that reports.
    """
    alive = [instance for instance in instances if not instance.silent]
    lagging = tuple(instance for instance in alive if not goal.met_by(instance))
    if mode is RolloutMode.NONE:
        return Lack(lagging)
    confirmed = bool(confirmation.officers)
    known = goal.aim is Aim.NAMES and bool(alive)
    silent = tuple(
        each
        for each in instances
        if each.silent
        and Gone(each.name, each.reported_at) not in confirmation.gone
        and not (known and goal.met_by(each))
    )
    return Lack(
        lagging,
        silent,
        unseen=mode is not RolloutMode.CONFIRM and not alive and not silent and not confirmed,
        unconfirmed=mode is RolloutMode.CONFIRM and not confirmed,
    )


def sentence_of(lack: Lack, goal: Goal, request: str) -> str:
    """What is waited for, and what to type; one sentence."""
    confirm = f"`{confirming(request)}`"
    parts = []
    if lack.lagging:
        named = ", ".join(f"{each.name} ({_reported(each, goal)})" for each in lack.lagging)
        parts.append(f"{named}: not seen to {goal}; {_remedy(goal)}")
    if lack.silent:
        named = ", ".join(f"{each.name} (last heard of {_minute(each.reported_at)} UTC)" for each in lack.silent)
        parts.append(f"{named}: silent, and not known to have ended; when it has, an officer says so with {confirm}")
    if lack.unseen:
        parts.append(
            f"no application instance reports itself, which does not show that every one {goal.statement()}"
            f"{_otherwise(goal)}; have each call attest(engine, key_ring) of keyrotation_pipeline.encrypted_type, or "
            f"let an officer confirm it: {confirm}"
        )
    if lack.unconfirmed:
        parts.append(f"no officer has confirmed yet that every application instance {goal.statement()}; {confirm}")
    return f"{'; '.join(parts)}{_then(request)}"


def awaits(sentence: str, request: str) -> bool:
    """Whether a sentence is of `sentence_of`: somebody is awaited, and nothing has failed."""
    return sentence.endswith(_then(request))


def _then(request: str) -> str:
    return f"; then run `keyrotation rotate {request}`"


def confirming(request: str) -> str:
    """What an officer types to confirm a rollout."""
    return f"keyrotation confirm {request} --text | gpg -ab | keyrotation confirm {request} --signature -"


def _remedy(goal: Goal) -> str:
    if goal.aim is Aim.NAMES:
        return (
            f"name {', '.join(map(str, goal.versions))} where it gets its keys ({PRIMARY_VARIABLE}, or for a plain key "
            "in AWS `keyrotation init --convert`), and reload or restart it"
        )
    return "reload or restart what lags"


def _otherwise(goal: Goal) -> str:
    """What the new key would lead to if it were made now."""
    return f" ({CHOOSES_ITSELF})" if goal.aim is Aim.NAMES else ""


def _reported(instance: Instance, goal: Goal) -> str:
    if instance.writes is None:
        return "not known what it reads"
    if goal.aim is Aim.NAMES:
        return f"writes {instance.writes}, and does not report that as a named primary"
    if goal.aim is Aim.WRITES:
        return f"writes {instance.writes}"
    return f"reads {', '.join(map(str, instance.reads))}"


def _minute(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M}"
