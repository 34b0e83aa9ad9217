"""gpg in the middle of a pipe: what is too large for memory, and must not be on a disk in plain."""

import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

from keyrotation_pipeline.adapters.openpgp.certificates import Certificate, GnuPG
from keyrotation_pipeline.errors import OpenPGPError

_KEPT_STATUS_BYTES = 64 * 1024


@contextmanager
def encrypting(gpg: GnuPG, plaintext: IO[bytes], recipients: Sequence[Certificate]) -> Iterator[IO[bytes]]:
    """The encrypted form of a stream, as a stream; complete only if the context ends well.

    Args:
        plaintext: an open pipe or file, which gpg reads itself.

    Raises:
        OpenPGPError: no recipient, one who is expired, revoked or has no key for encryption, or gpg ends badly.
    """
    if not recipients:
        raise OpenPGPError("there is no recipient to encrypt to; name one under [backup] recipients")
    for recipient in recipients:
        recipient.require_recipient()
    with gpg.keyring(recipients) as ring:
        named = [option for each in recipients for option in ("--recipient", each.fingerprint)]
        # Dumps are compressed already.
        command = ring.make_args(["--encrypt", "--compress-algo=none", *named], None)
        with streaming(command, plaintext, ring.env or {}) as process:
            yield process.output
    if process.exit_code:
        raise OpenPGPError("gpg refuses to encrypt the dump; check the certificates of the recipients, and the disk")


class Streaming:
    """A gpg process: its output while it runs; exit code and status lines when it has ended."""

    def __init__(self, output: IO[bytes]) -> None:
        self.output = output
        self.exit_code = -1
        self.status = ""


@contextmanager
def streaming(
    command: Sequence[str], source: IO[bytes] | int, environment: Mapping[str, str], pass_fds: Sequence[int] = ()
) -> Iterator[Streaming]:
    """Run gpg over `source`; when the block ends the rest of its output is thrown away and it is waited for."""
    with (
        tempfile.TemporaryFile() as told,
        subprocess.Popen(  # noqa: S603  arguments of our own
            list(command), stdin=source, stdout=subprocess.PIPE, stderr=told, env=dict(environment), pass_fds=pass_fds
        ) as process,
    ):
        if process.stdout is None:  # pragma: no cover  for the type checker
            raise OpenPGPError("gpg has no output; run it again")
        running = Streaming(process.stdout)
        try:
            yield running
        except BaseException:
            process.kill()
            raise
        while process.stdout.read(1 << 20):
            pass
        running.exit_code = process.wait()
        told.seek(0)
        running.status = told.read(_KEPT_STATUS_BYTES).decode("latin-1")
