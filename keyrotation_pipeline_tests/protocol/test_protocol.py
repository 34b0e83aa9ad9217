"""Every reachable state of every model keeps every invariant, and every walk can still end."""

import random
from dataclasses import replace

import pytest

from keyrotation_pipeline_tests.protocol.actors import Actors
from keyrotation_pipeline_tests.protocol.determinism import determined
from keyrotation_pipeline_tests.protocol.gallery import (
    DIAGRAM,
    PAGE,
    TRACES,
    broken_without,
    diagram,
    page,
    recorded,
    traces,
)
from keyrotation_pipeline_tests.protocol.guards import GUARDS, Guard, counterexample
from keyrotation_pipeline_tests.protocol.invariants import Invariants
from keyrotation_pipeline_tests.protocol.liveness import stuck
from keyrotation_pipeline_tests.protocol.machine import Machine, Outcome
from keyrotation_pipeline_tests.protocol.models import LARGER, MODELS, MOST_STATES, NORMALLY, SMALLER, Model
from keyrotation_pipeline_tests.protocol.search import Exploration, explore, first_state
from keyrotation_pipeline_tests.protocol.traces import relation

NO_LIMIT = 10**9


def _require_sound(model: Model, *, most: int, seconds: float) -> Exploration:
    found = explore(model, seconds=seconds, most=most)
    print(found)  # noqa: T201  the figures, shown by `pytest -s` and of a failure
    assert found.broken is None, "\n".join([str(found.broken), *found.counterexample])
    if found.is_whole:
        ends = stuck(found)
        assert not ends, "\n".join(["no walk can end any more after:", *found.trace(ends[0])])
    return found


@pytest.mark.parametrize(("model", "most"), [
    *(pytest.param(SMALLER.get(name, model), NORMALLY.get(name, NO_LIMIT), id=name) for name, model in MODELS.items()),
    pytest.param(replace(MODELS["walk"], dies=False), NO_LIMIT, id="walk without deaths"),
    *(
        pytest.param(MODELS[name], MOST_STATES.get(name, NO_LIMIT), id=f"{name} whole", marks=pytest.mark.extended)
        for name in dict.fromkeys((*SMALLER, *NORMALLY))
    ),
])  # fmt: skip
def test_every_state_keeps_every_invariant_and_every_walk_can_still_end(model: Model, most: int) -> None:
    found = _require_sound(model, most=most, seconds=1e9)
    assert found.is_whole or len(found.states) >= most
    assert model != MODELS["walk"] or len(found.states) > 100_000
    new = found.machine.relation - relation()
    assert not new, f"run `uv run python -m keyrotation_pipeline_tests.protocol.relation`; new is {min(new)}"


@pytest.mark.extended
@pytest.mark.parametrize("name", LARGER)
def test_within_larger_bounds_too(name: str) -> None:
    _require_sound(LARGER[name], most=NO_LIMIT, seconds=900)


_MAKE_AGAIN = "run `uv run python -m keyrotation_pipeline_tests.protocol.gallery`"


@pytest.mark.slow
def test_without_a_guard_what_it_prevents_happens_and_the_page_shows_it() -> None:
    assert set(recorded()) == {guard.name for guard in GUARDS}, _MAKE_AGAIN
    for guard in GUARDS:
        broken = broken_without(guard)
        assert broken is not None, f"{guard.name}: {_MAKE_AGAIN}"
        assert broken.invariant == guard.breaks, "\n".join([guard.name, str(broken), *recorded()[guard.name]])
    assert PAGE.read_text() == page(), _MAKE_AGAIN
    assert DIAGRAM.read_text() == diagram(), _MAKE_AGAIN
    assert TRACES.read_text() == traces(), _MAKE_AGAIN


@pytest.mark.extended
@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_without_a_guard_the_explorer_finds_the_recorded_way(guard: Guard) -> None:
    found = counterexample(guard)
    assert found.broken is not None, f"{guard.name}: {found}"
    assert found.broken.invariant == guard.breaks, "\n".join([guard.name, str(found.broken), *found.counterexample])
    assert found.counterexample == recorded()[guard.name], _MAKE_AGAIN


@pytest.mark.parametrize("name", [name for name in MODELS if name not in {"silence", "meanwhile", "rewritten"}])
def test_a_ledger_stands_for_every_other_of_its_form(name: str) -> None:
    # Random walks with the chain that they really have: each action leaves the same states as with the other chain.
    _require_same(MODELS[name], seed=4, walks=2, steps=30)


@pytest.mark.extended
@pytest.mark.parametrize("seed", range(20))
def test_random_walks_within_larger_bounds(seed: int) -> None:
    for model in MODELS.values():
        larger = replace(model, instances=3, rows=3, versions=4, requests=4, inside=frozenset())
        _require_same(larger, seed=seed, walks=3, steps=80)


def _require_same(model: Model, *, seed: int, walks: int, steps: int) -> None:
    machine, chosen = Machine(model.rows, model.store), random.Random(seed)
    with determined(machine):
        actors, invariants = Actors(machine, model), Invariants(machine)
        machine.concrete = {}
        for _ in range(walks):
            state = first_state(machine, model)
            mine = machine.ledgers.found[state.ledger]
            for _ in range(steps):
                options = list(actors.transitions(state))
                if not options:
                    break
                step = chosen.choice(options)
                assert invariants.broken_by(state, step) is None, step.label
                assert invariants.broken(step.after) is None, step.label
                if step.action:
                    action = next(each for each in actors.commands(state.ledger) if each.name == step.action)
                    remembered, standing = machine.outcomes(action, state), machine.ledgers.found[state.ledger]
                    machine.ledgers.found[state.ledger] = mine
                    really = machine.execute(action, state)
                    machine.ledgers.found[state.ledger] = standing
                    assert set(map(_without_words, really)) == set(map(_without_words, remembered)), step.label
                    mine = next(ledger for each, ledger in machine.concrete.items() if each.ledger == step.after.ledger)
                elif step.after.ledger != state.ledger:
                    mine = machine.ledgers.found[step.after.ledger]
                state = step.after


def _without_words(outcome: Outcome) -> Outcome:
    # A refusal may name a hash.
    return replace(outcome, refused=None if outcome.refused is None else "refused")
