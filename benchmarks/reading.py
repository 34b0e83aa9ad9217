"""What it costs to read everything: the census, the full decrypt, and the retiring transaction under its locks.

uv run python -m benchmarks.reading [--rows N] [--threads 2] [--rounds 3] [--json FILE]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from psycopg import sql
from rich.console import Console
from rich.table import Table

from benchmarks.clinic import CLIENTS, V1, V2, Clinic, clinic, fill, opened
from benchmarks.processes import machine, server_cpu_seconds
from keyrotation_pipeline.adapters.postgres.engine.decrypt import decrypt_all
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.inventory import counts
from keyrotation_pipeline.adapters.postgres.inventory.counts import counted_by_filters, filters
from keyrotation_pipeline.adapters.postgres.inventory.relations import heaps
from keyrotation_pipeline.adapters.postgres.inventory.scans import heap_scan
from keyrotation_pipeline.adapters.postgres.retirement import fence, proof, search, snapshot_horizon
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.model.proof import Moment

_SETTLING_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Cost:
    """One run; CPU of client and server together."""

    seconds: float
    cpu_seconds: float


def main() -> None:
    """Measure in alternating rounds and print medians."""
    options = _options()
    console = Console(width=110)
    costs: dict[str, list[Cost]] = {}
    with clinic() as place, closing(opened(place.url)) as connection:
        fill(connection, options.rows)
        console.print(f"{options.rows:,} rows of {len(CLIENTS.columns)} columns; {machine()}", highlight=False)
        console.print(_plan(connection), highlight=False)
        runs = _runs(place, connection, options.threads)
        for _ in range(options.rounds):
            for name, run in runs.items():
                costs.setdefault(name, []).append(_measured(place, run))
        _print(console, costs, options.rows)
        connection.execute("DROP TABLE public.template_native")  # which holds values of ours and is not declared
        costs["the retiring transaction, as it was"] = [_retiring(place, connection, before=False)]
        costs["the retiring transaction, after a search"] = [_retiring(place, connection, before=True)]
    _print(console, costs, options.rows)
    if options.json:
        written = {name: [asdict(each) for each in some] for name, some in costs.items()}
        options.json.write_text(json.dumps({"machine": machine(), "rows": options.rows} | written, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reading", description=__doc__)
    parser.add_argument("--rows", type=int, default=500_000, help="rows of the table")
    parser.add_argument("--threads", type=int, default=2, help="threads of the second full decrypt")
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds; medians are given")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser.parse_args()


def _plan(connection: Connection) -> str:
    """How the server carries out the census."""
    (relation,) = heaps(connection, CLIENTS)
    with heap_scan(connection, relation.label, relation.oid):
        query = sql.SQL("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) {}")
        lines = connection.execute(query.format(filters(relation, CLIENTS, [V1, V2]))).fetchall()
    return "\n".join(str(line) for (line,) in lines)


def _runs(place: Clinic, connection: Connection, threads: int) -> dict[str, Callable[[], object]]:
    (relation,) = heaps(connection, CLIENTS)

    def decrypted(limits: Limits) -> None:
        done = decrypt_all(lambda: opened(place.url), CLIENTS, place.ring, lambda _: None, limits)
        if done.failures or not done.values:
            raise SystemExit(f"{done.failures} of {done.values} values did not decrypt; the figures mean nothing")

    return {
        "census by groups (as it was)": lambda: counts._counted_by_groups(connection, relation, CLIENTS),  # noqa: SLF001
        "census by filters": lambda: counted_by_filters(connection, relation, CLIENTS),
        "full decrypt, Python codec": lambda: decrypted(Limits(native_codec=False)),
        "full decrypt, native codec": lambda: decrypted(Limits()),
        f"full decrypt, native codec, {threads} threads": lambda: decrypted(Limits(workers=threads)),
    }


def _measured(place: Clinic, run: Callable[[], object]) -> Cost:
    server, client, begun = server_cpu_seconds(place.postmaster), time.process_time(), time.perf_counter()
    run()
    seconds, client = time.perf_counter() - begun, time.process_time() - client
    time.sleep(_SETTLING_SECONDS)  # until a backend that has just ended is counted with its parent
    return Cost(seconds, client + server_cpu_seconds(place.postmaster) - server)


def _retiring(place: Clinic, connection: Connection, *, before: bool) -> Cost:
    """How long the tables are locked for the evidence, on a table fenced against v2, with v1 alone in it."""
    fence.fence(connection, CLIENTS, [V2])
    moment = Moment(snapshot_horizon.current_xid(connection), snapshot_horizon.barrier(connection))
    searched = search.search(connection, [CLIENTS], V2, [V2], lambda _: None) if before else None

    def evidence() -> None:
        with connection.transaction():
            proof.zero_old_rows(connection, [CLIENTS], V2, [V2], moment, searched=searched)

    return _measured(place, evidence)


def _print(console: Console, costs: dict[str, list[Cost]], rows: int) -> None:
    table = Table("", "seconds", "CPU-s", "CPU-µs per row")
    for name, some in costs.items():
        seconds, cpu = (
            statistics.median(each) for each in zip(*((c.seconds, c.cpu_seconds) for c in some), strict=True)
        )
        table.add_row(name, f"{seconds:.2f}", f"{cpu:.2f}", f"{cpu / rows * 1e6:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
