"""What re-encryption costs the application, in routine and in emergency mode.

uv run python -m benchmarks.harm [--rows N] [--rounds 3] [--json FILE]
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console
from rich.table import Table

from benchmarks.application import REQUESTS_PER_SECOND, Load, percentile
from benchmarks.clinic import V2, Clinic, clinic, fill, opened
from benchmarks.processes import machine

IDLE_SECONDS = 8.0
KEYS = 5_000
MODES = ("idle", "routine", "emergency")


@dataclass(frozen=True, slots=True)
class Felt:
    """What the application felt while rows were re-encrypted at some speed; `select` and `update` in milliseconds."""

    mode: str
    requests: int
    select: dict[str, float]
    update: dict[str, float]
    rows_per_second: float
    errors: int
    lost_writes: int


def main() -> None:
    """Measure, print and write down."""
    options = _options()
    summary = measured(options.rows, options.rounds)
    show(Console(width=120), summary)
    if options.json:
        document = {"machine": machine(), "python": platform.python_version(), "rows": options.rows}
        options.json.write_text(json.dumps(document | {"results": summary}, indent=2) + "\n")


def measured(rows: int, rounds: int) -> list[dict[str, Any]]:
    """Medians of alternating rounds, a mode each."""
    felt: list[Felt] = []
    with clinic() as place:
        for _ in range(rounds):
            for mode in MODES:
                felt.append(_measure(place, mode, rows))
                print(felt[-1], file=sys.stderr, flush=True)
    return _summary(felt)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.harm", description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000, help="rows of the table")
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds; medians are given")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser.parse_args()


def _measure(place: Clinic, mode: str, rows: int) -> Felt:
    with closing(opened(place.url)) as connection:
        fill(connection, rows)
    with psycopg.connect(place.url) as connection:
        sample = f"SELECT id FROM clients ORDER BY random() LIMIT {KEYS}"
        load = Load(place.url, [row[0] for row in connection.execute(sample.encode())])
    # Warm: connections, plans and pages are as they are on any other day.
    load.start()
    time.sleep(1)
    load.stop()
    rate = _while_under_load(load, lambda: _rest() if mode == "idle" else _rewrite(place, mode))
    latencies = load.stop()
    return Felt(
        mode,
        len(latencies),
        _latencies([each.seconds for each in latencies if not each.updates]),
        _latencies([each.seconds for each in latencies if each.updates]),
        rate,
        len(load.errors),
        load.lost_writes(),
    )


def _latencies(seconds: Sequence[float]) -> dict[str, float]:
    return {"p50": percentile(seconds, 50), "p99": percentile(seconds, 99), "max": max(seconds) * 1000}


def _while_under_load(load: Load, work: Callable[[], float]) -> float:
    load.start()
    return work()


def _rest() -> float:
    time.sleep(IDLE_SECONDS)
    return 0.0


def _rewrite(place: Clinic, mode: str) -> float:
    """Rows a second of the engine, in a process of its own as `keyrotation rotate` is."""
    job = {"url": place.url, "keys": str(place.keys), "target": str(V2), "limits": {}, "emergency": mode == "emergency"}
    command = [sys.executable, "-m", "benchmarks.engine_process"]
    done = subprocess.run(command, input=json.dumps(job), stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    outcome: dict[str, Any] = json.loads(done.stdout)
    return float(outcome["rows"] / outcome["seconds"])


def _summary(felt: Sequence[Felt]) -> list[dict[str, Any]]:
    idle = [each for each in felt if each.mode == "idle"]
    summary = []
    for mode in MODES:
        runs = [each for each in felt if each.mode == mode]
        summary.append(
            {
                "mode": mode,
                "select": _apart([run.select for run in runs], [run.select for run in idle]),
                "update": _apart([run.update for run in runs], [run.update for run in idle]),
                "rows_per_second": statistics.median(run.rows_per_second for run in runs),
                "errors": sum(run.errors for run in runs),
                "lost_writes": sum(run.lost_writes for run in runs),
                "runs": [asdict(run) for run in runs],
            }
        )
    return summary


def _apart(runs: Sequence[dict[str, float]], idle: Sequence[dict[str, float]]) -> dict[str, Any]:
    ratios = [run["p99"] / rest["p99"] for run, rest in zip(runs, idle, strict=True)]
    return {
        "p50_ms": statistics.median(run["p50"] for run in runs),
        "p99_ms": statistics.median(run["p99"] for run in runs),
        "p99_to_idle": statistics.median(ratios),
        "p99_to_idle_range": [min(ratios), max(ratios)],
        "max_ms": max(run["max"] for run in runs),
    }


def show(console: Console, summary: Sequence[dict[str, Any]]) -> None:
    """A line each for what reads and what updates."""
    title = f"{REQUESTS_PER_SECOND} requests a second, latency from the intended start"
    table = Table("mode", "requests", "p50 ms", "p99 ms", "of idle", "max ms", "rows/s", "errors", "lost", title=title)
    for each in summary:
        for kind in ("select", "update"):
            of = each[kind]
            low, high = of["p99_to_idle_range"]
            ratio = f"{of['p99_to_idle']:.2f} ({low:.2f}–{high:.2f})"
            felt = [f"{of['p50_ms']:.2f}", f"{of['p99_ms']:.2f}", ratio, f"{of['max_ms']:.0f}"]
            rate = f"{each['rows_per_second']:,.0f}"
            table.add_row(each["mode"], kind, *felt, rate, str(each["errors"]), str(each["lost_writes"]))
    console.print(table)


if __name__ == "__main__":
    main()
