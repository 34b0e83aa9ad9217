"""How fast rows are re-encrypted, against what the database itself can do and against the seed's loop.

uv run python -m benchmarks.reencryption [--rows N] [--workers 1,2,4] [--rounds 3] [--json FILE]
"""

import argparse
import dataclasses
import json
import platform
import statistics
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import contenders
from benchmarks.clinic import V2, Clinic, clinic, fill, opened, rows_under
from benchmarks.contenders import Run
from benchmarks.processes import machine

PLAIN, ENGINE, SEED = "plain UPDATE", "engine", "seed's ORM loop, mended"
SEED_ROWS = 5_000

Results = dict[tuple[str, int], list[Run]]


def main() -> None:
    """Measure, print and write down."""
    options = _options()
    workers = [int(each) for each in options.workers.split(",")]
    console = Console(width=110)
    with clinic() as place:
        results: Results = {}
        for number in range(options.rounds):
            console.print(f"round {number + 1} of {options.rounds}, {options.rows:,} rows", highlight=False)
            _round(place, options.rows, workers, results)
    summary = _summary(results)
    _print(console, summary)
    if options.json:
        document = {"machine": machine(), "python": platform.python_version(), "rows": options.rows}
        document |= {"rounds": options.rounds, "results": summary}
        options.json.write_text(json.dumps(document, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reencryption", description=__doc__)
    parser.add_argument("--rows", type=int, default=300_000, help="rows of the table")
    parser.add_argument("--workers", default="1,2", help="worker processes, and connections of the plain UPDATE")
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds; medians are given")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser.parse_args()


def _round(place: Clinic, rows: int, workers: Sequence[int], results: Results) -> None:
    """Each contender once, one after the other, on a table made anew."""
    for count in workers:
        _fill(place, rows)
        results.setdefault((PLAIN, count), []).append(contenders.plain_update(place, count))
        _fill(place, rows)
        results.setdefault((ENGINE, count), []).append(contenders.engine(place, count))
        _require_done(place, rows)
    _fill(place, rows)
    results.setdefault((SEED, 1), []).append(contenders.seed_loop(place, min(rows, SEED_ROWS)))


def _fill(place: Clinic, rows: int) -> None:
    with closing(opened(place.url)) as connection:
        fill(connection, rows)


def _require_done(place: Clinic, rows: int) -> None:
    with closing(opened(place.url)) as connection:
        done = rows_under(connection, V2)
    if done != rows:
        raise SystemExit(f"the engine left {rows - done} of {rows} rows; its figures mean nothing")


def _summary(results: Results) -> list[dict[str, Any]]:
    """Medians and ranges by contender and workers, with the ratio to the plain UPDATE over as many connections."""
    summary = []
    for (name, workers), runs in results.items():
        plain = results.get((PLAIN, workers), runs)
        # Ratios within a round: what slows the whole machine slows both.
        ratios = [run.rows_per_second / other.rows_per_second for run, other in zip(runs, plain, strict=True)]
        rates = [run.rows_per_second for run in runs]
        cost = [run.cpu_per_million_rows for run in runs]
        summary.append(
            {
                "contender": name,
                "workers": workers,
                "rows_per_second": _spread(rates),
                "of_the_plain_update": _spread(ratios),
                "cpu_seconds_per_million_rows": _spread(cost),
                "worker_peak_mb": max(run.worker_peak_mb for run in runs),
                "growth": _spread([run.growth for run in runs]),
                "runs": [dataclasses.asdict(run) for run in runs],
            }
        )
    return summary


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _print(console: Console, summary: Sequence[Mapping[str, Any]]) -> None:
    table = Table("contender", "workers", "rows/s (min–max)", "of plain UPDATE", "CPU-s/M rows", "MB/worker", "growth")
    for each in summary:
        rate, ratio, cost = each["rows_per_second"], each["of_the_plain_update"], each["cpu_seconds_per_million_rows"]
        table.add_row(
            each["contender"],
            str(each["workers"]),
            f"{rate['median']:,.0f} ({rate['min']:,.0f}–{rate['max']:,.0f})",
            f"{ratio['median']:.2f} ({ratio['min']:.2f}–{ratio['max']:.2f})",
            f"{cost['median']:.1f}",
            f"{each['worker_peak_mb']:.0f}" if each["worker_peak_mb"] else "–",
            f"{each['growth']['median']:.2f}" if each["growth"]["median"] else "–",
        )
    console.print(table)
    fastest = max(each["rows_per_second"]["median"] for each in summary)
    for each in summary:
        rate = each["rows_per_second"]["median"]
        console.print(
            f"{each['contender']:>26} × {each['workers']}  {'█' * max(1, round(60 * rate / fastest))} {rate:,.0f}"
        )
    seed = next(each["rows_per_second"]["median"] for each in summary if each["contender"] == SEED)
    for each in summary:
        if each["contender"] == ENGINE:
            rate = each["rows_per_second"]["median"]
            console.print(f"engine × {each['workers']}: {rate / seed:.1f} times the seed's loop", highlight=False)


if __name__ == "__main__":
    main()
