"""Standbys and subscribers: whoever was seen since the request must have *replayed* the moment, or be declared gone.

`pg_stat_replication` shows who is connected now: a standby that dropped out a second ago is not in it, and still shows
old values. So whoever is seen is written down. What a slot has received says nothing of what its standby replayed
(`recovery_min_apply_delay`). A cascaded standby is seen by nobody upstream: it is declared, and asked itself.

Nothing here suggests ending a walsender: that hides a reader, it does not end it.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime

import psycopg

from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect, display_name
from keyrotation_pipeline.errors import KeyRotationError

# A standby is named by its slot, else by its application_name and address. Whoever reports no replay shows no rows:
# base backups and WAL receivers. A logical slot tells what its subscriber has, also without a connection. Slots that
# PostgreSQL itself makes while it copies a table are gone again soon.
_CONNECTED = """
SELECT coalesce('slot ' || s.slot_name, coalesce(nullif(r.application_name, ''), 'unnamed') || '@'
                || coalesce(host(r.client_addr), 'local')) AS name,
       CASE WHEN a.datname IS NULL THEN 'standby' ELSE 'subscriber' END AS kind,
       r.replay_lsn AS replayed
FROM pg_stat_replication r
LEFT JOIN pg_replication_slots s ON s.active_pid = r.pid
LEFT JOIN pg_stat_activity a ON a.pid = r.pid
WHERE (a.datname IS NULL OR a.datname = current_database()) AND r.replay_lsn IS NOT NULL AND r.state <> 'backup'
  AND (s.slot_name IS NULL OR NOT s.temporary AND s.slot_name !~ '^pg_[0-9]+_sync_[0-9]+_[0-9]+$')
UNION ALL
SELECT 'slot ' || slot_name, CASE slot_type WHEN 'logical' THEN 'subscriber' ELSE 'slot' END, NULL
FROM pg_replication_slots
WHERE NOT active AND NOT temporary AND (database IS NULL OR database = current_database())
  AND slot_name !~ '^pg_[0-9]+_sync_[0-9]+_[0-9]+$'
"""

_WRITE_DOWN = f"""
INSERT INTO keyrotation.replicas AS known (name, kind, connections)
SELECT name, max(kind), count(*) FROM ({_CONNECTED}) AS connected GROUP BY name
ON CONFLICT (name) DO UPDATE
SET last_seen_at = clock_timestamp(), connections = greatest(known.connections, excluded.connections)
"""  # noqa: S608  text of our own

# Whoever was last seen before the open request was accounted for by the one before.
_ABSENT = f"""
SELECT known.name, known.kind, known.last_seen_at, known.connections - count(connected.name)
FROM keyrotation.replicas AS known
LEFT JOIN ({_CONNECTED}) AS connected ON connected.name = known.name AND connected.kind <> 'slot'
WHERE known.last_seen_at >= coalesce((
    SELECT min(requested_at) FROM keyrotation.rotations WHERE status NOT IN ('finished', 'cancelled')), '-infinity')
GROUP BY known.name HAVING count(connected.name) < known.connections ORDER BY known.name
"""  # noqa: S608  text of our own

_WRITABLE = "SELECT to_regclass('keyrotation.replicas') IS NOT NULL AND NOT pg_is_in_recovery()"

_STANDBY = """
SELECT pg_is_in_recovery(), (SELECT system_identifier FROM pg_control_system()),
       coalesce(pg_last_wal_replay_lsn() >= %s::pg_lsn, false)
"""

_SYSTEM = "SELECT system_identifier FROM pg_control_system()"


@dataclass(frozen=True, slots=True)
class Replicas:
    """What the configuration says of replicas.

    Args:
        standbys: URLs of standbys that the primary cannot see, to be asked themselves.
        gone: names of those that exist no more, as the refusal prints them.
    """

    standbys: tuple[str, ...] = field(default=(), repr=False)
    gone: tuple[str, ...] = ()


NONE_DECLARED = Replicas()


def write_down(connection: Connection) -> None:
    """Remember who replicates from here now."""
    if connection.execute(_WRITABLE).fetchone() == (True,):
        connection.execute(_WRITE_DOWN)


def absent(connection: Connection, declared: Replicas) -> Iterator[str]:
    """Who was seen and is not connected, one sentence each; those declared gone are left out."""
    if connection.execute(_WRITABLE).fetchone() != (True,):
        return
    for name, kind, seen, missing in connection.execute(_ABSENT).fetchall():
        if name not in declared.gone:
            what = f"{kind} {name!r}" if kind != "slot" else f"the receiver of {name!r}"
            more = f" ({missing} connections of that name are missing)" if int(str(missing)) > 1 else ""
            yield (
                f"{what}, last seen {_instant(seen)}, is not connected{more}, so it may still show old values; start "
                f"it again and let it catch up, or if it exists no more add {name!r} to [database] gone_replicas"
            )


def asked(
    connection: Connection, declared: Replicas, lsn: str, look: Callable[[Connection], Iterable[str]]
) -> Iterator[str]:
    """What is wrong with each declared standby, one sentence each.

    Args:
        look: what sessions of a standby that has replayed `lsn` may still show.
    """
    system = connection.execute(_SYSTEM).fetchone()
    for url in declared.standbys:
        name = display_name(url)
        try:
            with closing(connect(url)) as standby:
                stands, theirs, replayed = standby.execute(_STANDBY, (lsn,)).fetchone() or (False, None, False)
                wrong = _wrong(name, stands, (theirs,) == system, replayed, lsn)
                yield from [wrong] if wrong else [f"on standby {name}: {each}" for each in look(standby)]
        except (KeyRotationError, psycopg.Error):
            yield (
                f"standby {name} of [database] standbys cannot be asked what it has replayed; start it and let this "
                "role connect, or if it exists no more take it out of the configuration"
            )


def _wrong(name: str, stands: object, same: object, replayed: object, lsn: str) -> str:
    if not same:
        return f"{name} of [database] standbys belongs to another database system; correct its URL"
    if not stands:
        return f"{name} of [database] standbys is no standby any more; correct its URL, or take it out"
    return "" if replayed else f"standby {name} has not replayed {lsn}; wait until it catches up"


def _instant(moment: object) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if isinstance(moment, datetime) else "earlier"
