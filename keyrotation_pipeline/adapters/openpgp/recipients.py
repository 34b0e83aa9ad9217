"""Encrypts backups to their recipients: the certificates that the configuration names and the pinned roster knows."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from keyrotation_pipeline.adapters.openpgp.certificates import Certificate
from keyrotation_pipeline.adapters.openpgp.keyring import GnuPG
from keyrotation_pipeline.errors import ApprovalError, BackupError
from keyrotation_pipeline.model.approval import Roster

_RESTORE = "restore [backup] recipients in keyrotation.toml, or let officers sign the change with `keyrotation policy`"


class BackupRecipients:
    """`Encryptor` over certificate files, which are read and compared with the pinned roster at each use.

    A recipient that is expired, revoked, or has no key for encryption is left out, as long as there is another one: a
    lost certificate must not stop an emergency. `SignatureVerifier.certificates` names it.

    Args:
        certificates: one file per recipient.
        pinned: reads the pinned roster; None: there is none.
    """

    def __init__(
        self,
        gpg: GnuPG,
        certificates: Sequence[Path],
        pinned: Callable[[], Roster | None],
    ) -> None:
        self._gpg = gpg
        self._certificates = tuple(certificates)
        self._pinned = pinned

    def recipients(self) -> tuple[str, ...]:
        """See `Encryptor.recipients`."""
        return tuple(certificate.fingerprint for certificate in self._read())

    def encrypt(self, plaintext: bytes) -> bytes:
        """See `Encryptor.encrypt`."""
        return self._gpg.encrypt(plaintext, self._read())

    @contextmanager
    def encrypting(self, plaintext: IO[bytes]) -> Iterator[IO[bytes]]:
        """See `Encryptor.encrypting`."""
        with self._gpg.encrypting(plaintext, self._read()) as message:
            yield message

    def require_addressed(self, name: str, message: bytes) -> None:
        """See `Encryptor.require_addressed`."""
        recipients, named = self._read(), set(self._gpg.recipient_keys(message))
        missing = [each for each in recipients if named.isdisjoint(each.encryption_keys)]
        if missing:
            raise BackupError(f"backup {name} cannot be decrypted with {missing[0].label}; export it again")
        if unknown := named.difference(*(each.encryption_keys for each in recipients)):
            raise BackupError(f"backup {name} is encrypted to the unknown key {min(unknown)}; check gpg's options")

    def _read(self) -> list[Certificate]:
        """Returns the recipients that can be encrypted to, of exactly the pinned ones."""
        recipients = [self._gpg.read_certificate(path) for path in self._certificates]
        self._require_pinned(recipients)
        usable = [recipient for recipient in recipients if recipient.is_recipient]
        if not usable:
            for recipient in recipients:
                recipient.require_recipient()
        return usable

    def _require_pinned(self, recipients: Sequence[Certificate]) -> None:
        if (roster := self._pinned()) is None:
            raise ApprovalError("no recipients of backups are pinned yet; run `keyrotation init`")
        for recipient in recipients:
            if recipient.fingerprint not in roster.recipients:
                raise ApprovalError(f"{recipient.label} is not a pinned recipient of backups; {_RESTORE}")
        if lost := set(roster.recipients).difference(recipient.fingerprint for recipient in recipients):
            raise ApprovalError(
                f"the pinned recipient {min(lost)[-16:]} is no longer among [backup] recipients; {_RESTORE}"
            )
