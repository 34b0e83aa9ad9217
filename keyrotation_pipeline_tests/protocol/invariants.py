"""What must hold in every state, and in every transition: section 3 of the design as predicates.

A predicate reads as few components as it can, and is asked once for each combination of their values.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from keyrotation_pipeline.audit.verify import verify_everything
from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.requests import RequestStatus, Step, Walk
from keyrotation_pipeline_tests.protocol import actors
from keyrotation_pipeline_tests.protocol.actors import Transition
from keyrotation_pipeline_tests.protocol.machine import Machine, Span
from keyrotation_pipeline_tests.protocol.model_ports import DAMAGE
from keyrotation_pipeline_tests.protocol.state import Fence, Instance, Keys, Ledger, State, Store, View, knows


@dataclass(frozen=True, slots=True)
class Broken:
    """An invariant that does not hold, and why."""

    invariant: str
    why: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.why}"


def was_put_back(ledger: Ledger) -> bool:
    """Whether the database was put back to an earlier state, and nobody has reconciled it yet."""
    kept = ledger.kept
    return bool(ledger.restored) and not (kept is None or ledger.replay.leads_through(kept))


def reads_every_value(ledger: Ledger, instances: tuple[Instance, ...], rows: tuple[int, ...]) -> str | None:
    """No running instance reads a value whose key it lacks. A restored database has values of an earlier time."""
    if ledger.restored or ledger.copy is not None:
        return None
    for each in instances:
        for row in rows:
            if each.alive and not each.holds(row):
                return f"instance {each.number} lacks v{row}, under which a row is"
    return None


def key_kept(rows: tuple[int, ...], keys: Keys, store: Store) -> str | None:
    """No value without its key stored and backed up."""
    for row in rows:
        if all(version != row for version, _ in chain(keys.live, keys.shelf)):
            return f"a row is under v{row}, which the key store does not hold"
        if all(version != row for version, _ in store.keys):
            return f"a row is under v{row}, which is not backed up"
    return None


def one_key_a_version(keys: Keys, instances: tuple[Instance, ...]) -> str | None:
    """No two keys under one version."""
    held = set(chain(keys.live, keys.shelf, *(each.ring for each in instances)))
    versions = [version for version, _ in held]
    doubled = [version for version in versions if versions.count(version) > 1]
    return f"there are two keys called v{doubled[0]}" if doubled else None


def nothing_old(ledger: Ledger, keys: Keys, rows: tuple[int, ...], views: tuple[View, ...]) -> str | None:
    """Nothing is left under a version that applications no longer get: in the database, a snapshot or a standby."""
    if was_put_back(ledger) or ledger.copy is not None:
        return None
    for version, _ in set(keys.shelf) - set(keys.live):
        if version in rows:
            return f"v{version} was taken from the applications, and a row is under it"
        for view in views:
            if version in view.versions:
                return f"v{version} was taken from the applications, and a {view.kind} still shows a row under it"
    return None


def writes_accepted(ledger: Ledger, instances: tuple[Instance, ...], fence: Fence) -> str | None:
    """No running instance writes under a version that the database refuses."""
    if ledger.restored or ledger.copy is not None:
        return None
    for each in instances:
        if each.alive and actors.refuses(fence, each.writes):
            return f"instance {each.number} writes under v{each.writes}, which the table refuses"
    return None


def archived_is_gone(ledger: Ledger, keys: Keys, instances: tuple[Instance, ...]) -> str | None:
    """No running instance has a key that is recorded as archived after its retirement, and not brought back."""
    if ledger.copy is not None:
        return None  # the instances are those of the other copy, too
    live = {version for version, _ in keys.live}
    for version in ledger.replay.retired:
        if ledger.state.keys[version].state is KeyState.ARCHIVED and version.number not in live:
            for each in instances:
                if each.alive and each.holds(version.number):
                    return f"{version} is archived, and instance {each.number} has it"
    return None


def dumps_readable(keys: Keys, store: Store, ledger: Ledger) -> str | None:
    """No key is destroyed while a dump of the database needs it."""
    kept = {version for version, _ in chain(keys.live, keys.shelf)}
    destroyed = {each.version.number for each in ledger.state.keys.values() if each.state is KeyState.DESTROYED}
    for versions in store.dumps:
        for version in versions:
            if version not in kept or version in destroyed:
                return f"v{version} is destroyed, and a dump has rows under it"
    return None


def one_walk(ledger: Ledger) -> str | None:
    """Never two unfinished walks that have begun."""
    begun = [
        each
        for each in ledger.replay.requests.values()
        if isinstance(each, Walk) and not each.is_over and not each.waits_to_supersede
    ]
    return f"requests {begun[0].id} and {begun[1].id} are both unfinished" if len(begun) > 1 else None


class Invariants:
    """Judges states and transitions."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._known: dict[object, str | None] = {}

    def broken(self, state: State) -> Broken | None:
        """The first invariant that a state breaks."""
        return next(self._broken(state), None)

    def _broken(self, state: State) -> Iterator[Broken]:
        of = self.machine
        predicates: Sequence[tuple[str, Callable[..., str | None], tuple[str, ...]]] = (
            ("no instance lacks a key", reads_every_value, ("ledger", "instances", "rows")),
            ("key before rows", key_kept, ("rows", "keys", "store")),
            ("one key a version", one_key_a_version, ("keys", "instances")),
            ("nothing old after retirement", nothing_old, ("ledger", "keys", "rows", "views")),
            ("no write is refused", writes_accepted, ("ledger", "instances", "fence")),
            ("no instance has an archived key", archived_is_gone, ("ledger", "keys", "instances")),
            ("no key is destroyed that is needed", dumps_readable, ("keys", "store", "ledger")),
            ("one walk at a time", one_walk, ("ledger",)),
            ("the audit verifies", self._verifies, ("ledger",)),
        )
        for name, predicate, components in predicates:
            numbers = tuple(getattr(state, component) for component in components)
            known = (name, numbers)
            if known not in self._known:
                read = zip(components, numbers, strict=True)
                self._known[known] = predicate(*(self._value(of, each, number) for each, number in read))
            if (why := self._known[known]) is not None:
                yield Broken(name, why)

    @staticmethod
    def _value(machine: Machine, component: str, number: int) -> object:
        return {
            "ledger": machine.ledgers.found,
            "keys": machine.keys.values,
            "rows": machine.rows.values,
            "fence": machine.fences.values,
            "instances": machine.instances.values,
            "views": machine.views.values,
            "store": machine.stores.values,
        }[component][number]

    def _verifies(self, ledger: Ledger) -> str | None:
        if was_put_back(ledger):
            return None
        machine = self.machine
        machine.ledger.state, machine.ledger.base = ledger.state, ledger.replay
        machine.ledger._replay = ledger.replay  # noqa: SLF001
        machine.anchors.kept, machine.anchors.kept_roster, machine.clock.at = ledger.kept, ledger.roster, ledger.now
        try:
            verify_everything(machine.pipeline)
        except AuditError as error:
            return str(error)
        replayed = ledger.replay
        if dict(replayed.keys) != ledger.state.keys:
            return "the replay has other keys than the ledger"
        return None

    def broken_by(self, before: State, step: Transition) -> Broken | None:
        """The first invariant that a transition breaks."""
        keys, after = self.machine.keys.values[before.keys], self.machine.keys.values[step.after.keys]
        ledger = self.machine.ledgers.found[before.ledger]
        if why := step.wrong or (after.primary != keys.primary and _compromised(ledger, keys, after.primary)):
            return Broken("never a compromised primary again", why)
        of_others = not step.action.startswith("carry out reconcile") and _is_of_others(
            ledger, keys, after, step, self.machine
        )
        if of_others or step.request is None:
            return Broken("no copy changes what another has changed", f"{step.action} does") if of_others else None
        if why := self._passed_over(before, step.after):
            return Broken("no value is passed over", why)
        known = ("signed", before.ledger, step.request)
        other = self.machine.ledgers.found[step.after.ledger].replay.roster != ledger.replay.roster
        has_effect = other or self._acts(before, step)
        if not has_effect or step.action.startswith("cancel"):
            return None
        if was_put_back(ledger) and not step.action.startswith("carry out reconcile"):
            return Broken("nothing acts on a database that was put back", f"request {int(step.request, 16)} does")
        if known not in self._known:
            self._known[known] = _unsigned(ledger, step.request)
        reasons = (
            ("nothing without a quorum", self._known[known]),
            ("nothing for a request that is paused or over", _at_rest(ledger, step.request)),
            ("a signed emergency goes first", _overtaken(ledger, step.request)),
        )
        return next((Broken(name, why) for name, why in reasons if why is not None), None)

    def _acts(self, before: State, step: Transition) -> bool:
        """Whether keys, rows or fence change by the step itself, and not only by who acts meanwhile."""
        values = self.machine.keys.values
        keys, rows, fence = step.of_others
        first, last = keys or (before.keys, before.keys)
        held = any(
            _held(values[one]) != _held(values[two]) for one, two in ((before.keys, first), (last, step.after.keys))
        )
        return held or _differ(before.rows, step.after.rows, rows) or _differ(before.fence, step.after.fence, fence)

    def _passed_over(self, before: State, after: State) -> str | None:
        """Nothing is proven while a value does not decrypt."""
        if all(view.kind != DAMAGE for view in self.machine.views.values[before.views]):
            return None
        ledgers = self.machine.ledgers.found
        new = _proven(ledgers[after.ledger]) - _proven(ledgers[before.ledger])
        return f"request {int(min(new), 16)} proves that every value decrypts, and one does not" if new else None


def _differ(before: int, after: int, of_others: Span) -> bool:
    first, last = of_others or (before, before)
    return before != first or last != after


def _held(keys: Keys) -> tuple[object, ...]:
    return keys.live, keys.shelf, keys.primary


def _proven(ledger: Ledger) -> frozenset[str]:
    return frozenset(
        each.id
        for each in ledger.replay.requests.values()
        if isinstance(each, Walk) and each.done(Step.ZERO_OLD_ROWS_PROOF)
    )


def _is_of_others(ledger: Ledger, keys: Keys, after: Keys, step: Transition, machine: Machine) -> bool:
    """Whether the pipeline changes a key store that was changed last by somebody of whom the audit does not know."""
    if not step.action or knows(ledger):
        return False
    return keys != after._replace(earlier=keys.earlier) or knows(machine.ledgers.found[step.after.ledger])


def _compromised(ledger: Ledger, keys: Keys, primary: int | None) -> str | None:
    known = {each.version.number for each in ledger.state.keys.values() if each.state is KeyState.COMPROMISED}
    if primary in known | set(keys.compromised):
        return f"v{primary} becomes the primary, and was compromised before"
    return None


def _at_rest(ledger: Ledger, request: str) -> str | None:
    stored = ledger.state.requests[request]
    is_at_rest = stored.is_over or stored.status is RequestStatus.PAUSED
    return f"request {int(request, 16)} changes something while it is {stored.status}" if is_at_rest else None


def _unsigned(ledger: Ledger, request: str) -> str | None:
    """Counts signatures by their bytes, not by what the product says of them."""
    text, roster = ledger.state.texts[request], ledger.replay.began_under.get(request, ledger.replay.roster)
    assert roster is not None
    signers = set()
    for signed in ledger.state.signatures.get(request, ()):
        who, _, rest = signed.signature.partition(b" at ")
        if rest.partition(b": ")[2] == text:
            signers.add(who.decode().removeprefix("signed by "))
    good = signers & {officer.fingerprint for officer in roster.officers} - ledger.expired
    if len(good) < roster.required:
        return f"request {int(request, 16)} has an effect with {len(good)} good signature(s)"
    if ledger.now > ledger.state.requests[request].finish_by:
        return f"request {int(request, 16)} has an effect after its last date"
    return None


def _overtaken(ledger: Ledger, request: str) -> str | None:
    required = ledger.replay.roster.required if ledger.replay.roster else 0
    for each in ledger.state.requests.values():
        signed = len(each.approvals) >= required and ledger.now <= each.start_by
        if each.id != request and each.type == "emergency" and each.status == "requested" and signed:
            return f"request {int(request, 16)} changes something, though emergency {int(each.id, 16)} is signed"
    return None
