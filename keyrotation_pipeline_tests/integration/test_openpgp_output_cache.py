"""What gpg has answered is remembered, and for how long."""

import os
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.officer_signatures import OfficerFiles
from keyrotation_pipeline.adapters.openpgp import GnuPG
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.errors import ApprovalError
from keyrotation_pipeline_tests.officers import at_instant, make_officer, revoke
from keyrotation_pipeline_tests.verifiers import TEXT, Signatures, Verifier, fingerprint, install_gpg


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
    assert before.count("--import") == len(signatures.pinned)  # and not again as the configuration has them
    assert signatures.verify(TEXT, signature) == verified
    assert signatures.roster() == roster
    assert runs.read_text() == before


def test_what_was_good_at_a_time_is_remembered_for_that_time_alone(
    verifier: Verifier, tmp_path: Path, runs: Path
) -> None:
    officer = make_officer(tmp_path, "Remembered Officer")
    signature, signatures, then = officer.sign(TEXT), verifier(officer), datetime.now(UTC)
    good = signatures.verify_as_of(TEXT, signature, signatures.pinned, then)
    before = runs.read_text()
    assert signatures.verify_as_of(TEXT, signature, signatures.pinned, then) == good
    assert runs.read_text() == before
    with pytest.raises(ApprovalError):  # the certificate did not exist yet
        signatures.verify_as_of(TEXT, signature, signatures.pinned, then - timedelta(days=365))
    with pytest.raises(ApprovalError, match="not over exactly this text"):
        signatures.verify_as_of(TEXT + b" ", signature, signatures.pinned, then)


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


def in_the_configuration(signatures: Signatures, officer: DemoOfficer) -> None:
    """The file has other bytes, and the name and the times that it had."""
    stat = officer.certificate.stat()
    revoke(officer)
    os.utime(officer.certificate, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def in_the_pinned_roster(signatures: Signatures, officer: DemoOfficer) -> None:
    """The configuration still has the certificate as it was."""
    before = officer.certificate.read_bytes()
    revoked = b64encode(revoke(officer).read_bytes()).decode()
    officer.certificate.write_bytes(before)
    signatures.pinned = tuple(
        replace(each, certificate=revoked) if each.name == officer.name else each for each in signatures.pinned
    )


@pytest.mark.parametrize("change", [in_the_configuration, in_the_pinned_roster])
def test_a_revocation_between_two_checks_of_one_signature_is_seen_though_the_first_is_remembered(
    verifier: Verifier, tmp_path: Path, runs: Path, change: Callable[[Signatures, DemoOfficer], None]
) -> None:
    officer = make_officer(tmp_path, "Leaving Officer")
    signature, signatures, then = officer.sign(TEXT), verifier(officer), datetime.now(UTC)
    for _ in range(2):
        signatures.verify(TEXT, signature)
        signatures.verify_as_of(TEXT, signature, signatures.pinned, then)
        before = runs.read_text()
    signatures.verify(TEXT, signature)
    assert runs.read_text() == before  # so it is remembered
    change(signatures, officer)
    with pytest.raises(ApprovalError, match="revoked"):
        signatures.verify(TEXT, signature)
    with pytest.raises(ApprovalError, match="revoked"):  # a refusal is not remembered, nor is what was good before
        signatures.verify(TEXT, signature)


def test_an_officer_who_leaves_the_roster_between_two_checks_signs_no_more(verifier: Verifier, tmp_path: Path) -> None:
    officer = make_officer(tmp_path, "Leaving Officer")
    signature, signatures = officer.sign(TEXT), verifier(officer)
    assert signatures.verify(TEXT, signature)
    signatures.pinned = tuple(each for each in signatures.pinned if each.name != officer.name)
    with pytest.raises(ApprovalError, match="which no officer of the roster has"):
        signatures.verify(TEXT, signature)


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
    signatures = Signatures(gpg, [OfficerFiles("Ada", officer.certificate)], 2, []).pin(gpg)
    assert signatures.verify(TEXT, signature)
    clock.set(NOON + timedelta(seconds=8))
    assert signatures.verify(TEXT, signature)
    clock.set(NOON + timedelta(seconds=9))
    with pytest.raises(ApprovalError, match=sentence):
        signatures.verify(TEXT, signature)
