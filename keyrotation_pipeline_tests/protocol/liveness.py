"""From every state a finished, rolled-back or cancelled one can be reached, and in it nothing is left to reconcile.

Within a model's bounds this is computed backwards over what was found. From the states that are left a way is searched
that may take more requests: what can no longer continue is taken over, replaced or cancelled by another one.
"""

from dataclasses import replace
from functools import cache
from heapq import heappop, heappush
from itertools import chain

from keyrotation_pipeline.model.requests import WALK, Walk
from keyrotation_pipeline_tests.protocol.actors import Actors
from keyrotation_pipeline_tests.protocol.determinism import determined
from keyrotation_pipeline_tests.protocol.invariants import was_put_back
from keyrotation_pipeline_tests.protocol.search import Exploration
from keyrotation_pipeline_tests.protocol.state import Ledger, State

MORE_REQUESTS, MORE_VERSIONS, MOST_TRIED = 3, 2, 5000


def stuck(found: Exploration) -> list[int]:
    """The indices of the states from which nothing leads to an end any more."""
    left = _without_end(found)
    model = found.model
    more = replace(
        model, requests=model.requests + MORE_REQUESTS, versions=model.versions + MORE_VERSIONS, inside=frozenset(),
        controls=model.controls | {"cancel"},
    )  # fmt: skip
    with determined(found.machine):
        way = _Way(Actors(found.machine, more))
        return [index for index in left if not way.leads_out(found.states[index])]


def _without_end(found: Exploration) -> list[int]:
    """The indices of the states from which no state that was found is an end."""
    ledgers = found.machine.ledgers.found
    is_end = [not _left_to_do(ledger) for ledger in ledgers]
    before: list[list[int]] = [[] for _ in found.states]
    for number in range(0, len(found.edges), 2):
        before[found.edges[number + 1]].append(found.edges[number])
    reached = [is_end[state.ledger] for state in found.states]
    front = [index for index, good in enumerate(reached) if good]
    while front:
        front = list(dict.fromkeys(chain.from_iterable(before[index] for index in front)))
        front = [index for index in front if not reached[index]]
        for index in front:
            reached[index] = True
    return [index for index, good in enumerate(reached) if not good]


class _Way:
    """Searches ways to an end, first where the least is left to do; remembers the states from which there is one."""

    def __init__(self, actors: Actors) -> None:
        self.actors, self.good = actors, set[State]()
        self._left = cache(lambda ledger: _left_to_do(actors.machine.ledgers.found[ledger]))

    def leads_out(self, state: State) -> bool:
        """Whether a state leads to an end."""
        before: dict[State, State | None] = {state: None}
        front = [(0, 0, state)]
        while front and len(before) < MOST_TRIED:
            *_, last = heappop(front)
            if last in self.good or not self._left(last.ledger):
                self._remember(last, before)
                return True
            for step in self.actors.transitions(last):
                if step.after not in before and not step.died:
                    before[step.after] = last
                    heappush(front, (self._left(step.after.ledger), len(before), step.after))
        return False

    def _remember(self, state: State | None, before: dict[State, State | None]) -> None:
        while state is not None:
            self.good.add(state)
            state = before[state]


def _left_to_do(ledger: Ledger) -> int:
    """Nothing at an end; else the more, the more steps are left."""
    walks = (each for each in ledger.state.requests.values() if isinstance(each, Walk) and not each.is_over)
    return sum(2 * len(WALK) - len(each.steps) for each in walks) + len(WALK) * was_put_back(ledger)
