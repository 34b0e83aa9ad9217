"""Officers' signatures that count and that do not, against the real gpg and real keys."""

import os
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keyrotation_pipeline.adapters.openpgp import GnuPG
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.errors import ApprovalError, OpenPGPError
from keyrotation_pipeline_tests.officers import (
    at_instant,
    make_expired_officer,
    make_officer,
    make_officer_with_uid,
    revoke,
    sign_at,
)
from keyrotation_pipeline_tests.verifiers import TEXT, Verifier, fingerprint

YESTERDAY = datetime.now(UTC) - timedelta(days=1)


# --- signatures that count ------------------------------------------------------------------------------------------


def test_a_detached_signature_names_its_officer_and_its_time(
    verifier: Verifier, gpg: GnuPG, privacy_officer: DemoOfficer
) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    verified = verifier().verify(TEXT, privacy_officer.sign(TEXT))
    assert verified.officer == fingerprint(gpg, privacy_officer)
    assert verified.signed_at is not None
    assert before <= verified.signed_at <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("uid", "address"),
    [
        pytest.param("Ada Byron <ada.b+keys@clinic.example>", "ada.b+keys@clinic.example", id="name and address"),
        pytest.param("ada@clinic.example", "ada@clinic.example", id="address alone"),
        pytest.param("Zoë % 100 <zoe@clinic.example>", "zoe@clinic.example", id="what gpg escapes"),
        pytest.param("Ada Byron", None, id="no address"),
        pytest.param("Ada <ada@clinic.example> (old)", None, id="not at the end"),
        pytest.param("Ada <not an address>", None, id="no address in brackets"),
    ],
)
def test_a_signature_gives_the_address_of_its_officers_certificate(
    tmp_path: Path, verifier: Verifier, uid: str, address: str | None
) -> None:
    officer = make_officer_with_uid(tmp_path, uid)
    assert verifier(officer).verify(TEXT, officer.sign(TEXT)).address == address


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
def test_the_time_that_a_signature_claims_is_returned_to_the_second_so_that_the_request_can_refuse_it(
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


def test_what_was_carried_out_before_the_certificate_was_revoked_was_good_and_allows_nothing_now(
    verifier: Verifier, tmp_path: Path
) -> None:
    officer = make_officer(tmp_path, "Revoked Officer")
    signature, signatures, then = officer.sign(TEXT), verifier(officer), datetime.now(UTC)
    revoke(officer)
    good = signatures.verify_as_of(TEXT, signature, signatures.pinned, then)
    assert good.officer == signatures.pinned[-1].fingerprint
    for at in (None, then):
        with pytest.raises(ApprovalError, match="is revoked"):
            signatures.verify(TEXT, signature, at=at)
    with pytest.raises(ApprovalError, match="not over exactly this text"):
        signatures.verify_as_of(TEXT + b"x", signature, signatures.pinned, then)
    with pytest.raises(ApprovalError, match="is revoked"):  # it was pinned so
        signatures.verify_as_of(TEXT, signature, verifier(officer).pinned, then)
    assert any("is revoked" in (each.unusable or "") for each in signatures.certificates())


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
    signature, signatures = officer.sign(TEXT), verifier(officer)
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
        signatures.verify(TEXT, signature)
    # What it signed before is as good as it was: whoever loses a card has a new key, and the audit continues.
    assert signatures.verify_as_of(TEXT, signature, signatures.pinned, datetime.now(UTC)).officer == fingerprint(
        gpg, officer
    )
    with pytest.raises(ApprovalError, match="by the revoked key"):  # it was pinned so
        signatures.verify_as_of(TEXT, signature, verifier(officer).pinned, datetime.now(UTC))


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
        pytest.param(lambda _: os.urandom(100_000), "not a detached one", id="a large file"),
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
