"""gpg with a home of its own: reads certificates, encrypts to them, and caches what gpg answered."""

import shutil
import tempfile
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Generic, TypeVar

from keyrotation_pipeline.adapters.openpgp.certificates import Certificate, listed_certificate, listing
from keyrotation_pipeline.adapters.openpgp.runner import Status, gpg_binary, require_room, run, streaming
from keyrotation_pipeline.errors import OpenPGPError
from keyrotation_pipeline.ports.clock import Clock

# The dates are what gpg lists. Should it judge by one that it does not list, the answer is wrong for so long at most.
LONGEST = timedelta(minutes=1)

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class _Kept(Generic[Answer]):
    answer: Answer
    since: datetime
    until: datetime

    def holds(self, now: datetime) -> bool:
        return self.since <= now < self.until


class Memory(Generic[Answer]):
    """Answers of gpg, each for as long as it cannot have changed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: dict[Hashable, _Kept[Answer]] = {}

    def answer(self, question: Hashable, ask: Callable[[], tuple[Answer, Iterable[datetime]]]) -> Answer:
        """The answer to a question: a remembered one, or a new one.

        Args:
            question: everything that the answer follows from, the time aside.
            ask: gives the answer and the dates on which something in it expires; what it raises is passed on.
        """
        now = self._clock.now()
        self._kept = {each: kept for each, kept in self._kept.items() if kept.holds(now)}
        if question in self._kept:
            return self._kept[question].answer
        answer, dates = ask()
        # gpg counts whole seconds, and what expires in this one is still valid: such an answer is not kept.
        this_second = now.replace(microsecond=0)
        until = min((date for date in dates if date >= this_second), default=now + LONGEST)
        self._kept[question] = _Kept(answer, now, min(until, now + LONGEST))
        return answer


# No agent (its socket's path has at most 107 characters), no network, no web of trust.
_OPTIONS = (
    "--no-autostart",
    "--no-auto-key-locate",
    "--no-auto-key-retrieve",
    "--no-auto-check-trustdb",
    "--trust-model=always",
)
_ABANDONED_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Keyring:
    """A gpg that knows exactly the certificates that it was made of.

    Args:
        at: what time it believes to be; None: the present.
    """

    home: Path
    at: datetime | None = None

    def run(self, *arguments: str, stdin: bytes = b"") -> Status:
        """See `runner.run`."""
        clock = () if self.at is None else ("--faked-system-time", f"{self.at.astimezone(UTC):%Y%m%dT%H%M%S}!")
        return run(self.home, [*_OPTIONS, *clock, *arguments], stdin)

    def certificate(self, fingerprint: str) -> Certificate:
        """One of them as it stands now, made of everything that was imported of it."""
        shown = self.run("--with-colons", "--with-fingerprint", "--list-keys", fingerprint)
        return listed_certificate(Path(f"of {fingerprint[-16:]}"), b"", listing(shown.output))


class GnuPG:
    """gpg with a home of our own.

    Args:
        home: created when needed, mode 0700, a path of any length; holds public certificates only, and only while
            they are used.
        clock: by which what was read of a certificate is judged again.
    """

    def __init__(self, home: Path, clock: Clock) -> None:
        self._home = home
        self.clock = clock
        self._read: Memory[Certificate] = Memory(clock)

    @contextmanager
    def keyring(self, certificates: Sequence[Certificate] = (), at: datetime | None = None) -> Iterator[Keyring]:
        """A gpg that knows exactly these certificates, and believes that it is `at`.

        Raises:
            OpenPGPError: gpg is missing or cannot work, or refuses a certificate.
        """
        directory = self._new_directory()
        try:
            ring = Keyring(directory, at)
            for certificate in certificates:
                _import(ring, certificate)
            yield ring
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _new_directory(self) -> Path:
        binary = gpg_binary()
        try:
            self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory = Path(tempfile.mkdtemp(dir=self._home, prefix="ring-"))
            self._remove_abandoned(directory)
        except OSError as error:
            raise OpenPGPError(
                f"gpg ({binary}) cannot work in {self._home} ({error.strerror}); mend that and run this again"
            ) from None
        return directory

    def _remove_abandoned(self, newest: Path) -> None:
        """Remove the rings of processes that were killed."""
        now = newest.stat().st_mtime
        for ring in self._home.glob("ring-*"):
            # Others come and go meanwhile.
            with suppress(FileNotFoundError):
                if now - ring.stat().st_mtime > _ABANDONED_SECONDS:
                    shutil.rmtree(ring, ignore_errors=True)

    def read_certificate(self, path: Path) -> Certificate:
        """Read one public certificate, armored or binary.

        Raises:
            OpenPGPError: no such file, not a certificate, several of them, a secret key, or a user id that hides text.
        """
        try:
            content = path.read_bytes()
        except OSError:
            raise OpenPGPError(
                f"certificate {path} cannot be read; export it there with `gpg --export --armor`"
            ) from None
        return self.certificate(content, path)

    def certificate(self, content: bytes, path: Path) -> Certificate:
        """One public certificate from its bytes.

        Args:
            path: where it is from, for messages.

        Raises:
            OpenPGPError: not a certificate, several of them, a secret key, or a user id that hides text.
        """
        certificate = self._read.answer(content, lambda: self._shown(content, path))
        return replace(certificate, path=path)

    def _shown(self, content: bytes, path: Path) -> tuple[Certificate, Sequence[datetime]]:
        with self.keyring() as ring:
            shown = ring.run("--with-colons", "--with-fingerprint", "--show-keys", stdin=content)
        lines = listing(shown.output)
        kinds = [line[0] for line in lines]
        if b"sec" in kinds:
            raise OpenPGPError(
                f"{path} holds a secret key; export the public certificate alone with `gpg --export --armor`"
            )
        if kinds.count(b"pub") != 1:
            reason = "holds several certificates" if b"pub" in kinds else "is not an OpenPGP certificate"
            raise OpenPGPError(f"{path} {reason}; export exactly one with `gpg --export --armor FINGERPRINT`")
        certificate = listed_certificate(path, content, lines)
        return certificate, certificate.expiries

    def encrypt(self, plaintext: bytes, recipients: Sequence[Certificate]) -> bytes:
        """Encrypt to every recipient; the plaintext goes to gpg through a pipe and nowhere else.

        Raises:
            OpenPGPError: no recipient, one who is expired, revoked or has no key for encryption, or gpg refuses.
        """
        _require_recipients(recipients)
        with self.keyring(recipients) as ring:
            message = ring.run(*_encrypt_to(recipients), stdin=plaintext)
        _require_encrypted(message)
        return message.output

    @contextmanager
    def encrypting(self, plaintext: IO[bytes], recipients: Sequence[Certificate]) -> Iterator[IO[bytes]]:
        """The encrypted form of a stream, as a stream; complete only if the context ends well.

        Args:
            plaintext: an open pipe or file, which gpg reads itself.

        Raises:
            OpenPGPError: as `encrypt`.
        """
        _require_recipients(recipients)
        with (
            self.keyring(recipients) as ring,
            streaming(ring.home, [*_OPTIONS, *_encrypt_to(recipients)], plaintext) as stream,
        ):
            yield stream.output
        _require_encrypted(stream.status)

    def recipient_keys(self, message: bytes) -> tuple[str, ...]:
        """Long key ids of the keys that a message is encrypted to, as the message itself says."""
        with self.keyring() as ring:
            named = ring.run("--list-only", "--decrypt", stdin=message)
        return tuple(key for key, *_ in named.all("ENC_TO"))


def _import(ring: Keyring, certificate: Certificate) -> None:
    imported = ring.run("--import", stdin=certificate.content)
    # The exit code tells of a missing agent; that the certificate is in is what counts.
    if certificate.fingerprint not in {fingerprint for _, fingerprint in imported.all("IMPORT_OK")}:
        require_room(ring.home)
        raise OpenPGPError(f"gpg refuses {certificate.label}; have its owner export it again")


def _require_recipients(recipients: Sequence[Certificate]) -> None:
    if not recipients:
        raise OpenPGPError("there is no recipient to encrypt to; name one under [backup] recipients")
    for recipient in recipients:
        recipient.require_recipient()


def _encrypt_to(recipients: Sequence[Certificate]) -> list[str]:
    named = [option for each in recipients for option in ("--recipient", each.fingerprint)]
    # Dumps are compressed already; of a key, its compressed size would tell.
    return ["--compress-algo=none", *named, "--encrypt"]


def _require_encrypted(status: Status) -> None:
    if status.exit_code or not status.says("END_ENCRYPTION"):
        raise OpenPGPError("gpg refuses to encrypt; check the certificates of the recipients, and the disk")
