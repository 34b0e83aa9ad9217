"""What is measured on the same table: a plain UPDATE, the engine, and the source procedure's loop."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm.attributes import flag_modified

from benchmarks.clinic import CLIENTS, V2, Clinic, opened, pages, wal_position
from benchmarks.processes import server_cpu_seconds
from keyrotation_pipeline.adapters.postgres.engine.batch import PASSES
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.engine.statement_pipeline import TidArray, pass_bytes_through
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.encrypted_type import EncryptedType
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing

# A batch of the plain UPDATE: as many pages as the engine takes at once at most.
PLAIN_PAGES = 128
_SAME_BYTES = ", ".join(f"{column} = {column}" for column in CLIENTS.columns)
# Until a backend that has just ended is counted with its parent.
_SETTLING_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Run:
    """One measured run.

    Args:
        cpu_seconds: of client and server together.
        client_cpu_seconds: of the client alone.
        worker_peak_mb: resident memory of the largest worker; 0 where nobody asks.
        growth: size of the table afterwards by its size before; 0 where nobody asks.
        wal_bytes: that the server wrote.
    """

    rows: int
    seconds: float
    cpu_seconds: float
    client_cpu_seconds: float
    worker_peak_mb: float = 0.0
    growth: float = 0.0
    wal_bytes: int = 0

    @property
    def rows_per_second(self) -> float:
        """The rate."""
        return self.rows / self.seconds

    @property
    def cpu_per_million_rows(self) -> float:
        """CPU seconds of client and server for a million rows."""
        return self.cpu_seconds / self.rows * 1e6


def to_values(clinic: Clinic) -> str:
    """Returns what sets each column to one text, which is as long as its values under our own format are on average."""
    average = ", ".join(f"round(avg(octet_length({column})))" for column in CLIENTS.columns)
    with closing(opened(clinic.url)) as connection:
        (sizes,) = connection.execute(f"SELECT {average} FROM public.template_native".encode()).fetchall()
    return ", ".join(
        f"{column} = 'v2:{'A' * (int(str(size)) - 3)}'" for column, size in zip(CLIENTS.columns, sizes, strict=True)
    )


def plain_update(clinic: Clinic, connections: int, setting: str = _SAME_BYTES) -> Run:
    """The database's own plain UPDATE, of the same bytes or `setting`, by page ranges, over some connections."""
    statement = f"UPDATE ONLY public.clients SET {setting} WHERE ctid >= %s::tid AND ctid < %s::tid".encode()

    def update(connection: Connection, first: int, end: int) -> int:
        span = (f"({first},0)", f"({end},0)")
        return connection.execute(statement, span, prepare=True).rowcount

    return _by_page_ranges(clinic, connections, update, PLAIN_PAGES)


def hot_update(clinic: Clinic, connections: int, setting: str = _SAME_BYTES) -> Run:
    """The same in HOT order, without reading, guards or encryption: less than this no engine can take."""
    with closing(opened(clinic.url)) as connection:
        lines = "SELECT max((ctid::text::point)[1])::int FROM public.clients WHERE ctid < '(256,0)'"
        ((most,),) = connection.execute(lines).fetchall()
    statement = (
        f"UPDATE ONLY public.clients SET {setting} WHERE ctid = ANY (%b) AND (SELECT count(*) "
        "FROM ONLY public.clients AS looked WHERE looked.ctid >= %s::tid AND looked.ctid < %s::tid) >= 0"
    ).encode()

    def update(connection: Connection, first: int, end: int) -> int:
        done = 0
        for line in range(PASSES):
            places = range(line or PASSES, int(str(most)) + 1, PASSES)
            rows = TidArray(
                page.to_bytes(4, "big") + place.to_bytes(2, "big") for page in range(first, end) for place in places
            )
            span = (rows, f"({first},0)", f"({end if line else first},0)")
            done += connection.execute(statement, span, prepare=True).rowcount
        return done

    return _by_page_ranges(clinic, connections, update, Limits().max_pages)


def _by_page_ranges(
    clinic: Clinic, connections: int, update: Callable[[Connection, int, int], int], pages_at_once: int
) -> Run:
    total = _pages(clinic)
    counts = [0] * connections

    def update_part(number: int) -> None:
        with closing(opened(clinic.url)) as connection:
            connection.execute("SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan")
            pass_bytes_through(connection)
            first, end = total * number // connections, total * (number + 1) // connections
            for page in range(first, end, pages_at_once):
                counts[number] += update(connection, page, min(page + pages_at_once, end))

    def all_at_once() -> dict[str, Any]:
        threads = [threading.Thread(target=update_part, args=(number,)) for number in range(connections)]
        client = time.process_time()
        started = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - started
        cpu = time.process_time() - client
        return {"rows": sum(counts), "seconds": seconds, "client_cpu_seconds": cpu, "growth": _pages(clinic) / total}

    return _measured(clinic, all_at_once)


def engine(clinic: Clinic, workers: int, *, native: bool = True, values: str = NATIVE.name) -> Run:
    """The engine through its public entry in emergency mode, which does not rest."""
    job = {"url": clinic.url, "keys": str(clinic.keys), "target": str(V2), "format": values}
    job |= {"limits": {"workers": workers, "native_codec": native}, "emergency": True}
    before = _pages(clinic)

    def in_a_process() -> dict[str, Any]:
        command = [sys.executable, "-m", "benchmarks.engine_process"]
        done = subprocess.run(command, input=json.dumps(job), stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
        outcome: dict[str, Any] = json.loads(done.stdout)
        return outcome | {"growth": _pages(clinic) / before}

    return _measured(clinic, in_a_process)


def seed_loop(clinic: Clinic, rows: int) -> Run:
    """The source procedure's loop over ORM objects, fixed so that it does update, without its sleep."""
    database = sa.create_engine("postgresql+psycopg://", creator=lambda: opened_for_orm(clinic.url))
    client = _model(clinic.ring)

    def until_enough() -> dict[str, Any]:
        done, cpu, started = 0, time.process_time(), time.monotonic()
        with orm.Session(database) as session:
            while done < rows:
                found = session.execute(sa.text("SELECT id FROM clients WHERE first_name LIKE 'v1:%' LIMIT 100"))
                ids = [row[0] for row in found]
                if not ids:
                    break
                for each in session.scalars(sa.select(client).where(client.id.in_(ids))):
                    for column in CLIENTS.columns:
                        flag_modified(each, column)  # the procedure's assignment alone changes nothing
                session.commit()
                done += len(ids)
        seconds = time.monotonic() - started
        return {"rows": done, "seconds": seconds, "client_cpu_seconds": time.process_time() - cpu}

    try:
        return _measured(clinic, until_enough)
    finally:
        database.dispose()


def opened_for_orm(url: str) -> Any:  # noqa: ANN401  what SQLAlchemy's `creator` gives
    """A connection with transactions, and with the application's own search path."""
    connection = opened(url)
    connection.execute("SET search_path = public")
    connection.autocommit = False
    return connection


def _model(ring: KeyRing) -> Any:  # noqa: ANN401  a class made here
    class Base(orm.DeclarativeBase):
        pass

    columns: dict[str, Any] = {name: sa.Column(EncryptedType(lambda: ring)) for name in CLIENTS.columns}
    body = {"__tablename__": "clients", "id": sa.Column(sa.Uuid, primary_key=True), **columns}
    return type("Client", (Base,), body)


def _pages(clinic: Clinic) -> int:
    with closing(opened(clinic.url)) as connection:
        return pages(connection)


def _wal(clinic: Clinic) -> int:
    with closing(opened(clinic.url)) as connection:
        return wal_position(connection)


def _measured(clinic: Clinic, run: Callable[[], dict[str, Any]]) -> Run:
    time.sleep(_SETTLING_SECONDS)
    before, wal = server_cpu_seconds(clinic.postmaster), _wal(clinic)
    outcome = run()
    wal = _wal(clinic) - wal
    time.sleep(_SETTLING_SECONDS)
    server = server_cpu_seconds(clinic.postmaster) - before
    return Run(
        outcome["rows"],
        outcome["seconds"],
        server + outcome["client_cpu_seconds"],
        outcome["client_cpu_seconds"],
        outcome.get("worker_peak_mb", 0.0),
        outcome.get("growth", 0.0),
        wal,
    )
