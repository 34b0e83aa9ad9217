"""Preflight checks of the server: connection, log settings, WAL, standbys, and its disk where it is this host's."""

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from keyrotation_pipeline.adapters.postgres.inventory.relations import heap_and_toast_bytes
from keyrotation_pipeline.adapters.postgres.inventory.scans import heap_scan, readable_tree
from keyrotation_pipeline.adapters.postgres.preflight.table import fatal, warning
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, quoted
from keyrotation_pipeline.errors import BlockedError, PreflightError
from keyrotation_pipeline.model.audit import counted
from keyrotation_pipeline.model.environment import Disk, Environment, Problem, Standby, UnseenDisk, Wal
from keyrotation_pipeline.model.tables import EncryptedTable

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_IDENTIFIER_BYTES = 8

_IN_OTHER_TABLESPACES = """
SELECT EXISTS (SELECT FROM pg_class WHERE oid = ANY(%s::oid[]) AND reltablespace <> 0)
    OR EXISTS (SELECT FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace
               WHERE d.datname = current_database() AND t.spcname <> 'pg_default')
"""

# The setting is NULL for a role that may not see it.
_DIRECTORY = """
SELECT (SELECT setting FROM pg_settings WHERE name = 'data_directory'), system_identifier FROM pg_control_system()
"""


def disk_of(connection: Connection, oids: Sequence[int]) -> Disk | UnseenDisk:
    """Returns the server's disk, if it is this host's: the data directory here must have the server's identifier."""
    host = connection.info.host
    if not host.startswith("/") and host not in _LOOPBACK:
        return UnseenDisk(f"the server is on {host}")
    if connection.execute(_IN_OTHER_TABLESPACES, (list(oids),)).fetchone() == (True,):
        return UnseenDisk("tables are in other tablespaces than the default one")
    # A server's working directory is its data directory; it may use a path for it that is valid only in its own
    # process.
    own = Path(f"/proc/{connection.info.backend_pid}/cwd")
    ((named, identifier),) = cast("list[tuple[str | None, int]]", connection.execute(_DIRECTORY).fetchall())
    directory = Path(named) if named is not None and Path(named).is_dir() else own.resolve()
    try:
        with (directory / "global" / "pg_control").open("rb") as control:
            if int.from_bytes(control.read(_IDENTIFIER_BYTES), sys.byteorder) != identifier:
                return UnseenDisk("the address leads to a server whose data directory is not on this host")
        # The WAL may be on another disk: the smaller free space counts.
        free = min(shutil.disk_usage(place).free for place in (directory, directory / "pg_wal"))
    except OSError:
        role = quoted(connection, connection.info.user)
        if named is None:
            return UnseenDisk(
                "the role may not see where the server's data directory is", f"GRANT pg_read_all_settings TO {role}"
            )
        return UnseenDisk(f"the server's data directory {named} cannot be read from here, or is not on this host")
    return Disk(str(directory), free)


OLDEST_MAJOR, NEWEST_MAJOR = 14, 18
# The minor releases of November 2025 fixed the recheck of TID scans. Before, a concurrent write could be overwritten.
FIXED_MINOR = {18: 1, 17: 7, 16: 11, 15: 15, 14: 20}
LONG_SECONDS = 300

_SESSION = "SELECT pg_backend_pid(), current_setting('keyrotation.engine', true)"

_STRICT_ISOLATION = """
SELECT current_setting('default_transaction_isolation') IN ('repeatable read', 'serializable')
    OR EXISTS (SELECT FROM pg_locks WHERE mode = 'SIReadLock')
    OR EXISTS (SELECT FROM pg_db_role_setting s, unnest(s.setconfig) AS entry
               WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
               AND entry ~ '^default_transaction_isolation=(repeatable read|serializable)$')
"""

_LONG_TRANSACTIONS = """
SELECT pid, coalesce(nullif(application_name, ''), backend_type, 'unnamed'),
       extract(epoch FROM clock_timestamp() - xact_start)::bigint
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
  AND xact_start <= clock_timestamp() - %s * interval '1 second'
ORDER BY xact_start
"""

_PREPARED = """
SELECT gid, extract(epoch FROM clock_timestamp() - prepared)::bigint FROM pg_prepared_xacts
WHERE database = current_database() AND prepared <= clock_timestamp() - %s * interval '1 second' ORDER BY prepared
"""

_SLOTS = """
SELECT slot_name, active FROM pg_replication_slots
WHERE (xmin IS NOT NULL OR NOT active) AND (database IS NULL OR database = current_database()) ORDER BY slot_name
"""


# Without pg_read_all_stats a role sees only the owner of another role's session.
_HIDDEN = """
SELECT count(*), string_agg(DISTINCT usename::text, ', '),
       (SELECT count(*) FROM pg_stat_replication WHERE state IS NULL)
FROM pg_stat_activity WHERE usesysid IS NOT NULL AND backend_type IS NULL AND datname = current_database()
"""

_SEES_ALL = "SELECT pg_has_role('pg_read_all_stats', 'USAGE')"

_LATE = """
SELECT coalesce(nullif(application_name, ''), 'unnamed'), extract(epoch FROM replay_lag)::bigint
FROM pg_stat_replication WHERE replay_lag > make_interval(secs => %s) ORDER BY 1
"""
LATE_SECONDS = 60


def is_reached_directly(connection: Connection) -> Iterator[Problem]:
    """Requires a connection without a pooler: our session settings would not hold there, and a count could be wrong.

    A pooler answers the login itself, with its own process id.
    """
    sessions = [connection.execute(_SESSION).fetchone() for _ in range(2)]
    if any(session != (connection.info.backend_pid, "on") for session in sessions):
        yield fatal(
            "the connection goes through a pooler, where session settings may not hold; "
            "give the server's own address as [database] url"
        )


def takes_writes(connection: Connection) -> Iterator[Problem]:
    """Requires a primary whose transactions may write."""
    row = connection.execute(
        "SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only')::boolean"
    ).fetchone()
    standby, read_only = row or (True, True)
    if standby:
        yield fatal("the server is a standby and accepts no writes; give the primary's address as [database] url")
    elif read_only:
        yield fatal(
            "the database is read-only; set default_transaction_read_only to off for it and for the role that rotates"
        )


def version_is_known(connection: Connection) -> Iterator[Problem]:
    """Requires a tested server version that has the fix that matters here."""
    yield from version_problems(connection.info.server_version)


def version_problems(number: int) -> Iterator[Problem]:
    """Yields the problems of a server version.

    Args:
        number: `server_version_num`, such as 160002 for 16.2.
    """
    major, minor = divmod(number, 10_000)
    if major < OLDEST_MAJOR:
        yield fatal(f"PostgreSQL {major} is too old; upgrade the server to {OLDEST_MAJOR} or later")
    elif major > NEWEST_MAJOR:
        yield warning(
            f"PostgreSQL {major} is newer than what this was tested with ({NEWEST_MAJOR}); rehearse on a copy first"
        )
    elif minor < FIXED_MINOR[major]:
        yield warning(
            f"PostgreSQL {major}.{minor} has defects in concurrent updates that {major}.{FIXED_MINOR[major]} fixes; "
            "update the server before you rotate"
        )


def transactions_are_read_committed(connection: Connection) -> Iterator[Problem]:
    """Warns of stricter isolation: such transactions fail when a row that they read was re-encrypted."""
    if connection.execute(_STRICT_ISOLATION).fetchone() == (True,):
        yield warning(
            "transactions run as REPEATABLE READ or SERIALIZABLE here, and may fail with SQLSTATE 40001 beside the "
            "re-encryption; check that the application retries them"
        )


def no_long_transaction(connection: Connection) -> Iterator[Problem]:
    """Warns of long transactions: an old snapshot blocks VACUUM, and the proof at the retirement."""
    for pid, name, seconds in connection.execute(_LONG_TRANSACTIONS, (LONG_SECONDS,)):
        yield warning(
            f"session {pid} ({name}) has had a transaction open for {_minutes(seconds)}, which keeps old rows; end it "
            "before you rotate"
        )


def no_prepared_transaction(connection: Connection) -> Iterator[Problem]:
    """Warns of prepared transactions, which hold locks and may bring old values in when they commit."""
    for gid, seconds in connection.execute(_PREPARED, (LONG_SECONDS,)):
        yield warning(
            f"the prepared transaction {gid} is {_minutes(seconds)} old and will block the retirement of the old key; "
            "COMMIT PREPARED or ROLLBACK PREPARED it"
        )


def no_slot_holds_snapshots(connection: Connection) -> Iterator[Problem]:
    """Warns of slots: one that nobody reads retains WAL; one with an xmin retains old rows."""
    for slot, active in connection.execute(_SLOTS):
        trouble = "holds back VACUUM" if active else "has no reader and retains all WAL that the rotation writes"
        yield warning(f"replication slot {slot} {trouble}; let its reader catch up, or drop it")


def standbys_are_known(connection: Connection) -> Iterator[Problem]:
    """Warns of standbys and subscribers, which must replay everything before a key is retired."""
    row = connection.execute("SELECT count(*) FROM pg_stat_replication").fetchone()
    standbys = cast("tuple[int]", row)[0]
    if standbys:
        yield warning(
            f"standbys or subscribers replicate from here ({standbys}): VACUUM can cancel their readers without "
            "hot_standby_feedback, and the old key is retired only when each has caught up; watch their lag"
        )
    for name, seconds in connection.execute(_LATE, (LATE_SECONDS,)):
        yield warning(
            f"standby {name} replays {_minutes(seconds)} late, and the old key is retired only after it; shorten "
            "recovery_min_apply_delay, or wait until it has caught up"
        )


def sessions_are_visible(connection: Connection) -> Iterator[Problem]:
    """Refuses hidden sessions and standbys, and warns where there may be some.

    The retirement must rule out old snapshots and replication lag.
    """
    sessions, roles, standbys = connection.execute(_HIDDEN).fetchone() or (0, "", 0)
    if sessions or standbys:
        whose = (
            f"{counted(int(str(sessions)), 'session')} of {roles}"
            if sessions
            else f"the position of {counted(int(str(standbys)), 'standby')}"
        )
        yield fatal(
            f"{whose} would be hidden from this role, so the old key could not be retired; GRANT pg_read_all_stats to "
            "the role that runs keyrotation"
        )
    elif connection.execute(_SEES_ALL).fetchone() != (True,):
        yield warning(
            "sessions of other roles and the lag of standbys are hidden from this role; GRANT pg_read_all_stats to "
            "the role that runs keyrotation"
        )


def _minutes(seconds: object) -> str:
    return f"{int(str(seconds)) // 60} min"


# Settings that our role may not see are missing from the view.
_SETTINGS = """
SELECT name, setting FROM pg_settings
WHERE name LIKE 'log\\_%' OR name LIKE 'auto\\_explain.%' OR name LIKE 'pgaudit.%'
"""


def no_ciphertext_is_logged(connection: Connection) -> Iterator[Problem]:
    """Warns of settings that log the parameters of statements."""
    settings = {str(name): str(value) for name, value in connection.execute(_SETTINGS)}
    if revealing := revealing_settings(settings):
        role = quoted(connection, connection.info.user)
        yield warning(
            f"the server's log would show ciphertext because of {', '.join(revealing)}; ALTER ROLE "
            f"{role} SET log_parameter_max_length = 0 (or the extension's own setting), or turn these off"
        )


def revealing_settings(settings: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the settings, as ``name = value``, that log statements with their parameters."""
    names: list[str] = []
    if settings.get("log_parameter_max_length", "-1") != "0":
        names += [name for name in ("log_statement",) if settings.get(name) in {"mod", "all"}]
        names += [
            name
            for name in ("log_min_duration_statement", "log_min_duration_sample")
            if settings.get(name, "-1") != "-1"
        ]
        names += [name for name in ("log_transaction_sample_rate",) if float(settings.get(name, "0")) > 0]
        names += [name for name in ("log_duration",) if settings.get(name) == "on" and "log_statement" in names]
    names += [name for name in ("log_parameter_max_length_on_error",) if settings.get(name, "0") != "0"]
    if settings.get("auto_explain.log_parameter_max_length", "-1") != "0":
        names += [name for name in ("auto_explain.log_min_duration",) if settings.get(name, "-1") != "-1"]
    names += [name for name in ("pgaudit.log_parameter",) if settings.get(name) == "on"]
    return tuple(f"{name} = {settings[name]}" for name in names)


_WAL = """
SELECT pg_size_bytes(current_setting('max_wal_size')), pg_size_bytes(current_setting('min_wal_size')),
       pg_size_bytes(current_setting('wal_segment_size')), has_function_privilege('pg_ls_waldir()', 'EXECUTE'),
       (SELECT current_setting('archive_mode') <> 'off' AND last_failed_time > coalesce(last_archived_time, '-infinity')
        FROM pg_stat_archiver),
       (SELECT coalesce(array_agg(slot_name::text ORDER BY slot_name), '{}') FROM pg_replication_slots WHERE NOT active)
"""

_WAL_FILES = "SELECT coalesce(sum(size), 0)::bigint FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'"

_STANDBYS = """
SELECT coalesce(nullif(application_name, ''), 'unnamed'), extract(epoch FROM replay_lag)::float8
FROM pg_stat_replication ORDER BY 1
"""


def environment(connection: Connection, tables: Sequence[EncryptedTable]) -> Environment:
    """Returns the disk, WAL and standbys around these tables now.

    Raises:
        PreflightError, BlockedError: a table cannot be read.
    """
    oids = [relation.oid for table in tables for relation in readable_tree(connection, table)]
    with heap_scan(connection, "the declared tables"):
        size = heap_and_toast_bytes(connection, oids)
    standbys = connection.execute(_STANDBYS).fetchall()
    return Environment(
        size,
        disk_of(connection, oids),
        _wal(connection),
        tuple(Standby(str(name), None if late is None else float(str(late))) for name, late in standbys),
        _prints_rows(connection),
    )


def too_small(connection: Connection, tables: Sequence[EncryptedTable]) -> Iterator[Problem]:
    """Refuses to start on a visible disk that is too small for the growth of the tables."""
    try:
        seen = environment(connection, tables)
    except (PreflightError, BlockedError):
        return  # another check reports a table that cannot be read
    if isinstance(seen.disk, Disk) and seen.disk.free_bytes < seen.growth_bytes:
        yield fatal(
            f"the disk of {seen.disk.directory} has {seen.disk.free_bytes / 2**20:,.0f} MiB free, and the tables grow "
            f"by about {seen.growth_bytes / 2**20:,.0f} MiB; free some space"
        )


def _wal(connection: Connection) -> Wal:
    ((size, ready, each, may_list, failing, slots),) = connection.execute(_WAL).fetchall()
    if may_list:
        ((exist,),) = connection.execute(_WAL_FILES).fetchall()
        ready = max(int(str(exist)), int(str(ready)))
    kept_by = ["archiving, whose last attempt failed"] if failing else []
    kept_by += [f"replication slot {slot}, which nobody reads" for slot in cast("list[str]", slots)]
    return Wal(int(str(size)), tuple(kept_by), int(str(ready)), int(str(each)))


def _prints_rows(connection: Connection) -> bool:
    row = connection.execute("SELECT current_setting('log_error_verbosity') <> 'terse'").fetchone()
    return row == (True,)
