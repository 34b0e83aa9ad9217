"""gpg with a home of our own: certificates, and encryption to them.

Every call works in a keyring of its own, made from the certificate files as they are now and thrown away afterwards: a
certificate that was taken out of the configuration, or replaced by its revoked self, cannot live on in a forgotten
keyring.
"""

import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gnupg

from keyrotation_pipeline.errors import OpenPGPError

# python-gnupg logs beginnings of what it handles, and tracebacks of what we turn into sentences.
logging.getLogger("gnupg").setLevel(logging.CRITICAL + 1)

# No agent (its socket's path has at most 107 characters), no network, no settings of the person who runs this.
_OPTIONS = (
    "--no-options",
    "--no-autostart",
    "--no-auto-key-locate",
    "--no-auto-key-retrieve",
    "--no-auto-check-trustdb",
    "--trust-model=always",
)
# The environment of the caller may hold keys; gpg gets none of it. C: messages in English.
_ENVIRONMENT = {"LC_ALL": "C"}

_ABANDONED_SECONDS = 3600


def gpg_binary() -> str:
    """Path of gpg.

    Raises:
        OpenPGPError: it is not installed.
    """
    if (found := shutil.which("gpg")) is None:
        raise OpenPGPError("gpg is not installed; install GnuPG 2.2 or later (on Debian: apt install gpg gpg-agent)")
    return found


@dataclass(frozen=True, slots=True)
class Certificate:
    """One public certificate, as it stands now.

    Args:
        path: the file that it was read from, for messages.
        fingerprint: of the primary key, upper-case hex; this is who somebody is.
        can_sign: some key of it, neither expired nor revoked, may sign.
        can_encrypt: the same for encryption.
        encryption_keys: long key ids (16 hex digits) of its keys for encryption, which a message names.
        content: the file's bytes.
    """

    path: Path
    fingerprint: str
    user_ids: tuple[str, ...]
    expires_at: datetime | None
    expired: bool
    revoked: bool
    can_sign: bool
    can_encrypt: bool
    encryption_keys: tuple[str, ...]
    content: bytes = field(repr=False)

    @property
    def label(self) -> str:
        """As messages name it; a user id could hold anything."""
        return f"certificate {self.path.name} ({self.fingerprint[-16:]})"

    def require_valid(self) -> None:
        """Refuse an expired or revoked certificate.

        Raises:
            OpenPGPError: it is one.
        """
        if self.revoked:
            raise OpenPGPError(f"{self.label} is revoked; name a new one in keyrotation.toml")
        if self.expired:
            raise OpenPGPError(f"{self.label} has expired; have its owner extend it and export it again")

    def require_recipient(self) -> None:
        """Refuse a certificate that nothing can be encrypted to.

        Raises:
            OpenPGPError: it is expired, revoked, or has no usable key for encryption.
        """
        self.require_valid()
        if not self.can_encrypt:
            raise OpenPGPError(
                f"{self.label} has no usable key for encryption; have its owner add one and export it again"
            )


class GnuPG:
    """gpg with a home of our own.

    Args:
        home: created when needed, mode 0700, a path of any length; holds public certificates only, and only while
            they are used.
    """

    def __init__(self, home: Path) -> None:
        self._home = home

    @contextmanager
    def keyring(self, certificates: Sequence[Certificate] = ()) -> Iterator[gnupg.GPG]:
        """A gpg that knows exactly these certificates.

        Raises:
            OpenPGPError: gpg is missing or cannot work, or refuses a certificate.
        """
        binary = gpg_binary()
        try:
            self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._home, prefix="ring-") as directory:
                self._remove_abandoned(Path(directory))
                ring = gnupg.GPG(gpgbinary=binary, gnupghome=directory, options=list(_OPTIONS), env=dict(_ENVIRONMENT))
                for certificate in certificates:
                    # The exit code tells of a missing agent; that the certificate is in is what counts.
                    if certificate.fingerprint not in ring.import_keys(certificate.content).fingerprints:
                        raise OpenPGPError(f"gpg refuses {certificate.label}; have its owner export it again")
                yield ring
        except (OSError, ValueError):
            raise OpenPGPError(f"gpg ({binary}) cannot work in {self._home}; check both and try again") from None

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
            OpenPGPError: no such file, not a certificate, several of them, or a secret key.
        """
        try:
            content = path.read_bytes()
        except OSError:
            raise OpenPGPError(
                f"certificate {path} cannot be read; export it there with `gpg --export --armor`"
            ) from None
        with self.keyring() as ring:
            found = ring.scan_keys_mem(content)
        if any(key["type"] == "sec" for key in found):
            raise OpenPGPError(
                f"{path} holds a secret key; export the public certificate alone with `gpg --export --armor`"
            )
        if len(found) != 1:
            reason = "holds several certificates" if found else "is not an OpenPGP certificate"
            raise OpenPGPError(f"{path} {reason}; export exactly one with `gpg --export --armor FINGERPRINT`")
        return _certificate(path, content, found[0])

    def encrypt(self, plaintext: bytes, recipients: Sequence[Certificate]) -> bytes:
        """Encrypt to every recipient; the plaintext goes to gpg through a pipe and nowhere else.

        Raises:
            OpenPGPError: no recipient, one who is expired, revoked or has no key for encryption, or gpg refuses.
        """
        if not recipients:
            raise OpenPGPError("there is no recipient to encrypt to; name one under [backup] recipients")
        for recipient in recipients:
            recipient.require_recipient()
        with self.keyring(recipients) as ring:
            # Compression would help nobody, and only tells of what is inside.
            message = ring.encrypt(
                plaintext, [each.fingerprint for each in recipients], armor=False, extra_args=["--compress-algo=none"]
            )
        if not message.ok:
            raise OpenPGPError(f"gpg refuses to encrypt ({message.status}); check the certificates of the recipients")
        return bytes(message.data)

    def recipient_keys(self, message: bytes) -> tuple[str, ...]:
        """Long key ids of the keys that a message is encrypted to, as the message itself says."""
        with self.keyring() as ring:
            return tuple(ring.get_recipients(message))


def _certificate(path: Path, content: bytes, listed: Mapping[str, Any]) -> Certificate:
    """One entry of gpg's colon listing: validity `r` or `e`; capitals among the capabilities are usable ones."""
    usable, expires = listed["cap"], listed["expires"]
    subkeys = {key: info["cap"] for key, info in listed.get("subkey_info", {}).items()}
    encryption_keys = [key for key, capabilities in {listed["keyid"]: usable, **subkeys}.items() if "e" in capabilities]
    return Certificate(
        path=path,
        fingerprint=listed["fingerprint"],
        user_ids=tuple(uid.encode("latin-1", "replace").decode(errors="replace") for uid in listed["uids"]),
        expires_at=datetime.fromtimestamp(int(expires), UTC) if expires.isdigit() else None,
        expired=listed["trust"] == "e",
        revoked=listed["trust"] == "r",
        can_sign="S" in usable,
        can_encrypt="E" in usable,
        encryption_keys=tuple(encryption_keys),
        content=content,
    )
