"""Breadth-first search over the states of a model, and what it found."""

import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from keyrotation_pipeline_tests.protocol.actors import Actors, Transition, started
from keyrotation_pipeline_tests.protocol.commands import roster_of
from keyrotation_pipeline_tests.protocol.determinism import determined
from keyrotation_pipeline_tests.protocol.invariants import Broken, Invariants
from keyrotation_pipeline_tests.protocol.machine import Machine
from keyrotation_pipeline_tests.protocol.models import Model
from keyrotation_pipeline_tests.protocol.state import State


@dataclass
class Exploration:
    """What a search found.

    Args:
        states: every one, in the order found.
        parents: of each, the index of the state before it, -1 for the first; and the label of the transition.
        edges: pairs of indices, from and to.
        is_whole: nothing was left to explore.
    """

    model: Model
    machine: Machine
    states: list[State] = field(default_factory=list)
    parents: "array[int]" = field(default_factory=lambda: array("l"))
    labels: list[str] = field(default_factory=list)
    depths: "array[int]" = field(default_factory=lambda: array("h"))
    edges: "array[int]" = field(default_factory=lambda: array("l"))
    transitions: int = 0
    seconds: float = 0.0
    is_whole: bool = False
    broken: Broken | None = None
    broken_at: tuple[int, str] | None = None

    def trace(self, index: int) -> list[str]:
        """The labels from the first state to one."""
        found = []
        while index > 0:
            found.append(self.labels[index])
            index = self.parents[index]
        return found[::-1]

    @property
    def counterexample(self) -> list[str]:
        """The transitions that lead to what is broken."""
        assert self.broken_at is not None
        index, label = self.broken_at
        return [*self.trace(index), label]

    def __str__(self) -> str:
        depth = self.depths[-1] if self.depths else 0
        end = "whole" if self.is_whole else "not to the end"
        return (
            f"{self.model.name}: {len(self.states):,} states, {self.transitions:,} transitions, depth {depth}, "
            f"{self.machine.executions:,} executions of the real code, {len(self.machine.ledgers.found):,} ledgers, "
            f"{self.seconds:.1f} s ({end})"
        )


def explore(
    model: Model, *, seconds: float = 1e9, most: int = 10**9, on: Callable[[State, Transition], None] | None = None
) -> Exploration:
    """Searches a model breadth first until an invariant breaks, everything is found, or time or states run out."""
    machine = Machine(model.rows, model.store)
    with determined(machine):
        return _search(Exploration(model, machine), seconds, most, on)


def explore_with(model: Model, look: Callable[[Machine], Callable[[State, Transition], None]]) -> Exploration:
    """Searches a model, and shows every transition to what `look` makes for the machine."""
    machine = Machine(model.rows, model.store)
    with determined(machine):
        return _search(Exploration(model, machine), 1e9, 10**9, look(machine))


def first_state(machine: Machine, model: Model) -> State:
    """Where a model begins."""
    fleet = tuple(started(number, ((1, 0),), 1, 0, names=model.names) for number in range(model.instances))
    return machine.beginning(fleet, roster_of(model))


def follow(model: Model, labels: Sequence[str]) -> Broken | None:
    """Follows transitions by how their labels begin; returns the first invariant that one of them breaks.

    A label that is not there is passed over: then the product refuses that step, or does not offer it.
    """
    machine = Machine(model.rows, model.store)
    with determined(machine):
        actors, invariants = Actors(machine, model), Invariants(machine)
        state = first_state(machine, model)
        for label in labels:
            dies = ", dies before" in label
            steps = [each for each in actors.transitions(state) if each.died is dies and each.label.startswith(label)]
            if not steps:
                continue
            step = next((each for each in steps if each.label == label), steps[0])
            if (broken := invariants.broken_by(state, step) or invariants.broken(step.after)) is not None:
                return broken
            state = step.after
    return None


def _search(
    found: Exploration, seconds: float, most: int, on: Callable[[State, Transition], None] | None
) -> Exploration:
    began = time.process_time()
    machine = found.machine
    actors, invariants = Actors(machine, found.model), Invariants(machine)
    first = first_state(machine, found.model)
    index_of = {first: 0}
    found.states.append(first)
    found.parents.append(-1)
    found.labels.append("")
    found.depths.append(0)
    for beginning in found.model.prefix:
        last = found.states[-1]
        steps = (each for each in actors.transitions(last) if not each.died and each.label.startswith(beginning))
        step = next(steps)
        index_of[step.after] = len(found.states)
        _add(found, step, len(found.states) - 1)
    index = len(found.states) - 1
    while index < len(found.states):
        if len(found.states) >= most or (index % 512 == 0 and time.process_time() - began > seconds):
            break
        state = found.states[index]
        for step in actors.transitions(state):
            found.transitions += 1
            if on is not None:
                on(state, step)
            broken = invariants.broken_by(state, step)
            known = index_of.get(step.after)
            if known is None:
                broken = broken or invariants.broken(step.after)
                known = index_of[step.after] = len(found.states)
                _add(found, step, index)
            found.edges.append(index)
            found.edges.append(known)
            if broken is not None:
                found.broken, found.broken_at = broken, (index, step.label)
                found.seconds = time.process_time() - began
                return found
        index += 1
    found.is_whole = index == len(found.states)
    found.seconds = time.process_time() - began
    return found


def _add(found: Exploration, step: Transition, parent: int) -> None:
    found.states.append(step.after)
    found.parents.append(parent)
    found.labels.append(step.label)
    found.depths.append(found.depths[parent] + 1)
