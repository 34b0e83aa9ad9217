"""Signatures that say who made them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from keyrotation_pipeline.errors import ApprovalError
from keyrotation_pipeline.model.approval import Officer, Roster, VerifiedSignature
from keyrotation_pipeline.model.audit import counted
from keyrotation_pipeline.model.backups import CertificateStatus
from keyrotation_pipeline_tests.fakes.journal import START


@dataclass
class FakeSignatures:
    """`SignatureVerifier` that takes ``b"signed by <fingerprint>: " + text`` for a signature.

    Args:
        revoked: fingerprints of revoked certificates.
        expired: since when certificates are, or will be, by fingerprint.
        now: the time; at the end of all times every certificate has expired.
        made: when each signature was made that was seen so far.
        addresses: of officers' certificates, by fingerprint.
        lone_officer_allowed: a roster may ask for one signature only.
    """

    configured: Roster
    signed_at: datetime = START
    revoked: set[str] = field(default_factory=set)
    expired: dict[str, datetime] = field(default_factory=dict)
    lone_officer_allowed: bool = True
    standings: tuple[CertificateStatus, ...] = ()
    addresses: dict[str, str] = field(default_factory=dict)
    made: dict[bytes, datetime] = field(default_factory=dict)
    now: Callable[[], datetime] = lambda: datetime.max.replace(tzinfo=UTC)

    def verify(
        self, text: bytes, signature: bytes, officers: Sequence[Officer], at: datetime | None = None
    ) -> VerifiedSignature:
        for officer in officers:
            if signature == self.sign(officer.fingerprint, text):
                self._require_valid(officer, at)
                signed_at = self.made.setdefault(signature, self.signed_at)
                return VerifiedSignature(officer.fingerprint, signed_at, self.addresses.get(officer.fingerprint))
        raise ApprovalError("the signature is not over this text; sign what `keyrotation approve --text` prints")

    def verify_as_of(
        self, text: bytes, signature: bytes, officers: Sequence[Officer], at: datetime
    ) -> VerifiedSignature:
        return replace(self, revoked=set()).verify(text, signature, officers, at)

    @staticmethod
    def sign(fingerprint: str, text: bytes) -> bytes:
        return f"signed by {fingerprint}: ".encode() + text

    def roster(self) -> Roster:
        officers, required = self.configured.officers, self.configured.required
        if len({officer.fingerprint for officer in officers}) < len(officers):
            raise ApprovalError("two officers have the same certificate; give each their own")
        if required < (1 if self.lone_officer_allowed else 2):
            raise ApprovalError(f"[approvals] required is {required}; two people must agree, so set it to 2 or more")
        if len(officers) < required:
            raise ApprovalError(f"{required} approvals are required of {counted(len(officers), 'officer')}; name more")
        return self.configured

    def _require_valid(self, officer: Officer, at: datetime | None) -> None:
        if officer.fingerprint in self.revoked:
            raise ApprovalError(f"the certificate of {officer.name} is revoked; name a new one")
        since = self.expired.get(officer.fingerprint)
        if since is not None and (at or self.now()) >= since:
            raise ApprovalError(f"the certificate of {officer.name} has expired; extend it")

    def certificates(self) -> tuple[CertificateStatus, ...]:
        return (*map(self._standing, self.configured.officers), *self.standings)

    def _standing(self, officer: Officer) -> CertificateStatus:
        label, ends_at, unusable = f"certificate of {officer.name}", self.expired.get(officer.fingerprint), None
        try:
            self._require_valid(officer, None)
        except ApprovalError as error:
            unusable = str(error)
        return CertificateStatus(
            label, encrypts=False, ends_at=ends_at, unusable=unusable, fingerprint=officer.fingerprint
        )
