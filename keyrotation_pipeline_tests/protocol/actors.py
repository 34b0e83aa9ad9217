"""Who does what: the pipeline's commands and steps (the real code), instances, other readers, time.

An actor yields transitions: a label, the state after it, and whether a process died on the way.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import cache, partial
from typing import NamedTuple

from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline_tests.protocol import commands
from keyrotation_pipeline_tests.protocol.machine import NOBODY, Action, Inside, Machine, Outcome, Spans
from keyrotation_pipeline_tests.protocol.model_ports import DAMAGE, LOCK
from keyrotation_pipeline_tests.protocol.models import POLICY, Model
from keyrotation_pipeline_tests.protocol.state import Fence, Instance, Key, Report, State, View, other_copy, rewound

# Past every `start_by`, then past every `finish_by`.
LEAPS = (timedelta(days=31), timedelta(days=60))


class Transition(NamedTuple):
    """One step of one actor.

    Args:
        request: whose effects these are; None: nobody's that officers sign for.
        wrong: what was done wrong, though no state shows it.
        of_others: keys, rows and fence before and after what somebody else did meanwhile.
    """

    label: str
    after: State
    request: str | None = None
    died: bool = False
    action: str = ""
    wrong: str | None = None
    of_others: Spans = NOBODY


class Actors:
    """Every transition of a model."""

    def __init__(self, machine: Machine, model: Model) -> None:
        self.machine, self.model = machine, model
        self._known_commands: dict[int, tuple[Action, ...]] = {}
        self._moves: dict[object, tuple[tuple[str, int], ...]] = {}
        self._asked = cache(lambda ledger: len(machine.ledgers.found[ledger].named))
        insides = {
            "write": Inside("an instance writes", self._write_inside),
            "report": Inside("an instance reports", self._report_inside),
            "rewrite": Inside("somebody rewrites the table", lambda machine: machine.database.rewrite()),
        }
        self._writers_inside = tuple(act for name, act in insides.items() if name in model.inside)

    def transitions(self, state: State) -> Iterator[Transition]:
        """What can happen next."""
        yield from self._pipeline(state)
        yield from self._instances(state)
        yield from self._writes(state)
        yield from self._views(state)
        yield from self._time(state)

    def commands(self, ledger: int) -> tuple[Action, ...]:
        """What the pipeline and people may do in a ledger's state."""
        found = self._known_commands.get(ledger)
        if found is None:
            found = tuple(commands.commands_of(self.model, self.machine.ledgers.found[ledger]))
            self._known_commands[ledger] = found
        return found

    def _pipeline(self, state: State) -> Iterator[Transition]:
        for action in self.commands(state.ledger):
            if action.call is commands.confirm and not self._silent_are_dead(state.instances):
                continue
            request = action.arguments[0] if action.arguments else None
            for each in self.machine.outcomes(action, state, self._insides(action, state)):
                if each.died is not None and not self.model.dies:
                    continue
                after = each.after(state)
                if each.gone:
                    after = after._replace(instances=self._without(after.instances, each.gone))
                if each.renumbered is not None:
                    after = after._replace(instances=self._renumbered(after.instances, each.renumbered))
                if after != state or each.wrong is not None:
                    died = each.died is not None
                    yield Transition(
                        _label(action, each), after, request, died, action.name, each.wrong, each.of_others
                    )

    def _without(self, instances: int, gone: tuple[int, ...]) -> int:
        left = (each for each in self.machine.instances.values[instances] if each.number not in gone)
        return self.machine.instances.number(tuple(left))

    def _renumbered(self, instances: int, numbers: tuple[int, ...]) -> int:
        fleet: tuple[Instance, ...] = self.machine.instances.values[instances]
        return self._fleet(
            tuple(each._replace(report=each.report._replace(nonce=numbers[each.report.nonce])) for each in fleet)
        )

    def _silent_are_dead(self, instances: int) -> bool:
        """Officers tell the truth: they confirm nothing while an instance that is silent still runs."""
        return not any(each.silent and each.alive for each in self.machine.instances.values[instances])

    # What others do while a step of the pipeline runs.

    def _insides(self, action: Action, state: State) -> Sequence[Inside]:
        crossed = commands.LOOK_FIRST if "request" in self.model.inside else {commands.rotate_on}
        if not self.model.inside or action.call not in crossed:
            return ()
        return (*self._writers_inside, *self._people_inside(state.ledger))

    def _people_inside(self, ledger: int) -> Iterator[Inside]:
        for action in self.commands(ledger):
            if not self.model.inside.isdisjoint(action.name.split()):
                yield Inside(action.name, partial(_done, action))

    def _write_inside(self, machine: Machine) -> bool:
        state = machine.present()
        moves = [rows for _, rows in self._of_writers(state)]
        if moves:
            machine.put(state._replace(rows=moves[0]))
        return bool(moves)

    def _report_inside(self, machine: Machine) -> bool:
        state = machine.present()
        fleet = machine.instances.values[state.instances]
        newest = len(machine.named()) - 1
        told = self._fleet(tuple(_reported(each, newest) if each.alive else each for each in fleet))
        if told != state.instances:
            machine.put(state._replace(instances=told))
        return told != state.instances

    def _remembered(
        self, name: str, known: object, moves: Callable[[], Iterator[tuple[str, int]]]
    ) -> tuple[tuple[str, int], ...]:
        found = self._moves.get((name, known))
        if found is None:
            found = self._moves[name, known] = tuple(dict.fromkeys(moves()))
        return found

    # The application.

    def _instances(self, state: State) -> Iterator[Transition]:
        newest = self._asked(state.ledger)
        known = (state.instances, state.keys, newest)
        for label, instances in self._remembered("instances", known, lambda: self._of_fleet(state, newest)):
            yield Transition(label, state._replace(instances=instances))

    def _of_fleet(self, state: State, newest: int) -> Iterator[tuple[str, int]]:
        machine, model = self.machine, self.model
        fleet: tuple[Instance, ...] = machine.instances.values[state.instances]
        keys = machine.keys.values[state.keys]
        for each in fleet:
            others = tuple(other for other in fleet if other is not each)
            for label, after in self._of_instance(each, keys.live, keys.primary, newest):
                if after != each:
                    yield label, self._fleet((*others, after))
            if "exit" in model.fleet and len(fleet) > 1:
                yield f"instance {each.number} ends and says so", self._fleet(others)
        if "start" in model.fleet and len(fleet) < model.instances and keys.primary is not None:
            number = next(n for n in range(len(fleet) + 1) if all(each.number != n for each in fleet))
            new = started(number, keys.live, keys.primary, newest, names=model.names)
            yield f"instance {number} starts", self._fleet((*fleet, new))

    def _of_instance(
        self, each: Instance, live: tuple[Key, ...], primary: int | None, newest: int
    ) -> Iterator[tuple[str, Instance]]:
        if not each.alive:
            return
        if primary is not None:
            yield f"instance {each.number} reads the key store", each._replace(ring=live, primary=primary)
        yield f"instance {each.number} reports", _reported(each, newest)
        if "die" in self.model.fleet:
            yield f"instance {each.number} falls silent", each._replace(silent=True)
            yield f"instance {each.number} dies", each._replace(silent=True, alive=False)

    def _fleet(self, instances: tuple[Instance, ...]) -> int:
        """Instances in order. They are alike: unless officers name them, their numbers say nothing."""
        if "die" in self.model.fleet:
            return self.machine.instances.number(tuple(sorted(instances)))
        alike = sorted(each._replace(number=0) for each in instances)
        return self.machine.instances.number(tuple(each._replace(number=n) for n, each in enumerate(alike)))

    def _writes(self, state: State) -> Iterator[Transition]:
        known = (state.instances, state.rows, state.fence)
        for label, rows in self._remembered("writes", known, lambda: self._of_writers(state)):
            yield Transition(label, state._replace(rows=rows))

    def _of_writers(self, state: State) -> Iterator[tuple[str, int]]:
        rows, fence = self.machine.rows.values[state.rows], self.machine.fences.values[state.fence]
        for each in self.machine.instances.values[state.instances]:
            if not each.alive or refuses(fence, each.writes):
                continue
            for row in sorted(set(rows) - {each.writes}):
                left = list(rows)
                left.remove(row)
                after = self.machine.rows.number(tuple(sorted((*left, each.writes))))
                yield f"instance {each.number} writes a row under v{each.writes} (it was under v{row})", after

    # Others.

    def _views(self, state: State) -> Iterator[Transition]:
        if not self.model.views and self.model.controls.isdisjoint({"lock", "damage"}):
            return
        for label, views in self._remembered("views", (state.views, state.rows), lambda: self._of_views(state)):
            yield Transition(label, state._replace(views=views))

    def _of_views(self, state: State) -> Iterator[tuple[str, int]]:
        views = self.machine.views.values[state.views]
        rows = tuple(sorted(set(self.machine.rows.values[state.rows])))
        for each in views:
            left = tuple(view for view in views if view is not each)
            if each.kind == LOCK:
                yield "the row lock ends", self.machine.views.number(left)
                continue
            if each.kind == DAMAGE:
                yield "the damaged value is replaced by a good one", self.machine.views.number(left)
                continue
            yield f"the {each.kind} of {_versions(each.versions)} ends", self.machine.views.number(left)
        if len(views) < self.model.views:
            view = View("snapshot", rows, before_proof=False)
            yield (
                f"a snapshot begins, in which rows are under {_versions(rows)}",
                self.machine.views.number(tuple(sorted((*views, view)))),
            )

        if "lock" in self.model.controls and len(views) < 1:
            yield "somebody locks the oldest row", self.machine.views.number((View(LOCK, (), before_proof=False),))
        if "damage" in self.model.controls and len(views) < 1:
            yield "somebody damages a value", self.machine.views.number((View(DAMAGE, (), before_proof=False),))

    def _time(self, state: State) -> Iterator[Transition]:
        if POLICY in self.model.asks:
            for label, ledger in self._remembered("toml", state.ledger, lambda: self._of_file(state.ledger)):
                yield Transition(label, state._replace(ledger=ledger))
        if "expire" in self.model.controls:
            for label, ledger in self._remembered("expire", state.ledger, lambda: self._of_keys(state.ledger)):
                yield Transition(label, state._replace(ledger=ledger))
        if "restore" in self.model.controls:
            yield from self._restores(state)
        if "copy" in self.model.controls:
            yield from self._copies(state)
        if "dump" in self.model.controls:
            yield from self._dumps(state)
        if "time" not in self.model.controls:
            return
        for label, ledger in self._remembered("time", state.ledger, lambda: self._of_time(state.ledger)):
            yield Transition(label, state._replace(ledger=ledger))

    def _of_time(self, number: int) -> Iterator[tuple[str, int]]:
        ledger = self.machine.ledgers.found[number]
        if all(each.is_over or ledger.now > each.finish_by for each in ledger.state.requests.values()):
            return
        for leap in LEAPS:
            yield f"{leap.days} days pass", self.machine.ledgers.number(replace(ledger, now=ledger.now + leap))

    def _of_file(self, number: int) -> Iterator[tuple[str, int]]:
        """Somebody edits `keyrotation.toml`."""
        ledger = self.machine.ledgers.found[number]
        here = commands.roster_of(self.model)
        other = commands.OTHER if ledger.configured == here else here
        yield "keyrotation.toml names other officers", self.machine.ledgers.number(replace(ledger, configured=other))

    def _of_keys(self, number: int) -> Iterator[tuple[str, int]]:
        """One officer's key expires; the others' do not."""
        ledger = self.machine.ledgers.found[number]
        for officer in () if ledger.expired or ledger.replay.roster is None else ledger.replay.roster.officers:
            after = replace(ledger, expired=frozenset({officer.fingerprint}))
            yield f"{officer.name}'s key expires", self.machine.ledgers.number(after)

    def _restores(self, state: State) -> Iterator[Transition]:
        ledger = self.machine.ledgers.found[state.ledger]
        if ledger.saved is None:
            saved = replace(ledger, saved=(ledger, state.rows, state.fence))
            yield Transition("the database is dumped", state._replace(ledger=self.machine.ledgers.number(saved)))
            return
        before, rows, fence = ledger.saved
        if not ledger.restored:
            young: Fence = self.machine.fences.values[fence]
            # Constraints that a restore makes again are younger than every proof.
            fence = self.machine.fences.number(young._replace(young=bool(young.refused)))
            back = self.machine.ledgers.number(rewound(ledger, before))
            # What reports name is lost, if it came after the dump.
            named = tuple(number if number <= len(before.named) else 0 for number in range(len(ledger.named) + 1))
            yield Transition(
                "the database is restored from the dump",
                state._replace(
                    ledger=back, rows=rows, fence=fence, views=self.machine.views.number(()),
                    instances=self._renumbered(state.instances, named),
                ),
            )  # fmt: skip

    def _copies(self, state: State) -> Iterator[Transition]:
        """Both copies go on, one after the other in any order, with one key store."""
        ledger = self.machine.ledgers.found[state.ledger]
        if ledger.saved is None:
            copied = replace(ledger, saved=(ledger, state.rows, state.fence), copy=0)
            label = "home and database are copied"
            yield Transition(label, state._replace(ledger=self.machine.ledgers.number(copied)))
            return
        other, rows, fence = other_copy(ledger, state.rows, state.fence)
        number = self.machine.ledgers.number(other)
        # Reports are in a database: the instances tell this one again.
        fleet = self._renumbered(state.instances, (0,) * (len(ledger.named) + 1))
        after = state._replace(ledger=number, rows=rows, fence=fence, instances=fleet)
        yield Transition("the other copy goes on", after)

    def _dumps(self, state: State) -> Iterator[Transition]:
        store = self.machine.stores.values[state.store]
        rows = tuple(sorted(set(self.machine.rows.values[state.rows])))
        if not store.dumps:
            kept = self.machine.stores.number(store._replace(dumps=(rows,)))
            yield Transition(f"a dump is made, with rows under {_versions(rows)}", state._replace(store=kept))
        else:
            kept = self.machine.stores.number(store._replace(dumps=()))
            yield Transition("the dump expires", state._replace(store=kept))


def refuses(fence: Fence, version: int) -> bool:
    """Whether the database refuses a value under a version."""
    return version in fence.refused


def started(number: int, live: tuple[Key, ...], primary: int, newest: int, *, names: bool) -> Instance:
    """An instance that has just read the key store, and reports before it serves."""
    report = Report((), 0, 0)
    return _reported(Instance(number, live, primary, report, silent=False, alive=True, names=names), newest)


def _reported(instance: Instance, newest: int) -> Instance:
    report = Report(tuple(version for version, _ in instance.ring), instance.writes, newest)
    return instance._replace(report=report, silent=False)


def _done(action: Action, machine: Machine) -> bool:
    """Somebody else does that; returns whether it was not refused."""
    try:
        action.run(machine)
    except KeyRotationError:
        return False
    return True


def _label(action: Action, outcome: Outcome) -> str:
    task = f": {outcome.task}" if outcome.task else ""
    meanwhile = f", {outcome.meanwhile}" if outcome.meanwhile else ""
    died = f", dies before `{outcome.died}`" if outcome.died is not None else ""
    refused = f", refused: {outcome.refused}" if outcome.refused is not None else ""
    return f"{action.name}{task}{meanwhile}{died}{refused}"


def _versions(versions: tuple[int, ...]) -> str:
    return " and ".join(f"v{version}" for version in versions)
