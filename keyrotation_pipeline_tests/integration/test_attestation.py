"""One line by which an application reports itself, on every kind of engine that it may have."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from signal import SIG_DFL, SIGINT, SIGTERM, signal
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Column, Engine, MetaData, Table, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.own_schema import with_schema
from keyrotation_pipeline.adapters.postgres.ledger.migrate import migrate
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.encrypted_type import EncryptedType, EnvironmentKeyRing, KeyRing, MountedKeyRing, attest
from keyrotation_pipeline.encrypted_type.process_end import STOP_SECONDS
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.fieldcrypto.cipher import encrypt
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.keyring import PRIMARY_VARIABLE, variable_of
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.fleet import Instance, Pod, failing_minutes
from keyrotation_pipeline.ports.clock import attempts
from keyrotation_pipeline_tests.applications import engine_of
from keyrotation_pipeline_tests.reports import reported_by

V1, V2 = KeyVersion(1), KeyVersion(2)
Rings = Callable[..., KeyRing]
OFTEN = 0.05


def instances(connection: Connection, ring: KeyRing) -> tuple[Instance, ...]:
    """What is seen with the keys of a ring."""
    return reported_by(connection, ring).instances()


def until(connection: Connection, ring: KeyRing, true: Callable[[tuple[Instance, ...]], bool]) -> tuple[Instance, ...]:
    """The instances as soon as they are as they should be."""
    for _ in attempts(SystemClock(), pause_seconds=0.05, patience_seconds=30):
        if true(found := instances(connection, ring)):
            return found
    raise AssertionError(found)


def asynchronous(url: str) -> AsyncEngine:
    return create_async_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))


@contextmanager
def reporting(
    engine: Engine | AsyncEngine, ring: KeyRing | Callable[[], KeyRing], instance: str | None = None
) -> Iterator[str]:
    attestation = attest(engine, ring, every_seconds=OFTEN, instance=instance)
    try:
        yield attestation.instance
    finally:
        attestation.stop()
        (engine.sync_engine if isinstance(engine, AsyncEngine) else engine).dispose()


def on_asyncpg(url: str) -> AsyncEngine:
    known = conninfo_to_dict(url)
    arguments = {"host": known["host"], "user": known["user"], "database": known["dbname"]}
    return create_async_engine("postgresql+asyncpg://", connect_args=arguments)


ENGINES = pytest.mark.parametrize(
    "make", [engine_of, asynchronous, on_asyncpg], ids=["psycopg", "psycopg, async", "asyncpg"]
)


@ENGINES
def test_one_line_makes_an_instance_known_and_its_end_withdraws_it(
    migrated: Connection, database_url: str, keyring_of: Rings, make: Callable[[str], Any]
) -> None:
    ring = keyring_of(1, 2, primary=1)
    with reporting(make(database_url), ring, instance="web-1") as name:
        [seen] = until(migrated, ring, bool)
        assert (seen.name, seen.reads, seen.writes, seen.silent) == (name, (V1, V2), V1, False)
        assert name.startswith(f"web-1/{os.getpid()}-")
    assert instances(migrated, ring) == ()


@pytest.mark.parametrize("primary", ["", "v1"], ids=["its only key", "named"])
def test_whether_the_primary_was_named_is_reported(
    migrated: Connection, database_url: str, keyring_of: Rings, primary: str
) -> None:
    ring = keyring_of(1, primary=1)
    keys = EnvironmentKeyRing({variable_of(V1): base64_of(ring.material(V1)), PRIMARY_VARIABLE: primary})
    with reporting(engine_of(database_url), keys):
        [seen] = until(migrated, ring, bool)
    assert (seen.writes, seen.names_primary) == (V1, primary == "v1")


def test_the_pod_and_what_the_database_asked_for_are_reported(
    migrated: Connection, database_url: str, keyring_of: Rings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = keyring_of(1, primary=1)
    monkeypatch.setenv("POD_NAMESPACE", "pazpaz")
    monkeypatch.setenv("POD_UID", "5b1c")
    with reporting(engine_of(database_url), ring, instance="Zürich 1"):
        [seen] = until(migrated, ring, bool)
    assert (seen.pod, seen.nonce, seen.problem) == (Pod("pazpaz", "5b1c"), "", None)
    assert seen.name.startswith("Z?rich?1/")


def test_a_report_names_what_was_asked_for_before_it_read_its_keys(
    migrated: Connection, database_url: str, keyring_of: Rings
) -> None:
    ring = keyring_of(1, primary=1)

    def read_late() -> KeyRing:
        migrated.execute(
            "INSERT INTO keyrotation.audit_events (seq, body, previous_hash, hash, event)"
            " VALUES (1, '{}', '', 'later', 'primary_changed') ON CONFLICT DO NOTHING"
        )
        return ring

    engine = engine_of(database_url)
    attestation = attest(engine, read_late, every_seconds=60)
    [seen] = until(migrated, ring, bool)
    attestation.stop()
    engine.dispose()
    assert seen.nonce == ""


@ENGINES
def test_it_shares_no_connection_with_the_application(
    migrated: Connection, database_url: str, keyring_of: Rings, make: Callable[[str], Any]
) -> None:
    engine, ring = make(database_url), keyring_of(1, primary=1)
    with reporting(engine, ring):
        until(migrated, ring, bool)
        assert engine.pool.overflow() == -engine.pool.size(), "its pool has made none yet"


@ENGINES
def test_new_keys_are_read_and_reported_without_a_restart(
    migrated: Connection, database_url: str, keyring_of: Rings, make: Callable[[str], Any], tmp_path: Path
) -> None:
    ring = keyring_of(1, 2, primary=1)
    mount(tmp_path, ring, V1, primary=V1)
    keys = MountedKeyRing(tmp_path)
    with reporting(make(database_url), keys):
        until(migrated, ring, lambda seen: [each.reads for each in seen] == [(V1,)])
        mount(tmp_path, ring, V2, primary=V1)
        until(migrated, ring, lambda seen: [(each.reads, each.writes) for each in seen] == [((V1, V2), V1)])
        mount(tmp_path, ring, primary=V2)
        until(migrated, ring, lambda seen: [each.writes for each in seen] == [V2])
        (tmp_path / "ENCRYPTION_MASTER_KEY").unlink()
        until(migrated, ring, lambda seen: [each.reads for each in seen] == [(V2,)])
    assert keys().versions == (V2,)


def mount(directory: Path, ring: KeyRing, *versions: KeyVersion, primary: KeyVersion) -> None:
    for version in versions:
        (directory / variable_of(version)).write_text(base64_of(ring.material(version)))
    (directory / PRIMARY_VARIABLE).write_text(str(primary))


def test_keys_that_cannot_be_read_leave_the_former_ring_in_use_and_reported(
    migrated: Connection, database_url: str, keyring_of: Rings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ring = keyring_of(1, primary=1)
    mount(tmp_path, ring, V1, primary=V1)
    with reporting(engine_of(database_url), MountedKeyRing(tmp_path)):
        until(migrated, ring, bool)
        (tmp_path / "ENCRYPTION_MASTER_KEY_V2").write_text("not a key")
        for _ in attempts(SystemClock(), pause_seconds=0.05, patience_seconds=30):
            if "ENCRYPTION_MASTER_KEY_V2" in caplog.text:
                break
        [seen] = instances(migrated, ring)
        assert (seen.reads, seen.silent) == ((V1,), False)
    assert "not a key" not in caplog.text


def test_values_of_an_old_version_that_are_still_decrypted_are_counted_by_version(
    migrated: Connection, database_url: str, keyring_of: Rings
) -> None:
    ring = keyring_of(1, 2, primary=2)

    class Base(DeclarativeBase):
        pass

    class Client(Base):
        __tablename__ = "clients"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str | None] = mapped_column(EncryptedType(ring))

    old = KeyRing({V1: ring.material(V1)}, V1)
    migrated.execute("CREATE TABLE public.clients (id int PRIMARY KEY, name text)")
    for row, writer in enumerate((old, old, old, ring)):
        migrated.execute("INSERT INTO public.clients VALUES (%s, %s)", (row, encrypt(writer, "Zoe")))
    engine = engine_of(database_url)
    with Session(engine) as session:
        session.scalars(select(Client.name)).all()
    with reporting(engine, ring):
        [seen] = until(migrated, ring, bool)
    [decrypted] = seen.decrypted
    assert (decrypted.version, decrypted.values) == (V1, 3)
    assert abs((decrypted.last_at - SystemClock().now()).total_seconds()) < 600


def test_values_that_cannot_be_decrypted_are_counted_and_are_attention_and_news(
    migrated: Connection, database_url: str, keyring_of: Rings
) -> None:
    ring, other = keyring_of(1, 2, primary=2), KeyRing({V1: KeyMaterial.generate()}, V1)

    class Base(DeclarativeBase):
        pass

    class Visit(Base):
        __tablename__ = "visits"
        id: Mapped[int] = mapped_column(primary_key=True)
        note: Mapped[str | None] = mapped_column(EncryptedType(ring))

    migrated.execute("CREATE TABLE public.visits (id int PRIMARY KEY, note text)")
    stored = [encrypt(other, "Zoe")] * 12 + ["v7:AAAAAAAAAAAAAAAA:AAAAAAAAAAAAAAAAAAAAAA==", "Zoe in the clear"]
    for row, value in enumerate(stored):
        migrated.execute("INSERT INTO public.visits VALUES (%s, %s)", (row, value))
    engine = engine_of(database_url)
    with Session(engine) as session:
        for row in range(len(stored)):
            with pytest.raises(KeyRotationError):
                session.scalars(select(Visit.note).where(Visit.id == row)).all()
    with reporting(engine, ring):
        seen = until(migrated, ring, bool)
    failed = {each.version: each.values for each in seen[0].failed}
    assert failed == {"none": 1, "v1": 12, "v7": 1}
    assert sum(sum(each.minutes.values()) for each in seen[0].failed) == 14
    minutes = failing_minutes(seen, SystemClock().now())
    assert 12 <= sum(each.values for each in minutes) <= 14
    assert "Zoe" not in repr(seen)


def test_an_application_whose_database_has_no_such_table_works_on_and_reports_once_it_is_there(
    connection: Connection, database_url: str, keyring_of: Rings, caplog: pytest.LogCaptureFixture
) -> None:
    ring = keyring_of(1, primary=1)
    with reporting(engine_of(database_url), ring):
        for _ in attempts(SystemClock(), pause_seconds=0.05, patience_seconds=30):
            if "cannot report its key versions" in caplog.text:
                break
        migrate(database_url)
        until(connection, ring, bool)
    assert caplog.text.count("cannot report its key versions") == 1, "said once, not at every attempt"
    assert "run `keyrotation init`, then give the application's role the grants" in caplog.text


PROCESS = """
import os, sys, time
from sqlalchemy import create_engine
from keyrotation_pipeline.encrypted_type import EnvironmentKeyRing, attest
engine, ring = create_engine(sys.argv[1]), EnvironmentKeyRing()
{first}
attest(engine, ring, instance="worker", every_seconds=0.05)
{then}
"""
FORK = """
child = os.fork()
if not child:
    sys.stdin.readline()
    sys.exit(0)
print("forked", flush=True)
os.waitpid(child, 0)
sys.stdin.readline()
"""
# Whoever reloads the key ring holds its lock meanwhile.
SLOW_RELOADS = """
import threading
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
reloading, read = threading.Event(), KeyRing.from_environment
def slowly(*arguments):
    reloading.set()
    time.sleep(0.5)
    return read(*arguments)
KeyRing.from_environment = slowly
"""


def _with_default_signals() -> None:
    """Whoever started the tests in the background may ignore these, and children inherit that."""
    for number in (SIGINT, SIGTERM):
        signal(number, SIG_DFL)


@contextmanager
def process(
    url: str, ring: KeyRing, then: str, first: str = "", *, more: Sequence[str] = (), within: Sequence[str] = ()
) -> Iterator[subprocess.Popen[str]]:
    environment = {"ENCRYPTION_MASTER_KEY": base64_of(ring.material(V1)), "PATH": os.environ["PATH"]}
    url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    running = subprocess.Popen(
        [*within, sys.executable, "-c", PROCESS.format(then=then, first=first), url, *more],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_with_default_signals,  # noqa: PLW1509  there is one thread
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def test_a_process_that_ends_withdraws_itself_and_one_that_is_killed_falls_silent(
    migrated: Connection, database_url: str, keyring_of: Rings
) -> None:
    ring = keyring_of(1, primary=1)
    with process(database_url, ring, "sys.stdin.readline()") as ending:
        until(migrated, ring, bool)
        _, errors = ending.communicate("end\n", timeout=60)
    assert (instances(migrated, ring), errors) == ((), "")
    with process(database_url, ring, "sys.stdin.readline()") as killed:
        until(migrated, ring, bool)
        killed.kill()
    assert len(instances(migrated, ring)) == 1


def test_the_child_of_a_fork_reports_itself_in_addition_to_its_parent(
    migrated: Connection, database_url: str, keyring_of: Rings
) -> None:
    ring = keyring_of(1, primary=1)
    with process(database_url, ring, FORK) as parent:
        seen = until(migrated, ring, lambda found: len(found) == 2)
        assert len({each.name for each in seen}) == 2
        _, errors = parent.communicate("child\nparent\n", timeout=60)
    assert (until(migrated, ring, lambda found: not found), errors) == ((), "")


def test_the_child_of_a_fork_in_the_middle_of_a_report_reports_itself(
    migrated: Connection, database_url: str, keyring_of: Rings
) -> None:
    ring = keyring_of(1, primary=1)
    with process(database_url, ring, f"reloading.wait()\n{FORK}", SLOW_RELOADS) as parent:
        until(migrated, ring, lambda found: len(found) == 2)
        _, errors = parent.communicate("child\nparent\n", timeout=60)
    assert errors == ""


WAITS = "print('up', flush=True)\nsys.stdin.readline()"
OWN = """
import signal
def own(number, frame):
    print("own", flush=True)
    {ends}
{before} = signal.signal(signal.SIGTERM, own)
"""
LOOP = """
import asyncio, signal
async def work():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    {attested}
    print("up", flush=True)
    await stop.wait()
asyncio.run(work())
"""
ATTESTED_IN_LOOP = 'attest(engine, ring, instance="loop", every_seconds=0.05)'
FLAG = (
    OWN.format(ends="stopped.append(number)", before="_")
    + """
stopped = []
print("up", flush=True)
while not stopped:
    time.sleep(0.01)
print("draining", flush=True)
sys.stdin.readline()
"""
)
# What main holds when the signal comes, and what the thread that reports needs.
HELD = """
from keyrotation_pipeline.encrypted_type.column import failed_reads_of
with failed_reads_of(ring)._counting:
    print("up", flush=True)
    time.sleep(1)
sys.stdin.readline()
"""


def line(of: subprocess.Popen[str]) -> str:
    assert of.stdout is not None
    return of.stdout.readline().strip()


@pytest.mark.parametrize(("first", "then", "status", "printed"), [
    pytest.param("", WAITS, -SIGTERM, "", id="nobody handles it"),
    pytest.param(OWN.format(ends="sys.exit(7)", before="_"), WAITS, 7, "own", id="a handler from before"),
    pytest.param("", OWN.format(ends="sys.exit(7)", before="_") + WAITS, 7, "own", id="a handler from afterwards"),
    pytest.param(
        "", OWN.format(ends="before(number, frame)", before="before") + WAITS, -SIGTERM, "own",
        id="a handler from afterwards that goes on to the one before",
    ),
    pytest.param(
        "", OWN.format(ends="signal.signal(number, before); signal.raise_signal(number)", before="before") + WAITS,
        -SIGTERM, "own", id="a handler that is taken away before the signal is raised again",
    ),
    pytest.param("", LOOP.format(attested=""), 0, "", id="asyncio"),
    pytest.param("", LOOP.format(attested=ATTESTED_IN_LOOP), 0, "", id="asyncio, and another that reports there"),
    pytest.param(SLOW_RELOADS, f"print('up', flush=True)\nring.reload()\n{WAITS}", -SIGTERM, "", id="a held ring"),
    pytest.param("", HELD, -SIGTERM, "", id="held counts"),
    pytest.param("import threading", "threading.Thread(target=lambda: attest(engine, ring)).start()\n" + WAITS,
                 -SIGTERM, "", id="another that reports, from another thread"),
])  # fmt: skip
def test_a_process_that_a_signal_ends_withdraws_itself_and_ends_as_it_would(
    migrated: Connection, database_url: str, keyring_of: Rings, first: str, then: str, status: int, printed: str
) -> None:
    ring = keyring_of(1, primary=1)
    with process(database_url, ring, then, first) as ending:
        assert line(ending) == "up"
        until(migrated, ring, bool)
        ending.terminate()
        ending.wait(60)
        out, errors = ending.communicate()
    assert (ending.returncode, out.removeprefix("up").strip(), errors) == (status, printed, "")
    assert instances(migrated, ring) == ()


def test_a_process_whose_main_thread_ends_after_the_signal_ends_by_the_signal(
    migrated: Connection, database_url: str, keyring_of: Rings
) -> None:
    ring = keyring_of(1, primary=1)
    with process(database_url, ring, WAITS) as ending:
        until(migrated, ring, bool)
        ending.terminate()
        _, errors = ending.communicate("end\n", timeout=60)
    assert (ending.returncode, errors, instances(migrated, ring)) == (-SIGTERM, "", ())


def test_a_process_that_goes_on_after_the_signal_is_not_withdrawn_before_it_ends(
    migrated: Connection, database_url: str, keyring_of: Rings
) -> None:
    ring = keyring_of(1, primary=1)
    with process(database_url, ring, FLAG) as draining:
        until(migrated, ring, bool)
        draining.terminate()
        assert [line(draining) for _ in range(3)] == ["up", "own", "draining"]
        time.sleep(0.5)
        [seen] = instances(migrated, ring)
        assert not seen.silent
        _, errors = draining.communicate("end\n", timeout=60)
    assert (draining.returncode, instances(migrated, ring), errors) == (0, (), "")
    with process(database_url, ring, WAITS, "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)") as ignoring:
        until(migrated, ring, bool)
        ignoring.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            ignoring.wait(0.5)
        assert len(instances(migrated, ring)) == 1
        ignoring.communicate("end\n", timeout=60)
    assert (ignoring.returncode, instances(migrated, ring)) == (0, ())


WORKER = """
import signal
def worker():
    {attested}
    {handled}
    print(os.getpid(), flush=True)
    sys.stdin.readline()
    while True:
        time.sleep(0.01)
child = os.fork()
if not child:
    worker()
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize(("attested", "handled", "status"), [
    pytest.param("", "", -SIGTERM, id="as the parent"),
    pytest.param("", "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))", 0, id="with a handler of its own"),
    pytest.param('attest(engine, ring, instance="worker", every_seconds=0.05)', "", -SIGTERM, id="another of its own"),
])  # fmt: skip
def test_the_child_of_a_fork_that_a_signal_ends_withdraws_itself_alone(
    migrated: Connection, database_url: str, keyring_of: Rings, attested: str, handled: str, status: int
) -> None:
    ring, expected = keyring_of(1, primary=1), 2 + bool(attested)
    with process(database_url, ring, WORKER.format(attested=attested or "pass", handled=handled)) as parent:
        worker = int(line(parent))
        until(migrated, ring, lambda found: len(found) == expected)
        os.kill(worker, SIGTERM)
        assert int(line(parent)) == status
        assert len(instances(migrated, ring)) == 1
        parent.communicate("end\n", timeout=60)
    assert instances(migrated, ring) == ()


@pytest.mark.parametrize(
    ("signals", "within"), [pytest.param(1, STOP_SECONDS + 5, id="one"), pytest.param(2, 3, id="two")]
)
def test_a_database_that_does_not_answer_delays_the_end_by_some_seconds_and_a_second_signal_does_not(
    migrated: Connection, database_url: str, keyring_of: Rings, signals: int, within: float
) -> None:
    ring = keyring_of(1, primary=1)
    with process(database_url, ring, WAITS) as ending, connect(database_url) as other:
        until(migrated, ring, bool)
        with other.transaction():
            other.execute("LOCK TABLE keyrotation.instance_reports")
            began = time.monotonic()
            for _ in range(signals):
                ending.terminate()
                time.sleep(0.2)
            assert ending.wait(60) == -SIGTERM
            assert time.monotonic() - began < within
    assert len(instances(migrated, ring)) == 1, "it sent no farewell"


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_the_first_process_of_a_container_ends_though_no_default_action_ends_it(
    migrated: Connection, database_url: str, keyring_of: Rings
) -> None:
    ring, alone = keyring_of(1, primary=1), ("unshare", "--pid", "--fork")
    if subprocess.run([*alone, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine permits no namespaces")
    with process(database_url, ring, f"assert os.getpid() == 1\n{WAITS}", within=alone) as container:
        assert line(container) == "up"
        until(migrated, ring, bool)
        [first] = Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text().split()
        os.kill(int(first), SIGTERM)
        container.wait(60)
    assert (container.returncode, instances(migrated, ring)) == (128 + SIGTERM, ())


SERVER = """
import uvicorn
from contextlib import asynccontextmanager
attestation = None
@asynccontextmanager
async def lifespan(app):
    {begins}
    print("up", flush=True)
    yield
    {ends}
from starlette.applications import Starlette
uvicorn.run(Starlette(lifespan=lifespan), uds=sys.argv[2], log_level="critical")
"""


@pytest.mark.parametrize(("begins", "ends"), [
    pytest.param("pass", "pass", id="reported before it"),
    pytest.param(
        'attestation = attest(engine, ring, instance="app", every_seconds=0.05)', "attestation.stop()",
        id="and while it runs",
    ),
])  # fmt: skip
def test_a_server_that_raises_the_signal_again_after_its_graceful_stop(
    migrated: Connection, database_url: str, keyring_of: Rings, tmp_path: Path, begins: str, ends: str
) -> None:
    ring = keyring_of(1, primary=1)
    then = SERVER.format(begins=begins, ends=ends)
    with process(database_url, ring, then, more=(str(tmp_path / "socket"),)) as server:
        assert line(server) == "up"
        until(migrated, ring, lambda found: len(found) == 1 + (ends != "pass"))
        server.terminate()
        _, errors = server.communicate(timeout=60)
    assert (server.returncode, errors, instances(migrated, ring)) == (-SIGTERM, "", ())


def test_an_application_without_greenlet_can_report() -> None:
    code = "import sys; sys.modules['greenlet'] = None; from keyrotation_pipeline.encrypted_type import attest"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_instance_reports_to_the_home_of_another_schema(
    migrated: Connection, database_url: str, keyring_of: Rings
) -> None:
    migrate(other := with_schema(database_url, "order"))
    ring = keyring_of(1, primary=1)
    with connect(other) as connection:
        attestation = attest(engine_of(database_url), ring, every_seconds=OFTEN, instance="web-1", schema="order")
        [seen] = until(connection, ring, bool)
        assert (seen.name, seen.reads) == (attestation.instance, (V1,))
        assert instances(migrated, ring) == ()
        attestation.stop()
        assert instances(connection, ring) == ()
    for wrong in ("", "Keys", 'a".b'):
        with pytest.raises(ValueError, match="is not the schema of a home"):
            attest(engine_of(database_url), ring, schema=wrong)


def test_what_a_process_declares_of_plaintext_is_reported_beside_its_columns(
    migrated: Connection, database_url: str, keyring_of: Rings
) -> None:
    ring, engine = keyring_of(1, 2, primary=1), engine_of(database_url)
    Table("cases", MetaData(), Column("note", EncryptedType(ring, encrypted_from=2)))
    attestation = attest(engine, ring, every_seconds=OFTEN, encrypts_from={"bills.text": 2})
    try:
        [seen] = until(migrated, ring, bool)
        assert seen.encrypts_from == {"bills.text": 2, "cases.note": 2}
    finally:
        attestation.stop()
        engine.dispose()
