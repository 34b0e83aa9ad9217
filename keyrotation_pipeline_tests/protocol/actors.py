"""Who does what: the pipeline's commands and steps (the real code), instances, other readers, time.

An actor yields transitions: a label, the state after it, and whether a process died on the way.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import NamedTuple

from keyrotation_pipeline.backups import destruction
from keyrotation_pipeline.errors import BlockedError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.approval import Officer, Roster
from keyrotation_pipeline.model.requests import Request, RequestAction, RequestStatus, Step, Walk
from keyrotation_pipeline.model.tables import Shard
from keyrotation_pipeline.requests import confirming, control, policy
from keyrotation_pipeline.requests.approvals import add_approval
from keyrotation_pipeline.requests.conductor import Task
from keyrotation_pipeline.rotation import reconcile, rollback, rotate, runner
from keyrotation_pipeline_tests.fakes import ROSTER
from keyrotation_pipeline_tests.protocol.destruction import site_of
from keyrotation_pipeline_tests.protocol.machine import LOCK, TABLE, Action, Machine
from keyrotation_pipeline_tests.protocol.models import DESTROY, EMERGENCY, POLICY, RECONCILE, ROLLBACK, ROUTINE, Model
from keyrotation_pipeline_tests.protocol.state import Fence, Instance, Key, Ledger, Report, State, View, rewound

ASKS = "dba@clinic"
# Past every `start_by`, then past every `finish_by`.
LEAPS = (timedelta(days=31), timedelta(days=60))


class Transition(NamedTuple):
    """One step of one actor.

    Args:
        request: whose effects these are; None: nobody's that officers sign for.
    """

    label: str
    after: State
    request: str | None = None
    died: bool = False
    action: str = ""


# The pipeline: what people type and what the conductor starts.


def ask_routine(machine: Machine) -> None:
    """`keyrotation request`."""
    rotate.open_request(machine.pipeline, reason="yearly", requested_by=ASKS)


def ask_emergency(machine: Machine) -> None:
    """`keyrotation request --emergency`."""
    rotate.open_request(machine.pipeline, reason="exposed", requested_by=ASKS, incident="leak")


def ask_rollback(machine: Machine, request: str) -> None:
    """`keyrotation rollback`."""
    walk = machine.pipeline.ledger.walk(request)
    rollback.open_rollback(machine.pipeline, walk, reason="slow", requested_by=ASKS)


def sign(machine: Machine, request: str, officer: str) -> None:
    """`keyrotation approve --signature`."""
    text = machine.ledger.approval_text(request)
    signature = machine.signatures.sign_now(officer, text)
    add_approval(machine.pipeline, machine.ledger.request(request), signature)


def rotate_on(machine: Machine, request: str) -> None:
    """The first step that is due, as `keyrotation rotate` and the conductor run it."""
    walk = machine.ledger.walk(request)
    decision = runner.next_decision(machine.pipeline, walk)
    if not decision.tasks:
        raise BlockedError(decision.waiting_for or "nothing is due")
    machine.task = str(decision.tasks[0].step)
    runner.run_step(machine.pipeline, request, decision.tasks[0], lambda _progress: None)


def run_task(machine: Machine, request: str, step: Step, *, shard: bool = False) -> None:
    """One asset materialized by hand, due or not."""
    task = Task(step, Shard(TABLE, 0, 1) if shard else None)
    runner.run_step(machine.pipeline, request, task, lambda _progress: None)


def cancel(machine: Machine, request: str) -> None:
    """`keyrotation cancel`."""
    control.cancel(machine.pipeline, machine.ledger.request(request))


def pause(machine: Machine, request: str) -> None:
    """`keyrotation pause`."""
    control.pause(machine.pipeline, machine.ledger.walk(request))


def resume(machine: Machine, request: str) -> None:
    """`keyrotation resume`."""
    control.resume(machine.pipeline, machine.ledger.walk(request))


def confirm(machine: Machine, request: str, officer: str) -> None:
    """`keyrotation confirm --signature`: an officer knows that what is silent has ended."""
    walk = machine.ledger.walk(request)
    text = confirming.confirmation_text(machine.pipeline, walk)
    confirming.add_confirmation(machine.pipeline, walk, machine.signatures.sign_now(officer, text))


def ask_policy(machine: Machine) -> None:
    """`keyrotation policy --reason`."""
    policy.open_policy(machine.pipeline, reason="Ben leaves", requested_by=ASKS)


def change_policy(machine: Machine, request: str) -> None:
    """`keyrotation policy`, once it is signed."""
    policy.change_policy(machine.pipeline, machine.ledger.request(request))


def ask_reconcile(machine: Machine) -> None:
    """`keyrotation reconcile`."""
    reconcile.open_reconciliation(machine.pipeline, requested_by=ASKS)


def carry_out_reconcile(machine: Machine, request: str) -> None:
    """`keyrotation reconcile`, once it is signed."""
    reconcile.reconcile(machine.pipeline, machine.ledger.request(request))


def ask_destroy(machine: Machine, version: int) -> None:
    """`keyrotation destroy --reason`."""
    destruction.open_destruction(site_of(machine), KeyVersion(version), reason="old", requested_by=ASKS)


def carry_out_destroy(machine: Machine, request: str) -> None:
    """`keyrotation destroy`, once it is signed."""
    destruction.destroy(site_of(machine), machine.ledger.request(request))


# The roster that `keyrotation.toml` may be changed to: Ben leaves, Cleo comes.
CLEO = Officer("Cleo", "C" * 40)
OTHER = Roster(2, (ROSTER.officers[0], CLEO), ROSTER.recipients)
CARRIES_OUT = {
    RequestAction.POLICY: change_policy,
    RequestAction.RECONCILE: carry_out_reconcile,
    RequestAction.DESTROY: carry_out_destroy,
}


def _named(request: Request) -> str:
    kind = request.type if request.action == "rotate" else request.action
    return f"{kind} {int(request.id, 16)} ({request.source} to {request.target})"


def _commands(model: Model, ledger: Ledger) -> Iterator[Action]:
    """What people may type in a ledger's state."""
    requests = list(ledger.state.requests.values())
    open_ones = [each for each in requests if not each.is_over]
    highest = max(version.number for version in ledger.state.keys)
    may_ask = len(requests) < model.requests
    if may_ask and ROUTINE in model.asks and highest < model.versions:
        yield Action("request a rotation", ask_routine)
    if may_ask and EMERGENCY in model.asks and highest < model.versions:
        yield Action("request an emergency", ask_emergency)
    if may_ask and ROLLBACK in model.asks:
        for each in requests:
            if each.action == "rotate":
                yield Action(f"request a rollback of {_named(each)}", ask_rollback, (each.id,))
    if may_ask and POLICY in model.asks:
        yield Action("request another roster", ask_policy)
    if may_ask and RECONCILE in model.asks and ledger.restored:
        yield Action("request a reconciliation", ask_reconcile)
    if may_ask and DESTROY in model.asks:
        for version in ledger.state.keys:
            yield Action(f"request the destruction of {version}", ask_destroy, (version.number,))
    for each in open_ones:
        yield from _about(model, ledger, each)


def _about(model: Model, ledger: Ledger, request: Request) -> Iterator[Action]:
    name, roster = _named(request), ledger.replay.roster
    if roster is not None and len(request.approvals) < roster.required:
        # Officers are alike; once the roster may change, they are not.
        officers = roster.officers if POLICY not in model.asks else dict.fromkeys((*ROSTER.officers, CLEO))
        able = [each for each in officers if each.fingerprint not in request.approvals]
        for officer in able if POLICY in model.asks else able[:1]:
            yield Action(f"{officer.name} signs {name}", sign, (request.id, officer.fingerprint))
    if "cancel" in model.controls:
        yield Action(f"cancel {name}", cancel, (request.id,))
    if not isinstance(request, Walk):
        yield Action(f"carry out {name}", CARRIES_OUT[request.action], (request.id,))
        return
    if "confirm" in model.controls and roster is not None:
        first = roster.officers[0]
        yield Action(f"{first.name} confirms a rollout of {name}", confirm, (request.id, first.fingerprint))
    if "pause" in model.controls and request.status is not RequestStatus.PAUSED:
        yield Action(f"pause {name}", pause, (request.id,))
    if request.status is RequestStatus.PAUSED:
        yield Action(f"resume {name}", resume, (request.id,))
    yield Action(f"run what is due of {name}", rotate_on, (request.id,))
    if "out of order" in model.controls:
        for step in Step:
            yield Action(f"run {step} of {name}", run_task, (request.id, step))


class Actors:
    """Every transition of a model."""

    def __init__(self, machine: Machine, model: Model) -> None:
        self.machine, self.model = machine, model
        self._known_commands: dict[int, tuple[Action, ...]] = {}
        self._moves: dict[object, tuple[tuple[str, int], ...]] = {}
        self._newest: dict[int, int] = {}

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
            found = self._known_commands[ledger] = tuple(_commands(self.model, self.machine.ledgers.found[ledger]))
        return found

    def _pipeline(self, state: State) -> Iterator[Transition]:
        for action in self.commands(state.ledger):
            if action.call is confirm and not self._silent_are_dead(state.instances):
                continue
            request = action.arguments[0] if action.arguments else None
            for each in self.machine.outcomes(action, state):
                if each.died is not None and not self.model.dies:
                    continue
                after = State(
                    each.ledger,
                    each.keys,
                    state.rows if each.rows is None else each.rows,
                    state.fence if each.fence is None else each.fence,
                    self._without(state.instances, each.gone) if each.gone else state.instances,
                    state.views if each.views is None else each.views,
                    state.store if each.store is None else each.store,
                )
                if self._changes_keys(state.keys, after.keys):
                    after = after._replace(instances=self._aged(after.instances))
                if after == state:
                    continue
                died = f", dies before `{each.died}`" if each.died is not None else ""
                refused = f", refused: {each.refused}" if each.refused is not None else ""
                task = f": {each.task}" if each.task else ""
                yield Transition(f"{action.name}{task}{died}{refused}", after, request, bool(died), action.name)

    def _changes_keys(self, before: int, after: int) -> bool:
        values = self.machine.keys.values
        if before == after:
            return False
        is_withdrawn = not set(values[before].live) <= set(values[after].live)
        return is_withdrawn or values[before].primary != values[after].primary

    def _aged(self, instances: int) -> int:
        """The instances, whose reports are older than this change of the key store."""
        fleet = self.machine.instances.values[instances]
        aged = (each._replace(report=each.report._replace(recent=not each.alive)) for each in fleet)
        return self.machine.instances.number(tuple(aged))

    def _silent_are_dead(self, instances: int) -> bool:
        """Officers tell the truth: they confirm nothing while an instance that is silent still runs."""
        return not any(each.silent and each.alive for each in self.machine.instances.values[instances])

    def _without(self, instances: int, gone: tuple[int, ...]) -> int:
        left = (each for each in self.machine.instances.values[instances] if each.number not in gone)
        return self.machine.instances.number(tuple(left))

    def _remembered(
        self, name: str, known: object, moves: Callable[[], Iterator[tuple[str, int]]]
    ) -> tuple[tuple[str, int], ...]:
        found = self._moves.get((name, known))
        if found is None:
            found = self._moves[name, known] = tuple(dict.fromkeys(moves()))
        return found

    # The application.

    def _newest_request(self, ledger: int) -> int:
        found = self._newest.get(ledger)
        if found is None:
            requests = self.machine.ledgers.found[ledger].state.requests
            found = self._newest[ledger] = max((int(each, 16) for each in requests), default=0)
        return found

    def _instances(self, state: State) -> Iterator[Transition]:
        newest = self._newest_request(state.ledger)
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
        report = Report(tuple(version for version, _ in each.ring), each.writes, newest, recent=True)
        yield f"instance {each.number} reports", each._replace(report=report, silent=False)
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
        if not self.model.views and "lock" not in self.model.controls:
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
            yield f"the {each.kind} of {_versions(each.versions)} ends", self.machine.views.number(left)
        if len(views) < self.model.views:
            view = View("snapshot", rows, before_proof=False)
            yield (
                f"a snapshot begins, in which rows are under {_versions(rows)}",
                self.machine.views.number(tuple(sorted((*views, view)))),
            )

        if "lock" in self.model.controls and len(views) < 1:
            yield "somebody locks the oldest row", self.machine.views.number((View(LOCK, (), before_proof=False),))

    def _time(self, state: State) -> Iterator[Transition]:
        if POLICY in self.model.asks:
            for label, ledger in self._remembered("toml", state.ledger, lambda: self._of_file(state.ledger)):
                yield Transition(label, state._replace(ledger=ledger))
        if "restore" in self.model.controls:
            yield from self._restores(state)
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
        other = OTHER if ledger.configured == ROSTER else ROSTER
        yield "keyrotation.toml names other officers", self.machine.ledgers.number(replace(ledger, configured=other))

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
            yield Transition(
                "the database is restored from the dump",
                state._replace(ledger=back, rows=rows, fence=fence, views=self.machine.views.number(())),
            )

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
    instance = Instance(number, live, primary, Report((), 0, 0, recent=True), silent=False, alive=True, names=names)
    return instance._replace(report=Report(tuple(version for version, _ in live), instance.writes, newest, recent=True))


def _versions(versions: tuple[int, ...]) -> str:
    return " and ".join(f"v{version}" for version in versions)
