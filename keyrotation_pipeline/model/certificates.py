"""A certificate that the configuration names, as it stands now."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

ENDS_SOON = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class CertificateStanding:
    """Whether a certificate can do what it is named for, and until when.

    Args:
        label: as messages name it.
        encrypts: it is a recipient of backups; otherwise an officer's.
        ends_at: when it, or its last usable key for this, expires; None: never.
        unusable: why it cannot be used any more; None: it can.
        fingerprint: of its primary key; None: it cannot be read.
        content: the file's bytes.
    """

    label: str
    encrypts: bool
    ends_at: datetime | None
    unusable: str | None = None
    fingerprint: str | None = None
    content: bytes = field(default=b"", repr=False)

    def ends_soon(self, now: datetime) -> str | None:
        """The sentence for one that ends within thirty days."""
        if self.unusable is not None or self.ends_at is None or self.ends_at - now > ENDS_SOON:
            return None
        use = (
            "no backup is encrypted to it from then on"
            if self.encrypts
            else "its officer can sign nothing from then on"
        )
        return f"{self.label} ends on {self.ends_at:%Y-%m-%d}, and {use}; have its owner extend it and export it again"
