"""Makes `transitions.txt`: every step of an audit that the models reach, and seeded random walks within wider bounds.

uv run python -m keyrotation_pipeline_tests.protocol.relation      (some forty minutes)
"""

import random
from dataclasses import replace

from keyrotation_pipeline_tests.protocol.actors import Actors
from keyrotation_pipeline_tests.protocol.determinism import determined
from keyrotation_pipeline_tests.protocol.liveness import stuck
from keyrotation_pipeline_tests.protocol.machine import Machine
from keyrotation_pipeline_tests.protocol.models import MODELS, MOST_STATES, Model
from keyrotation_pipeline_tests.protocol.search import explore, first_state
from keyrotation_pipeline_tests.protocol.traces import BEYOND, RELATION, beyond

WALKS, STEPS = 700, 160
# Whatever any model does, in one.
EVERYTHING = replace(
    MODELS["walk"],
    asks=tuple(dict.fromkeys(each for model in MODELS.values() for each in model.asks)),
    requests=5,
    versions=4,
    instances=1,
    rows=1,
    views=1,
    controls=frozenset().union(*(model.controls for model in MODELS.values())),
    fleet=frozenset().union(*(model.fleet for model in MODELS.values())),
)


def walked(model: Model, seed: int) -> set[str]:
    """The steps of one random walk."""
    machine, chosen = Machine(model.rows, model.store), random.Random(seed)
    with determined(machine):
        actors, state = Actors(machine, model), first_state(machine, model)
        for _ in range(STEPS):
            options = list(actors.transitions(state))
            if not options:
                break
            state = chosen.choice(options).after
    return machine.relation


def main() -> None:
    """Writes the file, and takes what is now reached out of the list of what is beyond."""
    # What earlier walks reached stays: with other actors the same seeds go other ways. Remove the file to begin anew.
    found = set(RELATION.read_text().splitlines()) if RELATION.exists() else set[str]()
    for name, model in MODELS.items():
        explored = explore(model, most=MOST_STATES.get(name, 10**9))
        if explored.is_whole:
            stuck(explored)  # which searches ways to an end beyond the model's bounds
        found |= explored.machine.relation
    for seed in range(WALKS):
        found |= walked(EVERYTHING, seed)
        for name in ("rollback", "emergency", "quorum", "restore", "destroy"):
            found |= walked(replace(MODELS[name], requests=4, versions=4, dies=True), seed)
    RELATION.write_text("".join(f"{step}\n" for step in sorted(found)))
    kept = [line for line in BEYOND.read_text().splitlines() if line.startswith("#") or line in beyond() - found]
    BEYOND.write_text("".join(f"{line}\n" for line in kept))


if __name__ == "__main__":
    main()
