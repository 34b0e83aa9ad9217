"""Recovery keys as officers have them: revoked, with a passphrase, behind an agent; and messages with one byte off."""

import os
import re
from pathlib import Path

import pytest

from keyrotation_pipeline.adapters import secret_directories
from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.openpgp import GnuPG
from keyrotation_pipeline.adapters.openpgp.decrypt import GpgRecoveryKey, agent_key, imported_key
from keyrotation_pipeline.demo.officers import DemoOfficer, short_path
from keyrotation_pipeline.errors import (
    DamagedBackupError,
    OpenPGPError,
    RecoveryError,
    RecoveryKeyError,
    WrongRecipientError,
)
from keyrotation_pipeline_tests.officers import make_officer, revoke
from keyrotation_pipeline_tests.small_disks import full_disk
from keyrotation_pipeline_tests.verifiers import install_gpg

PLAINTEXT = os.urandom(300_000)


def encrypted(directory: Path, *recipients: DemoOfficer) -> bytes:
    gpg = GnuPG(directory / "gnupg", SystemClock())
    return gpg.encrypt(PLAINTEXT, [gpg.read_certificate(each.certificate) for each in recipients])


def test_a_key_that_was_revoked_since_still_opens_what_was_encrypted_to_it(tmp_path: Path) -> None:
    officer = make_officer(tmp_path, "Revoked Officer")
    message = encrypted(tmp_path, officer)
    revoke(officer)
    with imported_key(officer.gpg("--export-secret-keys"), None) as key:
        assert key.decrypt("x.gpg", message) == PLAINTEXT


def test_the_agent_of_a_home_decrypts_and_is_left_as_it_was(
    tmp_path: Path, recovery_officer: DemoOfficer, privacy_officer: DemoOfficer
) -> None:
    message, other = encrypted(tmp_path, recovery_officer), encrypted(tmp_path, privacy_officer)
    with short_path(recovery_officer.home) as home:
        for _ in range(2):
            assert agent_key(home, None).decrypt("x.gpg", message) == PLAINTEXT
        with pytest.raises(WrongRecipientError, match=r"x\.gpg is not encrypted to the recovery key of"):
            agent_key(home, None).decrypt("x.gpg", other)
    assert recovery_officer.decrypt(message) == PLAINTEXT


def test_a_passphrase_that_is_a_large_file_is_refused_before_anything_waits_for_it(tmp_path: Path) -> None:
    key = GpgRecoveryKey(tmp_path, "of a test", b"x" * 70_000, ask=False)
    with pytest.raises(RecoveryKeyError, match=r"has 70,000 bytes, which no passphrase has; .*passphrase"):
        key.decrypt("v1", b"a message")


def test_the_agents_passphrase_is_given_through_a_pipe_and_a_wrong_or_missing_one_is_said_to_be_one(
    tmp_path: Path,
) -> None:
    officer = make_officer(tmp_path, "Agent Officer")
    message = encrypted(tmp_path, officer)
    # Both keys of the certificate, one after the other, get a passphrase; before, they had none.
    command = "--pinentry-mode=loopback", "--command-fd=0", "--status-fd=2", "--change-passphrase", officer.name
    officer.gpg(*command, text=b"\nhorse\n" * 4)
    with short_path(officer.home) as home:
        with pytest.raises(RecoveryKeyError, match=r"nobody unlocked the recovery key .*at a terminal"):
            agent_key(home, None).decrypt("x.gpg", message)
        secret = officer.gpg("--pinentry-mode=loopback", "--passphrase", "horse", "--export-secret-keys")
        with (
            imported_key(secret, None) as key,
            pytest.raises(RecoveryKeyError, match="has a passphrase; run this at a terminal"),
        ):
            key.decrypt("x.gpg", message)
        with pytest.raises(RecoveryKeyError, match="the passphrase does not open the recovery key"):
            agent_key(home, b"donkey").decrypt("x.gpg", message)
        assert agent_key(home, b"horse").decrypt("x.gpg", message) == PLAINTEXT


def test_a_machine_without_gpgs_agent_is_told_to_install_it(
    tmp_path: Path, recovery_officer: DemoOfficer, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = recovery_officer.gpg("--export-secret-keys")
    install_gpg(tmp_path / "bin", 'exec gpg --agent-program /nonexistent/gpg-agent "$@"', monkeypatch)
    with (
        pytest.raises(RecoveryKeyError, match=r"agent refuses it; .*apt install gpg-agent"),
        imported_key(secret, None),
    ):
        pass


def test_a_full_disk_is_not_blamed_on_the_recovery_key(
    tmp_path: Path, recovery_officer: DemoOfficer, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = recovery_officer.gpg("--export-secret-keys")
    with full_disk(tmp_path / "small") as small:
        monkeypatch.setattr(secret_directories, "_MEMORY", small)
        with pytest.raises(OpenPGPError, match=r"cannot write in .*No space left"), imported_key(secret, None):
            pass


def test_a_home_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecoveryKeyError, match=r"there is no GnuPG home .*nowhere; correct"):
        agent_key(tmp_path / "nowhere", None)


def test_one_byte_off_anywhere_in_a_message_is_never_taken_for_what_was_encrypted(
    tmp_path: Path, recovery_officer: DemoOfficer, privacy_officer: DemoOfficer
) -> None:
    message = encrypted(tmp_path, privacy_officer, recovery_officer)
    listed = recovery_officer.gpg("--list-packets", text=message).decode(errors="replace")
    packets = [int(number) for number in re.findall(r"# off=(\d+)", listed) if int(number) < len(message)]
    assert len(packets) >= 3  # a session key for each, then the data
    headers = {start + byte for start in packets[:3] for byte in (0, 1, 2, 3, 11, 40)}
    body = {len(message) * part // 8 for part in range(1, 8)}
    regions = {*headers, *body, *(len(message) - behind for behind in (1, 10, 20, 21, 22, 40))}
    with imported_key(recovery_officer.gpg("--export-secret-keys"), None) as key:
        for place in sorted(each for each in regions if each < len(message)):
            damaged = message[:place] + bytes([message[place] ^ 1]) + message[place + 1 :]
            try:
                assert key.decrypt("x.gpg", damaged) == PLAINTEXT
            except RecoveryError:
                continue
            # A packet of another recipient's, or a version that gpg reads alike; never the data.
            assert place < packets[2], f"byte {place} of the data may be changed"


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--store",), id="only packed"),
        pytest.param(("--local-user", "{name}", "--sign"), id="only signed"),
        pytest.param(
            ("--pinentry-mode=loopback", "--passphrase", "guessed", "--symmetric"), id="encrypted under a passphrase"
        ),
    ],
)
def test_nothing_is_read_of_a_message_that_is_not_encrypted_to_a_key(
    recovery_officer: DemoOfficer, tmp_path: Path, options: tuple[str, ...]
) -> None:
    forged = tmp_path / "forged.gpg"
    named = [option.format(name=recovery_officer.name) for option in options]
    forged.write_bytes(recovery_officer.gpg(*named, text=b"DROP TABLE clients;"))
    read: list[bytes] = []
    with (
        imported_key(recovery_officer.gpg("--export-secret-keys"), b"guessed") as key,
        pytest.raises(DamagedBackupError, match="not an OpenPGP message that is encrypted to a key"),
        key.decrypting("x.gpg", forged) as plaintext,
    ):
        read.append(plaintext.read())
    assert read == []
