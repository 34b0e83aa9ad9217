"""Explores models by hand: prints states, transitions, depth and time, and the trace of what is broken."""

import argparse

from keyrotation_pipeline_tests.protocol.models import MODELS
from keyrotation_pipeline_tests.protocol.search import explore


def main() -> None:
    """Explores one model, or all."""
    parser = argparse.ArgumentParser(prog="python -m keyrotation_pipeline_tests.protocol", description=__doc__)
    parser.add_argument("--model", choices=sorted(MODELS), action="append", help="default: all, one after another")
    parser.add_argument("--seconds", type=float, default=60.0, help="of processor time, for each model")
    parser.add_argument("--states", type=int, default=10**9, help="at most, for each model")
    arguments = parser.parse_args()
    for name in arguments.model or MODELS:
        found = explore(MODELS[name], seconds=arguments.seconds, most=arguments.states)
        print(found)  # noqa: T201
        if found.broken is not None:
            print(f"BROKEN {found.broken}", *found.counterexample, sep="\n  ")  # noqa: T201


if __name__ == "__main__":
    main()
