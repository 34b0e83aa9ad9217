"""One line by which an application reports itself, on every kind of engine that it may have."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Engine, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.own_schema import with_schema
from keyrotation_pipeline.adapters.postgres.ledger.migrate import migrate
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.encrypted_type import EncryptedType, EnvironmentKeyRing, KeyRing, MountedKeyRing, attest
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


@contextmanager
def process(url: str, ring: KeyRing, then: str, first: str = "") -> Iterator[subprocess.Popen[str]]:
    environment = {"ENCRYPTION_MASTER_KEY": base64_of(ring.material(V1)), "PATH": os.environ["PATH"]}
    url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    running = subprocess.Popen(
        [sys.executable, "-c", PROCESS.format(then=then, first=first), url],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
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
