"""Who signed exactly this text?"""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from keyrotation_pipeline.model.approval import Officer, Roster, VerifiedSignature
from keyrotation_pipeline.model.backups import CertificateStanding


class SignatureVerifier(Protocol):
    """Checks OpenPGP signatures by officers, and reads who the configuration says that they are."""

    def verify(
        self, text: bytes, signature: bytes, officers: Sequence[Officer], at: datetime | None = None
    ) -> VerifiedSignature:
        """Check one detached signature by one of these officers.

        An officer's certificate is what was pinned of it together with what the configuration has under the same
        fingerprint: so no revocation is overlooked, and whoever left the configuration can still be verified.

        Args:
            at: as of when certificates must be valid, for what was carried out then; None: now.

        Raises:
            ApprovalError: bad, over another text, or by an unknown, expired or revoked certificate. Each has its own
                sentence.
        """

    def verify_as_of(
        self, text: bytes, signature: bytes, officers: Sequence[Officer], at: datetime
    ) -> VerifiedSignature:
        """The same of what was verified and recorded at a time: a revocation that became known since is left out.

        Nothing is allowed by it: whoever acts on a signature asks `verify`.

        Raises:
            ApprovalError: as `verify`; revoked only where the officer was pinned so.
        """

    def roster(self) -> Roster:
        """The roster that the configuration names, with its certificates as they are now.

        Raises:
            ApprovalError: one certificate under two names, an expired or revoked one, fewer officers than required.
        """

    def certificates(self) -> tuple[CertificateStanding, ...]:
        """Every certificate that the configuration names, as it stands now; refuses none."""
