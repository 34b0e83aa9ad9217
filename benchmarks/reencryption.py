"""How fast rows are re-encrypted, against what the database itself can do and against the source procedure's loop.

uv run python -m benchmarks.reencryption [--table clients|indexed|wide] [--rows N] [--workers 1,2,4] [--rounds 3]
    [--format fernet] [--python-codec] [--json FILE]
"""

import argparse
import dataclasses
import json
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import contenders
from benchmarks.clinic import SHAPES, V2, Clinic, clinic, fill, opened, rows_left
from benchmarks.contenders import Run
from benchmarks.processes import machine
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline.fieldcrypto.formats.registry import FORMATS
from keyrotation_pipeline.fieldcrypto.formats.sources import NEVER_ENCRYPTED

PLAIN, HOT, ENGINE, SEED = "plain UPDATE", "UPDATE in HOT order", "engine", "seed's ORM loop, mended"
SEED_ROWS = 5_000

# Between a contender and the format of the values that it rewrites, where that is not our own.
_OF = " of "

Results = dict[tuple[str, int], list[Run]]


def main() -> None:
    """Measure, print and write down."""
    options = _options()
    workers = [int(each) for each in options.workers.split(",")]
    native = not options.python_codec
    summary = measured(options.table, options.rows, workers, options.rounds, native=native, other=options.format)
    show(Console(width=120), summary)
    if options.json:
        document = {"machine": machine(), "python": platform.python_version(), "rows": options.rows}
        document |= {"table": options.table, "rounds": options.rounds, "results": summary}
        options.json.write_text(json.dumps(document, indent=2) + "\n")


def measured(
    table: str,
    rows: int,
    workers: Sequence[int],
    rounds: int,
    *,
    native: bool = True,
    seed: bool = True,
    other: str | None = None,
) -> list[dict[str, Any]]:
    """Medians of alternating rounds over one shape of table.

    Args:
        other: a format whose values the engine re-encrypts, too, in each round after our own.
    """
    with clinic((NATIVE.name, *filter(None, [other]))) as place:
        results: Results = {}
        for number in range(rounds):
            print(f"{table}: round {number + 1} of {rounds}, {rows:,} rows", file=sys.stderr, flush=True)
            _round(place, table, rows, workers, results, native=native, other=other)
            if seed:
                _fill(place, table, rows)
                results.setdefault((SEED, 1), []).append(contenders.seed_loop(place, min(rows, SEED_ROWS)))
        return _summary(results)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reencryption", description=__doc__)
    parser.add_argument("--table", choices=SHAPES, default="clients", help="five columns; with indexes; rows of 1 kB")
    parser.add_argument(
        "--format",
        choices=[NEVER_ENCRYPTED]
        + [name for name, each in FORMATS.items() if name != NATIVE.name and not each.is_binary],
        help="values, too, or plaintext",
    )
    parser.add_argument("--python-codec", action="store_true", help="as where the native codec was not built")
    parser.add_argument("--rows", type=int, default=300_000, help="rows of the table")
    parser.add_argument("--workers", default="1,2", help="worker processes, and connections of the plain UPDATE")
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds; medians are given")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser.parse_args()


def _round(
    place: Clinic,
    table: str,
    rows: int,
    workers: Sequence[int],
    results: Results,
    *,
    native: bool,
    other: str | None,
) -> None:
    """Each contender once, one after the other, on a new table."""
    for count in workers:
        _fill(place, table, rows)
        results.setdefault((PLAIN, count), []).append(contenders.plain_update(place, count))
        if table != "wide":  # too few rows in a page
            _fill(place, table, rows)
            results.setdefault((HOT, count), []).append(contenders.hot_update(place, count))
        for values in filter(None, [NATIVE.name, other]):
            if other == NEVER_ENCRYPTED:
                _to_values(place, table, rows, count, results, values)
            _fill(place, table, rows, values)
            run = contenders.engine(place, count, native=native, values=values)
            results.setdefault((_named(ENGINE, values), count), []).append(run)
            _require_done(place, rows, values)


def _to_values(place: Clinic, table: str, rows: int, count: int, results: Results, values: str) -> None:
    """What a row costs the database alone that becomes a value: one of the same length, or one that was plaintext."""
    setting = contenders.to_values(place)
    for name, update in ((PLAIN, contenders.plain_update), (HOT, contenders.hot_update)):
        _fill(place, table, rows, values)
        run = update(place, count, setting)
        results.setdefault((_named(f"{name} to values", values), count), []).append(run)


def _named(contender: str, values: str) -> str:
    return contender if values == NATIVE.name else f"{contender}{_OF}{values}"


def _fill(place: Clinic, table: str, rows: int, values: str = NATIVE.name) -> None:
    with closing(opened(place.url)) as connection:
        fill(connection, rows, shape=SHAPES[table], values=values)


def _require_done(place: Clinic, rows: int, values: str) -> None:
    with closing(opened(place.url)) as connection:
        left = rows_left(connection, V2, values)
    if left:
        raise SystemExit(f"the engine left {left} of {rows} rows; its figures mean nothing")


def _summary(results: Results) -> list[dict[str, Any]]:
    """Medians and ranges by contender and workers, with the ratio to the plain UPDATE over as many connections."""
    summary = []
    for (name, workers), runs in results.items():
        # Ratios within a round: what slows the whole machine slows both.
        plain, native = (
            [run.rows_per_second / other.rows_per_second for run, other in zip(runs, others, strict=True)]
            for others in (results.get((each, workers), runs) for each in (PLAIN, name.partition(_OF)[0]))
        )
        rates = [run.rows_per_second for run in runs]
        cost = [run.cpu_per_million_rows for run in runs]
        client = [run.client_cpu_seconds / run.rows * 1e6 for run in runs]
        summary.append(
            {
                "contender": name,
                "workers": workers,
                "rows_per_second": _spread(rates),
                "of_the_plain_update": _spread(plain),
                "of_our_own_format": _spread(native),
                "cpu_seconds_per_million_rows": _spread(cost),
                "client_cpu_seconds_per_million_rows": _spread(client),
                "worker_peak_mb": max(run.worker_peak_mb for run in runs),
                "growth": _spread([run.growth for run in runs]),
                "wal_bytes_per_row": _spread([run.wal_bytes / run.rows for run in runs]),
                "runs": [dataclasses.asdict(run) for run in runs],
            }
        )
    return summary


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def show(console: Console, summary: Sequence[Mapping[str, Any]]) -> None:
    """A line for each contender, and how many times the source procedure's loop the engine is."""
    head = (
        "contender",
        "workers",
        "rows/s (min–max)",
        "of plain UPDATE",
        "CPU-µs/row: client, server",
        "MB/worker",
        "growth",
        "WAL B/row",
    )
    table = Table(*head)
    for each in summary:
        rate, ratio, cost = each["rows_per_second"], each["of_the_plain_update"], each["cpu_seconds_per_million_rows"]
        client = each["client_cpu_seconds_per_million_rows"]["median"]
        table.add_row(
            each["contender"],
            str(each["workers"]),
            f"{rate['median']:,.0f} ({rate['min']:,.0f}–{rate['max']:,.0f})",
            f"{ratio['median']:.2f} ({ratio['min']:.2f}–{ratio['max']:.2f})",
            f"{cost['median']:.1f}: {client:.1f}, {cost['median'] - client:.1f}",
            f"{each['worker_peak_mb']:.0f}" if each["worker_peak_mb"] else "–",
            f"{each['growth']['median']:.2f}" if each["growth"]["median"] else "–",
            f"{each['wal_bytes_per_row']['median']:,.0f}",
        )
    console.print(table)
    for each in summary:
        if _OF in each["contender"]:
            ratio = each["of_our_own_format"]
            of = f"{ratio['median']:.2f} ({ratio['min']:.2f}–{ratio['max']:.2f})"
            console.print(f"{each['contender']} × {each['workers']}: {of} of our own format", highlight=False)
    for seed in (each["rows_per_second"]["median"] for each in summary if each["contender"] == SEED):
        for each in summary:
            if each["contender"] == ENGINE:
                times = each["rows_per_second"]["median"] / seed
                console.print(
                    f"engine × {each['workers']}: {times:.1f} times the source procedure's loop", highlight=False
                )


if __name__ == "__main__":
    main()
