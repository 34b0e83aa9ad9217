"""The whole rotation at several sizes, step by step, and how each step grows.

uv run python -m benchmarks.rotation [--rows 250000,2500000] [--columns 2] [--tables 1] [--partitions 0] [--shards 4]
    [--workers 1] [--emergency] [--by command|up] [--idle SECONDS] [--folder DIR] [--json FILE]

Each size is rotated in a home, on a server and by a process of its own (`benchmarks.one_rotation`). Of each step:
seconds, CPU seconds of client and server, transactions, WAL; of the whole also connections, the tables' growth, and the
largest memory of a process. Where there are two sizes or more, the exponent of a power law is fitted to each step's
seconds: 1 is straight proportion, 0 is a step that does not grow with the rows.
"""

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.one_rotation import Setting
from benchmarks.process_memory import Peaks, watched
from benchmarks.processes import machine
from keyrotation_pipeline.model.requests import Step

# What is quicker than this says nothing of a law.
_LEAST_SECONDS = 0.05
_BEFORE_PRIMARY = (str(Step.KEY_VERSION), str(Step.DUAL_KEY_ROLLOUT), str(Step.PRIMARY_KEY_ROLLOUT))


@dataclass(frozen=True, slots=True)
class Measured:
    """One size: what `one_rotation` found, and the peaks of memory."""

    outcome: dict[str, Any]
    peaks: Peaks

    @property
    def rows(self) -> int:
        """Of all tables."""
        return int(self.outcome["setting"]["rows"])

    def of(self, step: str) -> dict[str, float]:
        """The figures of a step."""
        found: dict[str, float] = self.outcome["steps"].get(step, {})
        return found

    @property
    def seconds(self) -> float:
        """From the second signature to the end."""
        return float(self.outcome["total"]["seconds"])


def main() -> None:
    """Measure each size and print what it took."""
    options = _options()
    console = Console(width=140)
    console.print(f"{machine()}; {'emergency' if options.emergency else 'routine'}, by {options.by}", highlight=False)
    measured = []
    for rows in options.rows:
        measured.append(_measure(options, rows))
        console.print(_sentence(measured[-1]), highlight=False)
    console.print(_table(measured))
    if options.json:
        found = [{**each.outcome, "memory": asdict(each.peaks)} for each in measured]
        laws = {step: exponent(measured, step) for step in _steps(measured)}
        options.json.write_text(json.dumps({"machine": machine(), "sizes": found, "exponents": laws}, indent=2) + "\n")


def exponent(measured: Sequence[Measured], step: str) -> float | None:
    """The slope of seconds over rows where both are logarithms, by least squares; None: nothing to go by."""
    points = [
        (math.log(each.rows), math.log(seconds))
        for each in measured
        if (seconds := each.of(step).get("seconds", 0.0)) >= _LEAST_SECONDS
    ]
    if len({x for x, _ in points}) < 2:
        return None
    x_mean, y_mean = (sum(values) / len(points) for values in zip(*points, strict=True))
    return sum((x - x_mean) * (y - y_mean) for x, y in points) / sum((x - x_mean) ** 2 for x, _ in points)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rotation", description=__doc__)
    parser.add_argument("--rows", type=_numbers, default=[250_000, 2_500_000], help="of all tables together, by comma")
    parser.add_argument("--columns", type=int, default=2, help="encrypted columns of each table, 1 to 5")
    parser.add_argument("--tables", type=int, default=1)
    parser.add_argument("--partitions", type=int, default=0, help="leaf partitions of each table; 0: plain tables")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--emergency", action="store_true", help="the profile of an emergency; else routine")
    parser.add_argument("--by", choices=("command", "up"), default="command")
    parser.add_argument("--idle", type=int, default=0, help="seconds in which `up` is watched before the request")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the homes are made")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    return [int(each.replace("_", "")) for each in text.split(",")]


def _measure(options: argparse.Namespace, rows: int) -> Measured:
    names = Setting.__dataclass_fields__.keys() - {"rows"}
    setting = Setting(rows, **{name: getattr(options, name) for name in names})
    with tempfile.TemporaryDirectory(prefix="rotation-") as folder:
        answer = Path(folder) / "answer.json"
        one = (
            sys.executable,
            "-m",
            "benchmarks.one_rotation",
            json.dumps(asdict(setting)),
            str(options.folder),
            str(answer),
        )
        peaks = watched(one, os.environ, options.folder)
        return Measured(json.loads(answer.read_text()), peaks)


def _steps(measured: Sequence[Measured]) -> list[str]:
    return list(measured[0].outcome["steps"])


def _sentence(one: Measured) -> str:
    """What the whole took, in one line."""
    total, primary = one.outcome["total"], sum(one.of(step).get("seconds", 0.0) for step in _BEFORE_PRIMARY)
    others = 1 - one.of(str(Step.ROWS)).get("seconds", 0.0) / one.seconds
    largest = max(one.peaks.resident_kib.values(), default=0) / 1024
    idle = one.outcome["idle_transactions_per_minute"]
    return (
        f"{one.rows:,} rows: {one.seconds:.1f} s from the second signature, the new key primary after {primary:.1f} s, "
        f"all but `rows` {others:.0%}; {total['cpu_seconds']:.1f} CPU-s, {total['transactions']:,} transactions, "
        f"{total['connections']:,} connections, {total['wal_bytes'] / 1e6:,.0f} MB of WAL, growth "
        f"{one.outcome['growth']:.2f}, at most {largest:.0f} MB a process"
        + (f"; idle {idle:,.0f} transactions a minute" if idle is not None else "")
    )


def _table(measured: Sequence[Measured]) -> Table:
    table = Table(
        "step", *(f"{each.rows:,} rows: s" for each in measured), "CPU-s", "transactions", "WAL MB", "exponent"
    )
    for step in _steps(measured):
        law, last = exponent(measured, step), measured[-1].of(step)
        seconds = [f"{each.of(step).get('seconds', 0.0):.2f}" for each in measured]
        used = ("cpu_seconds", ".2f"), ("transactions", ",")
        figures = [format(last[name], form) if last.get("cpu_seconds") else "" for name, form in used]
        wal = f"{last['wal_bytes'] / 1e6:.1f}" if last.get("wal_bytes") else ""
        table.add_row(step, *seconds, *figures, wal, "–" if law is None else f"{law:.2f}")
    return table


if __name__ == "__main__":
    main()
