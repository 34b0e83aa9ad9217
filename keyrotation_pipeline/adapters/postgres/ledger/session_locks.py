"""Locks that only our role can take: named ones of a session, and one on a table of ours; and who holds them.

Not advisory locks: any role that can connect reads their numbers in `pg_locks`, and holds them for as long as it likes.
Nobody but our role may write the tables of the schema `keyrotation`, or lock them against a writer.
"""

from collections.abc import Mapping, Sequence
from typing import Any, LiteralString

# A lock ends with its session, which is identified by its process id and its start. Sessions that take the same name at
# once wait for each other's commit. That waits for neither disk nor standbys: what a crash could lose are locks of
# sessions that it has ended.
TAKE: LiteralString = """
INSERT INTO keyrotation.session_locks AS held (name, pid, session_began_at)
SELECT %(name)s, pid, backend_start
FROM pg_stat_activity, set_config('synchronous_commit', 'off', true) WHERE pid = pg_backend_pid()
ON CONFLICT (name) DO UPDATE SET (pid, session_began_at) = (excluded.pid, excluded.session_began_at)
WHERE NOT EXISTS (
    SELECT FROM pg_stat_activity a
    WHERE a.pid = held.pid AND coalesce(a.backend_start = held.session_began_at, true))
RETURNING name
"""

RELEASE: LiteralString = """
DELETE FROM keyrotation.session_locks USING set_config('synchronous_commit', 'off', true) WHERE name = %(name)s
"""

HOLDER: LiteralString = """
SELECT pid, usename, application_name FROM keyrotation.session_locks JOIN pg_stat_activity USING (pid)
WHERE name = %(name)s
"""

HELD: LiteralString = """
SELECT name FROM keyrotation.session_locks held JOIN pg_stat_activity a USING (pid)
WHERE starts_with(name, %(prefix)s) AND coalesce(a.backend_start = held.session_began_at, true) ORDER BY name
"""

# Nobody is in the way by reading a table, which takes its weakest lock.
TABLE_HOLDER: LiteralString = """
SELECT l.pid, a.usename, a.application_name FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'relation' AND l.granted AND l.mode <> 'AccessShareLock'
  AND l.relation = to_regclass(%(table)s)
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND l.pid IS DISTINCT FROM pg_backend_pid()
"""


def described(holders: Sequence[Mapping[str, Any]]) -> str:
    """Returns a lock's holder, as a query above names it: its process id, role and application."""
    if not holders:
        return "a session that has just ended"
    holder = holders[0]
    if holder["pid"] is None:
        return "a prepared transaction (see pg_prepared_xacts)"
    return f"session {holder['pid']} ({holder['application_name'] or 'unnamed'}, role {holder['usename']})"
