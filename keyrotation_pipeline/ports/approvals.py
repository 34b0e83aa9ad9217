"""Who signed exactly this text?"""

from typing import Protocol

from keyrotation_pipeline.model.approval import Roster, VerifiedSignature


class SignatureVerifier(Protocol):
    """Checks OpenPGP signatures against the certificates of the roster, as they stand now."""

    def verify(self, text: bytes, signature: bytes) -> VerifiedSignature:
        """Check one detached signature.

        Raises:
            ApprovalError: bad, over another text, or by an unknown, expired or revoked certificate; each its sentence.
        """

    def roster(self) -> Roster:
        """The roster that the configuration names, read from the certificates.

        Raises:
            ApprovalError: one certificate under two names, an expired or revoked one, fewer officers than required.
        """
