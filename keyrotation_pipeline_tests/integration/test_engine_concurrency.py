"""No lost write: an application that writes, deletes and inserts all the while, and relations rewritten underneath."""

import itertools
import random
import threading
import time
from dataclasses import dataclass, field

import psycopg
import pytest

from keyrotation_pipeline.adapters.postgres.engine.batch import Batch, Codec, NewValues
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.ledger.migrate import migrate
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline_tests.integration.encrypted_rows import Engine, insert, opened, ring_of, sealed, table_of
from keyrotation_pipeline_tests.servers import Server
from keyrotation_pipeline_tests.waiting import PATIENCE_SECONDS

CLIENTS = table_of("clients", "first_name", "last_name", "notes")
ROWS = 1000
WRITERS = 4


def prepare(url: str, ring: KeyRing) -> Connection:
    """A fresh `clients` of v1 values: each says which row and column it belongs to."""
    connection = connect(url)
    connection.execute("DROP SCHEMA IF EXISTS keyrotation CASCADE")
    migrate(url)
    connection.execute("DROP TABLE IF EXISTS public.clients")
    connection.execute(
        "CREATE TABLE public.clients"
        " (id int PRIMARY KEY, first_name text, last_name text, notes text, seen int DEFAULT 0)"
    )
    with connection.transaction():  # one transaction: every row has the same xmin
        rows = [(key, *(sealed(ring, 1, f"{key}/{column}/0") for column in CLIENTS.columns)) for key in range(ROWS)]
        insert(connection, "public.clients (id, first_name, last_name, notes)", rows)
    return connection


@dataclass
class Writer:
    """An application instance on rows of its own, which keeps a ledger of what it has committed."""

    number: int
    url: str
    ring: KeyRing
    ended: threading.Event
    ledger: dict[int, dict[str, str] | None] = field(default_factory=dict)
    seen: dict[int, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    writes: int = 0

    def run(self) -> None:
        chance = random.Random(self.number)
        mine = range(self.number, ROWS, WRITERS)
        self.ledger = {key: {column: f"{key}/{column}/0" for column in CLIENTS.columns} for key in mine}
        self.seen = dict.fromkeys(mine, 0)
        with psycopg.connect(self.url, autocommit=True) as connection:
            while not self.ended.wait(0.001):  # or writers alone would keep a busy machine's cores
                try:
                    self.write(connection, chance.choice(mine), chance)
                except psycopg.Error as error:
                    self.errors.append(str(error.sqlstate))

    def write(self, connection: "psycopg.Connection[tuple[object, ...]]", key: int, chance: random.Random) -> None:
        self.writes += 1
        row = self.ledger[key]
        column = chance.choice(CLIENTS.columns)
        # As an application does in the middle of a rollout: some instances still write v1.
        text, version = f"{key}/{column}/{self.writes}", chance.choice([1, 2])
        what = chance.random()
        if row is None:
            row = {each: f"{key}/{each}/{self.writes}" for each in CLIENTS.columns}
            values = [sealed(self.ring, version, value) for value in row.values()]
            connection.execute(
                "INSERT INTO clients (id, first_name, last_name, notes) VALUES (%s, %s, %s, %s)", (key, *values)
            )
            self.ledger[key], self.seen[key] = row, 0
        elif what < 0.1:
            connection.execute("DELETE FROM clients WHERE id = %s", (key,))
            self.ledger[key] = None
        elif what < 0.3:
            connection.execute("UPDATE clients SET seen = seen + 1 WHERE id = %s", (key,))
            self.seen[key] += 1
        else:
            connection.execute(
                f"UPDATE clients SET {column} = %s WHERE id = %s", (sealed(self.ring, version, text), key)
            )
            row[column] = text


class Batches:
    """Counts those that the engine reads, so that others can keep pace with it on a machine of any speed."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.read = 0
        encrypt = Codec.encrypt

        def counted(codec: Codec, batch: Batch) -> NewValues:
            self.read += 1
            return encrypt(codec, batch)

        patch.setattr(Codec, "encrypt", counted)


def rewrite_underneath(url: str, ended: threading.Event, counted: list[str], batches: Batches) -> None:
    """Another file for the table, again and again.

    First often, while rows that no one wrote still have the same xmin; then at times only after a whole pass over it.
    """
    chance = random.Random(WRITERS)
    statements = itertools.cycle(("VACUUM FULL clients", "CLUSTER clients USING clients_pkey"))
    with psycopg.connect(url, autocommit=True) as connection:
        while not ended.is_set():
            due = batches.read + chance.randrange(2, 10 if len(counted) < 10 else 200)
            counted.append(statement := next(statements))
            connection.execute(statement)
            while batches.read < due and not ended.wait(0.002):
                pass


@pytest.mark.parametrize(
    "at_once", [False, pytest.param(True, marks=pytest.mark.extended)], ids=["locks first", "at once"]
)
def test_no_write_is_lost_and_no_value_changes_rows_while_the_relation_is_rewritten(
    versioned: Server, monkeypatch: pytest.MonkeyPatch, *, at_once: bool
) -> None:
    ring, url = ring_of(1, 2), versioned.url()
    connection = prepare(url, ring)
    ended = threading.Event()
    writers = [Writer(number, url, ring, ended) for number in range(WRITERS)]
    rewrites: list[str] = []
    threads = [threading.Thread(target=writer.run) for writer in writers]
    threads.append(threading.Thread(target=rewrite_underneath, args=(url, ended, rewrites, Batches(monkeypatch))))
    engine = Engine(url, ring, Limits(max_pages=8, writes_at_once=at_once))
    for thread in threads:
        thread.start()
    rewritten = 0
    deadline = time.monotonic() + PATIENCE_SECONDS
    try:
        while (rewritten <= 2 * ROWS or len(rewrites) < 20) and time.monotonic() < deadline:
            rewritten += engine.sweep(CLIENTS).rows
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    while (last := engine.sweep(CLIENTS, wait=True)).rows or last.skipped:
        rewritten += last.rows

    assert [writer.errors for writer in writers] == [[]] * WRITERS
    assert rewritten > 2 * ROWS
    assert len(rewrites) >= 20
    expected = {
        key: (*(("v2", text) for text in row.values()), writer.seen[key])
        for writer in writers
        for key, row in writer.ledger.items()
        if row is not None
    }
    stored = connection.execute("SELECT id, first_name, last_name, notes, seen FROM public.clients").fetchall()
    connection.close()
    assert {row[0]: (*(opened(ring, value) for value in row[1:4]), row[4]) for row in stored} == expected  # type: ignore[arg-type]
