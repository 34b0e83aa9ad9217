"""Application instances, the rollouts of a rotation, and reads that fail to decrypt."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from keyrotation_pipeline.fieldcrypto.formats.sources import NEVER_ENCRYPTED
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import counted, utc_minute


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
        encrypts_from: of columns that held plaintext, or values of another library, by label: the number of the first
            primary under which it encrypts them; until then it writes as before, and it reads both.
        old_forms: how it does so before, as `RolloutTarget.old_forms`; nothing of columns that it does not use.
        opens_sealed: it has proven that it opens keys under the present wrapping key.
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
    encrypts_from: Mapping[str, int] = field(default_factory=dict)
    opens_sealed: bool = False
    old_forms: Mapping[str, str] = field(default_factory=dict)


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
        begun: of what is read, the columns, by label, whose old form is read, too, and encrypted under that version.
        old_forms: of these, those of another library, each with its format and the fingerprint of the key.
        before: the version from which a walk gives them their old form back: under `versions` that is written again.
            None: it encrypts them.
    """

    kind: TargetKind
    versions: tuple[KeyVersion, ...]
    begun: tuple[str, ...] = ()
    old_forms: tuple[tuple[str, str], ...] = ()
    before: KeyVersion | None = None

    def met_by(self, instance: Instance) -> bool:
        """Whether an instance had reached the target when it last reported itself; one that never reported had not."""
        if instance.writes is None:
            return False
        match self.kind:
            case TargetKind.NAMES:
                return instance.names_primary
            case TargetKind.READS:
                (version,) = self.versions
                first, last = (0, version) if self.before is None else (version.number, self.before)
                return version in instance.reads and all(
                    first < instance.encrypts_from.get(label, 0) <= last.number and not self.differs(instance, label)
                    for label in self.begun
                )
            case TargetKind.WRITES:
                return instance.writes in self.versions
            case TargetKind.WITHOUT:
                return not set(self.versions) & {*instance.reads, instance.writes, *instance.unproven}

    def statement(self) -> str:
        """What is then true for every instance: ``reads v2``, ``writes v2``, ``is without v1``."""
        versions = ", ".join(map(str, self.versions))
        if self.kind is TargetKind.NAMES:
            return f"writes {versions} until the program says otherwise, also when it gets a newer key"
        verb = {TargetKind.READS: "reads", TargetKind.WRITES: "writes", TargetKind.WITHOUT: "is without"}[self.kind]
        return f"{verb} {versions}{self._plaintext}"

    def differs(self, instance: Instance, label: str) -> bool:
        """Whether an instance reads another old form of a column than the declared one, or under another key."""
        wanted = dict(self.old_forms).get(label, NEVER_ENCRYPTED)
        return instance.old_forms.get(label, wanted) != wanted

    @property
    def _plaintext(self) -> str:
        if not self.begun:
            return ""
        plain = [each for each in self.begun if each not in dict(self.old_forms)]
        old = [f"plaintext in {', '.join(plain)}"] if plain else []
        old += [f"{form.rpartition(': ')[0]} in {label}" for label, form in self.old_forms]
        if self.before is not None:
            return f", and {', '.join(old)}, which it writes until {self.before} is the primary"
        return f", and {', '.join(old)} until {', '.join(map(str, self.versions))} is the primary"

    @property
    def first_statement(self) -> str:
        """The same in the words of the first confirmations, which never change."""
        if self.kind is not TargetKind.NAMES:
            return self.statement()
        versions = ", ".join(map(str, self.versions))
        return f"writes {versions} for as long as {versions} is named as the primary, whatever newer key it gets"

    def __str__(self) -> str:
        versions = ", ".join(map(str, self.versions))
        if self.kind is TargetKind.NAMES:
            return "name its primary"
        verb = {TargetKind.READS: "read", TargetKind.WRITES: "write", TargetKind.WITHOUT: "be without"}[self.kind]
        return f"{verb} {versions}{self._plaintext}"


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
            f"applications could not decrypt {counted(self.values, 'value')} within a minute "
            f"({utc_minute(self.at)}, under {', '.join(self.versions)}), and more than {MOST_PER_MINUTE} are no "
            "coincidence; `keyrotation rollout` shows which instances, `keyrotation verify` whether values or "
            "instances' keys are wrong"
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
