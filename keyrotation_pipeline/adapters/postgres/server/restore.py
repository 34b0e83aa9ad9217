"""Runs pg_restore on an encrypted dump and reports what it could not restore.

Limits how long that takes, and each statement over what was restored: code of the dump may run in it.
"""

import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from threading import Event, Thread

import psycopg
from psycopg.conninfo import conninfo_to_dict

from keyrotation_pipeline.adapters.postgres.server.archive import (
    Archive,
    ArchiveEntry,
    run_on,
    shown,
    unreadable,
    use_list,
)
from keyrotation_pipeline.adapters.postgres.server.connection import connect
from keyrotation_pipeline.errors import KeyRotationError, RestoredQueryTimeoutError, RestoreTimeoutError

# How pg_restore names an entry that fails.
_ENTRY = re.compile(r"pg_restore: from TOC entry \d+; \d+ \d+ (.+)")
_ERROR = re.compile(r"pg_restore: error: ")
_IGNORED = re.compile(r"pg_restore: warning: errors ignored on restore: (\d+)")
_NAMED = r'"?[\w.()\[\], -]+"?'
# The rest of a server's message could quote a row; these name only objects and rights, never a value.
_REASON = re.compile(
    rf"(?:extension|type|collation|function|operator|language|relation|schema|role|access method|column) {_NAMED} "
    r'(?:for encoding "\w+" )?(?:does not exist|already exists|is not available)'
    r'|permission denied (?:for|to) [\w "]+|must be (?:superuser|owner|able) [\w "]+|[\w ]+ not supported in this build'
    r'|unrecognized (?:configuration )?parameter "[\w.]+"'
    rf"|(?:new row for relation|insert or update on table) {_NAMED} violates [a-z -]+ constraint {_NAMED}"
    rf"|(?:check|partition) constraint {_NAMED}(?: of relation {_NAMED})? is violated by some row"
    rf"|partition constraint of relation {_NAMED} is violated|could not create unique index {_NAMED}"
    rf'|duplicate key value violates unique constraint {_NAMED}|invalid byte sequence for encoding "\w+"'
    r'|(?:encoding|database locale|locale) "[\w.-]+" [a-z ]+(?:"[\w.-]+")?|out of shared memory|disk full'
    r"|empty range bound specified for partition|no space left on device",
    re.IGNORECASE,
)
# Before anything was restored there is no row to quote.
_BEFORE = re.compile(r"pg_restore: error: ((?:connection to server|unsupported version|could not execute query).*)")
# A dump may take longer than a recovery should, but an endless loop in it must be stopped.
LONGEST_RESTORE_SECONDS = 12 * 3600
_MOST_NAMED = 1000
_OPTIONS = (
    "--verbose",  # else it does not name the entry of an error
    "--no-owner",
    "--no-privileges",
    "--no-security-labels",
    "--no-tablespaces",
    "--no-password",
)


def restore(archive: Archive, url: str, wanted: Sequence[ArchiveEntry], *, longest_seconds: float) -> tuple[str, ...]:
    """Decrypts entries of a dump into the empty database at `url`; everything belongs to its role then.

    Args:
        longest_seconds: then pg_restore is killed. Its statements may continue on the server: the caller ends them,
            together with the database.

    Returns:
        A phrase for each entry that failed, without content of rows.

    Raises:
        RestoreTimeoutError: it took longer.
        DamagedBackupError, WrongRecipientError: it cannot be decrypted, or its content is not a dump.
    """
    # gpg reports only at its end whether its output was authentic, so the block draws no conclusions.
    database = str(conninfo_to_dict(url)["dbname"])
    with use_list(wanted) as (descriptor, listed), archive.key.decrypting(archive.name, archive.file) as plaintext:
        command = archive.programs.command("pg_restore", *_OPTIONS, listed, "--dbname", database)
        try:
            done = run_on(plaintext, command, archive.programs.environment(url), (descriptor,), longest_seconds)
        except subprocess.TimeoutExpired:
            raise RestoreTimeoutError(archive.name, longest_seconds) from None
    code, output = done.returncode, done.stderr.decode(errors="replace")
    if code and not _IGNORED.search(output):
        before = _BEFORE.search(output)
        raise unreadable(archive.name, shown(before[1]) if before else "")
    return failures_in(code, output)


def failures_in(code: int, output: str) -> tuple[str, ...]:
    """Returns a phrase for each error that pg_restore reports; at least one if it failed."""
    failures, entry = [], "an entry"
    for line in output.split("\n"):
        if found := _ENTRY.fullmatch(line):
            entry = shown(found[1])
        elif _ERROR.match(line):
            reason = _REASON.search(line)
            failures.append(f"{entry} ({shown(reason[0])})" if reason else entry)
    total = int(ignored[1]) if (ignored := _IGNORED.search(output)) else len(failures)
    more = max(total, len(failures), 1 if code else 0) - len(failures[:_MOST_NAMED])
    return (*failures[:_MOST_NAMED], *([f"{more} more"] if more else []))


_LONGEST_PAUSE_SECONDS = 30.0
_SHARE_OF_LIMIT = 0.1
# Code that runs as our role can end the watching session.
_FAILED_LOOKS = 3
_LONGEST_SECONDS = """
SELECT coalesce(max(extract(epoch FROM clock_timestamp() - query_start)), 0)::float8
FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


@contextmanager
def within_deadline(url: str, name: str, seconds: float, stop: Callable[[], None]) -> Iterator[None]:
    """Limits every statement on a server to `seconds` while the context lasts.

    Args:
        url: of the role that works there; statements of others are not visible.
        name: the dump's name, for the sentence.
        stop: ends the server.

    Raises:
        RestoredQueryTimeoutError: a statement took longer; takes precedence over errors that its end caused.
    """
    over, overtime = Event(), Event()
    watch = Thread(target=_watch, args=(url, seconds, over, overtime, stop), daemon=True)
    watch.start()
    try:
        yield
    except (psycopg.Error, KeyRotationError):
        if not overtime.is_set():
            raise
    finally:
        over.set()
        watch.join()
    if overtime.is_set():
        raise RestoredQueryTimeoutError(name, seconds)


def _watch(url: str, seconds: float, over: Event, overtime: Event, stop: Callable[[], None]) -> None:
    failed = 0
    while not over.wait(min(_LONGEST_PAUSE_SECONDS, seconds * _SHARE_OF_LIMIT)):
        longest = _longest(url)
        failed = failed + 1 if longest is None else 0
        if failed == _FAILED_LOOKS or (longest is not None and longest > seconds):
            overtime.set()
            stop()
            return


def _longest(url: str) -> float | None:
    """Returns how many seconds the longest present statement has taken; None: statements are hidden."""
    try:
        with closing(connect(url)) as connection:
            ((found,),) = connection.execute(_LONGEST_SECONDS).fetchall()
    except (psycopg.Error, KeyRotationError):
        return None
    return found if isinstance(found, float) else None
