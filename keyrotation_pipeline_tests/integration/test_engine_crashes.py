"""Crash anywhere, run again: seeded kills under an application's writes, lost connections, time-outs, full disks."""

import random
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.ledger.migrate import migrate
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.errors import BlockedError, DatabaseUnavailableError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline_tests.integration.encrypted_rows import (
    Engine,
    insert,
    opened,
    read_back,
    ring_of,
    sealed,
    table_of,
    under_v2,
)
from keyrotation_pipeline_tests.integration.stored_places import (
    BYTE_FORMATS,
    EVERY_FORMAT,
    EVERY_STORED,
    IN_BYTES,
    MATRIX,
    SLOTS,
    open_value,
    seal,
)
from keyrotation_pipeline_tests.integration.stored_places import fill as store
from keyrotation_pipeline_tests.servers import EMBEDDED_18, discard, start_server
from keyrotation_pipeline_tests.waiting import eventually

CASES = table_of("cases", "a", "b")
ROWS = 600
SEED = 20261124


def fill(connection: Connection, ring: KeyRing) -> None:
    connection.execute("CREATE TABLE public.cases (id int PRIMARY KEY, a text, b text, n int DEFAULT 0)")
    with connection.transaction():
        rows = [(n, sealed(ring, 1, f"a{n}"), sealed(ring, 1, f"b{n}")) for n in range(ROWS)]
        insert(connection, "public.cases (id, a, b)", rows)


# Forks an engine, kills it after a while, again and again; when one comes to its end, the way back to the other key
# begins. Prints how many died and which version the last one was on its way to.
KILLER = """
import faulthandler, os, random, signal, sys, time
from keyrotation_pipeline.adapters.postgres import engine as _
from keyrotation_pipeline_tests.integration import encrypted_rows
from keyrotation_pipeline.fieldcrypto.key_bytes import key_from_base64
from keyrotation_pipeline_tests.integration.encrypted_rows import *
from keyrotation_pipeline_tests.integration.stored_places import BYTE_FORMATS, EVERY_FORMAT, EVERY_STORED, IN_BYTES
url, kills, seed, values, stored, *keys = sys.argv[1:]
if stored == "bytes":
    table = IN_BYTES.table("cases", BYTE_FORMATS[values].declared)
else:
    table = EVERY_STORED[stored].table("cases", EVERY_FORMAT[values])
ring = KeyRing({KeyVersion(n): key_from_base64(key) for n, key in enumerate(keys, 1)}, KeyVersion(2))
chance, died, rotation = random.Random(int(seed)), 0, 0

def start():
    child = os.fork()
    if child == 0:
        faulthandler.dump_traceback_later(240, exit=True)
        encrypted_rows.REQUEST = f"{rotation:032x}"
        limits = Limits(max_pages=1, duty_cycle=0.2, statement_seconds=0.0001, writes_at_once=rotation % 2 == 1)
        Engine(url, ring, limits, KeyVersion(2 - rotation % 2)).shard(table)
        os._exit(0)
    return child

# The moments of the kills follow from what a walk takes that nobody kills. They reach far into it: its first third is
# connections and checks. A slow machine gets a limit, and what is left after the last kill runs to its end.
began = time.monotonic()
os.waitpid(start(), 0)
whole = min(time.monotonic() - began, 2)
rotation = 1
while died < int(kills) or rotation < 3:
    child = start()
    if died < int(kills):
        time.sleep(chance.uniform(0, 0.8) * whole)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    died += os.WIFSIGNALED(status)
    rotation += os.WIFEXITED(status)
print(died, rotation)
"""


KILLED = [
    pytest.param(4, "native", "text", marks=pytest.mark.slow),
    *(
        pytest.param(60 if (values, stored) == ("native", "text") else 20, values, stored, marks=pytest.mark.extended)
        for values, stored in MATRIX
    ),
    *(pytest.param(20, values, "bytes", marks=pytest.mark.extended) for values in BYTE_FORMATS),
]


@pytest.mark.parametrize(("kills", "values", "stored"), KILLED)
def test_kills_at_random_moments_lose_nothing_and_leave_nothing_to_clean_up(
    migrated: Connection, database_url: str, kills: int, values: str, stored: str
) -> None:
    in_bytes = BYTE_FORMATS[values] if stored == "bytes" else None
    ring = in_bytes.ring() if in_bytes else ring_of(1, 2)
    layout, value_format = (IN_BYTES, in_bytes.declared) if in_bytes else (EVERY_STORED[stored], EVERY_FORMAT[values])

    def sealed_as(version: int, text: str) -> str | bytes:
        if in_bytes is None:
            return seal(value_format, ring, version, text)
        return in_bytes.seal(ring.material(KeyVersion(version)), text)

    migrated.execute(f"CREATE TABLE public.cases (id int PRIMARY KEY, {layout.columns}, n int DEFAULT 0)".encode())
    rows = {n: [sealed_as(1, f"{slot}{n}") for slot in SLOTS] for n in range(ROWS)}
    store(migrated, layout, rows)
    expected = {n: [f"a{n}", f"b{n}"] for n in range(ROWS)}
    counted = dict.fromkeys(range(ROWS), 0)
    ended = threading.Event()

    def application() -> None:
        chance = random.Random(SEED)
        with psycopg.connect(database_url, autocommit=True) as connection:
            while not ended.wait(0.003):
                key, column = chance.randrange(ROWS), chance.randrange(2)
                text = f"{key} {chance.random()}"
                value = sealed_as(chance.choice([1, 2]), text)
                put = f"UPDATE cases SET {layout.put[column]} WHERE id = %s"
                connection.execute(put.encode(), (value, key))
                connection.execute(f"UPDATE cases SET {layout.neighbour} WHERE id = {key}".encode())
                expected[key][column] = text
                counted[key] += 1

    thread = threading.Thread(target=application)
    thread.start()
    keys = [base64_of(ring.material(version)) for version in ring.versions]
    command = [sys.executable, "-c", KILLER, database_url, str(kills), str(SEED), values, stored, *keys]
    try:
        killer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=600)
    finally:
        ended.set()
        thread.join()
    died, rotations = map(int, killer.stdout.split())
    assert died >= kills
    assert rotations >= kills // 20

    engine, table = Engine(database_url, ring), layout.table("cases", value_format)
    engine.shard(table)
    while engine.sweep(table, wait=True).rows:
        pass
    for n, *found, around in migrated.execute(
        f"SELECT id, {', '.join(layout.get)}, {layout.neighbours} FROM public.cases".encode()
    ).fetchall():
        opened_values = [
            in_bytes.opened(ring, value) if in_bytes else open_value(value_format, ring, value)  # type: ignore[arg-type]
            for value in found
        ]
        assert opened_values == list(under_v2(*expected.pop(n)))  # type: ignore[call-overload]
        assert around == counted[n]  # type: ignore[index]
    assert expected == {}
    assert migrated.execute("SELECT count(*) FROM keyrotation.quarantine").fetchone() == (0,)


def test_a_dropped_connection_is_one_sentence_and_the_rewrite_continues_later(
    migrated: Connection, database_url: str
) -> None:
    ring = ring_of(1, 2)
    fill(migrated, ring)
    engine = Engine(database_url, ring, Limits(max_rows_per_second=300))
    end = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'keyrotation' AND pid <> pg_backend_pid()"
    )

    def cut() -> None:
        migrated.execute("SET search_path = public")
        count = "SELECT count(*) FROM cases WHERE a LIKE 'v2:%'"
        assert eventually(lambda: migrated.execute(count).fetchone() != (0,))
        migrated.execute(end)

    thread = threading.Thread(target=cut)
    thread.start()
    with pytest.raises(DatabaseUnavailableError, match="run `keyrotation rotate` again"):
        engine.shard(CASES)
    thread.join()
    engine.limits = Limits()
    engine.shard(CASES)
    assert read_back(migrated, ring, CASES, "id") == {n: under_v2(f"a{n}", f"b{n}") for n in range(ROWS)}


def test_a_statement_timeout_of_the_role_does_not_bind_the_engine(migrated: Connection, database_url: str) -> None:
    ring = ring_of(1, 2)
    fill(migrated, ring)
    (name,) = migrated.execute("SELECT current_database()").fetchall()[0]
    migrated.execute(f"ALTER DATABASE {name} SET statement_timeout = '200ms'".encode())
    with connect(database_url) as connection:
        connection.execute("SELECT pg_sleep(0.3)")
    assert Engine(database_url, ring, Limits(duty_cycle=1.0, statement_seconds=0.02)).shard(CASES).rows == ROWS


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A directory on a file system of 24 MB."""
    directory = Path(tempfile.mkdtemp(prefix="krdisk-", dir="/tmp"))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", directory], check=False)
    if mounted.returncode:
        shutil.rmtree(directory)
        pytest.skip("mounting a small file system is not permitted here")
    yield directory
    subprocess.run(["umount", "-l", directory], check=False)
    shutil.rmtree(directory, ignore_errors=True)


def test_a_full_disk_is_one_sentence_and_the_rewrite_continues_when_there_is_room(small_disk: Path) -> None:
    server, ring = start_server(EMBEDDED_18), ring_of(1, 2)
    if server.user:
        shutil.chown(small_disk, server.user, server.user)
    small_disk.chmod(0o700)
    try:
        with connect(server.url()) as connection:
            migrate(server.url())
            connection.execute(f"CREATE TABLESPACE small LOCATION '{small_disk}'".encode())
            connection.execute("CREATE TABLE public.cases (id int PRIMARY KEY, a text, b text) TABLESPACE small")
            values = [sealed(ring, 1, text * 100) for text in "ab"]
            insert_all = "INSERT INTO public.cases SELECT n, %s, %s FROM generate_series(1, 30000) n"
            connection.execute(insert_all, values)
            connection.execute("VACUUM public.cases")
            ballast = small_disk / "ballast"
            free = shutil.disk_usage(small_disk).free
            ballast.write_bytes(bytes(max(0, free - 300_000)))
            limits = Limits(duty_cycle=1.0, slow_commit_seconds=0.0)
            engine = Engine(server.url(), ring, replace(limits, vacuum_pages=2**40))
            with pytest.raises(BlockedError, match="disk is full; make room"):
                engine.shard(CASES)
            ballast.unlink()
            engine.limits = limits
            engine.shard(CASES)
            rows = connection.execute("SELECT a, b FROM public.cases").fetchall()
        assert {(opened(ring, str(a)), opened(ring, str(b))) for a, b in rows} == {under_v2("a" * 100, "b" * 100)}
        assert len(rows) == 30_000
    finally:
        discard(server)
