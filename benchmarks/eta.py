"""How well the ETA of `status` holds: routine and emergency rotations in a demo home, looked at twice a second.

    python -m benchmarks.eta DIRECTORY [emergency | routine …] [--rows 300000]

DIRECTORY gets a demo home, or has one. Printed is what was predicted against what it then took, at 10, 25, 50 and 75 %
of the way; and the longest time for which progress stood still.
"""

import argparse
import os
import threading
import time
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.demo.home import prepare
from keyrotation_pipeline.demo.run import approve, open_home, working_application
from keyrotation_pipeline.monitoring.progress import progress_and_eta
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline.rotation.rotate import open_request
from keyrotation_pipeline.settings import Settings

SECONDS = 0.5
PARTS = (0.10, 0.25, 0.50, 0.75)


@dataclass
class Recorder:
    """Looks at a rotation from another connection until it is told to stop."""

    settings: Settings
    request: str
    seen: list[tuple[float, float, int | None]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        """Note time, progress and ETA."""
        with open_pipeline(self.settings, actor="benchmark") as pipeline:
            while not self.over.wait(SECONDS):
                counts = pipeline.ledger.counts(pipeline.tables)
                far, left = progress_and_eta(pipeline, pipeline.ledger.walk(self.request), counts)
                self.seen.append((time.monotonic(), far, left))

    def told(self, began: float, ended: float) -> str:
        """Predicted against actual, and how long progress stood still."""
        ratios = []
        for part in PARTS:
            at, _, left = min(self.seen, key=lambda each: abs(each[0] - began - part * (ended - began)))
            actual = ended - at
            ratios.append(f"{part:.0%}: {left} s for {actual:.0f} s" + (f" = {left / actual:.2f}" if left else ""))
        moving = [[at for at, _, _ in group] for _, group in groupby(self.seen, key=lambda each: each[1])]
        still = max((times[-1] - times[0] for times in moving), default=0.0)
        back = any(two[1] < one[1] for one, two in zip(self.seen, self.seen[1:], strict=False))
        return f"{'; '.join(ratios)}; progress stood still for {still:.1f} s at most{', AND WENT BACK' if back else ''}"


def record(settings: Settings, rows: int, *, emergency: bool) -> None:
    """Carry out one rotation and print how its ETA held."""
    _, officers = prepare(settings.path)
    with open_home(settings, rows, print) as pipeline, working_application(settings) as application:
        incident = "INC-2026-001" if emergency else None
        rotation = open_request(pipeline, reason="benchmark of the ETA", requested_by="benchmark", incident=incident)
        approve(pipeline, rotation, officers, lambda _line: None)
        recorder = Recorder(settings, rotation.id)
        looking = threading.Thread(target=recorder.look)
        looking.start()
        began = last = time.monotonic()
        steps: dict[str, float] = {}
        for done in runner.run(pipeline, rotation.id, lambda _progress: None):
            now = time.monotonic()
            steps[done.step], last = steps.get(done.step, 0.0) + now - last, now
        recorder.over.set()
        looking.join()
        application.stop()
        walk = pipeline.ledger.walk(rotation.id)
    print(f"{walk.kind}, {last - began:.0f} s: {', '.join(f'{step} {took:.1f}' for step, took in steps.items())}")
    print(f"  {recorder.told(began, last)}")


def main() -> None:
    """Carry out one rotation after the other."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.eta", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("profiles", nargs="*", help="one after the other")
    parser.add_argument("--rows", type=int, default=300_000)
    given = parser.parse_args()
    given.directory.mkdir(parents=True, exist_ok=True)
    os.chdir(given.directory)
    settings, _ = prepare(None)
    for profile in given.profiles or ("emergency", "routine"):
        record(settings, given.rows, emergency=profile == "emergency")


if __name__ == "__main__":
    main()
