"""Stores why a step waits, for `status` to show. A wait ends with the session that recorded it."""

from keyrotation_pipeline.adapters.postgres.server.connection import Connection, codec_of, storable

# Entries of ended sessions are deleted when the next wait begins. (Of another role's session, ours may see only that it
# exists.)
FORGET = """
DELETE FROM keyrotation.waits AS noted WHERE NOT EXISTS (
    SELECT FROM pg_stat_activity a
    WHERE a.pid = noted.pid AND coalesce(a.backend_start = noted.session_began_at, true))
"""

NOTE = """
INSERT INTO keyrotation.waits (request, place, pid, session_began_at, waiting_for)
SELECT %s, %s, pid, backend_start, %s FROM pg_stat_activity WHERE pid = pg_backend_pid()
ON CONFLICT (request, place, pid) DO UPDATE SET waiting_for = excluded.waiting_for
"""

END = "DELETE FROM keyrotation.waits WHERE (request, place, pid) = (%s, %s, pg_backend_pid())"

LIVE = """
SELECT place, min(waiting_for) AS waiting_for, min(since) AS since FROM keyrotation.waits AS noted
WHERE request = %s AND EXISTS (
    SELECT FROM pg_stat_activity a
    WHERE a.pid = noted.pid AND coalesce(a.backend_start = noted.session_began_at, true))
GROUP BY place ORDER BY min(since), place
"""


def note_wait(connection: Connection, request: str, place: str, waiting_for: str) -> None:
    """Records that a step waits, or now waits for another reason; its age is that of the whole wait."""
    connection.execute(FORGET)
    connection.execute(NOTE, storable((request, place, waiting_for), codec_of(connection)))


def end_wait(connection: Connection, request: str, place: str) -> None:
    """Records that it continues."""
    connection.execute(END, storable((request, place), codec_of(connection)))
