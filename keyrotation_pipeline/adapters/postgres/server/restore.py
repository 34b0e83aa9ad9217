"""Restores an encrypted dump with pg_restore, within a time limit, and reports what could not be restored."""

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import IO

import psycopg
from psycopg.conninfo import conninfo_to_dict

from keyrotation_pipeline.adapters.postgres.server.connection import connect
from keyrotation_pipeline.adapters.postgres.server.programs import Programs
from keyrotation_pipeline.adapters.process import die_with_parent
from keyrotation_pipeline.errors import (
    DamagedBackupError,
    KeyRotationError,
    RestoredQueryTimeoutError,
    RestoreTimeoutError,
)
from keyrotation_pipeline.model.visible_text import visible
from keyrotation_pipeline.ports.backups import RecoveryKey

# A line of `pg_restore --list`: number, two oids, and kind, schema (or -), name, owner. Newlines in names are blanks.
_LISTED = re.compile(r"(\d+); \d+ \d+ (.+)")
# How pg_restore names an entry that fails.
_ENTRY = re.compile(r"pg_restore: from TOC entry \d+; \d+ \d+ (.+)")
_ERROR = re.compile(r"pg_restore: error: ")
_IGNORED = re.compile(r"pg_restore: warning: errors ignored on restore: (\d+)")
# The rest of a server's message could quote a row; these name only the missing object or right.
_REASON = re.compile(
    r'(?:extension|type|collation|function|operator|language|relation|schema|role|access method) "?[\w.()\[\], -]+"? '
    r'(?:for encoding "\w+" )?(?:does not exist|already exists|is not available)'
    r'|permission denied (?:for|to) [\w "]+|must be (?:superuser|owner|able) [\w "]+|[\w ]+ not supported in this build'
    r'|unrecognized (?:configuration )?parameter "[\w.]+"'
)
# A dump may take longer than a recovery should, but an endless loop in it must be stopped.
LONGEST_RESTORE_SECONDS = 12 * 3600
_MOST_NAMED = 1000
_LONGEST = 160


@dataclass(frozen=True, slots=True)
class ArchiveEntry:
    """An entry of a dump's table of contents; `text` is kind, schema (or ``-``), name and owner, a blank between."""

    number: int
    text: str


@dataclass(frozen=True, slots=True)
class Restored:
    """The result of a restore: a phrase for each entry that failed, and for each that was left out on purpose."""

    failures: tuple[str, ...]
    left_out: tuple[str, ...]


class _ReadEnoughError(Exception):
    """The beginning of a dump was read; the rest need not be decrypted."""

    def __init__(self, output: str) -> None:
        super().__init__()
        self.output = output


def is_comment_on_extension(entry: ArchiveEntry) -> bool:
    """Returns whether only the extension's owner could restore it; its text is the extension's own."""
    return entry.text.startswith("COMMENT - EXTENSION ")


def entries(programs: Programs, name: str, dump: Path, key: RecoveryKey) -> tuple[ArchiveEntry, ...]:
    """Reads a dump's table of contents, decrypting only the beginning: so it is not known to be authentic.

    Raises:
        DamagedBackupError, WrongRecipientError: it cannot be decrypted, or its content is not a dump.
    """
    found = map(_LISTED.fullmatch, beginning(programs, name, dump, key, "--list").split("\n"))
    return tuple(ArchiveEntry(int(line[1]), line[2]) for line in found if line)


def beginning(programs: Programs, name: str, dump: Path, key: RecoveryKey, *options: str) -> str:
    """Returns what pg_restore prints with `options`, for which it must need no more than a dump's table of contents.

    Raises:
        As `entries`.
    """
    try:
        with key.decrypting(name, dump) as plaintext:
            _read_beginning(programs.command("pg_restore", *options), plaintext, programs.environment())
    except _ReadEnoughError as enough:
        return enough.output
    raise _unreadable(name)


def _read_beginning(command: Sequence[str], plaintext: IO[bytes], environment: dict[str, str]) -> None:
    done = _run(command, plaintext, environment)
    if done.returncode == 0:
        raise _ReadEnoughError(done.stdout.decode(errors="replace"))


def restore(
    programs: Programs,
    url: str,
    name: str,
    dump: Path,
    key: RecoveryKey,
    listed: Sequence[ArchiveEntry],
    is_left_out: Callable[[ArchiveEntry], bool] = is_comment_on_extension,
    *,
    longest_seconds: float,
) -> Restored:
    """Decrypts a dump into the empty database at `url`, without owners, privileges, labels and tablespaces.

    Args:
        listed: its table of contents.
        longest_seconds: then pg_restore is killed. Its statements may continue on the server: the caller ends them,
            together with the database.

    Raises:
        RestoreTimeoutError: it took longer.
        DamagedBackupError, WrongRecipientError: it cannot be decrypted, or its content is not a dump.
    """
    # gpg reports only at its end whether its output was authentic, so the block draws no conclusions.
    with tempfile.TemporaryFile() as wanted, key.decrypting(name, dump) as plaintext:
        wanted.write(b"".join(b"%d;\n" % each.number for each in listed if not is_left_out(each)))
        wanted.seek(0)
        try:
            code, output = _pg_restore(programs, url, wanted, plaintext, longest_seconds)
        except subprocess.TimeoutExpired:
            raise RestoreTimeoutError(name, longest_seconds) from None
    if code and not _IGNORED.search(output):
        raise _unreadable(name)
    left_out = tuple(_shown(each.text) for each in listed if is_left_out(each) and not _is_small(each))
    return Restored(_failures(code, output), left_out)


def _is_small(entry: ArchiveEntry) -> bool:
    """Returns whether it need not be reported: a comment, or a schema that exists already."""
    return entry.text.startswith(("COMMENT ", "SCHEMA "))


def _pg_restore(
    programs: Programs, url: str, wanted: IO[bytes], plaintext: IO[bytes], longest_seconds: float
) -> tuple[int, str]:
    database = str(conninfo_to_dict(url)["dbname"])
    # It names the entry of an error only in verbose mode.
    options = (
        "--verbose",
        "--no-owner",
        "--no-privileges",
        "--no-security-labels",
        "--no-tablespaces",
        "--no-password",
    )
    command = programs.command("pg_restore", *options, f"--use-list=/dev/fd/{wanted.fileno()}", "--dbname", database)
    done = _run(command, plaintext, programs.environment(url), (wanted.fileno(),), longest_seconds)
    return done.returncode, done.stderr.decode(errors="replace")


def _run(
    command: Sequence[str],
    plaintext: IO[bytes],
    environment: dict[str, str],
    descriptors: Sequence[int] = (),
    longest_seconds: float | None = None,
) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(  # noqa: S603  arguments of our own
        die_with_parent(command),
        stdin=plaintext,
        capture_output=True,
        check=False,
        env=environment,
        pass_fds=descriptors,
        timeout=longest_seconds,
    )


def _failures(code: int, output: str) -> tuple[str, ...]:
    """Returns a phrase for each error that pg_restore reports; at least one if it failed."""
    failures, entry = [], "an entry"
    for line in output.split("\n"):
        if found := _ENTRY.fullmatch(line):
            entry = _shown(found[1])
        elif _ERROR.match(line):
            reason = _REASON.search(line)
            failures.append(f"{entry} ({_shown(reason[0])})" if reason else entry)
    total = int(ignored[1]) if (ignored := _IGNORED.search(output)) else len(failures)
    more = max(total, len(failures), 1 if code else 0) - len(failures[:_MOST_NAMED])
    return (*failures[:_MOST_NAMED], *([f"{more} more"] if more else []))


def _shown(text: str) -> str:
    printable = visible(text.strip())
    return printable if len(printable) <= _LONGEST else f"{printable[:_LONGEST]}…"


def _unreadable(name: str) -> DamagedBackupError:
    return DamagedBackupError(
        f"{name} decrypts, but pg_restore cannot read it; use another copy or an older backup, and a pg_restore "
        "that is not older than the pg_dump that wrote it"
    )


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
