"""The demo's application: one instance that reads and writes continuously and keeps a ledger of its own.

It runs in a separate process and knows of the pipeline only what any application does: the key files, and the one line
that reloads them and reports which versions it reads and writes. Its ledger (plaintexts) stays in memory. When standard
input ends, it stops, compares the whole database with the ledger, and prints one line of JSON that holds only numbers.
"""

import json
import select
import sys
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from random import Random  # noqa: TID251 - which patient is next is no secret
from typing import Any

import psycopg
from sqlalchemy import Engine, create_engine, delete, event, inspect, update
from sqlalchemy import select as sql_select
from sqlalchemy.orm import Session

from keyrotation_pipeline.demo.clinic import ENCRYPTED_COLUMNS, Base, mapped_clinic
from keyrotation_pipeline.encrypted_type import MountedKeyRing, attest

INSTANCE = "clinic-api-1"
PAUSE_SECONDS = 0.004
RELOAD_SECONDS = 0.25
Row = dict[str, str | None]


@dataclass
class Tally:
    """Counts what the application did. `reads` are reads that were compared with the ledger at once."""

    writes: int = 0
    reads: int = 0
    errors: int = 0
    lost_writes: int = 0
    slowest_milliseconds: float = 0.0
    error_names: list[str] = field(default_factory=list)


class Application:
    """One running instance of the clinic's API."""

    def __init__(self, url: str, keys: Path) -> None:
        self.keys = MountedKeyRing(keys)
        self.engine = _engine(url)
        self.client, self.appointment = mapped_clinic(self.keys)
        self.tally = Tally()
        self.dice = Random(7)  # noqa: S311
        self.expected = self._everything()
        self.patients = list(self.expected["clients"])
        self.visits = list(self.expected["appointments"])
        self.admitted: list[uuid.UUID] = []

    def work(self, stop: threading.Event) -> None:
        """Inserts, updates, deletes and reads until `stop`."""
        tasks = (self._update_client, self._update_client, self._update_visit, self._read, self._admit, self._discharge)
        while not stop.wait(PAUSE_SECONDS):
            started = time.monotonic()
            try:
                self.dice.choice(tasks)()
            except Exception as error:  # noqa: BLE001 - every kind counts as an error of the application
                self.tally.errors += 1
                self.tally.error_names.append(type(error).__name__)
            elapsed = 1000 * (time.monotonic() - started)
            self.tally.slowest_milliseconds = max(self.tally.slowest_milliseconds, elapsed)

    def compare(self) -> None:
        """Counts every value of the database that differs from the ledger."""
        self.keys.reload()
        actual = self._everything()
        for table, rows in self.expected.items():
            differing = {key for key in rows.keys() | actual[table].keys() if rows.get(key) != actual[table].get(key)}
            self.tally.lost_writes += len(differing)

    def _everything(self) -> dict[str, dict[uuid.UUID, Row]]:
        found: dict[str, dict[uuid.UUID, Row]] = {}
        with Session(self.engine) as session:
            for mapped, (table, columns) in zip(
                (self.client, self.appointment), ENCRYPTED_COLUMNS.items(), strict=True
            ):
                statement = sql_select(mapped.id, *(getattr(mapped, column) for column in columns))  # type: ignore[attr-defined]
                found[table] = {row[0]: dict(zip(columns, row[1:], strict=True)) for row in session.execute(statement)}
        return found

    def _update_client(self) -> None:
        key = self.dice.choice(self.patients)
        column = self.dice.choice(ENCRYPTED_COLUMNS["clients"])
        self._write(self.client, "clients", key, {column: f"changed {self.tally.writes} ✓"})

    def _update_visit(self) -> None:
        notes = f"follow-up {self.tally.writes}"
        self._write(self.appointment, "appointments", self.dice.choice(self.visits), {"notes": notes})

    def _write(self, mapped: type[Base], table: str, key: uuid.UUID, values: Row) -> None:
        with Session(self.engine) as session, session.begin():
            session.execute(update(mapped).where(inspect(mapped).c.id == key).values(**values))
        self.expected[table][key] |= values
        self.tally.writes += 1

    def _admit(self) -> None:
        key = uuid.uuid4()
        values: Row = dict.fromkeys(ENCRYPTED_COLUMNS["clients"], f"new {self.tally.writes}")
        with Session(self.engine) as session, session.begin():
            session.add(self.client(id=key, **values))
        self.expected["clients"][key] = values
        self.patients.append(key)
        self.admitted.append(key)
        self.tally.writes += 1

    def _discharge(self) -> None:
        # Only patients admitted by this process: they have no appointments that a cascade would delete.
        if not self.admitted:
            return
        key = self.admitted.pop()
        mapped: Any = self.client
        with Session(self.engine) as session, session.begin():
            session.execute(delete(mapped).where(mapped.id == key))
        self.patients.remove(key)
        del self.expected["clients"][key]
        self.tally.writes += 1

    def _read(self) -> None:
        key = self.dice.choice(self.patients)
        mapped: Any = self.client
        with Session(self.engine) as session:
            found = session.get_one(mapped, key)
            seen = {column: getattr(found, column) for column in ENCRYPTED_COLUMNS["clients"]}
        self.tally.reads += 1
        self.tally.lost_writes += seen != self.expected["clients"][key]


def _engine(url: str) -> Engine:
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1), hide_parameters=True)

    @event.listens_for(engine, "connect")
    def use_public(connection: psycopg.Connection, _record: object) -> None:
        connection.execute("SET search_path = public")
        connection.commit()

    return engine


def main() -> None:
    """Runs until standard input ends; its first line is ``{"url": …, "keys": …}``, since others can see arguments."""
    setup = json.loads(sys.stdin.readline())
    application = Application(setup["url"], Path(setup["keys"]))
    stop = threading.Event()
    attestation = attest(application.engine, application.keys, instance=INSTANCE, every_seconds=RELOAD_SECONDS)
    work = threading.Thread(target=application.work, args=(stop,))
    work.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    select.select([sys.stdin], [], [])
    stop.set()
    work.join()
    attestation.stop()
    application.compare()
    sys.stdout.write(json.dumps(vars(application.tally)) + "\n")


if __name__ == "__main__":
    main()
