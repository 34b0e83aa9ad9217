"""Verifies officers' signatures, by OpenPGP or SSH keys of the roster, and reads the roster of the configuration."""

import hashlib
import json
import os
import unicodedata
from base64 import b64decode, b64encode
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from keyrotation_pipeline.adapters.openpgp.certificates import Certificate
from keyrotation_pipeline.adapters.openpgp.keyring import GnuPG, OutputCache
from keyrotation_pipeline.adapters.openpgp.signatures import require_officer, verified_by_gpg
from keyrotation_pipeline.adapters.openssh import raw_key_of, read_ssh_key, signer_of
from keyrotation_pipeline.errors import ApprovalError, OpenPGPError
from keyrotation_pipeline.model.approval import SSH_SIGNATURE, Officer, Roster, VerifiedSignature, ssh_fingerprint
from keyrotation_pipeline.model.audit import counted
from keyrotation_pipeline.model.backups import CertificateStatus
from keyrotation_pipeline.regular_files import read_bytes


class GoodSignatures:
    """Signatures that were good at their moment, each with the digest of all that this depended on.

    Replaying an audit verifies every signature in it: without this, each command would start gpg for each. Whoever can
    write the home can have any signature accepted, and has the keys too. An unreadable file counts as none.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, VerifiedSignature] | None = None

    def get(self, of: str) -> VerifiedSignature | None:
        """Returns what gpg said of it; None: it was not asked, or did not accept it."""
        if self._known is None:
            self._known = dict(self._stored())
        return self._known.get(of)

    def add(self, of: str, good: VerifiedSignature) -> None:
        """Stores what gpg said; a failed write only costs time."""
        self._known = {**(self._known or {}), of: good}
        if self._path is not None:
            at = None if good.signed_at is None else good.signed_at.isoformat()
            line = json.dumps([of, good.officer, at, good.address])
            with suppress(OSError):
                descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                try:
                    os.write(descriptor, f"{line}\n".encode())
                finally:
                    os.close(descriptor)

    def _stored(self) -> Iterator[tuple[str, VerifiedSignature]]:
        with suppress(OSError):
            lines = read_bytes(self._path).splitlines() if self._path else []
            for line in lines:
                with suppress(ValueError, TypeError):
                    of, officer, at, address = json.loads(line)
                    yield of, VerifiedSignature(officer, None if at is None else datetime.fromisoformat(at), address)


@dataclass(frozen=True, slots=True)
class OfficerFiles:
    """One officer of the configuration: a name, and the files of an OpenPGP certificate, an SSH key, or both."""

    name: str
    certificate: Path | None = None
    ssh_key: Path | None = None


class OfficerSignatures:
    """`SignatureVerifier` over gpg and ssh-keygen.

    Args:
        required: how many different officers must sign an action.
        recipients: certificate files of those who can decrypt backups.
        lone_officer_allowed: a demo home may ask for one signature only.
        verified: a file of the home for the signatures that were good at their moment; None: only in memory.
    """

    def __init__(
        self,
        gpg: GnuPG,
        officers: Sequence[OfficerFiles],
        required: int,
        recipients: Sequence[Path],
        *,
        lone_officer_allowed: bool = False,
        verified: Path | None = None,
    ) -> None:
        self._gpg = gpg
        self._officers = tuple(officers)
        self._required = required
        self._recipients = tuple(recipients)
        self._lone_officer_allowed = lone_officer_allowed
        self._good = GoodSignatures(verified)
        self._verified: OutputCache[VerifiedSignature] = OutputCache(gpg.clock)

    def roster(self) -> Roster:
        """See `SignatureVerifier.roster`."""
        officers: list[Officer] = []
        holders: dict[str, str] = {}
        for each in self._officers:
            officer = self._officer(each)
            _require_another(officer, officers)
            _require_own_keys(officer.name, self._raw_keys(each), holders)
            officers.append(officer)
        if self._required < (1 if self._lone_officer_allowed else 2):
            raise ApprovalError(
                f"[approvals] required is {self._required}; two people must agree, so set it to 2 or more"
            )
        if len(officers) < self._required:
            raise ApprovalError(
                f"{self._required} approvals are required of {counted(len(officers), 'officer')}; name more in "
                "[approvals]"
            )
        recipients = [self._gpg.read_certificate(path) for path in self._recipients]
        return Roster(
            self._required,
            tuple(officers),
            tuple(dict.fromkeys(recipient.fingerprint for recipient in recipients)),
            {each.fingerprint: each.user_ids[0] for each in recipients if each.user_ids},
        )

    def _officer(self, files: OfficerFiles) -> Officer:
        ssh = None if files.ssh_key is None else read_ssh_key(files.ssh_key)
        if files.certificate is None:
            if ssh is None:
                raise ApprovalError(f"officer {files.name} has no key; name a certificate or an ssh_key")
            return Officer(files.name, ssh.fingerprint, ssh_key=ssh.line)
        certificate = self._gpg.read_certificate(files.certificate)
        content = b64encode(certificate.content).decode()
        return Officer(files.name, certificate.fingerprint, content, "" if ssh is None else ssh.line)

    def _raw_keys(self, files: OfficerFiles) -> frozenset[str]:
        of_ssh = () if files.ssh_key is None else (raw_key_of(read_ssh_key(files.ssh_key).line),)
        certificate = None if files.certificate is None else self._gpg.read_certificate(files.certificate)
        return (frozenset() if certificate is None else certificate.raw_keys) | frozenset(of_ssh)

    def verify(
        self, text: bytes, signature: bytes, officers: Sequence[Officer], at: datetime | None = None
    ) -> VerifiedSignature:
        """See `SignatureVerifier.verify`; a good signature is not verified again while nothing changes."""
        certificates = self._certificates(officers)
        if at is not None:
            return self._verify(text, signature, officers, certificates, at)[0]
        question = (text, signature, tuple(officers), tuple((each.fingerprint, each.content) for each in certificates))
        return self._verified.answer(question, lambda: self._verify(text, signature, officers, certificates))

    def verify_as_of(
        self, text: bytes, signature: bytes, officers: Sequence[Officer], at: datetime
    ) -> VerifiedSignature:
        """See `SignatureVerifier.verify_as_of`: by the certificates as they are now, else as pinned.

        gpg does not say when a certificate or key was revoked: revocations can be created in advance, dated with the
        key. A signature that was good at that time stays good, so it is not verified again by this home.
        """
        of = _digest(text, signature, officers, at)
        if (known_good := self._good.get(of)) is not None:
            return known_good
        now, pinned = self._certificates(officers), self._pinned(officers)
        known = tuple((each.fingerprint, each.content) for each in (*now, *pinned))

        def ask() -> tuple[VerifiedSignature, list[datetime]]:
            try:
                return self._verify(text, signature, officers, now, at)
            except ApprovalError as error:
                if [each.content for each in pinned] == [each.content for each in now]:
                    raise
                refused = error
            try:
                return self._verify(text, signature, officers, pinned, at)
            except ApprovalError:
                raise refused from None

        good = self._verified.answer((text, signature, tuple(officers), known, at), ask)
        self._good.add(of, good)
        return good

    def _verify(
        self,
        text: bytes,
        signature: bytes,
        officers: Sequence[Officer],
        certificates: Sequence[Certificate],
        at: datetime | None = None,
    ) -> tuple[VerifiedSignature, list[datetime]]:
        """Verifies a signature of either kind; also returns the dates on which the answer may change."""
        if not signature.lstrip().startswith(SSH_SIGNATURE):
            return verified_by_gpg(self._gpg, text, signature, officers, certificates, at)
        # An SSH key neither expires nor is revoked: it counts as long as it is in the roster.
        signers = {ssh_fingerprint(each.ssh_key): each for each in officers if each.ssh_key}
        signer = signer_of(text, signature, [each.ssh_key for each in signers.values()])
        return VerifiedSignature(signers[signer].fingerprint, None), []

    def certificates(self) -> tuple[CertificateStatus, ...]:
        """See `SignatureVerifier.certificates`."""
        named = [(each.name, each.certificate) for each in self._officers if each.certificate is not None]
        officers = tuple(_status_of(self._gpg, path, officer=name) for name, path in named)
        return officers + tuple(_status_of(self._gpg, path) for path in self._recipients)

    def _certificates(self, officers: Sequence[Officer]) -> tuple[Certificate, ...]:
        """Returns the pinned and the configured certificates of these officers, merged by gpg."""
        fingerprints = {officer.fingerprint for officer in officers}
        configured = [self._gpg.read_certificate(each) for each in self._certificate_files()]
        pinned = self._pinned(officers)
        # If nothing has changed since, both have the same bytes, and one is enough.
        of_officers = {each.content: each for each in (*pinned, *configured) if each.fingerprint in fingerprints}
        return tuple(of_officers.values())

    def _certificate_files(self) -> list[Path]:
        return [each.certificate for each in self._officers if each.certificate is not None]

    def _pinned(self, officers: Sequence[Officer]) -> list[Certificate]:
        return [
            self._gpg.certificate(b64decode(each.certificate), Path(f"pinned of {each.name}"))
            for each in officers
            if each.certificate
        ]


def _require_another(officer: Officer, others: Sequence[Officer]) -> None:
    """Refuses a person who would count twice.

    Raises:
        ApprovalError: another one has this name or one of these keys.
    """
    for other in others:
        if other.fingerprint == officer.fingerprint or (officer.ssh_key and other.ssh_key == officer.ssh_key):
            what = "certificate" if other.fingerprint == officer.fingerprint and officer.certificate else "SSH key"
            raise ApprovalError(f"officers {other.name} and {officer.name} have the same {what}; give each their own")
        if _read(other.name) == _read(officer.name):
            raise ApprovalError(
                f"officer {officer.name} is named twice, and one person counts once; name certificate and ssh_key in "
                "one [[approvals.officers]]"
            )


def _read(name: str) -> str:
    """Returns a name as people read it: whatever its letters are written with, and in capitals or not."""
    return unicodedata.normalize("NFKC", name).casefold()


def _require_own_keys(name: str, keys: Collection[str], holders: dict[str, str]) -> None:
    """Refuses an officer with a key pair of another one, in whatever format; `holders` names whose each is.

    Raises:
        ApprovalError: names both.
    """
    for each in keys:
        if holders.setdefault(each, name) != name:
            raise ApprovalError(
                f"officers {holders[each]} and {name} have the same key pair, so whoever holds it would sign as both; "
                "give each their own"
            )


def _digest(text: bytes, signature: bytes, officers: Sequence[Officer], at: datetime) -> str:
    """Returns the SHA-256 of everything that the verification of a signature depends on."""
    parts = (
        text,
        signature,
        at.isoformat().encode(),
        *(f"{o.fingerprint} {o.certificate} {o.ssh_key}".encode() for o in officers),
    )
    return hashlib.sha256(b"".join(b"%d:%s" % (len(part), part) for part in parts)).hexdigest()


def _status_of(gpg: GnuPG, path: Path, *, officer: str | None = None) -> CertificateStatus:
    encrypts = officer is None
    try:
        certificate = gpg.read_certificate(path)
    except OpenPGPError as error:
        return CertificateStatus(f"certificate {path.name}", encrypts, None, str(error))
    ends_at = certificate.encrypts_until if encrypts else certificate.signs_until
    unusable = None
    try:
        certificate.require_recipient() if officer is None else require_officer(officer, certificate)
    except (OpenPGPError, ApprovalError) as error:
        unusable = str(error)
    return CertificateStatus(
        certificate.label, encrypts, ends_at, unusable, certificate.fingerprint, certificate.content
    )
