"""Verifies officers' signatures: detached, over exactly the text, by a certificate of the roster that is valid now."""

import hashlib
import json
import os
import re
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

from keyrotation_pipeline.adapters.openpgp.certificates import Certificate, date_of
from keyrotation_pipeline.adapters.openpgp.keyring import GnuPG, Keyring, OutputCache
from keyrotation_pipeline.adapters.openpgp.runner import Status
from keyrotation_pipeline.errors import ApprovalError, OpenPGPError
from keyrotation_pipeline.model.approval import Officer, Roster, VerifiedSignature
from keyrotation_pipeline.model.backups import CertificateStanding

_LARGEST_SIGNATURE_BYTES = 64 * 1024
_PACKET = re.compile(rb":(.+?) packet")
# RFC 9580 section 9.5: SHA-256, SHA-384, SHA-512, SHA3-256, SHA3-512.
_STRONG_DIGESTS = frozenset({"8", "9", "10", "12", "14"})
_BINARY_SIGNATURE = "00"
_MAILBOX = r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*"
_ADDRESS = re.compile(rf"(?s:.*)<(?P<bracketed>{_MAILBOX})>|(?P<alone>{_MAILBOX})")
_SIGN_AGAIN = "sign what `--text` prints with `gpg --armor --detach-sign`"


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
            line = json.dumps([of, good.officer, good.signed_at.isoformat(), good.address])
            with suppress(OSError):
                descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                try:
                    os.write(descriptor, f"{line}\n".encode())
                finally:
                    os.close(descriptor)

    def _stored(self) -> Iterator[tuple[str, VerifiedSignature]]:
        with suppress(OSError):
            lines = self._path.read_bytes().splitlines() if self._path else []
            for line in lines:
                with suppress(ValueError, TypeError):
                    of, officer, at, address = json.loads(line)
                    yield of, VerifiedSignature(officer, datetime.fromisoformat(at), address)


class OfficerSignatures:
    """`SignatureVerifier` over gpg.

    Args:
        officers: each one's name and certificate file.
        required: how many different officers must sign an action.
        recipients: certificate files of those who can decrypt backups.
        lone_officer_allowed: a demo home may ask for one signature only.
        verified: a file of the home for the signatures that were good at their moment; None: only in memory.
    """

    def __init__(
        self,
        gpg: GnuPG,
        officers: Sequence[tuple[str, Path]],
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
        named: dict[str, Officer] = {}
        for name, path in self._officers:
            certificate = self._gpg.read_certificate(path)
            _require_officer(name, certificate)
            if (other := named.get(certificate.fingerprint)) is not None:
                raise ApprovalError(f"officers {other.name} and {name} have the same certificate; give each their own")
            named[certificate.fingerprint] = Officer(
                name, certificate.fingerprint, b64encode(certificate.content).decode()
            )
        if self._required < (1 if self._lone_officer_allowed else 2):
            raise ApprovalError(
                f"[approvals] required is {self._required}; two people must agree, so set it to 2 or more"
            )
        if len(named) < self._required:
            raise ApprovalError(
                f"{self._required} approvals are required of {len(named)} officer(s); name more in [approvals]"
            )
        recipients = [self._gpg.read_certificate(path) for path in self._recipients]
        for recipient in recipients:
            recipient.require_recipient()
        return Roster(
            self._required,
            tuple(named.values()),
            tuple(dict.fromkeys(recipient.fingerprint for recipient in recipients)),
        )

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
        if (good := self._good.get(of)) is None:
            good = self._asked_as_of(text, signature, officers, at)
            self._good.add(of, good)
        return good

    def _asked_as_of(
        self, text: bytes, signature: bytes, officers: Sequence[Officer], at: datetime
    ) -> VerifiedSignature:
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

        return self._verified.answer((text, signature, tuple(officers), known, at), ask)

    def _verify(
        self,
        text: bytes,
        signature: bytes,
        officers: Sequence[Officer],
        certificates: Sequence[Certificate],
        at: datetime | None = None,
    ) -> tuple[VerifiedSignature, list[datetime]]:
        """Has gpg verify a signature; also returns the dates on which its answer may change."""
        expiries: list[datetime] = []
        with self._gpg.keyring(certificates, at=at) as ring:
            _require_one_detached_signature(ring, signature)
            signature_file = ring.home / "signature"
            signature_file.write_bytes(signature)
            status = ring.run("--verify", str(signature_file), "-", stdin=text)
            for officer in officers:
                if officer.fingerprint in _claimed(status):
                    certificate = ring.certificate(officer.fingerprint)
                    _require_officer(officer.name, certificate)
                    expiries += certificate.expiries
        require_one_good_signature(status)
        _, _, signed_at, expires_at, _, _, _, digest, kind, signer = status.all("VALIDSIG")[0]
        if digest not in _STRONG_DIGESTS:
            raise ApprovalError("the signature uses a weak digest; sign again with `gpg --digest-algo SHA512`")
        if kind != _BINARY_SIGNATURE:
            raise ApprovalError(f"the signature is in text mode, which other bytes would match too; {_SIGN_AGAIN}")
        expiries += [expiry for expiry in [date_of(expires_at)] if expiry is not None]
        address = _address(status.all("GOODSIG")[0][1:])
        return VerifiedSignature(signer, datetime.fromtimestamp(int(signed_at), UTC), address), expiries

    def certificates(self) -> tuple[CertificateStanding, ...]:
        """See `SignatureVerifier.certificates`."""
        officers = tuple(_standing(self._gpg, path, encrypts=False) for _, path in self._officers)
        return officers + tuple(_standing(self._gpg, path, encrypts=True) for path in self._recipients)

    def _certificates(self, officers: Sequence[Officer]) -> tuple[Certificate, ...]:
        """Returns the pinned and the configured certificates of these officers, merged by gpg."""
        fingerprints = {officer.fingerprint for officer in officers}
        configured = [self._gpg.read_certificate(path) for _, path in self._officers]
        pinned = self._pinned(officers)
        # If nothing has changed since, both have the same bytes, and one is enough.
        of_officers = {each.content: each for each in (*pinned, *configured) if each.fingerprint in fingerprints}
        return tuple(of_officers.values())

    def _pinned(self, officers: Sequence[Officer]) -> list[Certificate]:
        return [
            self._gpg.certificate(b64decode(each.certificate), Path(f"pinned of {each.name}"))
            for each in officers
            if each.certificate
        ]


def _digest(text: bytes, signature: bytes, officers: Sequence[Officer], at: datetime) -> str:
    """Returns the SHA-256 of everything that the verification of a signature depends on."""
    parts = (text, signature, at.isoformat().encode(), *(f"{o.fingerprint} {o.certificate}".encode() for o in officers))
    return hashlib.sha256(b"".join(b"%d:%s" % (len(part), part) for part in parts)).hexdigest()


def _standing(gpg: GnuPG, path: Path, *, encrypts: bool) -> CertificateStanding:
    try:
        certificate = gpg.read_certificate(path)
    except OpenPGPError as error:
        return CertificateStanding(f"certificate {path.name}", encrypts, None, str(error))
    ends_at = certificate.encrypts_until if encrypts else certificate.signs_until
    unusable = None
    try:
        certificate.require_recipient() if encrypts else certificate.require_valid()
    except OpenPGPError as error:
        unusable = str(error)
    return CertificateStanding(
        certificate.label, encrypts, ends_at, unusable, certificate.fingerprint, certificate.content
    )


def _require_officer(name: str, certificate: Certificate) -> None:
    try:
        certificate.require_valid()
    except OpenPGPError as error:
        raise ApprovalError(f"officer {name}: {error}") from None
    if not certificate.can_sign:
        raise ApprovalError(f"officer {name}: {certificate.label} has no usable key for signing; have one added")


def _require_one_detached_signature(ring: Keyring, signature: bytes) -> None:
    """Checks the packets first: gpg itself would also accept a message that contains its own text."""
    if not signature.strip():
        raise ApprovalError(f"the signature is empty; {_SIGN_AGAIN}")
    if len(signature) > _LARGEST_SIGNATURE_BYTES:
        raise ApprovalError(f"the signature has {len(signature)} bytes, so it is not a detached one; {_SIGN_AGAIN}")
    packets = _packets(ring, signature)
    if not packets:
        raise ApprovalError(f"the input is not an OpenPGP signature; {_SIGN_AGAIN}")
    if set(packets) != {"signature"}:
        raise ApprovalError(f"the input is not a detached signature; {_SIGN_AGAIN}")
    if len(packets) > 1:
        raise ApprovalError(f"the input holds {len(packets)} signatures; give one signature at a time")


def _packets(ring: Keyring, message: bytes) -> list[str]:
    """Returns the kinds of the packets in a message, in order."""
    lines = ring.run("--list-packets", stdin=message).output.split(b"\n")
    return [found[1].decode("ascii", "backslashreplace") for line in lines if (found := _PACKET.match(line))]


def _address(user_id: Sequence[str]) -> str | None:
    """Returns the mail address in a user id as gpg's status splits it: ``Name <address>``, or the address alone."""
    found = _ADDRESS.fullmatch(unquote(" ".join(user_id)))
    return None if found is None else found["bracketed"] or found["alone"]


def _claimed(status: Status) -> set[str]:
    """Returns primary-key fingerprints that a signature names, valid or not: used only to refuse."""
    return {arguments[-1] for arguments in status.all("VALIDSIG")}


def require_one_good_signature(status: Status) -> None:
    """Refuses anything but one good signature without any other remark of gpg, and an exit code of zero.

    Every line about a signature ends in SIG: NEWSIG, GOODSIG, VALIDSIG, BADSIG, ERRSIG, EXPSIG, EXPKEYSIG, REVKEYSIG.
    """
    said = [line.keyword for line in status.lines if line.keyword.endswith("SIG")]
    if status.exit_code or said != ["NEWSIG", "GOODSIG", "VALIDSIG"]:
        raise ApprovalError(_refusal(status))


_REFUSALS = {
    "BADSIG": f"the signature is not over exactly this text; {_SIGN_AGAIN}",
    "NO_PUBKEY": "the signature is by key {key}, which no officer of the roster has; let an officer sign",
    "REVKEYSIG": "the signature is by the revoked key {key}; sign with a valid one",
    "EXPKEYSIG": "the signature is by the expired key {key}; extend it, export the certificate again, then sign",
    "EXPSIG": f"the signature itself has expired; {_SIGN_AGAIN}",
    # After NO_PUBKEY, which comes with an ERRSIG of its own.
    "ERRSIG": "gpg cannot check the signature (weak digest or unknown algorithm); sign with `gpg --digest-algo SHA512`",
}


def _refusal(status: Status) -> str:
    """Says what is wrong with a signature that is not good."""
    for keyword, sentence in _REFUSALS.items():
        if status.says(keyword):
            return sentence.format(key=status.all(keyword)[0][0])
    return f"gpg does not accept the signature; {_SIGN_AGAIN}"
