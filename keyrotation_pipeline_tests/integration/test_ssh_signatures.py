"""Officers' SSH keys and signatures that count and that do not, against the real ssh-keygen."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.officer_signatures import OfficerFiles, OfficerSignatures
from keyrotation_pipeline.adapters.openpgp import GnuPG
from keyrotation_pipeline.adapters.openssh import read_ssh_key, signer_of
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.errors import ApprovalError, OpenSSHError
from keyrotation_pipeline.model.approval import Officer, VerifiedSignature, ssh_fingerprint
from keyrotation_pipeline_tests.programs import needs_nss_wrapper
from keyrotation_pipeline_tests.ssh_officers import NAMESPACE, PRESENT, VERIFIED, SecurityKey, SshOfficer, ssh_keygen

TEXT = b"keyrotation-approval-v1\n\nRequest: 0f0f\nReason: yearly\n"
SK_KINDS = ["sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"]


@pytest.fixture
def ada(tmp_path: Path) -> SshOfficer:
    return SshOfficer.create(tmp_path, "Ada")


def verifier(directory: Path, *officers: OfficerFiles, required: int = 1) -> OfficerSignatures:
    gpg = GnuPG(directory / "gnupg", SystemClock())
    return OfficerSignatures(gpg, officers, required, (), lone_officer_allowed=True)


def verified(directory: Path, signature: bytes, *keys: Path, text: bytes = TEXT) -> VerifiedSignature:
    signatures = verifier(directory, *(OfficerFiles(f"Officer {key.name}", ssh_key=key) for key in keys))
    return signatures.verify(text, signature, signatures.roster().officers)


# --- signatures that count ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(("-t", "ed25519"), id="ed25519"),
        pytest.param(("-t", "ecdsa"), id="ecdsa"),
        pytest.param(("-t", "ecdsa", "-b", "521"), id="ecdsa 521"),
        pytest.param(("-t", "rsa", "-b", "3072"), id="rsa 3072"),
    ],
)
def test_a_signature_names_its_officer_and_no_time(tmp_path: Path, kind: tuple[str, ...]) -> None:
    officer, other = SshOfficer.create(tmp_path, "Ada", *kind), SshOfficer.create(tmp_path, "Ben")
    signature = officer.sign(TEXT)
    found = verified(tmp_path, signature, other.public, officer.public)
    assert found == VerifiedSignature(officer.fingerprint, None)
    windows = signature.replace(b"\n", b"\r\n")
    assert verified(tmp_path, windows, officer.public) == found


@pytest.mark.parametrize("flags", [PRESENT, PRESENT | VERIFIED])
@pytest.mark.parametrize("kind", SK_KINDS)
def test_a_security_key_that_was_touched_signs(tmp_path: Path, kind: str, flags: int) -> None:
    key = SecurityKey(tmp_path / "token.pub", kind).write()
    assert verified(tmp_path, key.sign(TEXT, flags), key.public).officer == read_ssh_key(key.public).fingerprint


@contextmanager
def agent_with(officer: SshOfficer) -> Iterator[str]:
    """An agent that has the officer's key, whose private file is gone."""
    socket = officer.key.with_name("agent.sock")
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.PIPE) as agent:
        try:
            assert agent.stdout is not None
            agent.stdout.readline()
            environment = {"SSH_AUTH_SOCK": str(socket), "PATH": "/usr/bin"}
            subprocess.run(["ssh-add", "-q", str(officer.key)], check=True, env=environment, capture_output=True)
            officer.key.unlink()
            yield str(socket)
        finally:
            agent.kill()


def test_a_signature_by_an_agent_counts(ada: SshOfficer, tmp_path: Path) -> None:
    with agent_with(ada) as socket:
        by_agent = ("-Y", "sign", "-n", NAMESPACE, "-f", str(ada.public))
        signature = ssh_keygen(*by_agent, text=TEXT, SSH_AUTH_SOCK=socket)
    assert verified(tmp_path, signature, ada.public).officer == ada.fingerprint


def test_an_officer_with_two_keys_is_one_officer_whichever_signs(
    ada: SshOfficer, tmp_path: Path, security_officer: DemoOfficer
) -> None:
    signatures = verifier(tmp_path, OfficerFiles("Ada", security_officer.certificate, ada.public))
    (officer,) = signatures.roster().officers
    by_both = [signatures.verify(TEXT, each.sign(TEXT), [officer]) for each in (ada, security_officer)]
    assert [each.officer for each in by_both] == [officer.fingerprint] * 2
    assert [each.signed_at is None for each in by_both] == [True, False]
    assert str(officer) == f'"Ada" ({officer.fingerprint} or {ada.fingerprint})'


def test_what_was_good_at_its_moment_is_remembered_also_without_a_time(ada: SshOfficer, tmp_path: Path) -> None:
    file, files = tmp_path / "verified.json", OfficerFiles("Ada", ssh_key=ada.public)
    gpg, signature, at = GnuPG(tmp_path / "gnupg", SystemClock()), ada.sign(TEXT), datetime.now(UTC)
    for _ in range(2):
        signatures = OfficerSignatures(gpg, [files], 1, (), lone_officer_allowed=True, verified=file)
        good = signatures.verify_as_of(TEXT, signature, signatures.roster().officers, at)
        assert good == VerifiedSignature(ada.fingerprint, None)
    assert file.read_text().count("\n") == 1, "the second process did not ask again"


def test_whoever_left_the_configuration_is_verified_by_the_pinned_key_and_whoever_left_the_roster_is_not(
    ada: SshOfficer, tmp_path: Path
) -> None:
    ben = SshOfficer.create(tmp_path, "Ben")
    pinned = verifier(tmp_path, OfficerFiles("Ada", ssh_key=ada.public)).roster().officers
    signatures = verifier(tmp_path, OfficerFiles("Ben", ssh_key=ben.public))
    assert signatures.verify(TEXT, ada.sign(TEXT), pinned).officer == ada.fingerprint
    with pytest.raises(ApprovalError, match="no officer of the roster has the SSH key"):
        signatures.verify(TEXT, ada.sign(TEXT), signatures.roster().officers)


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
def test_a_signature_over_other_text_is_refused(ada: SshOfficer, tmp_path: Path, signed: bytes) -> None:
    with pytest.raises(ApprovalError, match="not over exactly this text"):
        verified(tmp_path, ada.sign(signed), ada.public)


@pytest.mark.parametrize("namespace", ["git", "file", "keyrotation", "keyrotation-pipeline2"])
def test_a_signature_for_another_purpose_is_refused(ada: SshOfficer, tmp_path: Path, namespace: str) -> None:
    with pytest.raises(ApprovalError, match="made for another purpose"):
        verified(tmp_path, ada.sign(TEXT, namespace), ada.public)


def test_a_key_that_is_not_in_the_roster_is_refused(ada: SshOfficer, tmp_path: Path) -> None:
    with pytest.raises(ApprovalError, match="no officer of the roster has the SSH key"):
        verified(tmp_path, SshOfficer.create(tmp_path, "Eve").sign(TEXT), ada.public)


def test_a_certificate_for_an_officers_key_is_not_the_key(ada: SshOfficer, tmp_path: Path) -> None:
    authority = SshOfficer.create(tmp_path, "Authority")
    ssh_keygen("-q", "-s", str(authority.key), "-I", "x", "-n", ada.fingerprint, str(ada.public))
    certificate = ada.public.with_name("ada-ssh-cert.pub")
    signature = ssh_keygen("-Y", "sign", "-n", NAMESPACE, "-f", str(certificate), text=TEXT)
    for known in (ada, authority):
        with pytest.raises(ApprovalError, match="no officer of the roster has the SSH key"):
            verified(tmp_path, signature, known.public)


@pytest.mark.parametrize("kind", SK_KINDS)
def test_a_security_key_that_nobody_touched_is_refused(tmp_path: Path, kind: str) -> None:
    key = SecurityKey(tmp_path / "token.pub", kind).write()
    for flags in (0, VERIFIED):
        with pytest.raises(ApprovalError, match="without a touch"):
            verified(tmp_path, key.sign(TEXT, flags), key.public)
    with pytest.raises(ApprovalError, match="not over exactly this text"):
        verified(tmp_path, key.sign(TEXT, PRESENT, signed_flags=0), key.public)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        pytest.param(lambda o: o.sign(TEXT) + o.sign(TEXT), "not one SSH signature", id="two"),
        pytest.param(lambda o: o.sign(TEXT) + b"more", "not one SSH signature", id="text after it"),
        pytest.param(lambda o: b"\n" + o.sign(TEXT)[:120], "not one SSH signature", id="cut short"),
        pytest.param(
            lambda o: o.sign(TEXT).replace(b"-----END", b"A" * 20_000 + b"\n-----END"), "not one SSH", id="large"
        ),
        pytest.param(
            lambda o: o.sign(TEXT).replace(b"U1NIU0lH", b"U1NIU0lX"), "no officer of the roster", id="another magic"
        ),
        pytest.param(lambda o: o.public.read_bytes(), "not an OpenPGP signature", id="the public key"),
    ],
)
def test_what_is_not_one_signature_is_refused(
    ada: SshOfficer, tmp_path: Path, make: Callable[[SshOfficer], bytes], sentence: str
) -> None:
    with pytest.raises(ApprovalError, match=sentence):
        verified(tmp_path, make(ada), ada.public)


def test_a_pinned_key_that_would_bring_a_line_of_its_own_is_no_key(ada: SshOfficer, tmp_path: Path) -> None:
    eve = SshOfficer.create(tmp_path, "Eve")
    signatures, line = verifier(tmp_path), read_ssh_key(ada.public).line
    allows = f'{line}\n{ada.fingerprint} namespaces="*" {read_ssh_key(eve.public).line}'
    for forged in (allows, f"cert-authority {line}", f"* {line}", f"{line} "):
        for signer in (eve, ada):
            with pytest.raises(ApprovalError, match="no officer of the roster has the SSH key"):
                signatures.verify(TEXT, signer.sign(TEXT), [Officer("Ada", ada.fingerprint, ssh_key=forged)])


def test_another_key_under_an_officers_fingerprint_shows_in_the_roster_that_officers_sign(
    ada: SshOfficer, tmp_path: Path
) -> None:
    eve = SshOfficer.create(tmp_path, "Eve")
    (officer,) = verifier(tmp_path, OfficerFiles("Ada", ssh_key=ada.public)).roster().officers
    forged = replace(officer, ssh_key=read_ssh_key(eve.public).line)
    assert str(officer) == f'"Ada" ({ada.fingerprint})'
    assert str(forged) == f'"Ada" ({ada.fingerprint} or {eve.fingerprint})'
    assert forged != officer


# --- keys -----------------------------------------------------------------------------------------------------------


def edited(officer: SshOfficer, edit: Callable[[str], str]) -> Path:
    officer.public.write_text(edit(officer.public.read_text()))
    return officer.public


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        pytest.param(lambda _: "", "holds 0 lines", id="empty"),
        pytest.param(lambda line: line * 2, "holds 2 lines", id="two keys"),
        pytest.param(lambda line: f"cert-authority {line}", "not a plain public key", id="cert-authority"),
        pytest.param(lambda line: f'command="true" {line}', "not a plain public key", id="an option"),
        pytest.param(lambda line: f"no-touch-required {line}", "not a plain public key", id="no-touch-required"),
        pytest.param(
            lambda line: f'ada namespaces="*" {line}', "not a plain public key", id="a line of allowed_signers"
        ),
        pytest.param(lambda line: line.replace("ssh-ed25519", "ssh-dss"), "not a plain public key that", id="dsa"),
        pytest.param(lambda line: line.replace("ssh-ed25519", "ssh-rsa"), "not a whole public key", id="another type"),
        pytest.param(lambda line: line[:40], "not a whole public key", id="cut short"),
        pytest.param(lambda line: "\ufeff" + line, "not a plain public key that", id="byte order mark"),
    ],
)
def test_what_is_not_one_public_key_is_refused(ada: SshOfficer, edit: Callable[[str], str], sentence: str) -> None:
    with pytest.raises(OpenSSHError, match=sentence):
        read_ssh_key(edited(ada, edit))


def test_a_private_key_is_refused_and_not_shown(ada: SshOfficer) -> None:
    with pytest.raises(OpenSSHError, match="holds a private key; remove it") as refused:
        read_ssh_key(ada.key)
    assert ada.key.read_text().split("\n")[2] not in str(refused.value)
    with pytest.raises(OpenSSHError, match="cannot be read"):
        read_ssh_key(ada.key.with_name("nowhere"))


def test_a_weak_key_a_certificate_and_a_key_for_a_web_site_are_refused(ada: SshOfficer, tmp_path: Path) -> None:
    with pytest.raises(OpenSSHError, match="of 2048 bits, which is too weak"):
        read_ssh_key(SshOfficer.create(tmp_path, "Weak", "-t", "rsa", "-b", "2048").public)
    ssh_keygen("-q", "-s", str(ada.key), "-I", "x", "-n", "ada", str(ada.public))
    with pytest.raises(OpenSSHError, match="not a plain public key"):
        read_ssh_key(ada.public.with_name("ada-ssh-cert.pub"))
    web = SecurityKey(tmp_path / "web.pub", SK_KINDS[1], application=b"login.example").write()
    with pytest.raises(OpenSSHError, match="for a web site"):
        read_ssh_key(web.public)


def test_a_comment_is_no_part_of_a_key(ada: SshOfficer) -> None:
    before = read_ssh_key(ada.public)
    assert read_ssh_key(edited(ada, lambda line: line.replace("Ada@clinic.invalid", "\u202eevil 2 keys"))) == before


def test_one_person_is_not_two_officers(ada: SshOfficer, tmp_path: Path, security_officer: DemoOfficer) -> None:
    two = OfficerFiles("Ada", security_officer.certificate), OfficerFiles("ADA", ssh_key=ada.public)
    with pytest.raises(ApprovalError, match=r"officer ADA is named twice, and one person counts once"):
        verifier(tmp_path, *two).roster()
    same = OfficerFiles("Ada", ssh_key=ada.public), OfficerFiles("Ben", security_officer.certificate, ada.public)
    for officers in (same, same[::-1]):
        with pytest.raises(ApprovalError, match="have the same SSH key; give each their own"):
            verifier(tmp_path, *officers).roster()


# --- the program ----------------------------------------------------------------------------------------------------


def made(directory: Path, algorithm: str) -> tuple[DemoOfficer, list[list[str]]]:
    """Somebody with a primary key and a subkey that sign, and gpg's list of them."""
    (home := directory / "gnupg-of-eve").mkdir(mode=0o700)
    eve = DemoOfficer("Eve", home, directory / "eve.asc")
    alone = ("--batch", "--passphrase", "")
    eve.gpg(*alone, "--quick-generate-key", "eve@clinic.invalid", algorithm, "sign,cert", "never")
    primary = next(line[9] for line in listed(eve) if line[0] == "fpr")
    usage = f"{algorithm}/ecdsa" if algorithm.startswith("nist") else algorithm
    eve.gpg(*alone, "--quick-add-key", primary, usage, "sign", "never")
    eve.export()
    return eve, listed(eve)


def listed(officer: DemoOfficer) -> list[list[str]]:
    lines = officer.gpg("--with-colons", "--with-keygrip", "--list-keys").decode().splitlines()
    return [line.split(":") for line in lines]


@pytest.mark.parametrize("algorithm", ["ed25519", "rsa3072", "nistp256", "nistp521"])
def test_one_key_pair_is_not_two_officers_in_two_formats(tmp_path: Path, algorithm: str) -> None:
    eve, keys = made(tmp_path, algorithm)
    for fingerprint in (line[9] for line in keys if line[0] == "fpr"):
        (public := tmp_path / "eve.pub").write_bytes(eve.gpg("--export-ssh-key", f"{fingerprint}!"))
        with pytest.raises(ApprovalError, match="officers Ada and Ben have the same key pair, so whoever holds it"):
            verifier(tmp_path, OfficerFiles("Ada", eve.certificate), OfficerFiles("Ben", ssh_key=public)).roster()
        with pytest.raises(ApprovalError, match="officers Ben and Ada have the same key pair"):
            verifier(tmp_path, OfficerFiles("Ben", ssh_key=public), OfficerFiles("Ada", eve.certificate)).roster()
        assert len(verifier(tmp_path, OfficerFiles("Ada", eve.certificate, public)).roster().officers) == 1


def test_one_key_pair_is_not_two_officers_in_two_certificates(tmp_path: Path) -> None:
    eve, keys = made(tmp_path, "ed25519")
    grip = next(line[9] for line in keys if line[0] == "grp")
    of_it = f"Key-Type: default\nKey-Grip: {grip}\nCreation-Date: 20200101T000000\nName-Real: Other"
    eve.gpg("--batch", "--generate-key", text=f"%no-protection\n{of_it}\n%commit\n".encode())
    (again := tmp_path / "again.asc").write_bytes(eve.gpg("--armor", "--export", "Other"))
    with pytest.raises(ApprovalError, match="officers Ada and Ben have the same key pair"):
        verifier(tmp_path, OfficerFiles("Ada", eve.certificate), OfficerFiles("Ben", again)).roster()


def test_a_name_in_other_letters_that_read_alike_is_the_same(ada: SshOfficer, tmp_path: Path) -> None:
    ben = SshOfficer.create(tmp_path, "Ben")
    same = verifier(tmp_path, OfficerFiles("Ada", ssh_key=ada.public), OfficerFiles("\uff21da", ssh_key=ben.public))
    with pytest.raises(ApprovalError, match="is named twice"):
        same.roster()


def test_a_missing_ssh_keygen_is_one_sentence(ada: SshOfficer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (officer,) = verifier(tmp_path, OfficerFiles("Ada", ssh_key=ada.public)).roster().officers
    signature, empty = ada.sign(TEXT), tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))
    for act in (
        lambda: read_ssh_key(ada.public),
        lambda: verifier(tmp_path).verify(TEXT, signature, [officer]),
    ):
        with pytest.raises(OpenSSHError, match=r"^ssh-keygen is not installed; install OpenSSH 8.2 or later"):
            act()


def other_ssh_keygen(directory: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    directory.mkdir()
    program = directory / "ssh-keygen"
    program.write_text(f"#!/bin/bash\n{script}\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


def test_a_user_without_a_name_is_named(ada: SshOfficer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What the real one writes, before it does anything.
    other_ssh_keygen(tmp_path / "bin", r'printf "No user exists for uid 12345\r\n" >&2; exit 255', monkeypatch)
    with pytest.raises(OpenSSHError, match="which has no name here; run this as one that has"):
        read_ssh_key(ada.public)


@pytest.mark.parametrize("said", ["Unsupported operation for -Y: find-principals", "ssh-keygen: unknown option -- Y"])
def test_an_old_ssh_keygen_is_named(
    ada: SshOfficer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    signature, line = ada.sign(TEXT), read_ssh_key(ada.public).line
    other_ssh_keygen(tmp_path / "bin", f"echo {said!r} >&2; exit 255", monkeypatch)
    with pytest.raises(OpenSSHError, match=r"too old to verify signatures; install OpenSSH 8\.2 or later"):
        signer_of(TEXT, signature, [line])


@needs_nss_wrapper
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_user_id_that_a_cluster_has_chosen_gets_a_name(ada: SshOfficer) -> None:
    line, signature = read_ssh_key(ada.public).line, ada.sign(TEXT)
    if not (child := os.fork()):
        found = ""
        try:
            os.setuid(2_000_012_345)
            found = signer_of(TEXT, signature, [line])
        finally:
            os._exit(0 if found == ssh_fingerprint(line) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_touch_that_ssh_keygen_does_not_report_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = SecurityKey(tmp_path / "token.pub").write()
    signature = key.sign(TEXT)
    assert verified(tmp_path, signature, key.public)
    other_ssh_keygen(tmp_path / "bin", 'exec /usr/bin/ssh-keygen "${@/#-vv/-q}"', monkeypatch)
    with pytest.raises(ApprovalError, match="without a touch"):
        verified(tmp_path, signature, key.public)
