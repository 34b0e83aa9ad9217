"""What re-encryption costs the application, in routine and in emergency mode.

uv run python -m benchmarks.harm [--rows N] [--windows 24] [--json FILE]

The engine is stopped and continued (SIGSTOP, SIGCONT) for windows of 1.5 seconds, in the order on, off, off, on: what
else happens on the machine meets both alike. Ranges are 90 % of a bootstrap over windows; beside each ratio is the
floor, that of idle windows to other idle windows.
"""

import argparse
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console
from rich.table import Table

from benchmarks.application import REQUESTS_PER_SECOND, Latency, Load, percentile
from benchmarks.clinic import V2, Clinic, clinic, fill, opened, rows_left
from benchmarks.processes import machine

KEYS = 5_000
MODES = ("routine", "emergency")
WINDOW_SECONDS = 1.5
# What was under way at the beginning of a window belongs to the one before.
_SETTLING_SECONDS = 0.2
_RESAMPLED = 400
_BEGUN_SECONDS = 60.0
# More than is written from one checkpoint to the next.
_WAL_GIGABYTES = 4
_MEGABYTES_OF_WAL = "SELECT pg_logical_emit_message(false, '', repeat('x', 1000000)) FROM generate_series(1, {})"


@dataclass(frozen=True, slots=True)
class Window:
    """A while in which the engine ran, or was stopped: the seconds of each request."""

    runs: bool
    select: list[float]
    update: list[float]


@dataclass(frozen=True, slots=True)
class Felt:
    """What the application felt in one mode.

    Args:
        rows_per_second: while the engine ran.
    """

    mode: str
    windows: list[Window]
    rows_per_second: float
    errors: int
    lost_writes: int


def main() -> None:
    """Measure, print and write down."""
    options = _options()
    summary = measured(options.rows, options.windows)
    show(Console(width=120), summary)
    if options.json:
        document = {"machine": machine(), "python": platform.python_version(), "rows": options.rows}
        options.json.write_text(json.dumps(document | {"results": summary}, indent=2) + "\n")


def measured(rows: int, windows: int) -> list[dict[str, Any]]:
    """Each mode in so many windows with the engine and about as many without."""
    felt: list[Felt] = []
    with clinic() as place:
        _fill_the_wal(place)
        for mode in MODES:
            felt.append(_measure(place, mode, rows, windows))
            print(mode, f"{felt[-1].rows_per_second:,.0f} rows/s", file=sys.stderr, flush=True)
    return _summary(felt)


def _fill_the_wal(place: Clinic) -> None:
    """Have the server write over WAL files that are there, as one does that has run for a while.

    To make a new one stops every commit meanwhile, for a quarter of a second each on some machines.
    """
    with closing(opened(place.url)) as connection:
        for statement in (
            f"ALTER SYSTEM SET min_wal_size = '{_WAL_GIGABYTES}GB'",
            f"ALTER SYSTEM SET max_wal_size = '{2 * _WAL_GIGABYTES}GB'",
            "SELECT pg_reload_conf()",
            _MEGABYTES_OF_WAL.format(1000 * _WAL_GIGABYTES),
            "CHECKPOINT",
        ):
            connection.execute(statement.encode())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.harm", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the table")
    parser.add_argument("--windows", type=int, default=24, help="of each mode, with the engine; as many without")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser.parse_args()


def _measure(place: Clinic, mode: str, rows: int, windows: int) -> Felt:
    """One walk after another, each over a new table, until there are enough windows."""
    found: list[Window] = []
    done = errors = lost = 0
    while (left := windows - sum(each.runs for each in found)) > 0:
        with closing(opened(place.url)) as connection:
            fill(connection, rows)
        with psycopg.connect(place.url) as connection:
            sample = f"SELECT id FROM clients ORDER BY random() LIMIT {KEYS}"
            load = Load(place.url, [row[0] for row in connection.execute(sample.encode())])
        load.start()
        spans = _walk(place, mode, 2 * left)
        if not spans:
            raise SystemExit(f"the engine rewrote {rows} rows in less than a window; take more --rows")
        found += _windows(spans, load.stop())
        with closing(opened(place.url)) as connection:
            done += rows - rows_left(connection, V2)
        errors, lost = errors + len(load.errors), lost + load.lost_writes()
    seconds = sum(WINDOW_SECONDS for each in found if each.runs)
    return Felt(mode, found, done / seconds, errors, lost)


def _walk(place: Clinic, mode: str, windows: int) -> list[tuple[bool, float, float]]:
    """Begin and end of each window of one walk, and whether the engine ran; the last, in which it ends, is left out."""
    spans = []
    with _engine(place, mode) as process:
        _await_rows(place, process)
        for number in range(windows):
            runs = number % 4 in {0, 3}
            os.killpg(process.pid, signal.SIGCONT if runs else signal.SIGSTOP)
            begun = time.monotonic() + _SETTLING_SECONDS
            time.sleep(WINDOW_SECONDS)
            if process.poll() is not None:
                break
            spans.append((runs, begun, time.monotonic()))
    return spans


@contextmanager
def _engine(place: Clinic, mode: str) -> Iterator[subprocess.Popen[str]]:
    """The engine in processes of its own, as `keyrotation rotate` is; killed at the end."""
    job = {"url": place.url, "keys": str(place.keys), "target": str(V2), "limits": {}, "emergency": mode == "emergency"}
    command = [sys.executable, "-m", "benchmarks.engine_process"]
    process = subprocess.Popen(  # noqa: S603  a command of our own
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    )
    assert process.stdin is not None
    try:
        with process.stdin as pipe:
            pipe.write(json.dumps(job))
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _await_rows(place: Clinic, process: "subprocess.Popen[str]") -> None:
    """Wait until the first progress is stored."""
    begun = time.monotonic()
    with closing(opened(place.url)) as connection:
        ((before,),) = connection.execute("SELECT clock_timestamp()").fetchall()
        query = b"SELECT count(*) > 0 FROM keyrotation.shard_walks WHERE rows > 0 AND updated_at > %s"
        while connection.execute(query, (before,)).fetchone() != (True,) and process.poll() is None:
            if time.monotonic() - begun > _BEGUN_SECONDS:
                raise SystemExit("the engine wrote nothing; its figures mean nothing")
            time.sleep(0.02)


def _windows(spans: Sequence[tuple[bool, float, float]], latencies: Sequence[Latency]) -> list[Window]:
    def of(first: float, end: float, *, updates: bool) -> list[float]:
        return [each.seconds for each in latencies if first <= each.at < end and each.updates == updates]

    return [Window(runs, of(first, end, updates=False), of(first, end, updates=True)) for runs, first, end in spans]


def _summary(felt: Sequence[Felt]) -> list[dict[str, Any]]:
    idle = [window for each in felt for window in each.windows if not window.runs]
    summary = [{"mode": "idle", **_of(idle, idle), "rows_per_second": 0.0, "errors": 0, "lost_writes": 0, "runs": []}]
    for each in felt:
        on, off = ([window for window in each.windows if window.runs is runs] for runs in (True, False))
        counts = {"rows_per_second": each.rows_per_second, "errors": each.errors, "lost_writes": each.lost_writes}
        summary.append({"mode": each.mode, **_of(on, off), **counts, "runs": [asdict(one) for one in each.windows]})
    return summary


def _of(on: Sequence[Window], off: Sequence[Window]) -> dict[str, Any]:
    return {
        "select": _apart([each.select for each in on], [each.select for each in off]),
        "update": _apart([each.update for each in on], [each.update for each in off]),
    }


def _apart(on: Sequence[list[float]], off: Sequence[list[float]]) -> dict[str, Any]:
    together = _joined(on)
    chance = random.Random(1)
    ratios = [_ratio(chance.choices(on, k=len(on)), chance.choices(off, k=len(off))) for _ in range(_RESAMPLED)]
    floor = []
    for _ in range(_RESAMPLED):
        some = chance.sample(off, len(off))
        floor.append(_ratio(some[::2], some[1::2]))
    return {
        "p50_ms": percentile(together, 50),
        "p99_ms": percentile(together, 99),
        "p99_to_idle": _ratio(on, off),
        "p99_to_idle_range": _middle(floor if on == off else ratios),
        "floor": _middle(floor),
        "max_ms": max(together) * 1000,
    }


def _ratio(some: Sequence[list[float]], others: Sequence[list[float]]) -> float:
    return percentile(_joined(some), 99) / percentile(_joined(others), 99)


def _joined(windows: Sequence[list[float]]) -> list[float]:
    return list(chain.from_iterable(windows))


def _middle(ratios: Sequence[float]) -> list[float]:
    """Where nine of ten lie."""
    cuts = statistics.quantiles(ratios, n=20)
    return [cuts[0], cuts[-1]]


def show(console: Console, summary: Sequence[dict[str, Any]]) -> None:
    """A line each for what reads and what updates."""
    title = f"{REQUESTS_PER_SECOND} requests a second, latency from the intended start"
    table = Table(
        "mode", "requests", "p50 ms", "p99 ms", "of idle", "floor", "max ms", "rows/s", "errors", "lost", title=title
    )
    for each in summary:
        for kind in ("select", "update"):
            of = each[kind]
            low, high = of["p99_to_idle_range"]
            ratio, floor = f"{of['p99_to_idle']:.2f} ({low:.2f}–{high:.2f})", "{:.2f}–{:.2f}".format(*of["floor"])
            felt = [f"{of['p50_ms']:.2f}", f"{of['p99_ms']:.2f}", ratio, floor, f"{of['max_ms']:.0f}"]
            rate = f"{each['rows_per_second']:,.0f}"
            table.add_row(each["mode"], kind, *felt, rate, str(each["errors"]), str(each["lost_writes"]))
    console.print(table)


if __name__ == "__main__":
    main()
