"""Reads ids for shell completion: fast, by one statement, and not trusted for anything else."""

from typing import LiteralString

import psycopg

from keyrotation_pipeline.adapters.own_schema import own

# The least that libpq allows; a server that does not answer is not waited for longer.
_CONNECT_SECONDS = 2
_STATEMENT_SECONDS = 1

_REQUESTS: LiteralString = """
    SELECT id, type || ' ' || action || ', ' || status || ', ' || to_char(requested_at, 'YYYY-MM-DD')
    FROM keyrotation.rotations WHERE left(id, %(length)s) = %(beginning)s
      AND id ~ '^[0-9a-f]{8,64}$'
    ORDER BY finished_at IS NOT NULL, requested_at DESC LIMIT 20
"""
_INCIDENTS: LiteralString = """
    SELECT id, 'incident' FROM (
        SELECT seq, body::jsonb #>> '{facts,id}' AS id FROM keyrotation.audit_events WHERE event = 'incident_opened'
    ) opened
    WHERE left(id, %(length)s) = upper(%(beginning)s) AND id ~ '^INC-[0-9A-Z-]{1,40}$'
    ORDER BY seq DESC LIMIT 20
"""


def request_ids(url: str, beginning: str) -> list[tuple[str, str]]:
    """Returns ids of requests with a prefix, unfinished ones first, each with a description; raises `psycopg.Error`."""
    return _query(url, _REQUESTS, beginning)


def incident_ids(url: str, beginning: str) -> list[tuple[str, str]]:
    """Returns ids of incidents with a prefix, newest first; raises `psycopg.Error`."""
    return _query(url, _INCIDENTS, beginning)


def _query(url: str, statement: LiteralString, beginning: str) -> list[tuple[str, str]]:
    with psycopg.connect(url, autocommit=True, connect_timeout=_CONNECT_SECONDS) as connection:
        if connection.info.backend_pid != connection.execute("SELECT pg_catalog.pg_backend_pid()").fetchall()[0][0]:
            return []  # through a pooler our settings would leak to the application
        connection.execute(f"SET statement_timeout = '{_STATEMENT_SECONDS}s'; SET search_path = pg_catalog")
        asked = {"beginning": beginning, "length": len(beginning)}
        return [(str(name), str(what)) for name, what in connection.execute(own(statement), asked)]
