"""The roster, certificates, encryption and gpg itself, against the real gpg and real keys."""

import os
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.officer_signatures import OfficerFiles, OfficerSignatures
from keyrotation_pipeline.adapters.openpgp import GnuPG
from keyrotation_pipeline.adapters.openpgp.recipients import BackupRecipients
from keyrotation_pipeline.adapters.openpgp.runner import run
from keyrotation_pipeline.demo.officers import DemoOfficer, short_path
from keyrotation_pipeline.errors import ApprovalError, OpenPGPError
from keyrotation_pipeline.model.approval import Roster
from keyrotation_pipeline_tests.officers import make_expired_officer, make_officer, make_officer_with_uid, revoke
from keyrotation_pipeline_tests.small_disks import full_disk
from keyrotation_pipeline_tests.verifiers import TEXT, Signatures, Verifier, fingerprint, install_gpg

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
    officers = [OfficerFiles("Ada", security_officer.certificate), OfficerFiles("Ben", copy)]
    with pytest.raises(ApprovalError, match="officers Ada and Ben have the same certificate"):
        OfficerSignatures(gpg, officers, 2, []).roster()


def test_an_expired_officer_is_on_the_roster_and_named(verifier: Verifier, tmp_path: Path) -> None:
    signatures = verifier(make_expired_officer(tmp_path, "Gone"))
    assert "Gone" in [each.name for each in signatures.roster().officers]
    (unusable,) = [each.unusable for each in signatures.certificates() if each.unusable]
    assert re.match(r"officer Gone: certificate .* has expired", unusable)


def test_a_revoked_officer_is_named(verifier: Verifier, tmp_path: Path) -> None:
    officer = make_officer(tmp_path, "Gone")
    revoke(officer)
    (unusable,) = [each.unusable for each in verifier(officer).certificates() if each.unusable]
    assert re.match(r"officer Gone: certificate .* is revoked", unusable)


def test_a_revoked_recipient_is_named(gpg: GnuPG, tmp_path: Path) -> None:
    recipient = make_officer(tmp_path, "Recovery")
    officers = [OfficerFiles(each, make_officer(tmp_path, each).certificate) for each in ("Ada", "Ben")]
    revoke(recipient)
    signatures = OfficerSignatures(gpg, officers, 2, [recipient.certificate])
    assert len(signatures.roster().recipients) == 1
    assert "is revoked" in str(signatures.certificates()[-1].unusable)


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


# --- certificates ---------------------------------------------------------------------------------------------------


def test_a_certificate_says_who_it_is_of_and_what_it_can_do(gpg: GnuPG, tmp_path: Path) -> None:
    read = gpg.read_certificate(make_officer(tmp_path, "Zoë Żak", "20401231T000000").certificate)
    assert read.user_ids == ("Zoë Żak <zoë-żak@clinic.invalid>",)
    assert read.signs_until == datetime(2040, 12, 31, tzinfo=UTC)
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


def test_without_gpg_the_error_says_to_install_it(
    gpg: GnuPG, security_officer: DemoOfficer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OpenPGPError, match="gpg is not installed; install GnuPG"):
        gpg.read_certificate(security_officer.certificate)


@pytest.mark.parametrize("free_bytes", [0, 8 << 10])
def test_a_full_disk_is_not_blamed_on_a_certificate(
    security_officer: DemoOfficer, tmp_path: Path, free_bytes: int
) -> None:
    with full_disk(tmp_path / "small", free_bytes) as small:
        gpg = GnuPG(small / "gnupg", SystemClock())
        certificate = gpg.read_certificate(security_officer.certificate)
        with pytest.raises(OpenPGPError, match=r"gpg cannot write in .*small/gnupg/.* \(No space left on device\)"):
            gpg.encrypt(b"secret", [certificate])


def test_gpg_gets_no_variable_of_our_environment(
    security_officer: DemoOfficer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    install_gpg(tmp_path / "bin", f'env >> {seen}\nexec gpg "$@"', monkeypatch)
    monkeypatch.setenv("ENCRYPTION_MASTER_KEY", "planted-master-key")
    gpg = GnuPG(tmp_path / "gnupg", SystemClock())
    Signatures(gpg, [OfficerFiles("Ada", security_officer.certificate)], 2, []).pin(gpg).verify(
        TEXT, security_officer.sign(TEXT)
    )
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
    named = [OfficerFiles("Short", short.certificate), OfficerFiles("Security", security_officer.certificate)]
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


def test_an_expired_recipient_is_left_out_unless_it_is_the_only_one(
    gpg: GnuPG, tmp_path: Path, recovery_officer: DemoOfficer
) -> None:
    gone = make_expired_officer(tmp_path, "Gone").certificate
    certificates = [gone, recovery_officer.certificate]
    fingerprints = [gpg.read_certificate(each).fingerprint for each in certificates]
    roster = Roster(2, (), tuple(fingerprints))
    recipients = BackupRecipients(gpg, certificates, lambda: roster)
    assert recipients.recipients() == (fingerprints[1],)
    assert recovery_officer.decrypt(recipients.encrypt(b"text")) == b"text"
    alone = Roster(2, (), (fingerprints[0],))
    with pytest.raises(OpenPGPError, match="has expired"):
        BackupRecipients(gpg, [gone], lambda: alone).recipients()
