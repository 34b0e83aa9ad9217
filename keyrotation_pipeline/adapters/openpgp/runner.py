"""gpg as a child process. What it says for programs comes by a descriptor of its own, and in lines of bytes.

What gpg prints for people is thrown away: it holds user ids, which anybody may write as they like. Its status lines
(doc/DETAILS of GnuPG) hold them too, but there every byte below 32 is escaped: so a line ends at a newline byte and
nowhere else. Python's `splitlines` would also cut inside of a user id.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from threading import Thread
from typing import IO

from keyrotation_pipeline.adapters.child_process import die_with_parent
from keyrotation_pipeline.errors import OpenPGPError

# No settings and no terminal of the person who runs this.
_OPTIONS = ("--batch", "--no-tty", "--no-options", "--exit-on-status-write-error")
# The environment of the caller may hold keys; gpg gets none of it. C: no translations.
_ENVIRONMENT = {"LC_ALL": "C"}
_PREFIX = b"[GNUPG:] "
# A signature or a message gives some dozen lines.
_LARGEST_STATUS_BYTES = 1 << 20
# More than gpg takes for a certificate: its keyring, a copy of that, and locks.
_ROOM_BYTES = 1 << 18


def gpg_binary() -> str:
    """Path of gpg.

    Raises:
        OpenPGPError: it is not installed.
    """
    if (found := shutil.which("gpg")) is None:
        raise OpenPGPError("gpg is not installed; install GnuPG 2.2 or later (on Debian: apt install gpg gpg-agent)")
    return found


@dataclass(frozen=True, slots=True)
class StatusLine:
    """One status line: its keyword and what follows; a user id at the end is cut at its spaces, too."""

    keyword: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """How a gpg process ended.

    Args:
        output: what it wrote to its standard output; empty where that was read as a stream.
    """

    exit_code: int
    lines: tuple[StatusLine, ...]
    output: bytes = b""

    def all(self, keyword: str) -> list[tuple[str, ...]]:
        """Arguments of each line with this keyword, in order."""
        return [line.arguments for line in self.lines if line.keyword == keyword]

    def says(self, keyword: str) -> bool:
        """Whether there is such a line."""
        return bool(self.all(keyword))


def run(home: Path, arguments: Sequence[str], stdin: bytes = b"") -> Status:
    """Run gpg to its end.

    Args:
        home: its GnuPG home.
        arguments: command and options.
        stdin: given to it through a pipe.

    Raises:
        OpenPGPError: gpg is missing, cannot be started, or its status lines are not as gpg writes them.
    """
    with _started(home, arguments, subprocess.PIPE) as (process, status):
        output, _ = process.communicate(stdin)
    return Status(process.returncode, _parsed(status), output)


def require_room(home: Path) -> None:
    """For when gpg has failed: of a full disk its status says different things, by where it ran out, or nothing.

    Raises:
        OpenPGPError: what gpg writes of one certificate has no room in `home`.
    """
    try:
        (home / "room").write_bytes(bytes(_ROOM_BYTES))
    except OSError as error:
        raise OpenPGPError(f"gpg cannot write in {home} ({error.strerror}); mend that and run this again") from None


class Stream:
    """A gpg process in the middle of a pipe: its output while it runs; its status when it has ended."""

    def __init__(self, output: IO[bytes]) -> None:
        self.output = output
        self.status = Status(-1, ())


@contextmanager
def streaming(
    home: Path,
    arguments: Sequence[str],
    source: IO[bytes],
    *,
    pass_fds: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Stream]:
    """Run gpg over a stream; when the block ends the rest of its output is thrown away and it is waited for.

    Args:
        source: an open pipe or file, which gpg reads itself.
        pass_fds: further descriptors that it may use.
        environment: variables that it gets besides ours.

    Raises:
        OpenPGPError: as `run`.
    """
    with _started(home, arguments, source, pass_fds, environment) as (process, status):
        if process.stdout is None:  # pragma: no cover  for the type checker
            raise OpenPGPError("gpg has no output; run it again")
        stream = Stream(process.stdout)
        yield stream
        while process.stdout.read(1 << 20):
            pass
    stream.status = Status(process.returncode, _parsed(status))


@contextmanager
def _started(
    home: Path,
    arguments: Sequence[str],
    stdin: IO[bytes] | int,
    pass_fds: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[tuple["subprocess.Popen[bytes]", bytearray]]:
    """A gpg process and its status bytes, complete when the block ends; killed where the block fails."""
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
            raise OpenPGPError(f"gpg cannot be started ({error.strerror}); mend that and run this again") from None
        finally:
            os.close(writing)
        told = bytearray()
        reader = Thread(target=_collect, args=(status, told), daemon=True)
        reader.start()
        try:
            with process:
                try:
                    yield process, told
                except BaseException:
                    process.kill()
                    raise
        finally:
            reader.join()


def _collect(status: FileIO, told: bytearray) -> None:
    """Read to the end, so that gpg never waits for us; keep what a gpg that is well would say, and a little more."""
    while chunk := status.read(1 << 16):
        if len(told) <= _LARGEST_STATUS_BYTES:
            told += chunk


def _parsed(told: bytearray) -> tuple[StatusLine, ...]:
    # After the last newline there is nothing, or the beginning of what a killed gpg was about to say.
    lines = bytes(told).split(b"\n")[:-1]
    if len(told) > _LARGEST_STATUS_BYTES or not all(line.startswith(_PREFIX) for line in lines):
        raise OpenPGPError("gpg's status is not as gpg writes it; see which gpg comes first in PATH")
    words = (line.removeprefix(_PREFIX).decode("ascii", "backslashreplace").split(" ") for line in lines)
    return tuple(StatusLine(keyword, tuple(arguments)) for keyword, *arguments in words)
