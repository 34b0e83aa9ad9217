"""Vacuums of PostgreSQL 16 and before remember all dead rows at once, or the pre-flight says that they cannot."""

import pytest
from psycopg.conninfo import make_conninfo

from keyrotation_pipeline.adapters.postgres.engine import vacuum
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.inventory.relations import heaps
from keyrotation_pipeline.adapters.postgres.preflight import preflight
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.tables import EncryptedTable, TableName

NOTES = EncryptedTable(TableName("public", "notes"), ("c",))
# Beside a vacuum an eighth of the rows, six bytes each.
MANY, NEEDED_KB = 80_000_000, 80_000_000 // 8 * 6 // 1024


def make(connection: Connection, rows: int, index: str = "c") -> None:
    """A table that claims so many rows. An index over the encrypted column keeps it from HOT order."""
    connection.execute(f"CREATE TABLE public.notes (id int, c text); CREATE INDEX ON public.notes ({index})".encode())
    connection.execute("INSERT INTO public.notes SELECT n, '' FROM generate_series(1, 5000) AS n")
    connection.execute("UPDATE pg_class SET reltuples = %s WHERE oid = 'public.notes'::regclass", (rows,))
    connection.execute("SET maintenance_work_mem = '8MB'")


def warned(connection: Connection) -> list[str]:
    return [each.message for each in preflight(connection, [NOTES], KeyVersion(2)) if "dead rows" in each.message]


@pytest.mark.parametrize(
    ("rows", "index", "reported"),
    [
        pytest.param(MANY, "c", 1, id="a large table"),
        pytest.param(1_000_000, "c", 0, id="a small one"),
        pytest.param(MANY, "id", 0, id="in HOT order no vacuum runs"),
    ],
)
def test_the_pre_flight_reports_vacuums_that_read_indexes_again(
    debian: Connection, rows: int, index: str, reported: int
) -> None:
    if debian.info.server_version >= 170000:
        pytest.skip("this server's vacuums need no such memory")
    make(debian, rows, index)
    sentences = warned(debian)
    assert len(sentences) == reported
    assert all("57 MiB" in each and "maintenance_work_mem at 8 MiB" in each for each in sentences)


def test_a_server_that_remembers_compactly_is_not_warned_of(connection: Connection) -> None:
    assert connection.info.server_version >= 170000
    make(connection, MANY)
    assert warned(connection) == []


@pytest.mark.parametrize(
    ("rows", "before", "memory"),
    [
        pytest.param(MANY, "8MB", f"{NEEDED_KB}kB", id="more where it is needed"),
        pytest.param(MANY, "1GB", "1GB", id="never less"),
        pytest.param(10**9, "8MB", "256MB", id="within a limit"),
    ],
)
def test_our_vacuums_take_the_memory_that_they_need(
    debian: Connection, monkeypatch: pytest.MonkeyPatch, rows: int, before: str, memory: str
) -> None:
    if debian.info.server_version >= 170000:
        pytest.skip("this server's vacuums need no such memory")
    make(debian, rows)
    monkeypatch.setattr(
        vacuum,
        "_VACUUM",
        "CREATE TABLE public.seen AS SELECT current_setting('maintenance_work_mem') AS memory FROM {} LIMIT 1",
    )
    (relation,) = heaps(debian, NOTES)
    url = make_conninfo(debian.info.dsn, options=f"-c maintenance_work_mem={before}")
    neighbour = vacuum.Vacuum(lambda: connect(url), relation, Limits(vacuum_pages=1), wanted=True)
    neighbour.rewritten(relation.pages)
    neighbour.finish()
    assert debian.execute("SELECT memory FROM public.seen").fetchall() == [(memory,)]
