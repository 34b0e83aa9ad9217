"""Databases to scan, roles that may only read, and what a scan read of each place."""

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from keyrotation_pipeline.adapters.postgres.scan import database
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.assembly.scan import scan_database
from keyrotation_pipeline.scan.classification import classify_table
from keyrotation_pipeline.scan.report import Finding, Place, ScanReport

_names = (f"scanner_{os.getpid()}_{number}" for number in itertools.count())
Values = dict[Place, list[str | bytes]]
Read = Callable[..., tuple[ScanReport, Values]]


@pytest.fixture
def owner(either: Connection) -> Connection:
    """A connection of a superuser to a fresh database, whose role makes what is scanned."""
    either.execute("SET search_path = public, pg_catalog; SET client_min_messages = error")
    return either


@pytest.fixture
def reader(owner: Connection) -> Iterator[str]:
    """The URL of a role that may read every table that the test makes, and do nothing else."""
    name = next(_names)
    owner.execute(
        f"CREATE ROLE {name} LOGIN; ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {name}; "
        f"ALTER DEFAULT PRIVILEGES GRANT USAGE ON SCHEMAS TO {name}".encode()
    )
    yield make_conninfo(owner.info.dsn, user=name)
    owner.execute(f"DROP OWNED BY {name}; DROP ROLE {name}".encode())


@pytest.fixture
def role(reader: str) -> sql.Identifier:
    """The name of that role."""
    return sql.Identifier(str(conninfo_to_dict(reader)["user"]))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Read:
    """Scans a URL; gives back the report, and the values that a scan hands on to be classified."""

    def scan(url: str, *schemas: str, values: int = 1000) -> tuple[ScanReport, Values]:
        seen: Values = {}
        kept = classify_table

        def classify(samples: Mapping[Place, Sequence[str | bytes]]) -> tuple[Finding, ...]:
            seen.update({place: list(each) for place, each in samples.items()})
            return kept(samples)

        with monkeypatch.context() as patched:
            patched.setattr(database, "classify_table", classify)
            report = scan_database(url, "--url", lambda _: None, schemas, values)
        return report, seen

    return scan
