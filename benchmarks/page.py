"""The figures as the tables of a Markdown page, with the arithmetic for large tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.clinic import CLIENTS
from benchmarks.reencryption import ENGINE

_TITLES = {
    "speed": "1 000 000 rows",
    "short": "300 000 rows, start included",
    "python": "300 000 rows, Python codec",
    "indexed": "300 000 rows, four more indexes",
    "wide": "300 000 rows of 1 kB",
}


def of(figures: Mapping[str, Any]) -> str:
    """The page, of those parts that were measured."""
    parts = [_speed(title, figures[name]) for name, title in _TITLES.items() if name in figures]
    if "speed" in figures:
        parts.append(_plan(figures["speed"]["results"]))
    if "harm" in figures:
        parts.append(_harm(figures["harm"]))
    return "\n\n".join(parts)


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"**{title}**", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _speed(title: str, part: Mapping[str, Any]) -> str:
    rows = [
        (
            f"{each['contender']} × {each['workers']}",
            f"{each['rows_per_second']['median']:,.0f}",
            "{median:.2f} ({min:.2f}–{max:.2f})".format(**each["of_the_plain_update"]),
            f"{each['cpu_seconds_per_million_rows']['median']:.1f}",
            f"{each['wal_bytes_per_row']['median']:,.0f}",
            f"{each['growth']['median']:.2f}" if each["growth"]["median"] else "–",
            f"{each['worker_peak_mb']:.0f}" if each["worker_peak_mb"] else "–",
        )
        for each in part["results"]
    ]
    rounds = len(part["results"][0]["runs"])
    head = ("", "rows/s", "of the plain UPDATE", "CPU-µs a row", "WAL bytes a row", "growth", "MB a worker")
    return _table(f"{title}; {rounds} rounds, {part['on']}, {part['machine']}", head, rows)


def _plan(results: Sequence[Mapping[str, Any]]) -> str:
    """What to plan with, by straight proportion."""
    rows = []
    for each in (each for each in results if each["contender"] == ENGINE):
        rate, cost = each["rows_per_second"]["median"], each["cpu_seconds_per_million_rows"]["median"]
        wal, growth = each["wal_bytes_per_row"]["median"], each["growth"]["median"]
        rows.append(
            (
                str(each["workers"]),
                f"{rate / each['workers']:,.0f}",
                f"{cost / len(CLIENTS.columns):.2f} s",
                *(
                    f"{count / rate / 60:,.0f} min, {count * cost / 1e6 / 3600:.1f} CPU-h, {count * wal / 1e9:,.0f} GB"
                    for count in (10**8, 10**9)
                ),
                f"{growth:.2f}",
            )
        )
    head = ("workers", "rows/s a worker", "CPU a million values", "100 million rows, WAL", "a billion rows", "growth")
    return _table("To plan with: emergency mode, five columns, by straight proportion", head, rows)


def _harm(part: Mapping[str, Any]) -> str:
    rows = [
        (
            f"{each['mode']}, {kind}",
            f"{each[kind]['p50_ms']:.2f} ms",
            f"{each[kind]['p99_ms']:.2f} ms",
            "{:.2f} ({:.2f}–{:.2f})".format(each[kind]["p99_to_idle"], *each[kind]["p99_to_idle_range"]),
            "{:.2f}–{:.2f}".format(*each[kind]["floor"]) if "floor" in each[kind] else "–",
            f"{each[kind]['max_ms']:.0f} ms",
            f"{each['rows_per_second']:,.0f}",
            str(each["errors"]),
            str(each["lost_writes"]),
        )
        for each in part["results"]
        for kind in ("select", "update")
    ]
    rounds = len(part["results"][-1]["runs"])
    head = ("", "p50", "p99", "p99 to idle", "floor", "longest", "rows/s", "errors", "lost writes")
    return _table(f"1 000 000 rows, 300 requests a second; {rounds} windows, {part['on']}", head, rows)
