"""How many transactions a database has seen: what something costs that should not grow."""

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from keyrotation_pipeline_tests.waiting import eventually

_ENDED = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND pid <> ALL (%s)"
_DONE = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = %s"


def transactions(url: str, *open_sessions: psycopg.Connection) -> int:
    """Of a database until now, the start of each session among them, once every session but these has ended."""
    name, known = conninfo_to_dict(url)["dbname"], [each.info.backend_pid for each in open_sessions]
    for each in open_sessions:
        each.execute("SELECT pg_stat_force_next_flush()")
    # From another database, which nobody counts.
    with psycopg.connect(make_conninfo(url, dbname="postgres"), autocommit=True) as watching:
        assert eventually(lambda: watching.execute(_ENDED, (name, known)).fetchone() == (0,))
        row = watching.execute(_DONE, (name,)).fetchone()
    assert row is not None
    return int(row[0])
