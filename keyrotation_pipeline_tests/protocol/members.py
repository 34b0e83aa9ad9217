"""A fleet with two members: the real retirement and the real evidence of each database, over databases in memory.

Between any two steps of a retirement the process may die, and up to so many times somebody changes a database. A member
that was compared may change until the commit: no comparison can see that, and here nobody does it. The home's own
tables are locked for their count, and again before they are compared. Members are compared in turn: what one thread
sees, no other changes.

Where only decrypting tells a key, a writer whose right was back for a moment leaves no trace but its row.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple, Self
from unittest import mock

from keyrotation_pipeline.adapters.fleet import retirement
from keyrotation_pipeline.adapters.fleet.members import Members
from keyrotation_pipeline.adapters.fleet.retirement import FleetEvidence
from keyrotation_pipeline.errors import DatabaseUnavailableError, FenceError, KeyRotationError, ProofError
from keyrotation_pipeline.fieldcrypto.formats.aes_gcm import AES_GCM
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.environment import BlindSpots
from keyrotation_pipeline.model.key_events import KeyRetired, MemberProven
from keyrotation_pipeline.model.members import Listed
from keyrotation_pipeline.model.proof import MemberPosition, MemberState, Searched, SnapshotPosition, ZeroOldRows
from keyrotation_pipeline.model.tables import EncryptedTable, TableName
from keyrotation_pipeline.rotation import retire
from keyrotation_pipeline_tests.fakes import START

HOME, *_MEMBERS = DATABASES = ("home", "north", "south")
NAMES = tuple(_MEMBERS)
V1, V2 = KeyVersion(1), KeyVersion(2)
# By whether only decrypting tells their keys.
TABLES = {
    decrypting: tuple(EncryptedTable(TableName("public", "clients", name), ("name",), each) for name in ("", *NAMES))
    for decrypting, each in ((False, NATIVE), (True, AES_GCM))
}
# Which fence a table has: none, the one that was proven, or one that somebody made since.
NONE, PROVEN, REMADE = range(3)
IDLE = 0
# What stands in for a function, by the object that has it and its name.
Switch = tuple[object, str, Any]


class Database(NamedTuple):
    """One of the fleet.

    Args:
        old: it has a row under v1.
        signed: it is where officers signed it to be.
        reached: its WAL is not behind the evidence; a restored one's is.
        answers: to the pipeline; applications reach it all the same.
        standing: a "member"; "late", not yet one at the proof; "gone", signed away; or "home", the home's own.
    """

    old: bool = False
    fence: int = PROVEN
    signed: bool = True
    timeline: int = 1
    reached: bool = True
    answers: bool = True
    standing: str = "member"


class World(NamedTuple):
    """The databases, whether v1 is withdrawn, whether that is committed, and how many changes may still come.

    Args:
        members: the home's own database, too, as the first.
        decrypting: only decrypting tells the keys of values.
    """

    databases: tuple[Database, Database, Database]
    archived: bool
    retired: bool
    changes: int
    decrypting: bool = False


class State(NamedTuple):
    """Where the retirement stands: the number of the gap before its next step, and what it has of each database."""

    gap: int
    world: World
    taken: tuple[Database | None, ...] = (None, None, None)


class _StoppedError(BaseException):
    """The process stands at a gap, or died there. No handler of the product catches it."""


@dataclass
class Run:
    """One execution of the real retirement, until the gap at which it is stopped.

    Args:
        changed: what the world is at a gap, by number, where somebody changed it.
        stop: at which gap; `damage`: what was broken on the way.
        counted: which have given evidence; `locked`: whose tables nobody but writers changes.
    """

    world: World
    changed: Mapping[int, World]
    stop: int
    gap: int = IDLE
    step: str = ""
    taken: list[Database | None] = field(default_factory=lambda: [None, None, None])
    compared: set[str] = field(default_factory=set)
    counted: set[str] = field(default_factory=set)
    locked: set[str] = field(default_factory=set)
    closed: bool = False
    damage: str | None = None

    def at(self, step: str) -> None:
        """Others may act, and the process die, before this step."""
        self.gap += 1
        self.step = step
        self.world = self.changed.get(self.gap, self.world)
        if self.gap == self.stop:
            raise _StoppedError

    def judge(self) -> None:
        """Nothing is withdrawn while a database has a row under v1, or takes one."""
        for name, each in zip(DATABASES, self.world.databases, strict=True):
            if each.standing != "gone" and (each.old or each.fence == NONE):
                self.damage = f"v1 is withdrawn, and {name} has{' a row' if each.old else ' no fence'} under it"


@dataclass
class ModelMember:
    """`Member` in memory, with its evidence."""

    run: Run
    name: str
    is_open: bool = False

    @property
    def now(self) -> Database:
        """As it is now; raises DatabaseUnavailableError."""
        found = self.run.world.databases[DATABASES.index(self.name)]
        if not found.answers:
            raise DatabaseUnavailableError("no server answers there; correct host and port in [database] url")
        return found

    @property
    def ports(self) -> Any:  # noqa: ANN401
        return SimpleNamespace(evidence=self, environment=self)

    def bring_up_to_date(self) -> None:
        assert self.now

    require_unmoved = require_copy = close = bring_up_to_date

    def limited(self, _seconds: float) -> Any:  # noqa: ANN401
        return nullcontext()

    def blind_spots(self) -> BlindSpots:
        return BlindSpots((), ())

    def snapshot_blockers(self, _position: SnapshotPosition) -> tuple[str, ...]:
        return ()

    def search(self, *_arguments: object) -> Searched:
        self.run.at(f"searches {self.name}")
        assert self.now
        return Searched({}, {}, {}, {}, START)

    def transaction(self) -> Any:  # noqa: ANN401
        self.run.at(f"takes the evidence of {self.name}")
        return nullcontext()

    def zero_old_rows(self, *_arguments: object) -> ZeroOldRows:
        if self.name in self.run.counted:
            self.run.at(f"takes the evidence of {self.name} again")
            self.run.compared.add(self.name)
        self.run.counted.add(self.name)
        if self.now.old:
            raise ProofError("a row is under v1; run it again")
        if self.now.fence != PROVEN:
            raise FenceError("the fence was recreated after the proof; run it again")
        return ZeroOldRows(V1, (f"{self.name}:clients",), 0, 1, "0/1", START)

    def state(self, _tables: Sequence[EncryptedTable], _relations: str = "") -> MemberState:
        number = DATABASES.index(self.name)
        if self.run.taken[number] is None:
            self.run.taken[number] = self.now
        else:
            self.run.at(f"asks {self.name} again")
            self._is_compared()
        return MemberState(place_of(self.now), timeline_of(self.now), {"clients": fence_of(self.now)}, "")

    def _is_compared(self) -> None:
        """From here on nobody changes it, unless all of its evidence is still to be given again."""
        if not self.run.world.decrypting:
            self.run.compared.add(self.name)

    def wal_position(self) -> str:
        return "0/1"

    def has_reached(self, _lsn: str) -> bool:
        return self.now.reached


def place_of(database: Database) -> str:
    """The place as officers sign it, with the system identifier."""
    return f"clinic, system identifier {7 if database.signed else 8}"


def timeline_of(database: Database) -> int:
    """The timeline of its WAL."""
    return database.timeline


def fence_of(database: Database) -> str:
    """The fence's oid and transaction."""
    return f"fence {database.fence}"


def members_are_signed(retired: KeyRetired, signed: set[str]) -> bool:
    """The audit's rule about the members of a retirement (`walk_rules._retired`)."""
    return set(retired.members) == signed


class OwnDatabase(ModelMember):
    """`OwnTables` in memory, with its evidence; what is locked, nobody changes."""

    def search(self, *_arguments: object) -> Searched:
        return Searched({}, {}, {}, {}, START)

    def unlocked_after(self) -> Any:  # noqa: ANN401
        return self.transaction()

    def lock(self, _tables: Sequence[EncryptedTable]) -> None:
        self.run.at(f"locks {self.name}")
        self.run.locked.add(self.name)
        self._is_compared()

    def state(self, _tables: Sequence[EncryptedTable], _relations: str = "") -> MemberState:
        number = DATABASES.index(self.name)
        self.run.taken[number] = self.run.taken[number] or self.now
        return MemberState(place_of(self.now), timeline_of(self.now), {"clients": fence_of(self.now)}, "")


@dataclass
class ModelLedger:
    """The rules of the audit about members, and the transaction of the retirement."""

    run: Run
    signed: set[str]

    def append(self, fact: object, _request: str) -> None:
        self.run.at(f"records {type(fact).__name__}")
        if isinstance(fact, MemberProven) and fact.evidence.state.place != place_of(Database()):
            raise ProofError("it is of another place than officers signed; run it again")
        if isinstance(fact, KeyRetired):
            self.run.closed = True
            if not members_are_signed(fact, self.signed):
                raise ProofError("it is not of the members that officers signed; run it again")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        yield
        self.run.at("commits")
        self.run.judge()
        self.run.world = self.run.world._replace(retired=True)


class ModelKeys:
    """The key store."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def read(self) -> Any:  # noqa: ANN401
        return SimpleNamespace(revision="1")

    def stamp(self, _revision: str) -> Any:  # noqa: ANN401
        return self.read()

    def unstamped(self) -> Any:  # noqa: ANN401
        return nullcontext()

    def archive(self, *_arguments: object) -> Any:  # noqa: ANN401
        self.run.at("withdraws v1")
        self.run.judge()
        self.run.world = self.run.world._replace(archived=True)
        return self.read()


# What `_retire` asks besides, which the other models have.
_ELSEWHERE: Mapping[str, Callable[..., Any]] = {
    "retired_versions": lambda *_: (V1,), "_require_writers": lambda *_: None, "require_authorised": lambda *_: None,
    "described_archived": lambda *_: None, "_require_target": lambda *_: SimpleNamespace(name="v2.key.pgp"),
    "signed_as_gone": lambda *_: (),
}  # fmt: skip


def execute(world: World, changed: Mapping[int, World], stop: int) -> tuple[Run, str | None]:
    """Runs a retirement until a gap, or to its end; also returns the refusal with which it ended."""
    run = Run(world, changed, stop)
    members = {name: each for name, each in zip(NAMES, world.databases[1:], strict=True) if each.standing != "gone"}
    own = OwnDatabase(run, HOME)
    opens: Any = {name: partial(ModelMember, run, name) for name in members}
    fleet = FleetEvidence(Members(own.ports, opens), own)
    at_proof = {name: MemberPosition(1, "0/1") for name, each in members.items() if each.standing == "member"}
    pipeline: Any = SimpleNamespace(
        tables=TABLES[world.decrypting], evidence=fleet, keys=ModelKeys(run), ledger=ModelLedger(run, set(members)),
        environment=SimpleNamespace(blind_spots=lambda: BlindSpots((), ())), listed=Listed,
    )  # fmt: skip
    rotation: Any = SimpleNamespace(id="1", source=V1, target=V2, encrypts_plaintext=False)
    proof: Any = SimpleNamespace(moment=SnapshotPosition(1, "0/1", at_proof))
    try:
        retire._retire(pipeline, rotation, proof, (V1,), lambda *_: None)  # noqa: SLF001
    except _StoppedError:
        return run, None
    except KeyRotationError as error:
        run.gap = IDLE
        return run, str(error)
    run.gap = IDLE
    return run, None


def changes_of(each: Database) -> Iterator[tuple[str, Database]]:
    """What may happen to a database; to the home's own, only what no lost connection shows."""
    if each.fence == NONE:
        yield "gets a row under v1 from a stale writer", each._replace(old=True)
        yield "gets its fence again", each._replace(fence=REMADE)
    else:
        yield "loses its fence", each._replace(fence=NONE)
    if each.standing == HOME:
        return
    # As they look alike at worst: rows of an earlier time under the very fence that was proven.
    yield "is restored", each._replace(old=True, reached=False)
    yield "is replaced by a standby that lags", each._replace(old=True, timeline=2)
    yield "is exchanged for another server's database", each._replace(old=True, signed=False)
    yield ("does not answer" if each.answers else "answers again"), each._replace(answers=not each.answers)


BY_A_WRITER = "gets a row under v1 by the old login, whose right was back for a moment"


def _changed(world: World, names: Sequence[str], locked: Collection[str] = ()) -> Iterator[tuple[str, World]]:
    for name in names if world.changes else ():
        number = DATABASES.index(name)
        before = world.databases[number]
        changes = [] if name in locked else list(changes_of(before))
        if world.decrypting:
            changes.append((BY_A_WRITER, before._replace(old=True)))
        for label, after in changes:
            if before.standing != "gone" and after != before:
                yield f"{name} {label}", _with(world, number, after)._replace(changes=world.changes - 1)


def _with(world: World, number: int, after: Database) -> World:
    databases: Any = tuple(after if each == number else found for each, found in enumerate(world.databases))
    return world._replace(databases=databases)


def _repaired(world: World) -> World:
    """People bring members back, or open the next request; everything is re-encrypted, fenced and proven again."""
    home, *members = world.databases
    north, south = (each if each.standing == "gone" else Database() for each in members)
    return world._replace(databases=(Database(standing=home.standing), north, south))


@dataclass
class Found:
    """What a search found.

    Args:
        parents: of each state, the one before it and the label in between.
        stuck: states from which no retirement can be reached.
    """

    parents: dict[State, tuple[State, str] | None] = field(default_factory=dict)
    broken: str | None = None
    counterexample: list[str] = field(default_factory=list)
    steps: set[str] = field(default_factory=set)
    refusals: set[str] = field(default_factory=set)
    stuck: int = 0

    def way(self, state: State, *last: str) -> list[str]:
        """The labels from the first state on."""
        labels = list(last)
        while (parent := self.parents[state]) is not None:
            state, label = parent
            labels.insert(0, label)
        return labels


def explore(changes: int, *, decrypting: bool = False) -> Found:
    """Visits every state with so many changes, breadth first, until something breaks."""
    late = Database(old=True, fence=NONE, standing="late")
    own = Database(standing=HOME)
    souths = (Database(), late)
    first = [State(IDLE, World((own, Database(), south), False, False, changes, decrypting)) for south in souths]
    found, queue = Found(dict.fromkeys(first)), deque(first)
    # How each state within a run is reached: where the run began, and the worlds that others made at its gaps.
    script: dict[State, tuple[World, Mapping[int, World]]] = {}
    backwards: dict[State, list[State]] = {}
    while queue:
        state = queue.popleft()
        for label, after, way, damage in _transitions(state, script, found):
            backwards.setdefault(after, []).append(state)
            if damage is not None:
                found.broken, found.counterexample = damage, found.way(state, label)
                return found
            if after not in found.parents:
                found.parents[after] = (state, label)
                queue.append(after)
                if way is not None:
                    script[after] = way
    found.stuck = len(found.parents) - len(_leading([s for s in found.parents if s.world.retired], backwards))
    return found


Way = tuple[World, Mapping[int, World]]


def _transitions(
    state: State, script: Mapping[State, Way], found: Found
) -> Iterator[tuple[str, State, Way | None, str | None]]:
    world = state.world
    if world.retired:
        return
    if state.gap == IDLE:
        began, changed = world, dict[int, World]()
        for label, after in _changed(world, DATABASES):
            yield label, State(IDLE, after), None, None
        yield "everything is proven again", State(IDLE, _repaired(world)), None, None
        if world.databases[-1].standing != "gone" and not world.archived:
            signed = _with(world, len(world.databases) - 1, Database(standing="gone"))
            yield "officers sign south away", State(IDLE, signed), None, None
    else:
        began, before = script[state]
        changed = dict(before)
        stands, _ = execute(began, changed, state.gap)
        found.steps.add(stands.step)
        yield f"dies before it {stands.step}", State(IDLE, world), None, None
        open_to = [name for name in DATABASES if name not in stands.compared]
        if stands.closed and not stands.step.startswith(("asks", "locks", "takes")):
            open_to = [name for name in open_to if name == HOME]
        for label, after in _changed(world, open_to, stands.locked):
            yield label, State(state.gap, after, state.taken), (began, {**changed, state.gap: after}), None
    run, refused = execute(began, changed, state.gap + 1)
    if refused is not None:
        found.refusals.add(refused)
    taken = tuple(run.taken) if run.gap else (None, None, None)
    label = stands.step if state.gap else "a retirement begins"
    yield label, State(run.gap, run.world, taken), (began, changed) if run.gap else None, run.damage


def _leading(ends: Sequence[State], backwards: Mapping[State, Sequence[State]]) -> set[State]:
    reached, queue = set(ends), deque(ends)
    while queue:
        for before in backwards.get(queue.popleft(), ()):
            if before not in reached:
                reached.add(before)
                queue.append(before)
    return reached


class _InTurn:
    """`ThreadPoolExecutor` without threads."""

    def __init__(self, _threads: int) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None: ...

    def submit(self, ask: Callable[..., None], *arguments: object) -> Future[None]:
        ask(*arguments)
        done = Future[None]()
        done.set_result(None)
        return done


@contextmanager
def patched(switches: Sequence[Switch] = ()) -> Iterator[None]:
    """With what other models have, and without some guards."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(retirement, "ThreadPoolExecutor", _InTurn))
        for name, instead in _ELSEWHERE.items():
            stack.enter_context(mock.patch.object(retire, name, instead))
        for where, name, instead in switches:
            stack.enter_context(mock.patch.object(where, name, instead))
        yield
