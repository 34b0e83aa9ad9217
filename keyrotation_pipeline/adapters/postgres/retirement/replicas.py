"""Tracks standbys and subscribers: each one seen since the request must have *replayed* the moment or be declared gone.

`pg_stat_replication` shows who is connected now: a standby that dropped out a second ago is not in it, and still shows
old values. So every one seen is recorded. What a slot has received says nothing about what its standby has replayed
(`recovery_min_apply_delay`). A cascaded standby is not visible upstream: it is declared, and queried directly.

Nothing here suggests terminating a walsender: that hides a reader but does not end it.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import psycopg

from keyrotation_pipeline.adapters.own_schema import own
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect, display_name
from keyrotation_pipeline.errors import BlockedError, KeyRotationError
from keyrotation_pipeline.model.proof import AccountedReplica
from keyrotation_pipeline.model.tables import of_member

# A standby is named by its slot, else by its application_name and address. One that reports no replay shows no rows:
# base backups and WAL receivers. A logical slot shows what its subscriber has, also without a connection; a walsender
# of a database without a slot sends nothing and is about to end. Slots that PostgreSQL itself creates while it copies a
# table disappear soon.
STANDBY_NAME = """coalesce('slot ' || s.slot_name, coalesce(nullif(r.application_name, ''), 'unnamed') || '@'
    || coalesce(host(r.client_addr), 'local'))"""
_CONNECTED = f"""
SELECT {STANDBY_NAME} AS name,
       CASE WHEN a.datname IS NULL THEN 'standby' ELSE 'subscriber' END AS kind,
       r.replay_lsn AS replayed
FROM pg_stat_replication r
LEFT JOIN pg_replication_slots s ON s.active_pid = r.pid
LEFT JOIN pg_stat_activity a ON a.pid = r.pid
WHERE r.replay_lsn IS NOT NULL AND r.state <> 'backup'
  AND (a.datname IS NULL OR a.datname = current_database() AND s.slot_name IS NOT NULL)
  AND (s.slot_name IS NULL OR NOT s.temporary AND s.slot_name !~ '^pg_[0-9]+_sync_[0-9]+_[0-9]+$')
UNION ALL
SELECT 'slot ' || slot_name, CASE slot_type WHEN 'logical' THEN 'subscriber' ELSE 'slot' END, confirmed_flush_lsn
FROM pg_replication_slots
WHERE NOT active AND NOT temporary AND (database IS NULL OR database = current_database())
  AND slot_name !~ '^pg_[0-9]+_sync_[0-9]+_[0-9]+$'
"""  # noqa: S608  text of our own

_WRITE_DOWN = own(f"""
INSERT INTO keyrotation.replicas AS known (name, kind, connections)
SELECT name, max(kind), count(*) FROM ({_CONNECTED}) AS connected GROUP BY name
ON CONFLICT (name) DO UPDATE
SET last_seen_at = clock_timestamp(), connections = greatest(known.connections, excluded.connections)
""")  # noqa: S608  text of our own

# One last seen before the open request was accounted for by the previous request.
_SEEN = own(f"""
SELECT known.name, known.kind, known.first_seen_at, known.last_seen_at,
       (known.connections - count(connected.name))::int AS missing, min(connected.replayed)::text AS replayed
FROM keyrotation.replicas AS known
LEFT JOIN ({_CONNECTED}) AS connected ON connected.name = known.name AND connected.kind <> 'slot'
WHERE known.last_seen_at >= coalesce((
    SELECT min(requested_at) FROM keyrotation.rotations WHERE status NOT IN ('finished', 'cancelled')), '-infinity')
GROUP BY known.name ORDER BY known.name
""")  # noqa: S608  text of our own

_WRITABLE = own("SELECT to_regclass('keyrotation.replicas') IS NOT NULL AND NOT pg_is_in_recovery()")

_STANDBY = """
SELECT pg_is_in_recovery(), (SELECT system_identifier FROM pg_control_system()),
       coalesce(pg_last_wal_replay_lsn() >= %s::pg_lsn, false)
"""

_SYSTEM = "SELECT system_identifier FROM pg_control_system()"


@dataclass(frozen=True, slots=True)
class Replicas:
    """The configured replicas.

    Args:
        standbys: URLs of standbys that the primary cannot see, to be queried directly.
        gone: names of those that no longer exist, as the refusal prints them.
        member: of a fleet, whose names begin with it: two servers have standbys of the same name.
    """

    standbys: tuple[str, ...] = field(default=(), repr=False)
    gone: tuple[str, ...] = ()
    member: str = ""

    def named(self, name: str) -> str:
        """How one is named in `gone`."""
        return of_member(self.member, name)

    def is_gone(self, name: str) -> bool:
        """Whether one is declared gone."""
        return self.named(name) in self.gone


NONE_DECLARED = Replicas()


def write_down(connection: Connection) -> None:
    """Records who replicates from here now."""
    if connection.execute(_WRITABLE).fetchone() == (True,):
        connection.execute(_WRITE_DOWN)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A replica that was seen since the request.

    Args:
        missing: how many of its connections are missing.
        replayed: the position that all present connections have replayed; None without any.
    """

    name: str
    kind: str
    first_seen_at: datetime
    last_seen_at: datetime
    missing: int
    replayed: str | None

    def accounted(self, replayed: str | None) -> AccountedReplica:
        return AccountedReplica(self.name, self.kind, self.first_seen_at, self.last_seen_at, replayed)

    def absence(self, declared: Replicas) -> str:
        what = f"{self.kind} {self.name!r}" if self.kind != "slot" else f"the receiver of {self.name!r}"
        more = f" ({self.missing} connections of that name are missing)" if self.missing > 1 else ""
        return (
            f"{what}, last seen {self.last_seen_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC, is not connected{more} "
            "and may still show old values; start it again, or if it is gone for good add "
            f"{declared.named(self.name)!r} to [database] gone_replicas"
        )


def absent(connection: Connection, declared: Replicas) -> Iterator[str]:
    """Yields replicas that were seen and are not connected, one sentence each; leaves out those declared gone."""
    for each in _seen(connection):
        if each.missing > 0 and not declared.is_gone(each.name):
            yield each.absence(declared)


def accounted(connection: Connection, declared: Replicas) -> tuple[AccountedReplica, ...]:
    """Returns all replicas seen since the request, with what each has replayed; call it when nothing blocks any more.

    Raises:
        BlockedError: one has just dropped out.
    """
    found = []
    for each in _seen(connection):
        if each.missing <= 0:
            found.append(each.accounted(each.replayed))
        elif declared.is_gone(each.name):
            found.append(each.accounted(None))
        else:
            raise BlockedError(each.absence(declared))
    return (*found, *(_query_standby(url) for url in declared.standbys))


def _seen(connection: Connection) -> list[_Seen]:
    if connection.execute(_WRITABLE).fetchone() != (True,):
        return []
    rows: list[Any] = connection.execute(_SEEN).fetchall()
    return [_Seen(*row) for row in rows]


def _query_standby(url: str) -> AccountedReplica:
    try:
        with closing(connect(url)) as standby:
            (replayed,) = standby.execute("SELECT pg_last_wal_replay_lsn()::text").fetchall()[0]
    except (KeyRotationError, psycopg.Error):
        raise BlockedError(_unanswered(display_name(url))) from None
    return AccountedReplica(display_name(url), "standby", None, None, str(replayed))


def asked(
    connection: Connection, declared: Replicas, lsn: str, look: Callable[[Connection], Iterable[str]]
) -> Iterator[str]:
    """Yields what is wrong with each declared standby, one sentence each.

    Args:
        look: returns what sessions of a standby that has replayed `lsn` may still show.
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
            yield _unanswered(name)


def _unanswered(name: str) -> str:
    return (
        f"standby {name} of [database] standbys cannot be asked what it has replayed; start it and let this role "
        "connect, or remove it if it is gone for good"
    )


def _wrong(name: str, stands: object, same: object, replayed: object, lsn: str) -> str:
    if not same:
        return f"{name} of [database] standbys belongs to another database system; correct its URL"
    if not stands:
        return f"{name} of [database] standbys is no longer a standby; correct its URL, or remove it"
    return "" if replayed else f"standby {name} has not replayed {lsn}; wait until it catches up"
