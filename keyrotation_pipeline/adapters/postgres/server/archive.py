"""Reads an encrypted dump's table of contents, and the SQL in it, without its rows: the beginning is decrypted alone.

So nothing that is read here is known to be authentic before the whole dump was decrypted.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from keyrotation_pipeline.adapters.postgres.server.dump_text import Entry, decoded
from keyrotation_pipeline.adapters.postgres.server.programs import Programs
from keyrotation_pipeline.adapters.process import die_with_parent
from keyrotation_pipeline.errors import DamagedBackupError
from keyrotation_pipeline.model.backups import DatabaseCopy
from keyrotation_pipeline.model.visible_text import visible
from keyrotation_pipeline.ports.backups import RecoveryKey

# A line of `pg_restore --list`: number, two oids, and kind, schema (or -), name, owner. Newlines in names are blanks.
_LISTED = re.compile(r"(\d+); \d+ \d+ (.+)")
_NEEDS = re.compile(r";\s+depends on:((?: \d+)+)")
# What has no SQL, or would need the rows: a text without them is like one of `pg_dump --schema-only`.
_ROWS = ("TABLE DATA ", "BLOBS ", "MATERIALIZED VIEW DATA ", "STATISTICS DATA ")
_LONGEST = 160


@dataclass(frozen=True, slots=True)
class ArchiveEntry:
    """An entry of a dump's table of contents.

    Args:
        text: kind, schema (or ``-``), name and owner, a blank between.
        needs: numbers of the entries that it depends on.
    """

    number: int
    text: str
    needs: tuple[int, ...] = ()

    @property
    def holds_rows(self) -> bool:
        """Whether it restores rows or large objects, and no definition."""
        return self.text.startswith(_ROWS)

    @property
    def shown(self) -> str:
        """Its text for a message."""
        return shown(self.text)


@dataclass(frozen=True, slots=True)
class Archive:
    """An encrypted dump in pg_dump's custom format, and what decrypts it."""

    programs: Programs
    dump: DatabaseCopy
    file: Path
    key: RecoveryKey

    @property
    def name(self) -> str:
        """The dump's name, for messages."""
        return self.dump.file.name

    def entries(self) -> tuple[ArchiveEntry, ...]:
        """Returns the table of contents.

        Raises:
            DamagedBackupError, WrongRecipientError: it cannot be decrypted, or its content is not a dump.
        """
        printed = self._printed("--list", "--create", "--verbose")
        encoding = f"SET client_encoding = '{self.dump.definition.encoding}';\n".encode()
        return tuple(_entries(decoded(encoding + printed).split("\n")))

    def sql(self, wanted: Iterable[ArchiveEntry], *options: str) -> str:
        """Returns the SQL of entries, with owners and privileges, without rows; raises as `entries`.

        Args:
            options: additional ones; ``--create`` adds what creates the database.
        """
        with use_list(each for each in wanted if not each.holds_rows) as (descriptor, listed):
            always = ("--no-tablespaces", listed, "--file=-")
            return decoded(self._printed(*options, *always, descriptors=(descriptor,)))

    def _printed(self, *options: str, descriptors: Sequence[int] = ()) -> bytes:
        """Returns what pg_restore prints, for which it must need no more than the table of contents."""
        try:
            with self.key.decrypting(self.name, self.file) as plaintext:
                command = self.programs.command("pg_restore", *options)
                done = run_on(plaintext, command, self.programs.environment(), descriptors)
                if done.returncode == 0:
                    raise _ReadEnoughError(done.stdout)  # noqa: TRY301  without an error the rest would be decrypted
        except _ReadEnoughError as enough:
            return enough.output
        raise unreadable(self.name)


@contextmanager
def use_list(entries: Iterable[ArchiveEntry]) -> Iterator[tuple[int, str]]:
    """Yields a descriptor, which pg_restore has to get, and its option by which it takes these entries alone."""
    with tempfile.TemporaryFile() as listed:
        listed.write(b"".join(b"%d;\n" % each.number for each in entries))
        listed.seek(0)
        yield listed.fileno(), f"--use-list=/dev/fd/{listed.fileno()}"


class _ReadEnoughError(Exception):
    """The beginning of a dump was read; the rest need not be decrypted."""

    def __init__(self, output: bytes) -> None:
        super().__init__()
        self.output = output


def key_of(entry: Entry) -> str:
    """Returns the text that an entry has in the table of contents."""
    owner = "" if entry.owner == "-" else entry.owner
    return f"{entry.kind} {entry.schema} {entry.name} {owner}"


def shown(text: str) -> str:
    """Returns a text from outside as part of a message: short, and without hidden characters."""
    printable = visible(text.strip())
    return printable if len(printable) <= _LONGEST else f"{printable[:_LONGEST]}…"


def unreadable(name: str, why: str = "") -> DamagedBackupError:
    """Returns the error for a dump that pg_restore does not read to its end.

    Args:
        why: pg_restore's own words, if they show nothing of a row.
    """
    return DamagedBackupError(
        f"{name} decrypts, but pg_restore cannot restore it{f' ({why})' if why else ''}; use another copy or an "
        "older backup, and a pg_restore as new as the pg_dump that wrote it"
    )


def _entries(lines: Iterable[str]) -> Iterator[ArchiveEntry]:
    last: ArchiveEntry | None = None
    for line in lines:
        if found := _LISTED.fullmatch(line):
            if last is not None:
                yield last
            last = ArchiveEntry(int(found[1]), found[2])
        elif last is not None and (needs := _NEEDS.fullmatch(line)):
            last = ArchiveEntry(last.number, last.text, tuple(map(int, needs[1].split())))
    if last is not None:
        yield last


def run_on(
    plaintext: IO[bytes],
    command: Sequence[str],
    environment: dict[str, str],
    descriptors: Sequence[int] = (),
    longest_seconds: float | None = None,
) -> "subprocess.CompletedProcess[bytes]":
    """Runs a program that reads a dump; what it prints stays in memory, since a message can quote a row.

    Raises:
        subprocess.TimeoutExpired: it took longer, and was killed.
    """
    return subprocess.run(  # noqa: S603  arguments of our own
        die_with_parent(command),
        stdin=plaintext,
        capture_output=True,
        check=False,
        env=environment,
        pass_fds=descriptors,
        timeout=longest_seconds,
    )
