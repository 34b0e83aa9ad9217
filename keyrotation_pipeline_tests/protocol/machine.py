"""Runs the real code on a state: loads the fakes, calls one action, and takes the states that it can leave behind.

One execution gives every state in which the process can have died: the journal of the fakes tells before each write,
and what was committed until then is a state. Further executions of the same action have the key store answer late or
not at all, and let somebody else act between two writes (`Inside`). Which components an action read is recorded, so
that the same action is not run again where only others differ.
"""

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

from keyrotation_pipeline.assembly.pipeline import ACTIONS
from keyrotation_pipeline.audit.history import LedgerState as ReplayedState
from keyrotation_pipeline.audit.store_owner import OwnedKeyStore
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model import fleet
from keyrotation_pipeline.model.approval import PinnedRoster, Roster
from keyrotation_pipeline.model.audit import GENESIS, AuditHead
from keyrotation_pipeline.model.backups import KeyBackup
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.model.tables import EncryptedTable, TableName
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline_tests.fakes import (
    ROSTER,
    START,
    FakeAnchors,
    FakeEnvironment,
    FakeHeartbeats,
    FakeInventory,
)
from keyrotation_pipeline_tests.fakes.chain import LedgerState
from keyrotation_pipeline_tests.protocol.model_ports import (
    DAMAGE,
    LOCK,
    YOUNG,
    Fault,
    ModelClock,
    ModelDatabase,
    ModelEvidence,
    ModelFencing,
    ModelJournal,
    ModelKeyStore,
    ModelLedger,
    ModelRewriting,
    ModelRollout,
    ModelSignatures,
    ModelVault,
    Reads,
    copied,
)
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
    last_named,
    marks_of,
    named_in,
    numbers,
)
from keyrotation_pipeline_tests.protocol.traces import steps

TABLE = EncryptedTable(TableName("public", "clients"), ("name",))
# The numbers of keys, rows and fence before and after what somebody else did.
Span = tuple[int, int] | None
Spans = tuple[Span, Span, Span]
NOBODY: Spans = (None, None, None)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one execution can leave behind: the number of each component, None where it is unchanged.

    Args:
        died: before which write the process died; None: it ended by itself.
        refused: the refusal that it ended with.
        task: the step that ran, if one did.
        meanwhile: what somebody else did meanwhile, or the key store did wrong.
        wrong: what it did that no state shows.
        renumbered: the new numbers of what reports name, by the former ones; None: they are the same.
        gone: numbers of instances that it made the pipeline forget.
        of_others: keys, rows and fence before and after what somebody else did meanwhile; None: nobody did anything,
            or nobody read that.
    """

    ledger: int
    keys: int
    rows: int | None
    fence: int | None
    instances: int | None
    views: int | None
    store: int | None
    died: str | None
    refused: str | None
    task: str
    meanwhile: str = ""
    wrong: str | None = None
    renumbered: tuple[int, ...] | None = None
    gone: tuple[int, ...] = ()
    of_others: Spans = NOBODY

    def after(self, state: State) -> State:
        """The state that it leads to, but for instances that are gone and the numbers of what reports name."""
        return State(
            self.ledger,
            self.keys,
            state.rows if self.rows is None else self.rows,
            state.fence if self.fence is None else self.fence,
            state.instances if self.instances is None else self.instances,
            state.views if self.views is None else self.views,
            state.store if self.store is None else self.store,
        )


class Inside(NamedTuple):
    """What somebody else does while an action runs.

    Args:
        act: on the machine, where the action is between two writes; returns whether there was anything to do.
    """

    name: str
    act: "Callable[[Machine], bool]"


class _NothingToDoError(BaseException):
    """Nobody else could act there. No handler of the product catches it."""


class Machine:
    """The real code over fakes that are loaded with a state.

    Args:
        faults: kinds of what the key store may do wrong. Where it may be late, a state has what it held before its last
            change.
    """

    def __init__(self, rows: int = 2, faults: Collection[str] = ()) -> None:
        self.row_count, self.faults = rows, frozenset(faults)
        self.ledgers, self.keys, self.rows, self.fences = Ledgers(), Interned(), Interned(), Interned()
        self.instances, self.views, self.stores = Interned(), Interned(), Interned()
        self.seen, self.reads = Interned(), Reads()
        self.executions = 0
        self._wire()
        self.loaded: State | None = None
        self.loaded_ledger: Ledger | None = None
        self.task = ""
        # The ledger that each outcome of the newest action really has, which another may stand for; if it is wanted.
        self.concrete: dict[Outcome, Ledger] | None = None
        self._number_of: dict[Hashable, int] = {}
        self.relation: set[str] = set()
        self._outcomes: dict[Outcome, None] = {}
        self._memo: dict[Any, dict[tuple[str, ...], dict[tuple[int, ...], tuple[Outcome, ...]]]] = {}
        self._seen_of: dict[int, int] = {}
        self._inside: tuple[int, Inside] | None = None
        self._gaps, self._acted = 0, False
        self._of_others: Spans = NOBODY
        self._wrong: str | None = None
        self._running = 0
        self._keys = Keys((), (), None, None, ())

    def _wire(self) -> None:
        self.clock, self.journal = ModelClock(), ModelJournal(self._before_write)
        self.store = ModelKeyStore({}, None, self.journal)
        self.store.gap = self._gap
        self.ledger = ModelLedger(self.clock, self.journal)
        self.ledger.gap, self.ledger.replays = self._gap, {}
        self.vault = ModelVault(journal=self.journal)
        self.database = ModelDatabase({"clients": []}, self.journal, self.clock, small=frozenset({"clients"}))
        self.rollout = ModelRollout(self.store, self.clock, running=())
        self.rewriting = ModelRewriting(self.database)
        self.rewriting.gap = self._gap
        self.signatures, self.anchors = ModelSignatures(ROSTER), FakeAnchors()
        self.signatures.clock = self.clock
        for each in (self.vault, self.database, self.rollout):
            each.reads = self.reads
        self.pipeline = Pipeline(
            (TABLE,), 1, 1, self.ledger, FakeInventory(self.database), self.rewriting,
            ModelFencing(self.database), ModelEvidence(self.database), FakeEnvironment(self.database),
            OwnedKeyStore(self.store, self.ledger), self.vault, self.rollout, self.signatures, self.clock,
            self.anchors, ACTIONS, FakeHeartbeats(),
        )  # fmt: skip
        self.ledger.verify, self.ledger.advance = self.signatures.verify_as_of, self.anchors.advance
        self.ledger.base = ReplayedState(self.ledger.verify)

    @property
    def life(self) -> int:
        """How often the database was put back; of the second copy of a home, more than that can be."""
        loaded = self.loaded_ledger
        return 0 if loaded is None else loaded.restored + 4 * (loaded.copy or 0)

    # What a state is loaded from and taken into.

    def beginning(self, instances: tuple[Instance, ...], roster: Roster = ROSTER) -> State:
        """Before any rotation: v1 is the only key, active, primary and backed up, and every row is under it."""
        self.signatures.configured, self.anchors.kept, self.anchors.kept_roster = roster, None, None
        self.clock.at, self.loaded, self.loaded_ledger, self.ledger.actor = START, None, None, "life 1"
        self.ledger.base, self.ledger._replay = ReplayedState(self.ledger.verify), None  # noqa: SLF001
        keys = Keys(((1, 0),), (), 1, roster.digest, ())
        self.store.begin(keys, None, AuditHead(0, GENESIS))
        record = KeyRecord(KeyVersion(1), KeyState.ACTIVE, MATERIALS[1, 0].fingerprint, START)
        self.ledger.begin_with(roster, record)
        self.anchors.keep_roster(PinnedRoster(1, roster))
        return State(
            self.ledgers.number(self._ledger(self.ledger.state)),
            self.keys.number(keys),
            self.rows.number((1,) * self.row_count),
            self.fences.number(Fence((), young=False)),
            self.instances.number(instances),
            self.views.number(()),
            self.stores.number(Store(((1, 0),), ())),
        )

    def load(self, state: State, fault: Fault | None = None) -> None:
        """Puts a state into the fakes."""
        ledger = self.ledgers.found[state.ledger]
        self.loaded, self.loaded_ledger = state, ledger
        self.ledger.state, self.ledger.base, self.ledger._replay = copied(ledger.state), ledger.replay, ledger.replay  # noqa: SLF001
        self.ledger.depth, self.ledger._has_changed = 0, False  # noqa: SLF001
        self.ledger.locks.clear()
        self.ledger.noted_waits.clear()
        self.clock.at = ledger.now
        # What is written after a restore is never what was written before it.
        self.ledger.actor = f"life {self.life + 1}"
        self.anchors.kept, self.anchors.kept_roster = ledger.kept, ledger.roster
        self.signatures.configured = ledger.configured
        self.signatures.expired = dict.fromkeys(ledger.expired, START)
        self._keys = self.keys.values[state.keys]
        self.store.begin(self._keys, fault, ledger.stamp)
        self.vault.backups = {KeyVersion(key[0]): backup_of(key) for key in self.stores.values[state.store].keys}
        self.put(state)
        self.database.file, self.database.read = 0, False
        self.reads.names.clear()
        self._wrong, self.task, self._gaps, self._acted, self._of_others = None, "", 0, False, NOBODY

    def put(self, state: State) -> None:
        """Puts what does not belong to the pipeline into the fakes."""
        database = self.database
        database.rows = {"clients": [{"name": f"v{row}:x"} for row in self.rows.values[state.rows]]}
        fence = self.fences.values[state.fence]
        database.fence_state = {"clients": tuple(map(KeyVersion, fence.refused))} if fence.refused else {}
        database.fence_made = {"clients": YOUNG if fence.young else 1} if fence.refused else {}
        database.views = self.views.values[state.views]
        held = any(view.kind == LOCK for view in database.views)
        database.locked = {("clients", 0)} if held else set()
        damaged = any(view.kind == DAMAGE for view in database.views)
        database.unreadable = {("clients", 0, "name")} if damaged else set()
        database.noted.clear()
        self._running = state.instances
        named = self.named()
        self.rollout.running = tuple(
            _as_seen(each, named[each.report.nonce]) for each in self.instances.values[state.instances]
        )

    def named(self) -> list[str]:
        """What reports may name, by number: the events of all lives; the first is none."""
        assert self.loaded_ledger is not None
        return ["", *(each.hash for each in named_in(self.loaded_ledger, self._committed().events))]

    def present(self) -> State:
        """The state between two writes, but for the ledger."""
        assert self.loaded is not None
        return State(
            self.loaded.ledger,
            self.keys.number(self._present_keys()),
            self.rows.number(self._rows()),
            self.fences.number(self._fence()),
            self._running,
            self.views.number(self.database.views),
            self.loaded.store,
        )

    def _committed(self) -> LedgerState:
        committed = self.ledger.committed if self.ledger.depth else self.ledger.state
        assert committed is not None
        return committed

    def _gap(self) -> None:
        """Another process may act here, unless it would wait for a lock."""
        if self.loaded is None or self.ledger.depth:
            return
        number, self._gaps = self._gaps, self._gaps + 1
        if self._inside is None or self._acted or number != self._inside[0]:
            return
        self._acted, read = True, set(self.reads.names)
        before = self._changeable()
        self.reads.names.intersection_update(read)
        if not self._inside[1].act(self):
            raise _NothingToDoError
        read = set(self.reads.names)
        after = self._changeable()
        self.reads.names.intersection_update(read)
        self._of_others = (before[0], after[0]), (before[1], after[1]), (before[2], after[2])

    def _changeable(self) -> tuple[int, int, int]:
        keys = self.keys.number(self._present_keys())
        return keys, self.rows.number(self._rows()), self.fences.number(self._fence())

    def _before_write(self, entry: str) -> None:
        if self.loaded is None:
            return
        if not entry.startswith(("event ", "keys.")):  # ledger and key store ask before they take their locks
            self._gap()
        if self._inside is None and (self.store.fault is None or self.store.fault.kind == "late"):
            self._take(self._committed(), entry, None)
        if entry.startswith("keys."):
            self.store.effective.add(len(self.store.calls) - 1)
            if "late" in self.faults:
                self._keys = self._present_keys()._replace(earlier=None)
            self._wrong = self._wrong or self._compromised(entry)

    def _compromised(self, entry: str) -> str | None:
        name, _, version = entry.partition(" ")
        if name != "keys.set_primary":
            return None
        record = self._committed().keys.get(KeyVersion.parse(version))
        is_lost = record is not None and record.state is KeyState.COMPROMISED
        return f"{version} becomes the primary, and was compromised before" if is_lost else None

    def _take(self, state: LedgerState, died: str | None, refused: str | None) -> None:
        """Adds what is committed now to the outcomes."""
        before, read, loaded = self.loaded, set(self.reads.names), self.loaded_ledger
        assert before is not None
        assert loaded is not None
        same = (
            len(state.events) == len(loaded.state.events)
            and self.anchors.kept == loaded.kept
            and self.anchors.kept_roster is loaded.roster
            and self.store.head == loaded.stamp
            and self.clock.at == loaded.now
            and self.signatures.configured is loaded.configured
        )
        ledger, renumbered = (before.ledger, None) if same else self._numbered(state)
        found = Outcome(
            ledger,
            self.keys.number(self._present_keys()),
            self.rows.number(self._rows()) if "rows" in read else None,
            self.fences.number(self._fence()) if "fence" in read else None,
            self._running if self._acted else None,
            self.views.number(self.database.views) if "views" in read else None,
            self.stores.number(self._store(before)) if "store" in read else None,
            died, refused, self.task, self._meanwhile(), self._wrong, renumbered,
            self._gone() if "instances" in read else (), self._spans(read),
        )  # fmt: skip
        self.reads.names.clear()
        self.reads.names.update(read)
        self._outcomes[found] = None
        if self.concrete is not None:
            self.concrete[found] = loaded if same else self._ledger(state)

    def _spans(self, read: Collection[str]) -> Spans:
        keys, rows, fence = self._of_others
        return keys, rows if "rows" in read else None, fence if "fence" in read else None

    def _meanwhile(self) -> str:
        if self._inside is not None:
            return f"meanwhile {self._inside[1].name}"
        return "" if self.store.fault is None else str(self.store.fault)

    def _numbered(self, state: LedgerState) -> tuple[int, tuple[int, ...] | None]:
        """The number of what is committed, and the new numbers of what reports name."""
        loaded, signatures, anchors = self.loaded_ledger, self.signatures, self.anchors
        assert loaded is not None
        every = named_in(loaded, state.events)
        named, numbers = last_named(every)
        # The chain decides everything else. What was saved is one of the ledgers found, so its id stays its own.
        saved = None if loaded.saved is None else (id(loaded.saved[0]), *loaded.saved[1:])
        facts = (state.events[-1].hash, self.clock.at, anchors.kept, anchors.kept_roster, str(signatures.configured))
        known = (*facts, saved, loaded.restored, loaded.expired, loaded.copy, self.store.head)
        number = self._number_of.get(known)
        if number is None:
            number = self._number_of[known] = self.ledgers.number(self._ledger(state))
        return number, None if len(named) == len(every) else numbers

    def _ledger(self, state: LedgerState) -> Ledger:
        loaded = self.loaded_ledger
        base = loaded.replay if loaded is not None else ReplayedState(self.ledger.verify)
        later = state.events[base.head.seq :]
        known = loaded if loaded is not None else Ledger(state, base, START, None, None, ROSTER)
        return replace(
            known, state=copied(state), replay=steps(base, later, self.relation.add), now=self.clock.at,
            kept=self.anchors.kept, roster=self.anchors.kept_roster, configured=self.signatures.configured,
            stamp=self.store.head, marks=known.marks | marks_of(later),
            named=last_named(named_in(known, state.events))[0],
        )  # fmt: skip

    def _present_keys(self) -> Keys:
        store = self.store
        primary = None if store.primary_version is None else store.primary_version.number
        found = Keys(_keys_of(store.live), _keys_of(store.shelf), primary, store.roster, numbers(store.compromised))
        if "late" not in self.faults:
            return found
        # Before the first change it is what the loaded state says, then what the store held before the last change.
        before = self._keys._replace(earlier=None)
        return found._replace(earlier=self._keys.earlier if found == before else before)

    def _rows(self) -> tuple[int, ...]:
        return tuple(sorted(int(str(row["name"])[1:].partition(":")[0]) for row in self.database.rows["clients"]))

    def _fence(self) -> Fence:
        refused = self.database.fence_state.get("clients", ())
        return Fence(numbers(refused), young=bool(refused) and self.database.fence_made.get("clients") == YOUNG)

    def _store(self, before: State) -> Store:
        keys = tuple(sorted(KEY_OF[backup.fingerprint] for backup in self.vault.backups.values()))
        store: Store = self.stores.values[before.store]
        return store._replace(keys=keys)

    def _gone(self) -> tuple[int, ...]:
        """The numbers of the instances that the pipeline has forgotten."""
        left = {each.name for each in self.rollout.running or ()}
        known = self.instances.values[self._running]
        return tuple(each.number for each in known if f"app-{each.number}" not in left)

    # Actions.

    def outcomes(self, action: "Action", state: State, insides: Sequence[Inside] = ()) -> tuple[Outcome, ...]:
        """What an action of the real code can leave behind.

        Args:
            insides: what others may do meanwhile.
        """
        known = self._memo.setdefault((action, state.ledger, state.keys), {})
        for names, results in known.items():
            found = results.get(self._values(names, state))
            if found is not None:
                return found
        found = self.execute(action, state, insides)
        # Whoever acts meanwhile may look at anything.
        names = _EVERYTHING if insides else tuple(sorted(self._all_read))
        known.setdefault(names, {})[self._values(names, state)] = found
        return found

    def _values(self, names: tuple[str, ...], state: State) -> tuple[int, ...]:
        if names is _EVERYTHING:
            return state
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

    def execute(self, action: "Action", state: State, insides: Sequence[Inside] = ()) -> tuple[Outcome, ...]:
        """Runs an action on a state: as it is, with each fault, and with each of the others between any two writes."""
        self._outcomes.clear()
        if self.concrete is not None:
            self.concrete.clear()
        self._all_read = set[str]()
        self._run(action, state)
        gaps, faults = self._gaps, tuple(self._possible_faults())
        for fault in faults:
            self._run(action, state, fault)
        for inside in insides:
            for number in range(gaps):
                self._run(action, state, inside=(number, inside))
        return tuple(self._outcomes)

    def _possible_faults(self) -> Iterator[Fault]:
        """What can go wrong in the run that has just ended, if it runs again."""
        if "late" in self.faults and self._keys.earlier is not None:
            yield Fault("late")
        for number, name in enumerate(self.store.calls):
            if "silent" in self.faults:
                yield Fault("silent", number, name)
            if "unheard" in self.faults and number in self.store.effective:
                yield Fault("unheard", number, name)

    def _run(
        self, action: "Action", state: State, fault: Fault | None = None, inside: tuple[int, Inside] | None = None
    ) -> None:
        self.executions += 1
        self.load(state, fault)
        self._inside, refused = inside, None
        try:
            action.run(self)
        except KeyRotationError as error:
            refused = str(error)
        except _NothingToDoError:
            return
        finally:
            self._all_read |= self.reads.names
        self._take(self.ledger.state, None, refused)


# The names of the components that a result depends on, if on all of them.
_EVERYTHING = ("everything",)


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
def _as_seen(instance: Instance, nonce: str) -> fleet.Instance:
    report = instance.report
    return fleet.Instance(
        f"app-{instance.number}", tuple(map(KeyVersion, report.reads)), KeyVersion(report.writes), START,
        silent=instance.silent, names_primary=instance.names, nonce=nonce,
    )  # fmt: skip


def request_id(number: int) -> str:
    """The id of the n-th request."""
    return f"{number:032x}"
