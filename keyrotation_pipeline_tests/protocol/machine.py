"""Runs the real code on a state: loads the fakes, calls one action, and takes the states that it can leave behind.

One execution gives every state in which the process can have died: the journal of the fakes tells before each write,
and what was committed until then is a state. Which components an action read is recorded, so that the same action is
not run again where only others differ.
"""

import copy
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache, lru_cache
from typing import Any
from unittest import mock

from keyrotation_pipeline.assembly.pipeline import ACTIONS
from keyrotation_pipeline.audit import events, history, verify
from keyrotation_pipeline.audit.history import LedgerState as ReplayedState
from keyrotation_pipeline.errors import ApprovalError, KeyRotationError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model import fleet
from keyrotation_pipeline.model.approval import Officer, PinnedRoster, Roster, VerifiedSignature
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.model.backups import KeyBackup
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.model.proof import Moment
from keyrotation_pipeline.model.tables import EncryptedTable, TableName
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests import opening
from keyrotation_pipeline_tests.fakes import (
    ROSTER,
    START,
    FakeAnchors,
    FakeClock,
    FakeDatabase,
    FakeEvidence,
    FakeFencing,
    FakeHeartbeats,
    FakeInventory,
    FakeKeyStore,
    FakeLedger,
    FakeRewriting,
    FakeRollout,
    FakeSignatures,
    FakeSurroundings,
    FakeVault,
    Journal,
)
from keyrotation_pipeline_tests.fakes.chain import LedgerState
from keyrotation_pipeline_tests.protocol.state import (
    KEY_OF,
    MATERIALS,
    Fence,
    Instance,
    Interned,
    Keys,
    Ledger,
    Ledgers,
    State,
    Store,
    View,
    marks_of,
    numbers,
)
from keyrotation_pipeline_tests.protocol.traces import steps

TABLE = EncryptedTable(TableName("public", "clients"), ("name",))
YOUNG = 10**9
LATER = timedelta(days=1000)
LOCK = "row lock"
_CONTAINERS = ("events", "keys", "requests", "texts", "signatures", "counts", "seed_rows", "audit_rows")


def copied(state: LedgerState) -> LedgerState:
    """A ledger's state whose containers can change on their own."""
    after = copy.copy(state)
    for name in _CONTAINERS:
        setattr(after, name, copy.copy(getattr(state, name)))
    return after


class ModelClock(FakeClock):
    """A wait takes no time of the model: time passes as a transition of its own."""

    waited = 0.0

    def monotonic(self) -> float:
        return self.waited

    def sleep(self, seconds: float) -> None:
        self.waited += seconds


class ModelJournal(Journal):
    """Tells before each write."""

    def __init__(self, before: Callable[[str], None]) -> None:
        super().__init__()
        self.before = before

    def note(self, entry: str) -> None:
        self.before(entry)


class ModelLedger(FakeLedger):
    """Knows what is committed while a transaction runs, and replays from where the loaded state was replayed."""

    committed: LedgerState | None = None
    base: ReplayedState

    @contextmanager
    def _at_once(self) -> Iterator[None]:
        if not self.depth:
            self.committed = copied(self.state)
        with super()._at_once():
            yield

    def replayed(self) -> ReplayedState:
        replay = self._replay
        if replay is None or not self._has(replay.head):
            replay = self.base
        self._replay = replay.apply(self.state.events[replay.head.seq :])
        return self._replay


class ModelSignatures(FakeSignatures):
    """A signature says when it was made, too."""

    clock: FakeClock

    def verify(
        self,
        text: bytes,
        signature: bytes,
        officers: Sequence[Officer],
        at: datetime | None = None,  # noqa: ARG002
    ) -> VerifiedSignature:
        who, _, rest = signature.partition(b" at ")
        when, _, over = rest.partition(b": ")
        for officer in officers:
            if over == text and who == f"signed by {officer.fingerprint}".encode():
                return VerifiedSignature(officer.fingerprint, datetime.fromisoformat(when.decode()))
        raise ApprovalError("the signature is not over this text; sign what `keyrotation approve --text` prints")

    def verify_as_of(
        self, text: bytes, signature: bytes, officers: Sequence[Officer], at: datetime
    ) -> VerifiedSignature:
        return self.verify(text, signature, officers, at)

    def sign_now(self, fingerprint: str, text: bytes) -> bytes:
        """One officer's signature over a text, made now."""
        return f"signed by {fingerprint} at {self.clock.now().isoformat()}: ".encode() + text


class Reads:
    """Which components were read."""

    def __init__(self) -> None:
        self.names: set[str] = set()


_COMPONENT_OF = {
    "rows": "rows", "fence_state": "fence", "fence_made": "fence", "views": "views", "backups": "store",
    "running": "instances", "locked": "views",
}  # fmt: skip


class _Recorded:
    """Records which of a fake's attributes are read."""

    reads: Reads

    def __getattribute__(self, name: str) -> Any:  # noqa: ANN401
        component = _COMPONENT_OF.get(name)
        if component is not None:
            object.__getattribute__(self, "reads").names.add(component)
        return object.__getattribute__(self, name)


class ModelDatabase(_Recorded, FakeDatabase):
    """Knows who still sees an earlier moment."""

    reads = Reads()
    views: tuple[View, ...] = ()


class ModelVault(_Recorded, FakeVault):
    """Key backups."""

    reads = Reads()


class ModelRollout(_Recorded, FakeRollout):
    """Instances as the state has them; a change of the key store makes what they reported older than it."""

    reads = Reads()
    before: tuple[KeyVersion | None, frozenset[KeyVersion]] = (None, frozenset())

    def instances(self) -> tuple[fleet.Instance, ...]:
        primary, live = self.before
        if self.keys.primary_version == primary and live <= self.keys.live.keys():
            return super().instances()
        old = START - LATER
        return tuple(each if each.silent else replace(each, reported_at=old) for each in super().instances())


class ModelFencing(FakeFencing):
    """A fence that is made now is younger than any proof."""

    def _make_fence(self, table: EncryptedTable, versions: Any) -> None:  # noqa: ANN401
        super()._make_fence(table, versions)
        self.database.fence_made[str(table.name)] = YOUNG


class ModelEvidence(FakeEvidence):
    """Whoever began before the newest moment of proof may still show what was there before."""

    database: ModelDatabase

    def current_xid(self) -> int:
        self.database.fence_made.update(dict.fromkeys(self.database.fence_made, 1))
        self.database.views = tuple(sorted({view._replace(before_proof=True) for view in self.database.views}))
        return super().current_xid()

    def snapshot_blockers(self, moment: Moment) -> tuple[str, ...]:  # noqa: ARG002
        return tuple(
            f"{view.kind} began before the proof"
            for view in self.database.views
            if view.before_proof and view.kind != LOCK
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one execution can leave behind: the number of each component, None where it is unchanged.

    Args:
        died: before which write the process died; None: it ended by itself.
        refused: the refusal that it ended with.
        gone: numbers of instances that it made the pipeline forget.
        task: the step that ran, if one did.
    """

    ledger: int
    keys: int
    rows: int | None
    fence: int | None
    views: int | None
    store: int | None
    gone: tuple[int, ...]
    died: str | None
    refused: str | None
    task: str


class Machine:
    """The real code over fakes that are loaded with a state."""

    def __init__(self, rows: int = 2) -> None:
        self.row_count = rows
        self.ledgers, self.keys, self.rows, self.fences = Ledgers(), Interned(), Interned(), Interned()
        self.instances, self.views, self.stores = Interned(), Interned(), Interned()
        self.seen, self.reads = Interned(), Reads()
        self.executions = 0
        self._wire()
        self.loaded: State | None = None
        self.loaded_ledger: Ledger | None = None
        self._outcomes: list[Outcome] = []
        self.task = ""
        # The ledger that each outcome of the newest execution really has, which another may stand for.
        self.concrete: dict[Outcome, Ledger] = {}
        self.relation: set[str] = set()
        self._memo: dict[Any, dict[tuple[str, ...], dict[tuple[int, ...], tuple[Outcome, ...]]]] = {}
        self._seen_of: dict[int, int] = {}

    def _wire(self) -> None:
        self.clock, self.journal = ModelClock(), ModelJournal(self._before_write)
        self.store = FakeKeyStore({}, None, self.journal)
        self.ledger = ModelLedger(self.clock, self.journal)
        self.vault = ModelVault(journal=self.journal)
        self.database = ModelDatabase({"clients": []}, self.journal, self.clock, small=frozenset({"clients"}))
        self.rollout = ModelRollout(self.store, self.clock, running=())
        self.signatures, self.anchors = ModelSignatures(ROSTER), FakeAnchors()
        self.signatures.clock = self.clock
        for each in (self.vault, self.database, self.rollout):
            each.reads = self.reads
        self.pipeline = Pipeline(
            (TABLE,), 1, 1, self.ledger, FakeInventory(self.database), FakeRewriting(self.database),
            ModelFencing(self.database), ModelEvidence(self.database), FakeSurroundings(self.database), self.store,
            self.vault, self.rollout, self.signatures, self.clock, self.anchors, ACTIONS, FakeHeartbeats(),
        )  # fmt: skip
        self.ledger.verify, self.ledger.advance = self.signatures.verify_as_of, self.anchors.advance
        self.ledger.base = ReplayedState(self.ledger.verify)

    # What a state is loaded from and taken into.

    def beginning(self, instances: tuple[Instance, ...], roster: Roster = ROSTER) -> State:
        """Before any rotation: v1 is the only key, active, primary and backed up, and every row is under it."""
        self.signatures.configured, self.anchors.kept, self.anchors.kept_roster = roster, None, None
        self.clock.at, self.loaded, self.ledger.actor = START, None, "life 1"
        self.ledger.base, self.ledger._replay = ReplayedState(self.ledger.verify), None  # noqa: SLF001
        self.store.live = {KeyVersion(1): MATERIALS[1, 0]}
        record = KeyRecord(KeyVersion(1), KeyState.ACTIVE, MATERIALS[1, 0].fingerprint, START)
        self.ledger.begin_with(roster, record)
        self.anchors.keep_roster(PinnedRoster(1, roster))
        return State(
            self.ledgers.number(self._ledger(self.ledger.state)),
            self.keys.number(Keys(((1, 0),), (), 1, roster.digest, ())),
            self.rows.number((1,) * self.row_count),
            self.fences.number(Fence((), young=False)),
            self.instances.number(instances),
            self.views.number(()),
            self.stores.number(Store(((1, 0),), ())),
        )

    def load(self, state: State) -> None:
        """Puts a state into the fakes."""
        ledger, keys = self.ledgers.found[state.ledger], self.keys.values[state.keys]
        self.loaded = state
        self.loaded_ledger = ledger
        self.ledger.state, self.ledger.base, self.ledger._replay = copied(ledger.state), ledger.replay, ledger.replay  # noqa: SLF001
        self.ledger.depth, self.ledger._has_changed = 0, False  # noqa: SLF001
        self.ledger.locks.clear()
        self.ledger.noted_waits.clear()
        self.clock.at = ledger.now
        # What is written after a restore is never what was written before it.
        self.ledger.actor = f"life {ledger.restored + 1}"
        self.anchors.kept, self.anchors.kept_roster = ledger.kept, ledger.roster
        self.signatures.configured = ledger.configured
        self.store.live = {KeyVersion(key[0]): MATERIALS[key] for key in keys.live}
        self.store.shelf = {KeyVersion(key[0]): MATERIALS[key] for key in keys.shelf}
        self.store.primary_version = None if keys.primary is None else KeyVersion(keys.primary)
        self.store.roster = keys.roster
        self.store.compromised = frozenset(map(KeyVersion, keys.compromised))
        database = self.database
        database.rows = {"clients": [{"name": f"v{row}:x"} for row in self.rows.values[state.rows]]}
        fence = self.fences.values[state.fence]
        database.fence_state = {"clients": tuple(map(KeyVersion, fence.refused))} if fence.refused else {}
        database.fence_made = {"clients": YOUNG if fence.young else 1} if fence.refused else {}
        database.views = self.views.values[state.views]
        held = any(view.kind == LOCK for view in database.views)
        database.locked = {("clients", 0)} if held else set()
        database.noted.clear()
        self.vault.backups = {KeyVersion(key[0]): backup_of(key) for key in self.stores.values[state.store].keys}
        self.rollout.before = self.store.primary_version, frozenset(self.store.live)
        self.rollout.running = tuple(map(_as_seen, self.instances.values[state.instances]))
        self.reads.names.clear()

    def _before_write(self, entry: str) -> None:
        if self.loaded is None:
            return
        ledger = self.ledger.committed if self.ledger.depth else self.ledger.state
        self._take(ledger, entry, None)

    def _take(self, state: LedgerState | None, died: str | None, refused: str | None) -> None:
        """Adds what is committed now to the outcomes."""
        before, read, loaded = self.loaded, self.reads.names, self.loaded_ledger
        assert state is not None
        assert before is not None
        assert loaded is not None
        same = (
            len(state.events) == len(loaded.state.events)
            and self.anchors.kept == loaded.kept
            and self.anchors.kept_roster is loaded.roster
            and self.clock.at == loaded.now
            and self.signatures.configured is loaded.configured
        )
        if not same:
            self._newest = self._ledger(state)
        ledger = before.ledger if same else self.ledgers.number(self._newest)
        names = set(read)
        rows = self.rows.number(self._rows()) if "rows" in names else None
        fence = self.fences.number(self._fence()) if "fence" in names else None
        views = self.views.number(self.database.views) if "views" in names else None
        store = self.stores.number(self._store(before)) if "store" in names else None
        gone = self._gone(before) if "instances" in names else ()
        read.clear()
        read.update(names)
        keys = self.keys.number(self._keys())
        found = Outcome(ledger, keys, rows, fence, views, store, gone, died, refused, self.task)
        self._outcomes.append(found)
        self.concrete[found] = loaded if same else self._newest

    def _ledger(self, state: LedgerState) -> Ledger:
        loaded = self.loaded_ledger if self.loaded is not None else None
        base = loaded.replay if loaded is not None else ReplayedState(self.ledger.verify)
        later = state.events[base.head.seq :]
        marks = (loaded.marks if loaded is not None else frozenset()) | marks_of(later)
        known = loaded if loaded is not None else Ledger(state, base, START, None, None, ROSTER)
        return replace(
            known, state=copied(state), replay=steps(base, later, self.relation.add), now=self.clock.at,
            kept=self.anchors.kept, roster=self.anchors.kept_roster, configured=self.signatures.configured, marks=marks,
        )  # fmt: skip

    def _keys(self) -> Keys:
        store = self.store
        primary = None if store.primary_version is None else store.primary_version.number
        return Keys(_keys_of(store.live), _keys_of(store.shelf), primary, store.roster, numbers(store.compromised))

    def _rows(self) -> tuple[int, ...]:
        return tuple(sorted(int(str(row["name"])[1:].partition(":")[0]) for row in self.database.rows["clients"]))

    def _fence(self) -> Fence:
        refused = self.database.fence_state.get("clients", ())
        return Fence(numbers(refused), young=bool(refused) and self.database.fence_made.get("clients") == YOUNG)

    def _store(self, before: State) -> Store:
        keys = tuple(sorted(KEY_OF[backup.fingerprint] for backup in self.vault.backups.values()))
        store: Store = self.stores.values[before.store]
        return store._replace(keys=keys)

    def _gone(self, before: State) -> tuple[int, ...]:
        left = {each.name for each in self.rollout.running or ()}
        known = self.instances.values[before.instances]
        return tuple(each.number for each in known if f"app-{each.number}" not in left)

    # Actions.

    def outcomes(self, action: "Action", state: State) -> tuple[Outcome, ...]:
        """What an action of the real code can leave behind."""
        known = self._memo.setdefault((action, state.ledger, state.keys), {})
        for names, results in known.items():
            found = results.get(self._values(names, state))
            if found is not None:
                return found
        found = self.execute(action, state)
        names = tuple(sorted(self.reads.names))
        known.setdefault(names, {})[self._values(names, state)] = found
        return found

    def _values(self, names: tuple[str, ...], state: State) -> tuple[int, ...]:
        return tuple(
            self.seen_by_pipeline(state.instances) if name == "instances" else getattr(state, name) for name in names
        )

    def seen_by_pipeline(self, instances: int) -> int:
        """The number of what the pipeline can see of the instances: their reports."""
        found = self._seen_of.get(instances)
        if found is None:
            known = self.instances.values[instances]
            seen = tuple((each.number, each.report, each.silent, each.names) for each in known)
            found = self._seen_of[instances] = self.seen.number(seen)
        return found

    def execute(self, action: "Action", state: State) -> tuple[Outcome, ...]:
        """Runs an action on a state."""
        self.executions += 1
        self.load(state)
        self._outcomes, self.task = [], ""
        self.concrete.clear()
        refused = None
        try:
            action.run(self)
        except KeyRotationError as error:
            refused = str(error)
        self._take(self.ledger.state, None, refused)
        return tuple(dict.fromkeys(self._outcomes))


@dataclass(frozen=True, slots=True)
class Action:
    """One call of the real code.

    Args:
        name: what the trace calls it.
        call: what is called, with the machine and the arguments.
    """

    name: str
    call: Callable[..., None]
    arguments: tuple[Any, ...] = ()

    def run(self, machine: Machine) -> None:
        """Runs it on what is loaded."""
        self.call(machine, *self.arguments)


def _keys_of(stored: Any) -> tuple[tuple[int, int], ...]:  # noqa: ANN401
    return tuple(sorted(KEY_OF[material.fingerprint] for material in stored.values()))


def backup_of(key: tuple[int, int]) -> KeyBackup:
    """The backup of a key."""
    version = KeyVersion(key[0])
    return KeyBackup(f"{version}.key.pgp", version, "ab" * 32, MATERIALS[key].fingerprint, ("F" * 40,), START)


@cache
def _as_seen(instance: Instance) -> fleet.Instance:
    report = instance.report
    return fleet.Instance(
        f"app-{instance.number}", tuple(map(KeyVersion, report.reads)), KeyVersion(report.writes),
        START + (LATER if report.recent else -LATER),
        silent=instance.silent, names_primary=instance.names, nonce=request_id(report.nonce),
    )  # fmt: skip


def request_id(number: int) -> str:
    """The id of the n-th request."""
    return f"{number:032x}"


def _life(machine: Machine) -> int:
    """How often the database was put back."""
    return machine.loaded_ledger.restored if machine.loaded_ledger is not None else 0


@contextmanager
def determined(machine: Machine) -> Iterator[None]:
    """Has the state choose ids and keys, so that it decides a run; and remembers pure functions of events."""

    def generate() -> KeyMaterial:
        ledger = machine.ledger
        made = events.entries(ledger, EventKind.KEY_CREATION_INTENDED)
        walk = ledger.current()
        assert walk is not None
        number = walk.target.number
        attempts = sum(KEY_OF[str(each.facts["fingerprint"])][0] == number for each in made)
        return MATERIALS[number, min(attempts + _life(machine), 7)]

    def urandom(size: int) -> bytes:
        opened = len(machine.ledger.state.requests) + 10 * _life(machine) + 1
        machine.clock.at += timedelta(seconds=1)  # no two requests are opened at one moment
        return opened.to_bytes(size, "big")

    remembered = lru_cache(maxsize=200_000)(events.entry_of)
    with (
        mock.patch.object(KeyMaterial, "generate", staticmethod(generate)),
        mock.patch.object(opening, "os", types.SimpleNamespace(urandom=urandom)),
        mock.patch.object(events, "entry_of", remembered),
        mock.patch.object(history, "entry_of", remembered),
        mock.patch.object(verify, "_replayed", lambda pipeline: pipeline.ledger.replayed()),
    ):
        yield
