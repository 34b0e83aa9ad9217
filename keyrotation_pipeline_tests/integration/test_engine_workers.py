"""Worker processes: they share a shard, read their keys by themselves, and whoever dies, another run continues."""

import base64
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import psycopg
import pytest

from keyrotation_pipeline.adapters.keystores.file import FileKeyStore
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits, WorkerSettings
from keyrotation_pipeline.adapters.postgres.engine.shard import is_one_shard, reencrypt_shard
from keyrotation_pipeline.adapters.postgres.ledger.migrate import migrate
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.errors import BlockedError, DatabaseUnavailableError, KeyRotationError, KeyStoreError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.progress import Progress, Report, Rewritten
from keyrotation_pipeline.model.tables import Shard
from keyrotation_pipeline_tests.contract.key_store import add, set_primary
from keyrotation_pipeline_tests.integration.encrypted_rows import (
    REQUEST,
    V2,
    Engine,
    become,
    insert,
    read_back,
    sealed,
    table_of,
    under_v2,
)
from keyrotation_pipeline_tests.integration.encrypted_rows import running as rotating
from keyrotation_pipeline_tests.servers import discard, start_server
from keyrotation_pipeline_tests.waiting import eventually

CASES = table_of("cases", "a", "b")
ROWS = 1200
EXPECTED = {n: under_v2(f"a{n}", f"b{n}") for n in range(ROWS)}
TWO = Limits(workers=2, pages_per_worker=1, duty_cycle=1.0)
ONE = Limits(pages_per_worker=1, duty_cycle=1.0)
SLOWLY = Limits(workers=2, pages_per_worker=1, max_rows_per_second=400)
WORKER = "keyrotation_pipeline.adapters.postgres.engine.worker"


@pytest.fixture
def store(tmp_path: Path) -> FileKeyStore:
    made = FileKeyStore.create(tmp_path / "keys")
    for number in (1, 2):
        add(made, KeyVersion(number), KeyMaterial.generate())
    set_primary(made, V2)
    return made


@pytest.fixture
def shard(migrated: Connection, store: FileKeyStore) -> Shard:
    """`ROWS` rows of v1."""
    return filled(migrated, store)


def filled(migrated: Connection, store: FileKeyStore) -> Shard:
    ring = store.read().ring()
    migrated.execute("CREATE TABLE public.cases (id int PRIMARY KEY, a text, b text, n int DEFAULT 0)")
    with migrated.transaction():
        insert(
            migrated,
            "public.cases (id, a, b)",
            [(n, sealed(ring, 1, f"a{n}"), sealed(ring, 1, f"b{n}")) for n in range(ROWS)],
        )
    return Shard(CASES, 0, 1)


def rewrite(url: str, store: FileKeyStore, shard: Shard, limits: Limits, report: Report = lambda _: None) -> Rewritten:
    return reencrypt_shard(
        partial(connect, url), REQUEST, shard, store.read().ring(), V2, report, limits, WorkerSettings(store)
    )


def workers_of(parent: int) -> list[int]:
    """Process ids of the workers of a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent_of = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            command = (path / "cmdline").read_text()
        except OSError:
            continue
        if parent_of == parent and WORKER in command:
            found.append(int(path.name))
    return found


@contextmanager
def running(
    url: str, store: FileKeyStore, shard: Shard, limits: Limits = SLOWLY
) -> Iterator[list[KeyRotationError | Rewritten]]:
    """Two slow workers at work, both past their first rows; what became of them stands in the list afterwards."""
    outcome: list[KeyRotationError | Rewritten] = []

    def run() -> None:
        try:
            outcome.append(rewrite(url, store, shard, limits))
        except KeyRotationError as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    with psycopg.connect(url, autocommit=True) as connection:
        count = "SELECT count(*) FROM cases WHERE a LIKE 'v2:%'"
        assert eventually(lambda: int(str(connection.execute(count).fetchall()[0][0])) > 40)
    assert len(workers_of(os.getpid())) == 2
    yield outcome
    thread.join()


def test_workers_share_a_shard_and_each_row_is_rewritten_once(
    migrated: Connection, database_url: str, store: FileKeyStore, shard: Shard
) -> None:
    done = rewrite(database_url, store, shard, TWO)
    assert (done.rows, done.values, done.skipped) == (ROWS, 2 * ROWS, 0)
    assert read_back(migrated, store.read().ring(), CASES, "id") == EXPECTED
    slices = migrated.execute("SELECT count(*), bool_and(next_page = end_page) FROM keyrotation.shard_walks").fetchone()
    assert slices == (8, True)
    assert workers_of(os.getpid()) == []


def test_no_key_stands_in_a_workers_arguments_or_environment(
    database_url: str, store: FileKeyStore, shard: Shard
) -> None:
    keys = [raw_of(store.read().ring().material(version)) for version in store.read().live]
    with running(database_url, store, shard):
        for worker in workers_of(os.getpid()):
            seen = Path(f"/proc/{worker}/cmdline").read_bytes()
            with suppress(PermissionError):  # only root may look
                seen += Path(f"/proc/{worker}/environ").read_bytes()
            for key in keys:
                assert not any(form in seen for form in (key, key.hex().encode(), base64.b64encode(key)))
            os.kill(worker, signal.SIGKILL)


def test_a_killed_worker_ends_the_shard_with_a_sentence_and_the_next_run_continues(
    migrated: Connection, database_url: str, store: FileKeyStore, shard: Shard
) -> None:
    with running(database_url, store, shard) as outcome:
        os.kill(workers_of(os.getpid())[0], signal.SIGKILL)
    (refusal,) = outcome
    assert isinstance(refusal, BlockedError)
    assert "ended by signal 9" in str(refusal)
    assert "run `keyrotation rotate` again" in str(refusal)
    assert workers_of(os.getpid()) == []

    # With another number of workers: the slices stay as they were planned.
    done = rewrite(database_url, store, shard, Limits(workers=3, pages_per_worker=1, duty_cycle=1.0))
    assert done.skipped == 0
    assert read_back(migrated, store.read().ring(), CASES, "id") == EXPECTED
    assert migrated.execute("SELECT count(*) FROM keyrotation.shard_walks").fetchone() == (8,)


# A small batch every few milliseconds, for some seconds: hardly ever is all of it saved.
STEADILY = Limits(workers=2, pages_per_worker=1, max_rows_per_second=4000)
MANY_ROWS = 16_000
# One row of the first slice, of which each worker takes one, cannot be written.
REFUSED = """
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE disk_full; END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON public.cases
    FOR EACH ROW WHEN (OLD.id = 1500) EXECUTE FUNCTION public.refuse();
"""
# By where each row stood before, since a rewritten row may move.
RECORDED = """
SELECT s.slice, s.rows, count(*) FILTER (WHERE c.a LIKE 'v2:%')
FROM keyrotation.shard_walks s JOIN public.places p ON p.page >= s.first_page AND p.page < s.end_page
     JOIN public.cases c ON c.id = p.id
GROUP BY 1, 2 ORDER BY 1
"""


@pytest.fixture
def large(migrated: Connection, store: FileKeyStore) -> Shard:
    """`MANY_ROWS` rows of v1 in a rotation that can be paused."""
    rotating(migrated, "routine")
    migrated.execute("CREATE TABLE public.cases (id int PRIMARY KEY, a text, b text)")
    migrated.execute(
        "INSERT INTO public.cases SELECT n, %(a)s, %(a)s FROM generate_series(0, %(last)s) AS n",
        {"a": sealed(store.read().ring(), 1, "a"), "last": MANY_ROWS - 1},
    )
    migrated.execute("CREATE TABLE public.places AS SELECT id, (ctid::text::point)[0]::int AS page FROM public.cases")
    return Shard(CASES, 0, 1)


def miscounted_slices(connection: Connection) -> list[object]:
    """The slices whose recorded rows are not those that are rewritten, with both numbers."""
    return [each for each in connection.execute(RECORDED).fetchall() if each[1] != each[2]]


@contextmanager
def both_at_work(
    migrated: Connection, url: str, store: FileKeyStore, shard: Shard
) -> Iterator[list[KeyRotationError | Rewritten]]:
    """As `running`, when each worker has saved some rows, or one has refused; all have ended afterwards."""
    begun = "SELECT count(*) FROM keyrotation.shard_walks WHERE rows > 0"
    with running(url, store, shard, STEADILY) as outcome:
        assert eventually(lambda: bool(outcome) or migrated.execute(begun).fetchone() == (2,))
        yield outcome
    assert isinstance(outcome[0], BlockedError), outcome
    assert workers_of(os.getpid()) == []


def should_continue(migrated: Connection, url: str, store: FileKeyStore, shard: Shard) -> Rewritten:
    """What the next run, which nothing refuses, says was done; then every row is rewritten."""
    become(migrated, "running")
    migrated.execute("DROP TRIGGER IF EXISTS refuse ON public.cases")
    done = rewrite(url, store, shard, TWO)
    assert migrated.execute("SELECT count(*) FROM public.cases WHERE a LIKE 'v2:%'").fetchone() == (MANY_ROWS,)
    return done


@pytest.mark.parametrize(
    ("before", "is_paused", "refused"),
    [
        pytest.param("", True, "was paused", id="pause"),
        pytest.param(REFUSED, False, "disk is full", id="refusal of one"),
    ],
)
def test_what_several_workers_leave_is_recorded_to_the_row(
    migrated: Connection,
    database_url: str,
    store: FileKeyStore,
    large: Shard,
    before: str,
    is_paused: bool,
    refused: str,
) -> None:
    migrated.execute(before.encode())
    with both_at_work(migrated, database_url, store, large) as outcome:
        if is_paused:
            become(migrated, "paused")
    assert refused in str(outcome[0])
    assert miscounted_slices(migrated) == []
    assert should_continue(migrated, database_url, store, large).rows == MANY_ROWS


def test_what_several_workers_leave_when_their_parent_is_interrupted_is_recorded_to_the_row(
    migrated: Connection, database_url: str, store: FileKeyStore, large: Shard
) -> None:
    def interrupted(progress: Progress) -> None:
        if progress.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rewrite(database_url, store, large, STEADILY, interrupted)
    assert workers_of(os.getpid()) == []
    assert miscounted_slices(migrated) == []


@pytest.mark.parametrize("what", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_cannot_save_costs_the_others_no_row(
    migrated: Connection, database_url: str, store: FileKeyStore, large: Shard, what: signal.Signals
) -> None:
    with both_at_work(migrated, database_url, store, large):
        os.kill(workers_of(os.getpid())[0], what)
        if what == signal.SIGSTOP:
            become(migrated, "paused")
    assert len(miscounted_slices(migrated)) <= 1
    assert should_continue(migrated, database_url, store, large).skipped == 0


PARENT = """
import sys
from functools import partial
from pathlib import Path
from keyrotation_pipeline_tests.integration.test_engine_workers import *
store = FileKeyStore(Path(sys.argv[2]))
rewrite(sys.argv[1], store, Shard(CASES, 0, 1), SLOWLY)
"""


def test_workers_end_with_their_killed_parent(
    migrated: Connection, database_url: str, store: FileKeyStore, shard: Shard, tmp_path: Path
) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, database_url, str(tmp_path / "keys")])
    count = "SELECT count(*) FROM public.cases WHERE a LIKE 'v2:%'"
    assert eventually(lambda: int(str(migrated.execute(count).fetchall()[0][0])) > 40)
    workers = workers_of(parent.pid)
    assert len(workers) == 2
    parent.kill()
    parent.wait()
    assert eventually(lambda: not any(alive(worker) for worker in workers))
    rewrite(database_url, store, shard, TWO)
    assert read_back(migrated, store.read().ring(), CASES, "id") == EXPECTED


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def send(workers: Iterable[int], what: signal.Signals) -> None:
    """Signal those workers that still run; one may end at any moment."""
    for worker in workers:
        with suppress(ProcessLookupError):
            os.kill(worker, what)


def test_a_server_that_crashes_under_its_workers_is_one_sentence_and_the_rewrite_continues_later(
    store: FileKeyStore,
) -> None:
    server = start_server()
    try:
        with connect(server.url()) as connection:
            migrate(server.url())
            shard = filled(connection, store)
        # Without synchronous commits the crash takes back rows, whose progress must not stay.
        with running(server.url(), store, shard) as outcome:
            server.stop("immediate")
        (refusal,) = outcome
        assert isinstance(refusal, DatabaseUnavailableError), refusal
        # Of a connection that was lost, or of one that a worker was just about to make.
        said = ("run `keyrotation rotate` again", "no server answers there; start", "run this again")
        assert any(each in str(refusal) for each in said), refusal
        assert workers_of(os.getpid()) == []
        server.start()
        rewrite(server.url(), store, shard, TWO)
        with connect(server.url()) as connection:
            assert read_back(connection, store.read().ring(), CASES, "id") == EXPECTED
    finally:
        discard(server)


def test_memory_is_bounded_whatever_the_values_size(
    migrated: Connection, database_url: str, store: FileKeyStore, tmp_path: Path
) -> None:
    text = sealed(store.read().ring(), 1, base64.b64encode(os.urandom(750_000)).decode())
    migrated.execute("CREATE TABLE public.files (id int PRIMARY KEY, a text, b text)")
    migrated.execute("INSERT INTO public.files SELECT n, %(v)s, %(v)s FROM generate_series(1, 40) AS n", {"v": text})
    command = [sys.executable, "-c", MEASURED, database_url, str(tmp_path / "keys")]
    rows, more_kb = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert rows == 40
    assert more_kb / 1024 < 80


# Prints the rows that were rewritten, and the largest resident set beyond what the tests themselves need.
MEASURED = """
import resource, sys
from keyrotation_pipeline_tests.integration.test_engine_workers import *
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
done = rewrite(sys.argv[1], FileKeyStore(Path(sys.argv[2])), Shard(table_of("files", "a", "b"), 0, 1), ONE)
print(done.rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_frozen_workers_keep_no_application_write_waiting(
    migrated: Connection, database_url: str, store: FileKeyStore, shard: Shard
) -> None:
    with running(database_url, store, shard) as outcome, psycopg.connect(database_url, autocommit=True) as application:
        application.execute("SET lock_timeout = '1s'")
        for moment in range(8):
            workers = workers_of(os.getpid())
            send(workers, signal.SIGSTOP)
            time.sleep(0.003 * moment)
            application.execute("UPDATE cases SET n = n + 1")  # every row; LockNotAvailable after a second
            send(workers, signal.SIGCONT)
            time.sleep(0.05)
    assert isinstance(outcome[0], Rewritten), outcome
    while Engine(database_url, store.read().ring()).sweep(CASES).rows:
        pass
    assert read_back(migrated, store.read().ring(), CASES, "id") == EXPECTED
    assert migrated.execute("SELECT min(n), max(n) FROM public.cases").fetchone() == (8, 8)


def test_a_worker_that_finds_other_keys_writes_nothing(
    migrated: Connection, database_url: str, store: FileKeyStore, shard: Shard, tmp_path: Path
) -> None:
    other = FileKeyStore.create(tmp_path / "other")
    for number in (1, 2):
        add(other, KeyVersion(number), KeyMaterial.generate())
    set_primary(other, V2)
    with pytest.raises(KeyStoreError, match="keys in the key store have changed"):
        reencrypt_shard(
            partial(connect, database_url),
            REQUEST,
            shard,
            store.read().ring(),
            V2,
            lambda _: None,
            TWO,
            WorkerSettings(other),
        )
    assert migrated.execute("SELECT count(*) FROM public.cases WHERE a LIKE 'v2:%'").fetchone() == (0,)


def test_a_table_is_one_shard_below_so_many_pages_and_never_while_others_lock_it(
    migrated: Connection, database_url: str
) -> None:
    migrated.execute("CREATE TABLE public.wide (id int PRIMARY KEY, a text, filler text)")
    migrated.execute("INSERT INTO public.wide SELECT n, NULL, repeat('x', 1000) FROM generate_series(1, 100) AS n")
    ((pages,),) = migrated.execute("SELECT pg_relation_size('public.wide') / 8192").fetchall()
    wide, enough = table_of("wide", "a"), Limits(pages_per_worker=int(str(pages)))
    assert not is_one_shard(migrated, REQUEST, wide, enough)
    assert is_one_shard(migrated, REQUEST, wide, replace(enough, pages_per_worker=enough.pages_per_worker + 1))
    with connect(database_url) as holder, holder.transaction():
        holder.execute("LOCK TABLE public.wide IN ACCESS EXCLUSIVE MODE")
        assert not is_one_shard(migrated, REQUEST, wide, Limits())
