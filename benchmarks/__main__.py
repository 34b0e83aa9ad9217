"""Every figure of speed and harm in one go, as the page and the chart that README and docs show.

uv run python -m benchmarks [--parts speed,short,python,indexed,wide,harm] [--rounds N] [--figures FILE] [--chart FILE]

Figures are kept in a file by part, so that parts may be measured at different hours; the page shows all that are there.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import chart, harm, page, reencryption
from benchmarks.processes import machine

Summary = list[dict[str, Any]]

PARTS: dict[str, Callable[[int], Summary]] = {
    "speed": lambda rounds: reencryption.measured("clients", 1_000_000, (1, 2), rounds or 3),
    "short": lambda rounds: reencryption.measured("clients", 300_000, (1, 2), rounds or 3, seed=False),
    "python": lambda rounds: reencryption.measured("clients", 300_000, (1, 2), rounds or 3, native=False, seed=False),
    "indexed": lambda rounds: reencryption.measured("indexed", 300_000, (1, 2), rounds or 3, seed=False),
    "wide": lambda rounds: reencryption.measured("wide", 300_000, (1, 2), rounds or 3, seed=False),
    "harm": lambda rounds: harm.measured(1_000_000, rounds or 24),
}


def main() -> None:
    """Measure the parts that are asked for; print the page, draw the chart."""
    options = _options()
    figures: dict[str, Any] = json.loads(options.figures.read_text()) if options.figures.exists() else {}
    for name in options.parts.split(",") if options.parts else ():
        began_on = time.strftime("%Y-%m-%d")
        figures[name] = {"on": began_on, "machine": machine(), "results": PARTS[name](options.rounds)}
        options.figures.write_text(json.dumps(figures, indent=1) + "\n")
    print(page.of(figures))
    if "speed" in figures:
        options.chart.write_text(chart.of(figures["speed"]["results"]))


def _options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help="what to measure; empty: nothing, only show")
    parser.add_argument("--rounds", type=int, default=0, help="of each part; 0: 3; of harm windows, 0: 24")
    parser.add_argument("--figures", type=Path, default=Path("benchmarks.json"), help="where figures are kept")
    parser.add_argument("--chart", type=Path, default=Path("docs/images/speed.svg"), help="where the chart goes")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
