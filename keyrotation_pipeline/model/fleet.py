"""Application instances, the rollouts of a rotation, and reads that fail to decrypt."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import PRIMARY_VARIABLE
from keyrotation_pipeline.model.audit import utc_minute


@dataclass(frozen=True, slots=True)
class Decrypted:
    """What an instance still decrypted under a version that it no longer writes: how often, and when last."""

    version: KeyVersion
    values: int
    last_at: datetime


@dataclass(frozen=True, slots=True)
class Failed:
    """What an instance could not decrypt.

    Args:
        version: as the values name it; ``none``: they name none.
        minutes: how many in each minute, by its beginning.
    """

    version: str
    values: int
    last_at: datetime
    minutes: Mapping[datetime, int]


@dataclass(frozen=True, slots=True)
class Pod:
    """The Pod of Kubernetes that an instance runs in, as the downward API names it."""

    namespace: str
    uid: str


@dataclass(frozen=True, slots=True)
class Instance:
    """One application instance as it was last seen.

    Args:
        reads: proven to be held, where the instance reports itself; none: not known.
        writes: None: not known.
        reported_at: aware, by the clock of the database.
        silent: it has not reported for so long that it may have ended, or may still run.
        names_primary: it reports that it writes the primary that was named to it. False: it writes the only key that
            it has, or it does not report this.
        unproven: versions that a report names without proof that the instance holds them.
        nonce: what the database asked the report to name: the hash of the newest event that opened a request or
            followed a change of the key store; None: it does not report.
        problem: why a report of it does not count, or not for each of its versions, with the number of the row.
    """

    name: str
    reads: tuple[KeyVersion, ...]
    writes: KeyVersion | None
    reported_at: datetime
    silent: bool = False
    decrypted: tuple[Decrypted, ...] = ()
    failed: tuple[Failed, ...] = ()
    names_primary: bool = True
    unproven: tuple[KeyVersion, ...] = ()
    nonce: str | None = None
    pod: Pod | None = None
    problem: str | None = None


# What applications have to do, as shown to whoever requests a rotation.
LINES_OF_CODE = (
    "from keyrotation_pipeline.encrypted_type import attest",
    "attest(engine, key_ring)  # once per process; the type's key ring",
)


# What an application does if it does not wait for a new primary to be named.
CHOOSES_ITSELF = (
    "one that chooses its key itself, as in section 4.2 of the source procedure, writes under the new key as soon as "
    "it gets it"
)


class RolloutMode(StrEnum):
    """How a rollout is seen to be done, the values of `[rollout] mode`."""

    ATTEST = "attest"
    KUBERNETES = "kubernetes"
    CONFIRM = "confirm"
    NONE = "none"
    SERVER = "server"

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
            case RolloutMode.SERVER:
                return (
                    f"server: no application has a key; the server reads {target} for each of them as soon as it makes "
                    f"it, and encrypts with it at once unless an application asks for {source} by its number; when "
                    f"{source} is retired, the server refuses it to all"
                )


class TargetKind(StrEnum):
    """Which of the three rollouts it is, or the check before them, as named in a confirmation."""

    NAMES = "names"
    READS = "reads"
    WRITES = "writes"
    WITHOUT = "without"


@dataclass(frozen=True, slots=True)
class RolloutTarget:
    """The state that every application instance must reach in one rollout.

    Args:
        versions: the one that is read, or written; or those that are withdrawn; or the primary before the new key.
    """

    aim: TargetKind
    versions: tuple[KeyVersion, ...]

    def met_by(self, instance: Instance) -> bool:
        """Whether an instance had reached the goal when it last reported itself; one that never reported had not."""
        if instance.writes is None:
            return False
        match self.aim:
            case TargetKind.NAMES:
                return instance.names_primary
            case TargetKind.READS:
                return set(self.versions) <= set(instance.reads)
            case TargetKind.WRITES:
                return instance.writes in self.versions
            case TargetKind.WITHOUT:
                return not set(self.versions) & {*instance.reads, instance.writes, *instance.unproven}

    def statement(self) -> str:
        """What is then true for every instance: ``reads v2``, ``writes v2``, ``is without v1``."""
        versions = ", ".join(map(str, self.versions))
        if self.aim is TargetKind.NAMES:
            return f"writes {versions} for as long as {versions} is named as the primary, whatever newer key it gets"
        verb = {TargetKind.READS: "reads", TargetKind.WRITES: "writes", TargetKind.WITHOUT: "is without"}[self.aim]
        return f"{verb} {versions}"

    def __str__(self) -> str:
        versions = ", ".join(map(str, self.versions))
        if self.aim is TargetKind.NAMES:
            return "name its primary"
        verb = {TargetKind.READS: "read", TargetKind.WRITES: "write", TargetKind.WITHOUT: "be without"}[self.aim]
        return f"{verb} {versions}"


@dataclass(frozen=True, slots=True)
class Gone:
    """A silent instance that an officer says has ended, identified by its last report."""

    name: str
    reported_at: datetime

    @classmethod
    def of(cls, instances: Iterable[Instance]) -> tuple["Gone", ...]:
        """The silent instances, by name."""
        silent = (instance for instance in instances if instance.silent)
        return tuple(cls(each.name, each.reported_at) for each in sorted(silent, key=lambda each: each.name))


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What officers confirmed of one rollout, every signature just verified.

    Args:
        officers: names; empty: nobody has confirmed it.
        gone: the silent instances that are known to have ended.
    """

    officers: tuple[str, ...] = ()
    gone: frozenset[Gone] = field(default_factory=frozenset)


@dataclass(frozen=True, slots=True)
class Missing:
    """What a rollout is waiting for; false when it is done.

    Args:
        lagging: instances that report a different state from the goal.
        silent: instances that may still run, in an unknown state.
        unseen: no instance reports, and no officer has confirmed.
        unconfirmed: an officer has to confirm, and none has.
    """

    lagging: tuple[Instance, ...] = ()
    silent: tuple[Instance, ...] = ()
    unseen: bool = False
    unconfirmed: bool = False

    def __bool__(self) -> bool:
        return bool(self.lagging or self.silent or self.unseen or self.unconfirmed)


def missing_for(
    goal: RolloutTarget,
    mode: RolloutMode,
    instances: Sequence[Instance],
    confirmation: Confirmation,
    nonces: Collection[str] | None = None,
) -> Missing:
    """Judge a rollout by the instances' reports and the officers' confirmations.

    Args:
        nonces: an instance's own report must name one of these, to be newer than the rollout's beginning; None: any.

    A report that an instance lags counts in every mode: no signature makes it read a key. How an instance chooses its
    primary depends on its code: before the key is made, a silent one that chose correctly is not waited for if another
    one reports.
    """
    if mode is RolloutMode.SERVER:
        return Missing()  # no instance has a key that it could report
    alive = [instance for instance in instances if not instance.silent]
    lagging = tuple(each for each in alive if not goal.met_by(each) or _is_older(each, nonces))
    if mode is RolloutMode.NONE:
        return Missing(lagging)
    confirmed = bool(confirmation.officers)
    known = goal.aim is TargetKind.NAMES and bool(alive)
    silent = tuple(
        each
        for each in instances
        if each.silent
        and Gone(each.name, each.reported_at) not in confirmation.gone
        and not (known and goal.met_by(each))
    )
    return Missing(
        lagging,
        silent,
        unseen=mode is not RolloutMode.CONFIRM and not alive and not silent and not confirmed,
        unconfirmed=mode is RolloutMode.CONFIRM and not confirmed,
    )


def _is_older(instance: Instance, nonces: Collection[str] | None) -> bool:
    """Whether a report may have been prepared before the request was opened, or before the key store changed."""
    return instance.nonce is not None and nonces is not None and instance.nonce not in nonces


def pending_sentence(missing: Missing, goal: RolloutTarget, request: str) -> str:
    """One sentence: what the rollout waits for, and what to type."""
    confirm = f"`keyrotation confirm {request}`"
    parts = []
    if missing.lagging:
        named = ", ".join(f"{each.name} ({_reported(each, goal)})" for each in missing.lagging)
        parts.append(f"{named}: not seen to {goal}; {_remedy(goal)}")
    if missing.silent:
        named = ", ".join(f"{each.name} (last report {utc_minute(each.reported_at)})" for each in missing.silent)
        parts.append(f"{named}: silent, and not known to have ended; when it has, an officer says so with {confirm}")
    if missing.unseen:
        # Of making the new key now.
        consequence = f" ({CHOOSES_ITSELF})" if goal.aim is TargetKind.NAMES else ""
        parts.append(
            f"no application instance reports itself, which does not show that every one {goal.statement()}"
            f"{consequence}; have each call attest(engine, key_ring) of keyrotation_pipeline.encrypted_type, or "
            f"let an officer confirm it: {confirm}"
        )
    if missing.unconfirmed:
        parts.append(f"no officer has confirmed yet that every application instance {goal.statement()}; {confirm}")
    return f"{'; '.join(parts)}{_then(request)}"


def awaits(message: str, request: str) -> bool:
    """Whether a sentence is from `pending_sentence`: a wait, and not a failure."""
    return message.endswith(_then(request))


def _then(request: str) -> str:
    return f"; then run `keyrotation rotate {request}`"


def _remedy(goal: RolloutTarget) -> str:
    if goal.aim is TargetKind.NAMES:
        return (
            f"name {', '.join(map(str, goal.versions))} where it gets its keys ({PRIMARY_VARIABLE}, or for a plain key "
            "in AWS `keyrotation init --convert`), and reload or restart it"
        )
    return "reload or restart what lags"


_BEGINNINGS = {TargetKind.WRITES: "the primary was changed", TargetKind.WITHOUT: "the key was withdrawn"}


def _reported(instance: Instance, goal: RolloutTarget) -> str:
    if instance.writes is None or instance.unproven:
        return instance.problem or "not known what it reads"
    if goal.met_by(instance):
        return f"no report since {_BEGINNINGS.get(goal.aim, 'this request was opened')}"
    if goal.aim is TargetKind.NAMES:
        return f"writes {instance.writes}, and does not report that as a named primary"
    if goal.aim is TargetKind.WRITES:
        return f"writes {instance.writes}"
    return f"reads {', '.join(map(str, instance.reads))}"


MOST_PER_MINUTE = 10
SHOWN_FOR = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class FailingMinute:
    """One minute in which all instances together failed too often."""

    at: datetime
    values: int
    versions: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"applications could not decrypt {self.values:,} value(s) within a minute ({utc_minute(self.at)}, "
            f"under {', '.join(self.versions)}), and more than {MOST_PER_MINUTE} are no coincidence; `keyrotation "
            "rollout` shows which instances, `keyrotation verify` whether values or instances' keys are wrong"
        )


def failing_minutes(instances: Iterable[Instance], now: datetime) -> tuple[FailingMinute, ...]:
    """The minutes of the last day with too many failures, in order of time."""
    values, versions = Counter[datetime](), defaultdict[datetime, set[str]](set)
    for failed in (each for instance in instances for each in instance.failed):
        for minute, number in failed.minutes.items():
            if now - minute < SHOWN_FOR:
                values[minute] += number
                versions[minute].add(failed.version)
    over = (minute for minute in sorted(values) if values[minute] > MOST_PER_MINUTE)
    return tuple(FailingMinute(each.astimezone(UTC), values[each], tuple(sorted(versions[each]))) for each in over)
