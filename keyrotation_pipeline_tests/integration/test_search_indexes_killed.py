"""Search indexes while the engine is killed again and again: searches find every row, nothing is stored twice."""

import random
import subprocess
import sys
import threading
from dataclasses import dataclass, field

import psycopg
import pytest

from keyrotation_pipeline.adapters.postgres.engine.cleared_indexes import clear_indexes
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.search_index import Indexer, IndexForm
from keyrotation_pipeline.model.tables import EncryptedTable, SearchIndex, TableName
from keyrotation_pipeline_tests.integration.encrypted_rows import Engine, insert, opened, ring_of, sealed

ROWS, KILLS, SEED = 300, 30, 20261128
V1, V2 = KeyVersion(1), KeyVersion(2)
FORM = IndexForm("cases.a")
CASES = EncryptedTable(TableName("public", "cases"), ("a", "b"), indexes=(SearchIndex("a", "odd", "even", FORM),))

# Walks to v2 and clears the indexes under v1, then back, and so on; each walk is killed at random moments and begun
# again. `stage` says what applications do: under which key they encrypt, and whether they have both.
KILLER = """
import os, random, signal, sys, time
from keyrotation_pipeline.adapters.postgres.engine.cleared_indexes import clear_indexes
from keyrotation_pipeline.fieldcrypto.key_bytes import key_from_base64
from keyrotation_pipeline_tests.integration import encrypted_rows
from keyrotation_pipeline_tests.integration.encrypted_rows import *
from keyrotation_pipeline_tests.integration.test_search_indexes_killed import CASES as table
url, kills, seed, *keys = sys.argv[1:]
ring = KeyRing({KeyVersion(n): key_from_base64(key) for n, key in enumerate(keys, 1)}, KeyVersion(2))
chance, died, rotation = random.Random(int(seed)), 0, 0

def stage(target, both):
    with connect(url) as connection:
        connection.execute("UPDATE public.stage SET target = %s, both_keys = %s", (target.number, both))

def start():
    child = os.fork()
    if child == 0:
        target = KeyVersion(2 - rotation % 2)
        encrypted_rows.REQUEST = f"{rotation:032x}"
        limits = Limits(max_pages=1, duty_cycle=0.3, statement_seconds=0.0001)
        stage(target, True)
        engine = Engine(url, ring, limits, target)
        engine.shard(table)
        while engine.sweep(table, wait=True).rows:
            pass
        stage(target, False)
        time.sleep(0.05)
        clear_indexes(lambda: connect(url), encrypted_rows.REQUEST, table, target, lambda _: None, limits)
        os._exit(0)
    return child

began = time.monotonic()
os.waitpid(start(), 0)
whole = min(time.monotonic() - began, 4)
rotation = 1
while died < int(kills) or rotation < 3:
    child = start()
    if died < int(kills):
        time.sleep(chance.uniform(0, 1) * whole)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    died += os.WIFSIGNALED(status)
    rotation += os.WIFEXITED(status)
print(died, rotation)
"""


@dataclass
class Application:
    """Writes, searches and tries to store texts twice, by what `stage` says."""

    url: str
    ring: KeyRing
    expected: dict[int, str]
    wrong: list[str] = field(default_factory=list)
    searches: int = 0
    refused: int = 0

    def __post_init__(self) -> None:
        self.indexer = Indexer(FORM, self.ring)

    def run(self, ended: threading.Event) -> None:
        chance = random.Random(SEED)
        with psycopg.connect(self.url, autocommit=True) as connection:
            while not ended.wait(0.002):
                row = chance.randrange(ROWS)
                self.find(connection, row)
                if chance.random() < 0.3:
                    self.write(connection, row, f"{row} {chance.random()}")
                if chance.random() < 0.2:
                    self.duplicate(connection, row)

    def indexes(self, connection: psycopg.Connection, text: str) -> tuple[int, str | None, str | None]:
        found = connection.execute("SELECT target, both_keys FROM stage").fetchone()
        assert found is not None
        odd, even = (self.indexer.under(version, text.encode()) for version in (V1, V2))
        return found[0], odd if found[1] or found[0] == 1 else None, even if found[1] or found[0] == 2 else None

    def find(self, connection: psycopg.Connection, row: int) -> None:
        self.searches += 1
        odd, even = (self.indexer.under(version, self.expected[row].encode()) for version in (V1, V2))
        found = connection.execute("SELECT id FROM cases WHERE odd = %s OR even = %s", (odd, even)).fetchall()
        if found != [(row,)]:
            self.wrong.append(f"{row}: {found}")

    def write(self, connection: psycopg.Connection, row: int, text: str) -> None:
        target, odd, even = self.indexes(connection, text)
        values = (sealed(self.ring, target, text), odd, even, row)
        connection.execute("UPDATE cases SET a = %s, odd = %s, even = %s WHERE id = %s", values)
        self.expected[row] = text

    def duplicate(self, connection: psycopg.Connection, row: int) -> None:
        target, odd, even = self.indexes(connection, self.expected[row])
        value = sealed(self.ring, target, self.expected[row])
        try:
            connection.execute("INSERT INTO cases (id, a, odd, even) VALUES (-1, %s, %s, %s)", (value, odd, even))
        except (psycopg.errors.UniqueViolation, psycopg.errors.DeadlockDetected):
            self.refused += 1
        else:
            self.wrong.append(f"{row}: stored twice")


@pytest.mark.extended
def test_kills_at_random_moments_hide_no_row_and_let_no_text_in_twice(migrated: Connection, database_url: str) -> None:
    ring = ring_of(1, 2)
    indexer, texts = Indexer(FORM, ring), {row: f"text {row}" for row in range(ROWS)}
    migrated.execute(
        "CREATE TABLE public.cases (id int PRIMARY KEY, a text, b text, odd text UNIQUE, even text UNIQUE); "
        "CREATE TABLE public.stage (target int, both_keys bool); INSERT INTO public.stage VALUES (1, false)"
    )
    with migrated.transaction():
        rows = [
            (row, sealed(ring, 1, text), sealed(ring, 1, f"b{row}"), indexer.under(V1, text.encode()))
            for row, text in texts.items()
        ]
        insert(migrated, "public.cases (id, a, b, odd)", rows)
    application, ended = Application(database_url, ring, texts), threading.Event()
    thread = threading.Thread(target=application.run, args=(ended,))
    thread.start()
    keys = [base64_of(ring.material(version)) for version in ring.versions]
    command = [sys.executable, "-c", KILLER, database_url, str(KILLS), str(SEED), *keys]
    try:
        killer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=900)
    finally:
        ended.set()
        thread.join()
    died, rotations = map(int, killer.stdout.split())
    assert (died >= KILLS, rotations >= 3) == (True, True)
    assert application.wrong == []
    assert (application.searches > 100, application.refused > 10) == (True, True)
    last = KeyVersion(2 - (rotations - 1) % 2)
    # An application that read `stage` just before it changed has written as before: what a real rotation waits for.
    engine = Engine(database_url, ring, target=last)
    engine.shard(CASES)
    clear_indexes(lambda: connect(database_url), "f" * 32, CASES, last, lambda _: None, Limits())
    for row, a, b, odd, even in migrated.execute("SELECT id, a, b, odd, even FROM public.cases").fetchall():
        text = texts.pop(int(str(row)))
        assert (opened(ring, str(a)), opened(ring, str(b))) == ((str(last), text), (str(last), f"b{row}"))
        kept, other = (odd, even) if last == V1 else (even, odd)
        assert (kept, other) == (indexer.under(last, text.encode()), None)
    assert texts == {}
