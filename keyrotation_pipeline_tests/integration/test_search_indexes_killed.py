"""Search indexes while the engine is killed again and again: searches find every row, nothing is stored twice."""

import base64
import os
import random
import subprocess
import sys
import threading
from dataclasses import dataclass, field, replace

import psycopg
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyrotation_pipeline.adapters.postgres.engine.cleared_indexes import clear_indexes
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.fieldcrypto.blind_index import Algorithm, BlindIndexer, BlindIndexForm
from keyrotation_pipeline.fieldcrypto.codecs.derived_keys import place_ring
from keyrotation_pipeline.fieldcrypto.codecs.format import format_of
from keyrotation_pipeline.fieldcrypto.formats.aes_gcm import FOR_EACH_COLUMN
from keyrotation_pipeline.fieldcrypto.formats.lockbox import LOCKBOX
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of, raw_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.search_index import Indexer, IndexForm
from keyrotation_pipeline.model.tables import EncryptedTable, SearchIndex, TableName
from keyrotation_pipeline_tests.integration.encrypted_rows import Engine, insert, ring_of, sealed

ROWS, KILLS, SEED = 300, 30, 20261128
V1, V2 = KeyVersion(1), KeyVersion(2)
FORM, BLIND = IndexForm("cases.a"), BlindIndexForm("cases", "odd", "even", Algorithm.PBKDF2_SHA256)
OURS = EncryptedTable(TableName("public", "cases"), ("a", "b"), indexes=(SearchIndex("a", "odd", "even", FORM),))
CASES = {"ours": OURS, "blind": replace(OURS, format=LOCKBOX, indexes=(SearchIndex("a", "odd", "even", BLIND),))}

# Walks to v2 and clears the indexes under v1, then back, and so on; each walk is killed at random moments and begun
# again. `stage` says what applications do: under which key they encrypt, and whether they have both.
KILLER = """
import os, random, signal, sys, time
from keyrotation_pipeline.adapters.postgres.engine.cleared_indexes import clear_indexes
from keyrotation_pipeline.fieldcrypto.key_bytes import key_from_base64
from keyrotation_pipeline_tests.integration import encrypted_rows
from keyrotation_pipeline_tests.integration.encrypted_rows import *
from keyrotation_pipeline_tests.integration.test_search_indexes_killed import CASES
url, kills, seed, name, *keys = sys.argv[1:]
table = CASES[name]
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
class Kind:
    """How values and indexes of a table are made."""

    ring: KeyRing
    table: EncryptedTable
    made: dict[tuple[KeyVersion, str], str] = field(default_factory=dict)

    def index(self, version: KeyVersion, text: str) -> str:
        form = self.table.indexes[0].form
        indexer = BlindIndexer(form, self.ring) if isinstance(form, BlindIndexForm) else Indexer(form, self.ring)
        return self.made.get((version, text)) or self.made.setdefault(
            (version, text), indexer.under(version, text.encode())
        )

    def sealed(self, column: str, number: int, text: str) -> str:
        if self.table.format != LOCKBOX:
            return sealed(self.ring, number, text)
        nonce, keys = os.urandom(12), place_ring(FOR_EACH_COLUMN, self.ring, f"cases.{column}")
        body = AESGCM(raw_of(keys.material(KeyVersion(number)))).encrypt(nonce, text.encode(), None)
        return base64.b64encode(nonce + body).decode()

    def opened(self, column: str, value: str) -> tuple[KeyVersion, str]:
        code, label = format_of(self.table.format), f"cases.{column}"
        found, text = (
            code.opened_by(self.ring, value.encode(), label),
            code.plaintext(self.ring, value.encode(), label),
        )
        assert found is not None
        assert found[1] is not None
        assert isinstance(text, bytes)
        return found[1], text.decode()


@dataclass
class Application:
    """Writes, searches and tries to store texts twice, by what `stage` says."""

    url: str
    kind: "Kind"
    expected: dict[int, str]
    wrong: list[str] = field(default_factory=list)
    searches: int = 0
    refused: int = 0

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
        odd, even = (self.kind.index(version, text) for version in (V1, V2))
        return found[0], odd if found[1] or found[0] == 1 else None, even if found[1] or found[0] == 2 else None

    def find(self, connection: psycopg.Connection, row: int) -> None:
        self.searches += 1
        odd, even = (self.kind.index(version, self.expected[row]) for version in (V1, V2))
        found = connection.execute("SELECT id FROM cases WHERE odd = %s OR even = %s", (odd, even)).fetchall()
        if found != [(row,)]:
            self.wrong.append(f"{row}: {found}")

    def write(self, connection: psycopg.Connection, row: int, text: str) -> None:
        target, odd, even = self.indexes(connection, text)
        values = (self.kind.sealed("a", target, text), odd, even, row)
        connection.execute("UPDATE cases SET a = %s, odd = %s, even = %s WHERE id = %s", values)
        self.expected[row] = text

    def duplicate(self, connection: psycopg.Connection, row: int) -> None:
        target, odd, even = self.indexes(connection, self.expected[row])
        value = self.kind.sealed("a", target, self.expected[row])
        try:
            connection.execute("INSERT INTO cases (id, a, odd, even) VALUES (-1, %s, %s, %s)", (value, odd, even))
        except (psycopg.errors.UniqueViolation, psycopg.errors.DeadlockDetected):
            self.refused += 1
        else:
            self.wrong.append(f"{row}: stored twice")


@pytest.mark.extended
@pytest.mark.parametrize("name", CASES)
def test_kills_at_random_moments_hide_no_row_and_let_no_text_in_twice(
    migrated: Connection, database_url: str, name: str
) -> None:
    ring, table = ring_of(1, 2), CASES[name]
    kind, texts = Kind(ring, table), {row: f"text {row}" for row in range(ROWS)}
    migrated.execute(
        "CREATE TABLE public.cases (id int PRIMARY KEY, a text, b text, odd text UNIQUE, even text UNIQUE); "
        "CREATE TABLE public.stage (target int, both_keys bool); INSERT INTO public.stage VALUES (1, false)"
    )
    with migrated.transaction():
        rows = [
            (row, kind.sealed("a", 1, text), kind.sealed("b", 1, f"b{row}"), kind.index(V1, text))
            for row, text in texts.items()
        ]
        insert(migrated, "public.cases (id, a, b, odd)", rows)
    application, ended = Application(database_url, kind, texts), threading.Event()
    thread = threading.Thread(target=application.run, args=(ended,))
    thread.start()
    keys = [base64_of(ring.material(version)) for version in ring.versions]
    command = [sys.executable, "-c", KILLER, database_url, str(KILLS), str(SEED), name, *keys]
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
    engine.shard(table)
    clear_indexes(lambda: connect(database_url), "f" * 32, table, last, lambda _: None, Limits())
    for row, a, b, odd, even in migrated.execute("SELECT id, a, b, odd, even FROM public.cases").fetchall():
        text = texts.pop(int(str(row)))
        assert (kind.opened("a", str(a)), kind.opened("b", str(b))) == ((last, text), (last, f"b{row}"))
        kept, other = (odd, even) if last == V1 else (even, odd)
        assert (kept, other) == (kind.index(last, text), None)
    assert texts == {}
