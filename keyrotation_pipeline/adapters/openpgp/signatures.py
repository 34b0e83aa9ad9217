"""Verifies OpenPGP signatures: detached, over exactly the text, by a certificate that is valid at that time."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import unquote

from keyrotation_pipeline.adapters.openpgp.certificates import Certificate, date_of
from keyrotation_pipeline.adapters.openpgp.keyring import GnuPG, Keyring
from keyrotation_pipeline.adapters.openpgp.runner import Status
from keyrotation_pipeline.errors import ApprovalError, OpenPGPError
from keyrotation_pipeline.model.approval import Officer, VerifiedSignature

_LARGEST_SIGNATURE_BYTES = 64 * 1024
_PACKET = re.compile(rb":(.+?) packet")
# RFC 9580 section 9.5: SHA-256, SHA-384, SHA-512, SHA3-256, SHA3-512.
_STRONG_DIGESTS = frozenset({"8", "9", "10", "12", "14"})
_BINARY_SIGNATURE = "00"
_MAILBOX = r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*"
_ADDRESS = re.compile(rf"(?s:.*)<(?P<bracketed>{_MAILBOX})>|(?P<alone>{_MAILBOX})")
_SIGN_AGAIN = "sign what `--text` prints with `gpg --armor --detach-sign`"


def verified_by_gpg(
    gpg: GnuPG,
    text: bytes,
    signature: bytes,
    officers: Sequence[Officer],
    certificates: Sequence[Certificate],
    at: datetime | None = None,
) -> tuple[VerifiedSignature, list[datetime]]:
    """Has gpg verify a signature; also returns the dates on which its answer may change.

    Args:
        certificates: of these officers.
        at: when they must be valid; None: now.

    Raises:
        ApprovalError: it does not count, with a sentence for each reason.
        OpenPGPError: gpg is missing or cannot work.
    """
    expiries: list[datetime] = []
    with gpg.keyring(certificates, at=at) as ring:
        _require_one_detached_signature(ring, signature)
        signature_file = ring.home / "signature"
        signature_file.write_bytes(signature)
        status = ring.run("--verify", str(signature_file), "-", stdin=text)
        for officer in officers:
            if officer.fingerprint in _claimed(status):
                certificate = ring.certificate(officer.fingerprint)
                require_officer(officer.name, certificate)
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


def require_officer(name: str, certificate: Certificate) -> None:
    """Refuses a certificate that an officer cannot sign with.

    Raises:
        ApprovalError: it is expired, revoked, or has no usable key for signing.
    """
    try:
        certificate.require_valid()
    except OpenPGPError as error:
        raise ApprovalError(f"officer {name}: {error}") from None
    if not certificate.can_sign:
        raise ApprovalError(f"officer {name}: {certificate.label} has no usable key for signing; have one added")


def _require_one_detached_signature(ring: Keyring, signature: bytes) -> None:
    """Checks the packets first: gpg itself would also accept a message that contains its own text."""
    if not signature.strip():
        raise ApprovalError(f"the signature is empty; see what gpg says above, then {_SIGN_AGAIN}")
    if len(signature) > _LARGEST_SIGNATURE_BYTES:
        raise ApprovalError(f"the signature has {len(signature)} bytes, so it is not a detached one; {_SIGN_AGAIN}")
    lines = ring.run("--list-packets", stdin=signature).output.split(b"\n")
    packets = [found[1] for line in lines if (found := _PACKET.match(line))]
    if not packets:
        raise ApprovalError(f"the input is not an OpenPGP signature; {_SIGN_AGAIN}")
    if set(packets) != {b"signature"}:
        raise ApprovalError(f"the input is not a detached signature; {_SIGN_AGAIN}")
    if len(packets) > 1:
        raise ApprovalError(f"the input holds {len(packets)} signatures; give one signature at a time")


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
    for keyword, message in _REFUSALS.items():
        if status.says(keyword):
            return message.format(key=status.all(keyword)[0][0])
    return f"gpg does not accept the signature; {_SIGN_AGAIN}"
