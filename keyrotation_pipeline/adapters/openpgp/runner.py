"""Runs gpg as a child process and reads its machine-readable status from a separate descriptor, as bytes.

What gpg prints for people is discarded: it holds user ids, which anybody may choose freely. Its status lines
(doc/DETAILS of GnuPG) hold them too, but with every byte below 32 escaped: a line ends at a newline byte and nowhere
else. Python's `splitlines` would also split inside a user id.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from threading import Condition, Thread
from typing import IO, cast

from keyrotation_pipeline.adapters.process import die_with_parent
from keyrotation_pipeline.errors import OpenPGPError

# Neither the user's gpg settings nor the terminal.
_OPTIONS = ("--batch", "--no-tty", "--no-options", "--exit-on-status-write-error")
# The caller's environment may hold keys, so gpg gets none of it. C: no translations.
_ENVIRONMENT = {"LC_ALL": "C"}
_PREFIX = b"[GNUPG:] "
# A signature or a message produces some dozen lines.
_LARGEST_STATUS_BYTES = 1 << 20
# More than gpg needs for a certificate: its keyring, a copy of that, and locks.
_ROOM_BYTES = 1 << 18


def gpg_binary() -> str:
    """Returns the path of gpg.

    Raises:
        OpenPGPError: it is not installed.
    """
    if (found := shutil.which("gpg")) is None:
        raise OpenPGPError("gpg is not installed; install GnuPG 2.2 or later (on Debian: apt install gpg gpg-agent)")
    return found


@dataclass(frozen=True, slots=True)
class StatusLine:
    """One status line: its keyword and arguments; a user id at the end is also split at its spaces."""

    keyword: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """How a gpg process ended.

    Args:
        output: what it wrote to its standard output; empty if that was read as a stream.
    """

    exit_code: int
    lines: tuple[StatusLine, ...]
    output: bytes = b""

    def all(self, keyword: str) -> list[tuple[str, ...]]:
        """Returns the arguments of each line with this keyword, in order."""
        return [line.arguments for line in self.lines if line.keyword == keyword]

    def says(self, keyword: str) -> bool:
        """Returns whether there is such a line."""
        return bool(self.all(keyword))


def run(home: Path, arguments: Sequence[str], stdin: bytes = b"") -> Status:
    """Runs gpg to its end.

    Args:
        home: its GnuPG home.
        arguments: command and options.
        stdin: given to it through a pipe.

    Raises:
        OpenPGPError: gpg is missing, cannot be started, or its status lines are malformed.
    """
    with _started(home, arguments, subprocess.PIPE) as (process, status):
        output, _ = process.communicate(stdin)
    return Status(process.returncode, parse_status(status.collected), output)


def require_room(home: Path) -> None:
    """Explains a failure of gpg by a full disk, which its status reports inconsistently or not at all.

    Raises:
        OpenPGPError: there is no room in `home` for what gpg writes for one certificate.
    """
    try:
        (home / "room").write_bytes(bytes(_ROOM_BYTES))
    except OSError as error:
        raise OpenPGPError(f"gpg cannot write in {home} ({error.strerror}); fix that and run this again") from None


class _StatusReader(Thread):
    """Reads to the end, so that gpg never blocks; stores what a well-behaved gpg would say, and a little more."""

    def __init__(self, source: FileIO) -> None:
        super().__init__(daemon=True)
        self.collected = bytearray()
        self._source = source
        self._ended = False
        self._changed = Condition()

    def run(self) -> None:
        """Collects; see `Thread.run`."""
        try:
            while chunk := self._source.read(1 << 16):
                with self._changed:
                    if len(self.collected) <= _LARGEST_STATUS_BYTES:
                        self.collected += chunk
                    self._changed.notify_all()
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def until(self, keyword: str) -> bytes:
        """Waits for a whole line with this keyword, or for the end; returns what was read so far."""
        line = b"\n" + _PREFIX + keyword.encode() + b" "

        def is_there() -> bool:
            said = b"\n" + bytes(self.collected)
            return self._ended or (line in said and b"\n" in said[said.index(line) + 1 :])

        with self._changed:
            self._changed.wait_for(is_there)
            return bytes(self.collected)


class Stream:
    """A running gpg process in a pipe: its output now, its status when it has ended."""

    def __init__(self, output: IO[bytes], reader: _StatusReader) -> None:
        self.output = output
        self.status = Status(-1, ())
        self._reader = reader

    def status_until(self, keyword: str) -> Status:
        """Waits until gpg says `keyword`, which must be before it writes any output, or ends.

        Raises:
            OpenPGPError: its status lines are malformed.
        """
        return Status(-1, parse_status(self._reader.until(keyword)))


@contextmanager
def streaming(
    home: Path,
    arguments: Sequence[str],
    source: IO[bytes],
    *,
    pass_fds: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Stream]:
    """Runs gpg over a stream; when the block ends, discards the rest of its output and waits for it.

    Args:
        source: an open pipe or file, which gpg reads itself.
        pass_fds: additional descriptors that it may use.
        environment: variables in addition to ours.

    Raises:
        OpenPGPError: as `run`.
    """
    with _started(home, arguments, source, pass_fds, environment) as (process, status):
        output = cast("IO[bytes]", process.stdout)  # it is a pipe
        stream = Stream(output, status)
        yield stream
        while output.read(1 << 20):
            pass
    stream.status = Status(process.returncode, parse_status(status.collected))


@contextmanager
def _started(
    home: Path,
    arguments: Sequence[str],
    stdin: IO[bytes] | int,
    pass_fds: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[tuple["subprocess.Popen[bytes]", _StatusReader]]:
    """Yields a gpg process and its status, complete when the block ends; kills it if the block fails."""
    reading, writing = os.pipe()
    with FileIO(reading) as status:
        command = [gpg_binary(), "--homedir", str(home), *_OPTIONS, "--status-fd", str(writing), *arguments]
        try:
            process = subprocess.Popen(  # noqa: S603  arguments of our own
                die_with_parent(command),
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**_ENVIRONMENT, **(environment or {})},
                pass_fds=(writing, *pass_fds),
            )
        except OSError as error:
            raise OpenPGPError(f"gpg cannot be started ({error.strerror}); fix that and run this again") from None
        finally:
            os.close(writing)
        reader = _StatusReader(status)
        reader.start()
        try:
            with process:
                try:
                    yield process, reader
                except BaseException:
                    process.kill()
                    raise
        finally:
            reader.join()


def parse_status(collected: bytes | bytearray) -> tuple[StatusLine, ...]:
    """Splits what gpg wrote to its status descriptor into lines.

    Raises:
        OpenPGPError: anything but whole status lines, or too much.
    """
    # After the last newline there is nothing, or the incomplete line of a killed gpg.
    lines = bytes(collected).split(b"\n")[:-1]
    if len(collected) > _LARGEST_STATUS_BYTES or not all(line.startswith(_PREFIX) for line in lines):
        raise OpenPGPError("gpg's status is malformed; check which gpg comes first in PATH")
    words = (line.removeprefix(_PREFIX).decode("ascii", "backslashreplace").split(" ") for line in lines)
    return tuple(StatusLine(keyword, tuple(arguments)) for keyword, *arguments in words)
