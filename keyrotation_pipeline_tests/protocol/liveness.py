"""From every state a finished, rolled-back or cancelled one can be reached: computed backwards over what was found."""

from itertools import chain

from keyrotation_pipeline.model.requests import Walk
from keyrotation_pipeline_tests.protocol.search import Exploration


def stuck(found: Exploration) -> list[int]:
    """The indices of the states from which no walk can end any more; of a search that found everything."""
    assert found.is_whole, "liveness is a statement about all states"
    ledgers = found.machine.ledgers.found
    is_over = [
        all(each.is_over for each in ledger.state.requests.values() if isinstance(each, Walk)) for ledger in ledgers
    ]
    before: list[list[int]] = [[] for _ in found.states]
    for number in range(0, len(found.edges), 2):
        before[found.edges[number + 1]].append(found.edges[number])
    reached = [is_over[state.ledger] for state in found.states]
    front = [index for index, good in enumerate(reached) if good]
    while front:
        front = list(dict.fromkeys(chain.from_iterable(before[index] for index in front)))
        front = [index for index in front if not reached[index]]
        for index in front:
            reached[index] = True
    return [index for index, good in enumerate(reached) if not good]
