"""Officers' certificates and signatures, against the real gpg and real keys."""

import os
import shutil
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.openpgp import GnuPG, OfficerSignatures
from keyrotation_pipeline.adapters.openpgp.recipients import BackupRecipients
from keyrotation_pipeline.adapters.openpgp.runner import run
from keyrotation_pipeline.demo.officers import DemoOfficer, short_path
from keyrotation_pipeline.errors import ApprovalError, OpenPGPError
from keyrotation_pipeline.model.approval import Officer, Roster, VerifiedSignature
from keyrotation_pipeline_tests.officers import (
    at_instant,
    make_expired_officer,
    make_officer,
    make_officer_with_uid,
    revoke,
    sign_at,
)

TEXT = b"keyrotation-approval-v1\nRequest: 0f0f\nReason: yearly\n"
YESTERDAY = datetime.now(UTC) - timedelta(days=1)


class Signatures(OfficerSignatures):
    """Verifies by the officers of the configuration, as they were pinned when this was made."""

    pinned: tuple[Officer, ...] = ()

    def pin(self, gpg: GnuPG) -> "Signatures":
        read = [(name, gpg.read_certificate(path)) for name, path in self._officers]
        self.pinned = tuple(Officer(name, each.fingerprint, b64encode(each.content).decode()) for name, each in read)
        return self

    def verify(
        self, text: bytes, signature: bytes, officers: Sequence[Officer] | None = None, at: datetime | None = None
    ) -> VerifiedSignature:
        return super().verify(text, signature, self.pinned if officers is None else officers, at)


Verifier = Callable[..., Signatures]


@pytest.fixture
def gpg(tmp_path: Path) -> GnuPG:
    """Our gpg, in a home whose path is too long for the socket of an agent."""
    return GnuPG(tmp_path / ("a-long-name-" * 12) / "gnupg", SystemClock())


@pytest.fixture
def verifier(gpg: GnuPG, security_officer: DemoOfficer, privacy_officer: DemoOfficer) -> Verifier:
    """`verifier(another, …)`: two valid officers and others, of whom two must sign."""

    def build(*others: DemoOfficer, required: int = 2, lone: bool = False) -> Signatures:
        officers = [(each.name, each.certificate) for each in (security_officer, privacy_officer, *others)]
        return Signatures(gpg, officers, required, [security_officer.certificate], lone_officer_allowed=lone).pin(gpg)

    return build


def install_gpg(directory: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put another gpg first in PATH."""
    program, real = directory / "gpg", os.environ["PATH"]
    directory.mkdir()
    program.write_text(f'#!/bin/bash\nPATH="{real}"\n{script}\n')
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{directory}:{real}")


def fingerprint(gpg: GnuPG, officer: DemoOfficer) -> str:
    return gpg.read_certificate(officer.certificate).fingerprint


# --- signatures that count ------------------------------------------------------------------------------------------


def test_a_detached_signature_names_its_officer_and_its_time(
    verifier: Verifier, gpg: GnuPG, privacy_officer: DemoOfficer
) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    verified = verifier().verify(TEXT, privacy_officer.sign(TEXT))
    assert verified.officer == fingerprint(gpg, privacy_officer)
    assert before <= verified.signed_at <= datetime.now(UTC)


def test_a_binary_signature_counts_as_an_armored_one_does(verifier: Verifier, privacy_officer: DemoOfficer) -> None:
    assert verifier().verify(TEXT, privacy_officer.gpg("--detach-sign", text=TEXT))


def test_a_signature_by_a_subkey_is_of_the_officer_with_the_primary_key(
    verifier: Verifier, gpg: GnuPG, tmp_path: Path
) -> None:
    officer = make_officer(tmp_path, "Subkey Officer")
    primary = fingerprint(gpg, officer)
    officer.gpg("--passphrase", "", "--quick-add-key", primary, "ed25519", "sign", "never")
    officer.export()
    signature = officer.sign(TEXT)
    assert primary[-16:].encode() not in officer.gpg("--list-packets", text=signature).upper()
    assert verifier(officer).verify(TEXT, signature).officer == primary


@pytest.mark.parametrize("days", [pytest.param(-1, id="backdated"), pytest.param(400, id="future-dated")])
def test_the_time_that_a_signature_claims_is_told_to_the_second_so_that_the_request_can_refuse_it(
    verifier: Verifier, tmp_path: Path, days: int
) -> None:
    officer = make_officer(tmp_path, "Time Officer", extra=at_instant(datetime.now(UTC) - timedelta(days=30)))
    claimed = datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
    assert verifier(officer).verify(TEXT, sign_at(officer, TEXT, claimed)).signed_at == claimed


# --- signatures that do not -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "signed",
    [
        pytest.param(TEXT.replace(b"yearly", b"yearly "), id="one space more"),
        pytest.param(TEXT.rstrip(b"\n"), id="without the last newline"),
        pytest.param(TEXT.replace(b"\n", b"\r\n"), id="with other line ends"),
        pytest.param(b"", id="over nothing"),
    ],
)
def test_a_signature_over_other_text_is_refused(
    verifier: Verifier, privacy_officer: DemoOfficer, signed: bytes
) -> None:
    with pytest.raises(ApprovalError, match="not over exactly this text"):
        verifier().verify(TEXT, privacy_officer.sign(signed))


def test_a_signature_by_a_certificate_outside_the_roster_is_refused(verifier: Verifier, tmp_path: Path) -> None:
    with pytest.raises(ApprovalError, match="which no officer of the roster has"):
        verifier().verify(TEXT, make_officer(tmp_path, "Stranger").sign(TEXT))


def test_an_officer_who_left_the_roster_is_unknown_at_once(verifier: Verifier, tmp_path: Path) -> None:
    former = make_officer(tmp_path, "Former Officer")
    signature = former.sign(TEXT)
    assert verifier(former).verify(TEXT, signature)
    with pytest.raises(ApprovalError, match="which no officer of the roster has"):
        verifier().verify(TEXT, signature)


def test_a_signature_made_before_the_certificate_was_revoked_is_refused(verifier: Verifier, tmp_path: Path) -> None:
    officer = make_officer(tmp_path, "Revoked Officer")
    signature, signatures = officer.sign(TEXT), verifier(officer)
    assert signatures.verify(TEXT, signature)
    revoke(officer)
    with pytest.raises(ApprovalError, match=r"Revoked Officer: certificate .* is revoked"):
        signatures.verify(TEXT, signature)


def test_whoever_left_the_configuration_is_verified_by_the_certificate_that_was_pinned(
    verifier: Verifier, tmp_path: Path
) -> None:
    former = make_officer(tmp_path, "Former Officer")
    pinned, signature = verifier(former).pinned, former.sign(TEXT)
    former.certificate.unlink()
    assert verifier().verify(TEXT, signature, pinned).officer == pinned[-1].fingerprint


def test_a_certificate_that_was_pinned_as_another_officers_verifies_nothing(verifier: Verifier, tmp_path: Path) -> None:
    stranger = make_officer(tmp_path, "Stranger")
    security, privacy = verifier().pinned
    forged = (security, replace(privacy, certificate=b64encode(stranger.certificate.read_bytes()).decode()))
    with pytest.raises(ApprovalError, match="which no officer of the roster has"):
        verifier().verify(TEXT, stranger.sign(TEXT), forged)


def test_a_certificate_that_was_extended_since_it_was_pinned_counts_as_it_is_now(
    verifier: Verifier, gpg: GnuPG, tmp_path: Path
) -> None:
    officer = make_expired_officer(tmp_path, "Renewed Officer")
    signatures = verifier(officer)
    officer.gpg("--quick-set-expire", fingerprint(gpg, officer), "0")
    officer.export()
    assert signatures.verify(TEXT, officer.sign(TEXT))


def test_what_was_carried_out_before_the_certificate_expired_can_be_verified_as_of_then(
    verifier: Verifier, tmp_path: Path
) -> None:
    officer, then = make_expired_officer(tmp_path, "Expired Officer"), datetime(2020, 1, 5, tzinfo=UTC)
    signature, signatures = sign_at(officer, TEXT, then), verifier(officer)
    assert signatures.verify(TEXT, signature, at=then).signed_at == then
    with pytest.raises(ApprovalError, match="has expired"):
        signatures.verify(TEXT, signature, at=datetime(2020, 3, 1, tzinfo=UTC))


def test_a_signature_made_before_the_certificate_expired_is_refused(verifier: Verifier, tmp_path: Path) -> None:
    officer = make_expired_officer(tmp_path, "Expired Officer")
    with pytest.raises(ApprovalError, match=r"Expired Officer: certificate .* has expired"):
        verifier(officer).verify(TEXT, sign_at(officer, TEXT, datetime(2020, 1, 5, tzinfo=UTC)))


def test_an_expired_or_revoked_officer_does_not_keep_the_others_from_signing(
    verifier: Verifier, tmp_path: Path, privacy_officer: DemoOfficer
) -> None:
    revoked = make_officer(tmp_path, "Revoked Officer")
    revoke(revoked)
    signatures = verifier(make_expired_officer(tmp_path, "Expired Officer"), revoked)
    assert signatures.verify(TEXT, privacy_officer.sign(TEXT))


def test_a_signature_by_a_revoked_subkey_of_a_valid_certificate_is_refused(
    verifier: Verifier, gpg: GnuPG, tmp_path: Path
) -> None:
    officer = make_officer(tmp_path, "Subkey Officer")
    officer.gpg("--passphrase", "", "--quick-add-key", fingerprint(gpg, officer), "ed25519", "sign", "never")
    officer.export()
    signature = officer.sign(TEXT)
    officer.gpg(
        "--command-fd",
        "0",
        "--no-batch",
        "--edit-key",
        fingerprint(gpg, officer),
        text=b"key 2\nrevkey\ny\n0\n\ny\nsave\n",
    )
    officer.export()
    with pytest.raises(ApprovalError, match="by the revoked key"):
        verifier(officer).verify(TEXT, signature)


def test_a_signature_that_has_expired_itself_is_refused(verifier: Verifier, tmp_path: Path) -> None:
    officer = make_officer(tmp_path, "Past Officer", extra=at_instant(YESTERDAY - timedelta(days=2)))
    signature = officer.sign(TEXT, *at_instant(YESTERDAY), "--default-sig-expire", "seconds=60")
    with pytest.raises(ApprovalError, match="signature itself has expired"):
        verifier(officer).verify(TEXT, signature)


@pytest.mark.parametrize("digest", ["SHA1", "RIPEMD160"])
def test_a_signature_with_a_weak_digest_is_refused(
    verifier: Verifier, privacy_officer: DemoOfficer, digest: str
) -> None:
    with pytest.raises(ApprovalError, match="weak digest"):
        verifier().verify(TEXT, privacy_officer.sign(TEXT, "--digest-algo", digest))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        pytest.param(lambda _: b"", "is empty", id="nothing"),
        pytest.param(lambda _: b" \n", "is empty", id="white space"),
        pytest.param(lambda _: TEXT, "not an OpenPGP signature", id="the text itself"),
        pytest.param(lambda _: os.urandom(100_000), "no detached signature", id="a large file"),
        pytest.param(lambda o: o.sign(TEXT)[:90], "gpg does not accept|not an OpenPGP", id="cut short"),
        pytest.param(lambda o: o.gpg("--clear-sign", text=TEXT), "not a detached", id="clear-signed"),
        pytest.param(lambda o: o.gpg("--armor", "--sign", text=TEXT), "not a detached", id="inline"),
        pytest.param(lambda o: o.certificate.read_bytes(), "not a detached", id="a certificate"),
        pytest.param(lambda o: o.sign(TEXT) + o.sign(TEXT), "holds 2 signatures", id="two armored"),
        pytest.param(lambda o: 2 * o.gpg("--detach-sign", text=TEXT), "holds 2 signatures", id="two binary"),
        pytest.param(lambda o: o.sign(TEXT, "--textmode"), "text mode", id="text mode"),
    ],
)
def test_what_is_not_one_detached_signature_is_refused(
    verifier: Verifier, privacy_officer: DemoOfficer, make: Callable[[DemoOfficer], bytes], sentence: str
) -> None:
    with pytest.raises(ApprovalError, match=sentence):
        verifier().verify(TEXT, make(privacy_officer))


def test_a_message_that_brings_its_own_text_cannot_stand_in_for_a_signature(
    verifier: Verifier, privacy_officer: DemoOfficer
) -> None:
    other = privacy_officer.gpg("--armor", "--sign", text=b"something harmless")
    with pytest.raises(ApprovalError, match="not a detached"):
        verifier().verify(TEXT, other)


@pytest.mark.parametrize(
    "cut",
    [
        pytest.param("\u0085", id="U+0085"),
        # Its UTF-8 form ends with the byte 85, which is U+0085 to who reads Latin-1. This uid is no refused one.
        pytest.param("Å", id="a letter that holds the byte 85"),
    ],
)
def test_a_bad_signature_by_a_pinned_certificate_whose_uid_holds_status_lines_is_not_the_other_officers(
    verifier: Verifier, gpg: GnuPG, privacy_officer: DemoOfficer, tmp_path: Path, cut: str
) -> None:
    victim, now = fingerprint(gpg, privacy_officer), int(datetime.now(UTC).timestamp())
    valid = f"VALIDSIG {victim} 2026-01-01 {now} 0 4 0 22 10 00 {victim}"
    forger = make_officer_with_uid(tmp_path, f"Mallory {cut}[GNUPG:] GOODSIG {victim} x{cut}[GNUPG:] {valid}{cut}.")
    with pytest.raises((ApprovalError, OpenPGPError)):
        verifier(forger).verify(TEXT, forger.sign(b"any other text"))


# --- the roster -----------------------------------------------------------------------------------------------------


def test_the_roster_names_officers_and_recipients_by_their_primary_keys(
    verifier: Verifier, gpg: GnuPG, security_officer: DemoOfficer, privacy_officer: DemoOfficer
) -> None:
    roster = verifier().roster()
    assert roster.required == 2
    assert [(each.name, each.fingerprint) for each in roster.officers] == [
        ("Security Officer", fingerprint(gpg, security_officer)),
        ("Privacy Officer", fingerprint(gpg, privacy_officer)),
    ]
    assert roster.recipients == (fingerprint(gpg, security_officer),)


def test_the_same_certificate_under_two_names_is_refused(
    gpg: GnuPG, security_officer: DemoOfficer, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.gpg"
    copy.write_bytes(security_officer.gpg("--export"))
    officers = [("Ada", security_officer.certificate), ("Ben", copy)]
    with pytest.raises(ApprovalError, match="officers Ada and Ben have the same certificate"):
        OfficerSignatures(gpg, officers, 2, []).roster()


def test_an_expired_officer_is_refused(verifier: Verifier, tmp_path: Path) -> None:
    with pytest.raises(ApprovalError, match=r"officer Gone: certificate .* has expired"):
        verifier(make_expired_officer(tmp_path, "Gone")).roster()


def test_a_revoked_officer_is_refused(verifier: Verifier, tmp_path: Path) -> None:
    officer = make_officer(tmp_path, "Gone")
    revoke(officer)
    with pytest.raises(ApprovalError, match=r"officer Gone: certificate .* is revoked"):
        verifier(officer).roster()


def test_a_revoked_recipient_is_refused(gpg: GnuPG, verifier: Verifier, tmp_path: Path) -> None:
    recipient = make_officer(tmp_path, "Recovery")
    officers = [(each, make_officer(tmp_path, each).certificate) for each in ("Ada", "Ben")]
    revoke(recipient)
    with pytest.raises(OpenPGPError, match="is revoked"):
        OfficerSignatures(gpg, officers, 2, [recipient.certificate]).roster()


def test_fewer_officers_than_must_sign_are_refused(verifier: Verifier) -> None:
    with pytest.raises(ApprovalError, match="3 approvals are required of 2 officer"):
        verifier(required=3).roster()


@pytest.mark.parametrize("required", [1, 0, -1])
def test_one_approval_is_not_enough(verifier: Verifier, required: int) -> None:
    with pytest.raises(ApprovalError, match=f"required is {required}; two people must agree"):
        verifier(required=required).roster()


def test_a_demo_home_may_ask_for_one_approval_but_not_for_none(verifier: Verifier) -> None:
    assert verifier(required=1, lone=True).roster().required == 1
    with pytest.raises(ApprovalError, match="required is 0"):
        verifier(required=0, lone=True).roster()


# --- what is remembered -----------------------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with one line for each run of gpg by us."""
    seen = tmp_path / "runs"
    install_gpg(tmp_path / "counting", f'echo "$*" >> {seen}\nexec gpg "$@"', monkeypatch)
    return seen


def test_gpg_is_not_run_again_for_what_it_has_answered(
    verifier: Verifier, privacy_officer: DemoOfficer, runs: Path
) -> None:
    signatures, signature = verifier(), privacy_officer.sign(TEXT)
    verified, roster = signatures.verify(TEXT, signature), signatures.roster()
    before = runs.read_text()
    assert signatures.verify(TEXT, signature) == verified
    assert signatures.roster() == roster
    assert runs.read_text() == before


@pytest.mark.parametrize(
    ("text", "change", "sentence"),
    [
        pytest.param(TEXT + b" ", lambda s: s, "not over exactly this text", id="another text"),
        pytest.param(TEXT, lambda s: s + s, "holds 2 signatures", id="a signature more"),
    ],
)
def test_what_was_verified_says_nothing_of_anything_else(
    verifier: Verifier, privacy_officer: DemoOfficer, text: bytes, change: Callable[[bytes], bytes], sentence: str
) -> None:
    signatures, signature = verifier(), privacy_officer.sign(TEXT)
    signatures.verify(TEXT, signature)
    with pytest.raises(ApprovalError, match=sentence):
        signatures.verify(text, change(signature))
    with pytest.raises(ApprovalError, match="which no officer of the roster has"):
        signatures.verify(TEXT, signature, signatures.pinned[:1])


def test_a_certificate_file_that_was_exchanged_is_read_again(
    verifier: Verifier, gpg: GnuPG, tmp_path: Path, privacy_officer: DemoOfficer
) -> None:
    officer, other = make_officer(tmp_path, "Changing Officer"), make_officer(tmp_path, "Another Officer")
    signature, signatures = officer.sign(TEXT), verifier(officer)
    unpinned = [replace(each, certificate="") for each in signatures.pinned]
    assert signatures.verify(TEXT, signature, unpinned)
    stat = officer.certificate.stat()
    officer.certificate.write_bytes(other.certificate.read_bytes())
    os.utime(officer.certificate, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(ApprovalError, match="which no officer of the roster has"):
        signatures.verify(TEXT, signature, unpinned)
    assert fingerprint(gpg, officer) == fingerprint(gpg, other)


NOON = datetime(2031, 5, 5, 12, tzinfo=UTC)


@dataclass
class ToldClock(SystemClock):
    """The clock of gpg and of us."""

    file: Path

    def set(self, at: datetime) -> None:
        self.file.write_text(f"{at:%Y%m%dT%H%M%S}!")
        self.at = at

    def now(self) -> datetime:
        return self.at


@pytest.mark.parametrize(
    ("expires", "options", "sentence"),
    [
        # gpg lets a certificate live through the second that it names, and a signature until then.
        pytest.param("20310505T120008", (), "has expired", id="the certificate"),
        pytest.param("0", ("--default-sig-expire", "seconds=9"), "signature itself has expired", id="the signature"),
    ],
)
def test_what_expires_after_it_was_verified_is_refused_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expires: str, options: tuple[str, ...], sentence: str
) -> None:
    clock = ToldClock(tmp_path / "now")
    clock.set(NOON)
    officer = make_officer(tmp_path, "Expiring Officer", expires, extra=at_instant(NOON))
    signature = officer.sign(TEXT, *at_instant(NOON), *options)
    install_gpg(tmp_path / "bin", f'exec gpg --faked-system-time "$(cat {clock.file})" "$@"', monkeypatch)
    gpg = GnuPG(tmp_path / "gnupg", clock)
    signatures = Signatures(gpg, [("Ada", officer.certificate)], 2, []).pin(gpg)
    assert signatures.verify(TEXT, signature)
    clock.set(NOON + timedelta(seconds=8))
    assert signatures.verify(TEXT, signature)
    clock.set(NOON + timedelta(seconds=9))
    with pytest.raises(ApprovalError, match=sentence):
        signatures.verify(TEXT, signature)


# --- certificates ---------------------------------------------------------------------------------------------------


def test_a_certificate_tells_who_it_is_of_and_what_it_can_do(gpg: GnuPG, tmp_path: Path) -> None:
    read = gpg.read_certificate(make_officer(tmp_path, "Zoë Żak", "20401231T000000").certificate)
    assert read.user_ids == ("Zoë Żak <zoë-żak@clinic.invalid>",)
    assert read.expires_at == datetime(2040, 12, 31, tzinfo=UTC)
    assert (read.can_sign, read.can_encrypt, read.expired, read.revoked) == (True, True, False, False)


@pytest.mark.parametrize(
    ("uid", "sentence"),
    [
        pytest.param("Ada \u0085 Lovelace", r"character U\+0085", id="next line"),
        pytest.param("Ada \u2028 Lovelace", r"character U\+2028", id="line separator"),
        pytest.param("Ada \v Lovelace", r"character U\+000B", id="vertical tab"),
        pytest.param("Ada \x1b[2J Lovelace", r"character U\+001B", id="escape"),
        pytest.param("Ada \u202eecalevoL", r"character U\+202E", id="right-to-left override"),
        pytest.param("Ada \u200b Lovelace", r"character U\+200B", id="zero width"),
        pytest.param("Ada \udcc5 Lovelace", "not UTF-8", id="no UTF-8"),
    ],
)
def test_a_certificate_whose_uid_could_hide_or_forge_text_is_refused_when_the_roster_is_read(
    verifier: Verifier, tmp_path: Path, uid: str, sentence: str
) -> None:
    officer = make_officer_with_uid(tmp_path, uid)
    with pytest.raises(OpenPGPError, match=sentence):
        verifier(officer).roster()


def test_a_backslash_and_a_colon_in_a_uid_are_read_as_they_are(gpg: GnuPG, tmp_path: Path) -> None:
    uid = r"Ada \x0b \n: Lovelace"
    assert gpg.read_certificate(make_officer_with_uid(tmp_path, uid).certificate).user_ids == (uid,)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        pytest.param(lambda o: o.gpg("--armor", "--export-secret-keys"), "holds a secret key", id="armored secret key"),
        pytest.param(lambda o: o.gpg("--export-secret-keys"), "holds a secret key", id="binary secret key"),
        pytest.param(lambda o: o.gpg("--export-secret-subkeys"), "holds a secret key", id="secret subkeys alone"),
        pytest.param(lambda _: TEXT, "is not an OpenPGP certificate", id="text"),
        pytest.param(lambda _: b"", "is not an OpenPGP certificate", id="empty file"),
        pytest.param(lambda o: o.sign(TEXT), "is not an OpenPGP certificate", id="signature"),
    ],
)
def test_a_file_that_is_not_one_public_certificate_is_refused(
    gpg: GnuPG, privacy_officer: DemoOfficer, tmp_path: Path, make: Callable[[DemoOfficer], bytes], sentence: str
) -> None:
    path = tmp_path / "given.asc"
    path.write_bytes(make(privacy_officer))
    with pytest.raises(OpenPGPError, match=sentence):
        gpg.read_certificate(path)


def test_a_file_with_two_certificates_is_refused(
    gpg: GnuPG, security_officer: DemoOfficer, privacy_officer: DemoOfficer, tmp_path: Path
) -> None:
    path = tmp_path / "two.asc"
    path.write_bytes(security_officer.certificate.read_bytes() + privacy_officer.certificate.read_bytes())
    with pytest.raises(OpenPGPError, match="holds several certificates"):
        gpg.read_certificate(path)


def test_a_certificate_that_is_not_there_is_named(gpg: GnuPG, tmp_path: Path) -> None:
    with pytest.raises(OpenPGPError, match=r"absent\.asc cannot be read"):
        gpg.read_certificate(tmp_path / "absent.asc")


# --- encryption -----------------------------------------------------------------------------------------------------


def test_every_recipient_can_decrypt_what_was_encrypted(
    gpg: GnuPG, security_officer: DemoOfficer, privacy_officer: DemoOfficer
) -> None:
    secret = os.urandom(200_000)
    recipients = [gpg.read_certificate(each.certificate) for each in (security_officer, privacy_officer)]
    message = gpg.encrypt(secret, recipients)
    assert secret[:100] not in message
    assert security_officer.decrypt(message) == privacy_officer.decrypt(message) == secret
    assert set(gpg.recipient_keys(message)) == {key for each in recipients for key in each.encryption_keys}


def test_encryption_to_an_expired_certificate_is_refused(gpg: GnuPG, tmp_path: Path) -> None:
    expired = gpg.read_certificate(make_expired_officer(tmp_path, "Gone").certificate)
    with pytest.raises(OpenPGPError, match="has expired"):
        gpg.encrypt(b"secret", [expired])


def test_encryption_to_a_revoked_certificate_is_refused(gpg: GnuPG, tmp_path: Path) -> None:
    revoked = gpg.read_certificate(revoke(make_officer(tmp_path, "Gone")))
    with pytest.raises(OpenPGPError, match="is revoked"):
        gpg.encrypt(b"secret", [revoked])


def test_encryption_to_a_certificate_that_only_signs_is_refused(
    gpg: GnuPG, privacy_officer: DemoOfficer, tmp_path: Path
) -> None:
    signs_only = tmp_path / "signs-only.asc"
    signs_only.write_bytes(privacy_officer.gpg("--export", "--export-filter", "drop-subkey=usage=~e"))
    with pytest.raises(OpenPGPError, match="no usable key for encryption"):
        gpg.encrypt(b"secret", [gpg.read_certificate(signs_only)])


def test_encryption_to_nobody_is_refused(gpg: GnuPG) -> None:
    with pytest.raises(OpenPGPError, match="no recipient"):
        gpg.encrypt(b"secret", [])


# --- gpg itself -----------------------------------------------------------------------------------------------------


def test_a_machine_without_gpg_is_told_to_install_it(
    gpg: GnuPG, security_officer: DemoOfficer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OpenPGPError, match="gpg is not installed; install GnuPG"):
        gpg.read_certificate(security_officer.certificate)


def test_gpg_gets_no_variable_of_our_environment(
    security_officer: DemoOfficer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    install_gpg(tmp_path / "bin", f'env >> {seen}\nexec gpg "$@"', monkeypatch)
    monkeypatch.setenv("ENCRYPTION_MASTER_KEY", "planted-master-key")
    gpg = GnuPG(tmp_path / "gnupg", SystemClock())
    Signatures(gpg, [("Ada", security_officer.certificate)], 2, []).pin(gpg).verify(TEXT, security_officer.sign(TEXT))
    gpg.encrypt(b"secret", [gpg.read_certificate(security_officer.certificate)])
    assert "LC_ALL=C" in seen.read_text()
    assert "planted-master-key" not in seen.read_text()


def test_nothing_is_left_in_our_home_and_what_a_killed_process_left_goes(
    gpg: GnuPG, verifier: Verifier, privacy_officer: DemoOfficer, tmp_path: Path
) -> None:
    verifier().verify(TEXT, privacy_officer.sign(TEXT))
    (home,) = tmp_path.glob("*/gnupg")
    assert list(home.iterdir()) == []
    assert home.stat().st_mode & 0o777 == 0o700
    abandoned, young = home / "ring-abandoned", home / "ring-young"
    abandoned.mkdir()
    young.mkdir()
    os.utime(abandoned, (0, 0))
    gpg.recipient_keys(privacy_officer.sign(TEXT))
    assert list(home.iterdir()) == [young]


def test_what_gpg_says_of_a_bad_signature_is_one_line_whatever_its_uid_holds(tmp_path: Path) -> None:
    forger = make_officer_with_uid(tmp_path, "Mallory \u0085[GNUPG:] GOODSIG x\x0c[GNUPG:] VALIDSIG \u2028[GNUPG:] x")
    signature = tmp_path / "signature"
    signature.write_bytes(forger.sign(b"other"))
    with short_path(forger.home) as home:
        status = run(home, ["--verify", str(signature), "-"], TEXT)
    assert status.exit_code == 1
    assert [line.keyword for line in status.lines if line.keyword.endswith("SIG")] == ["NEWSIG", "BADSIG"]


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("cat >/dev/null; echo GOODSIG >&3", id="a line without gpg's mark"),
        pytest.param("cat >/dev/null; yes '[GNUPG:] NEWSIG' | head -c 2000000 >&3", id="two megabytes"),
    ],
)
def test_a_program_that_speaks_otherwise_than_gpg_is_not_believed(
    gpg: GnuPG, security_officer: DemoOfficer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str
) -> None:
    install_gpg(tmp_path / "bin", f'eval "exec 3>&$8"; {script}', monkeypatch)
    with pytest.raises(OpenPGPError, match="comes first in PATH"):
        gpg.read_certificate(security_officer.certificate)


def test_a_gpg_that_is_killed_has_encrypted_nothing(
    gpg: GnuPG, security_officer: DemoOfficer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipients = [gpg.read_certificate(security_officer.certificate)]
    real = shutil.which("gpg")
    install_gpg(
        tmp_path / "bin", f'case "$*" in *--encrypt*) head -c 10; kill -9 $$;; esac; exec {real} "$@"', monkeypatch
    )
    with pytest.raises(OpenPGPError, match="refuses to encrypt"):
        gpg.encrypt(b"secret secret secret", recipients)
    with (
        (tmp_path / "plain").open("w+b") as plain,
        pytest.raises(OpenPGPError, match="refuses to encrypt"),
        gpg.encrypting(plain, recipients) as message,
    ):
        message.read()


def test_an_error_of_the_disk_that_a_dump_is_written_to_is_not_blamed_on_gpg(
    gpg: GnuPG, security_officer: DemoOfficer, tmp_path: Path
) -> None:
    recipients = [gpg.read_certificate(security_officer.certificate)]
    (tmp_path / "plain").write_bytes(os.urandom(100_000))
    with (
        (tmp_path / "plain").open("rb") as plain,
        pytest.raises(OSError, match="No space left"),
        gpg.encrypting(plain, recipients) as message,
    ):
        Path("/dev/full").write_bytes(message.read())


def test_certificates_say_until_when_they_can_do_what_they_are_named_for(
    gpg: GnuPG, tmp_path: Path, security_officer: DemoOfficer
) -> None:
    short = make_officer(tmp_path / "short", "Short", expires="20400101T000000")
    subkey = short.gpg("--with-colons", "--list-keys").decode().split("fpr:::::::::")[2].split(":")[0]
    short.gpg("--quick-set-expire", fingerprint(gpg, short), "20391231T120000", subkey)
    short.export()
    gone = make_expired_officer(tmp_path / "gone", "Gone")
    named = [("Short", short.certificate), ("Security", security_officer.certificate)]
    recipients = [short.certificate, gone.certificate, tmp_path / "nowhere.asc"]
    found = OfficerSignatures(gpg, named, 2, recipients).certificates()
    assert [(each.encrypts, each.ends_at) for each in found[:3]] == [
        (False, datetime(2040, 1, 1, tzinfo=UTC)),
        (False, None),
        (True, datetime(2039, 12, 31, 12, tzinfo=UTC)),  # its key for encryption ends before the certificate does
    ]
    assert [each.unusable is None for each in found] == [True, True, True, False, False]
    assert "has expired" in str(found[3].unusable)
    assert "cannot be read" in str(found[4].unusable)


def test_an_expired_recipient_is_left_out_where_that_is_allowed_unless_it_is_the_only_one(
    gpg: GnuPG, tmp_path: Path, recovery_officer: DemoOfficer
) -> None:
    gone = make_expired_officer(tmp_path, "Gone").certificate
    certificates = [gone, recovery_officer.certificate]
    fingerprints = [gpg.read_certificate(each).fingerprint for each in certificates]
    roster = Roster(2, (), tuple(fingerprints))
    lenient = BackupRecipients(gpg, certificates, lambda: roster, needs_all=False)
    assert lenient.recipients() == (fingerprints[1],)
    assert recovery_officer.decrypt(lenient.encrypt(b"text")) == b"text"
    with pytest.raises(OpenPGPError, match="has expired"):
        BackupRecipients(gpg, certificates, lambda: roster).recipients()
    alone = Roster(2, (), (fingerprints[0],))
    with pytest.raises(OpenPGPError, match="has expired"):
        BackupRecipients(gpg, [gone], lambda: alone, needs_all=False).recipients()
