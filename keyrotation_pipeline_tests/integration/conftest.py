"""A second server: Debian's PostgreSQL, which has ICU and the contrib modules that the embedded one lacks."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline_tests.backup_sites import backup_officers, clinic, local_clinic  # noqa: F401
from keyrotation_pipeline_tests.servers import (
    DEBIAN,
    EMBEDDED_16,
    EMBEDDED_16_2,
    EMBEDDED_18,
    Server,
    discard,
    start_server,
)
from keyrotation_pipeline_tests.verifiers import gpg, verifier  # noqa: F401

_names = (f"debian_{os.getpid()}_{number}" for number in itertools.count())

_on_debian = [
    pytest.mark.external_postgres,
    pytest.mark.skipif(not DEBIAN.exists(), reason="Debian's PostgreSQL is not installed"),
]


@pytest.fixture(scope="session")
def debian_server() -> Iterator[Server]:
    """A running PostgreSQL of Debian; its tests carry the marker `external_postgres`."""
    if not DEBIAN.exists():
        pytest.skip("Debian's PostgreSQL is not installed")
    running = start_server(DEBIAN)
    yield running
    discard(running)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(EMBEDDED_18, id="18"),
        pytest.param(EMBEDDED_16, id="16.14"),
        pytest.param(
            EMBEDDED_16_2,
            id="16.2",
            marks=pytest.mark.skipif(not EMBEDDED_16_2.exists(), reason="pgserver has no wheel"),
        ),
        pytest.param(
            DEBIAN,
            id="debian",
            marks=pytest.mark.skipif(not DEBIAN.exists(), reason="Debian's PostgreSQL is not installed"),
        ),
    ],
)
def versioned(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A running server of each version that differs in how it writes contended rows."""
    running = start_server(Path(request.param))
    yield running
    discard(running)


@pytest.fixture
def debian(debian_server: Server) -> Iterator[Connection]:
    """Our own kind of connection to a fresh database on Debian's PostgreSQL."""
    name = next(_names)
    with psycopg.connect(debian_server.url(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        with connect(debian_server.url(name)) as opened:
            yield opened
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=[pytest.param("connection", id="18"), pytest.param("debian", id="debian", marks=_on_debian)])
def either(request: pytest.FixtureRequest) -> Connection:
    """A connection to a fresh database: a test runs on the embedded PostgreSQL 18, and one variant on Debian's, too."""
    chosen: Connection = request.getfixturevalue(request.param)
    return chosen
