"""How well a rehearsal predicts: on a demo home, one rotation after the other, each rehearsed on a backup before.

    python -m benchmarks.rehearsal DIRECTORY [--rows 50000] [--rounds 3]

DIRECTORY gets a demo home, or has one. Printed is what was predicted against what it then took, by step and in all,
without the rollouts, which a rehearsal cannot know.
"""

import argparse
import os
import time
from pathlib import Path
from statistics import median

from keyrotation_pipeline.adapters.openpgp.decrypt import imported_key
from keyrotation_pipeline.assembly.backups import RestoredStages, open_backups
from keyrotation_pipeline.backups.backup import back_up
from keyrotation_pipeline.backups.rehearsal import rehearse
from keyrotation_pipeline.demo.home import prepare
from keyrotation_pipeline.demo.run import approve, open_home, working_application
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline.rotation.rotate import open_request

_ACTOR = "benchmark"


def compared(rows: int) -> float:
    """Rehearse, then rotate, print both, and give what was predicted as a multiple of what it took."""
    settings, officers = prepare(None)
    with open_home(settings, rows, print) as pipeline, working_application(settings) as application:
        rotation = open_request(pipeline, reason="benchmark of the rehearsal", requested_by=_ACTOR)
        secret = officers[0].gpg("--export-secret-keys")
        with open_backups(settings, actor=_ACTOR) as site, imported_key(secret, None) as key:
            back_up(site)
            done = rehearse(site, key, RestoredStages(settings), rotation, lambda _progress: None)
        approve(pipeline, rotation, officers, lambda _line: None)
        took: dict[str, float] = {}
        began = time.monotonic()
        for record in runner.run(pipeline, rotation.id, lambda _progress: None):
            now = time.monotonic()
            took[record.step], began = took.get(record.step, 0.0) + now - began, now
        application.stop()
    predicted = done.predicted_seconds
    print("; ".join(f"{step} {predicted[step]:.2f} s for {took[step]:.2f} s" for step in predicted))
    return sum(predicted.values()) / sum(took[step] for step in predicted)


def main() -> None:
    """One round after the other."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rehearsal", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    given.directory.mkdir(parents=True, exist_ok=True)
    os.chdir(given.directory)
    ratios = []
    for _ in range(given.rounds):
        ratios.append(compared(given.rows))
        print(f"  in all {ratios[-1]:.2f} of what it took", flush=True)
    print(f"median {median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})")


if __name__ == "__main__":
    main()
