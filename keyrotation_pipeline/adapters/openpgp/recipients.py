"""Who a message can be decrypted by, as the message itself says."""

from collections.abc import Sequence

from keyrotation_pipeline.adapters.openpgp.certificates import Certificate
from keyrotation_pipeline.adapters.openpgp.keyring import GnuPG
from keyrotation_pipeline.errors import BackupError


def require_recipients(gpg: GnuPG, name: str, message: bytes, recipients: Sequence[Certificate]) -> None:
    """Refuse a message that one of `recipients` cannot read, or that somebody else can.

    Args:
        message: the whole of it, or its first kilobytes, which name the keys.

    Raises:
        BackupError: names the file and the key.
    """
    named = set(gpg.recipient_keys(message))
    missing = [each for each in recipients if named.isdisjoint(each.encryption_keys)]
    if missing:
        raise BackupError(f"backup {name} cannot be decrypted with {missing[0].label}; export it again")
    if strangers := named.difference(*(each.encryption_keys for each in recipients)):
        raise BackupError(f"backup {name} is encrypted to the unknown key {min(strangers)}; look into gpg")
