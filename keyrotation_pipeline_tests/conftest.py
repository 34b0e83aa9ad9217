"""Fixtures of the whole suite: one embedded server a session, one fresh database a test."""

import base64
import importlib
import itertools
import os
import pkgutil
from collections.abc import Callable, Iterator

import psycopg
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline_tests.buckets import bucket, locking_bucket, s3_url  # noqa: F401
from keyrotation_pipeline_tests.officers import privacy_officer, recovery_officer, security_officer  # noqa: F401
from keyrotation_pipeline_tests.servers import Server, discard, start_server

_names = (f"test_{os.getpid()}_{number}" for number in itertools.count())


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A running embedded PostgreSQL 18."""
    running = start_server()
    yield running
    discard(running)


@pytest.fixture
def database_url(server: Server) -> Iterator[str]:
    """A fresh, empty database."""
    name = next(_names)
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        yield server.url(name)
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    """Our own kind of connection to a fresh database."""
    with connect(database_url) as opened:
        yield opened


def migrate_raw(connection: Connection) -> None:
    """Create the schema `keyrotation` without Alembic."""
    migration = importlib.import_module("keyrotation_pipeline.adapters.postgres.ledger.migrations.versions.0001_ledger")
    connection.execute("CREATE SCHEMA keyrotation")
    for statement in migration.STATEMENTS:
        connection.execute(statement)


@pytest.fixture
def migrated(connection: Connection) -> Connection:
    """A connection to a database that has the schema `keyrotation`."""
    connection.execute("CREATE SCHEMA keyrotation")
    versions = importlib.import_module("keyrotation_pipeline.adapters.postgres.ledger.migrations.versions")
    for name in sorted(module.name for module in pkgutil.iter_modules(versions.__path__)):
        for statement in importlib.import_module(f"{versions.__name__}.{name}").STATEMENTS:
            connection.execute(statement)
    return connection


@pytest.fixture
def keyring_of() -> Callable[..., KeyRing]:
    """`keyring_of(1, 2, primary=2)`: a ring of random keys."""

    def build(*numbers: int, primary: int) -> KeyRing:
        return KeyRing({KeyVersion(number): KeyMaterial.generate() for number in numbers}, KeyVersion(primary))

    return build


@pytest.fixture
def seal() -> Callable[[KeyRing, int, str], str]:
    """`seal(ring, 1, "text")`: a stored value, made without the project's own cipher code."""

    def build(ring: KeyRing, version: int, plaintext: str) -> str:
        nonce = os.urandom(12)
        body = AESGCM(ring.material(KeyVersion(version)).raw).encrypt(nonce, plaintext.encode(), None)
        return f"v{version}:{base64.b64encode(nonce).decode()}:{base64.b64encode(body).decode()}"

    return build
