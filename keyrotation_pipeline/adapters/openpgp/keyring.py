"""Runs gpg with a home of its own: reads certificates, encrypts to them, and caches gpg's answers."""

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
from keyrotation_pipeline.regular_files import read_bytes

# The dates are those that gpg lists. If it judges by a date that it does not list, an answer is wrong at most this
# long.
LONGEST = timedelta(minutes=1)

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class _Cached(Generic[Answer]):
    answer: Answer
    since: datetime
    until: datetime

    def is_valid(self, now: datetime) -> bool:
        return self.since <= now < self.until


class OutputCache(Generic[Answer]):
    """Caches answers of gpg, each for as long as it cannot have changed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._cache: dict[Hashable, _Cached[Answer]] = {}

    def answer(self, question: Hashable, ask: Callable[[], tuple[Answer, Iterable[datetime]]]) -> Answer:
        """Returns the cached answer to a question, or a new one.

        Args:
            question: everything that the answer depends on, except the time.
            ask: returns the answer and the dates on which something in it expires; its errors are passed on.
        """
        now = self._clock.now()
        self._cache = {each: cached for each, cached in self._cache.items() if cached.is_valid(now)}
        if question in self._cache:
            return self._cache[question].answer
        answer, dates = ask()
        # gpg counts whole seconds, and what expires in this one is still valid: such an answer is not cached.
        this_second = now.replace(microsecond=0)
        until = min((date for date in dates if date >= this_second), default=now + LONGEST)
        self._cache[question] = _Cached(answer, now, min(until, now + LONGEST))
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
    """A gpg that knows exactly the certificates that it was created with.

    Args:
        at: the time that it assumes; None: now.
    """

    home: Path
    at: datetime | None = None

    def run(self, *arguments: str, stdin: bytes = b"") -> Status:
        """See `runner.run`."""
        clock = () if self.at is None else ("--faked-system-time", f"{self.at.astimezone(UTC):%Y%m%dT%H%M%S}!")
        return run(self.home, [*_OPTIONS, *clock, *arguments], stdin)

    def certificate(self, fingerprint: str) -> Certificate:
        """Returns one of them as it is now, merged from everything that was imported for it."""
        shown = self.run("--with-colons", "--with-fingerprint", "--list-keys", fingerprint)
        return listed_certificate(Path(f"of {fingerprint[-16:]}"), b"", listing(shown.output))


class GnuPG:
    """Runs gpg with a home of our own.

    Args:
        home: created when needed, mode 0700, a path of any length; holds public certificates only, and only while
            they are used.
        clock: decides when a cached certificate is read again.
    """

    def __init__(self, home: Path, clock: Clock) -> None:
        self._home = home
        self.clock = clock
        self._read: OutputCache[Certificate] = OutputCache(clock)

    @contextmanager
    def keyring(self, certificates: Sequence[Certificate] = (), at: datetime | None = None) -> Iterator[Keyring]:
        """Yields a gpg that knows exactly these certificates, and assumes that the time is `at`.

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
                f"gpg ({binary}) cannot work in {self._home} ({error.strerror}); fix that and run this again"
            ) from None
        return directory

    def _remove_abandoned(self, newest: Path) -> None:
        """Removes the keyrings of killed processes."""
        now = newest.stat().st_mtime
        for ring in self._home.glob("ring-*"):
            # Others may appear and disappear.
            with suppress(FileNotFoundError):
                if now - ring.stat().st_mtime > _ABANDONED_SECONDS:
                    shutil.rmtree(ring, ignore_errors=True)

    def read_certificate(self, path: Path) -> Certificate:
        """Reads one public certificate, armored or binary.

        Raises:
            OpenPGPError: no such file, not a certificate, several of them, a secret key, or a user id that hides text.
        """
        try:
            content = read_bytes(path)
        except OSError:
            raise OpenPGPError(
                f"certificate {path} cannot be read; export it there with `gpg --export --armor`"
            ) from None
        return self.certificate(content, path)

    def certificate(self, content: bytes, path: Path) -> Certificate:
        """Reads one public certificate from its bytes.

        Args:
            path: its origin, for messages.

        Raises:
            OpenPGPError: not a certificate, several of them, a secret key, or a user id that hides text.
        """
        certificate = self._read.answer(content, lambda: self._shown(content, path))
        return replace(certificate, path=path)

    def _shown(self, content: bytes, path: Path) -> tuple[Certificate, Sequence[datetime]]:
        with self.keyring() as ring:
            shown = ring.run("--with-colons", "--with-fingerprint", "--with-key-data", "--show-keys", stdin=content)
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
        """Encrypts to every recipient; the plaintext goes to gpg through a pipe and nowhere else.

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
        """Yields the encrypted form of a stream, as a stream; complete only if the context ends without an error.

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
        """Returns long key ids of the keys that a message is encrypted to, as the message itself says."""
        with self.keyring() as ring:
            named = ring.run("--list-only", "--decrypt", stdin=message)
        return tuple(key for key, *_ in named.all("ENC_TO"))


def _import(ring: Keyring, certificate: Certificate) -> None:
    imported = ring.run("--import", stdin=certificate.content)
    # The exit code also reflects a missing agent; what counts is that the certificate was imported.
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
    # Dumps are already compressed, and a compressed size would reveal something of a key.
    return ["--compress-algo=none", *named, "--encrypt"]


def _require_encrypted(status: Status) -> None:
    if status.exit_code or not status.says("END_ENCRYPTION"):
        raise OpenPGPError("gpg refuses to encrypt; check the certificates of the recipients, and the disk")
