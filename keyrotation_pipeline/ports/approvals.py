"""Who signed exactly this text?"""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from keyrotation_pipeline.model.approval import Officer, Roster, VerifiedSignature
from keyrotation_pipeline.model.backups import CertificateStatus


class SignatureVerifier(Protocol):
    """Verifies signatures by officers, and reads the officers from the configuration."""

    def verify(
        self, text: bytes, signature: bytes, officers: Sequence[Officer], at: datetime | None = None
    ) -> VerifiedSignature:
        """Verifies one detached signature by one of these officers.

        An officer's certificate is the pinned one merged with the configured one of the same fingerprint: so no
        revocation is missed, and an officer who was removed from the configuration can still be verified.

        Args:
            at: when certificates must be valid, for something carried out then; None: now.

        Raises:
            ApprovalError: bad, over another text, or by an unknown, expired or revoked certificate, each with its own
                sentence.
        """

    def verify_as_of(
        self, text: bytes, signature: bytes, officers: Sequence[Officer], at: datetime
    ) -> VerifiedSignature:
        """Verifies a signature that was recorded at a time, ignoring revocations that became known since.

        It authorises nothing: whoever acts on a signature calls `verify`.

        Raises:
            ApprovalError: as `verify`; revoked only where the officer was pinned so.
        """

    def roster(self) -> Roster:
        """Returns the roster that the configuration names, with its certificates as they are now.

        Also with those that have expired or are revoked: `certificates` says so, and nothing counts that they sign.

        Raises:
            ApprovalError: one certificate under two names, fewer officers than required.
        """

    def certificates(self) -> tuple[CertificateStatus, ...]:
        """Returns the current state of every certificate that the configuration names; refuses none."""
