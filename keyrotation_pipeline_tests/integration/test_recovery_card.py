"""Recovery with a key that nobody can copy: on a (virtual) smartcard, and in an agent that asks a person."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from keyrotation_pipeline import settings
from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.openpgp import GnuPG
from keyrotation_pipeline.adapters.openpgp.decrypt import agent_key
from keyrotation_pipeline.adapters.postgres.server.restored_copy import RestoreToNewDatabase
from keyrotation_pipeline.assembly.backups import recovery_key
from keyrotation_pipeline.backups.backup import back_up
from keyrotation_pipeline.backups.key_loss import newest_key, restore_key
from keyrotation_pipeline.backups.recovery_test import recovery_test
from keyrotation_pipeline.backups.restore_to_new_database import restore_to_new_database
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.errors import RecoveryKeyError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline_tests.backup_sites import Clinic, open_clinic
from keyrotation_pipeline_tests.cards import MISSING, PIN, Card, pinentry
from keyrotation_pipeline_tests.officers import make_officer

V1 = KeyVersion(1)
with_card = [
    pytest.mark.external_smartcard,
    pytest.mark.skipif(
        bool(MISSING), reason=f"no {', '.join(MISSING)}; apt install softhsm2 opensc gnupg-pkcs11-scd gpg-agent"
    ),
]


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory with a path short enough for an agent's socket."""
    with tempfile.TemporaryDirectory(prefix="kr-") as directory:
        yield Path(directory)


@pytest.fixture
def card(short: Path) -> Iterator[Card]:
    made = Card.make(short)
    yield made
    made.stop()


@pytest.fixture
def clinic_with_card(
    card: Card, tmp_path: Path, already_migrated: str, database_url: str, backup_officers: dict[str, DemoOfficer]
) -> Iterator[Clinic]:
    """A clinic whose recovery key is on the card."""
    with ExitStack() as stack:
        clinic = open_clinic(stack, tmp_path, database_url, backup_officers | {"recovery": card.officer()}, None)
        written = tmp_path / "keyrotation.toml"
        written.write_text(f'{written.read_text()}[recovery]\ngnupg_home = "{card.home}"\n')
        clinic.settings = settings.load(written)
        yield clinic


class TestCard:
    pytestmark = with_card

    def test_everything_is_recovered_with_the_card_alone(
        self, clinic_with_card: Clinic, card: Card, database_url: str
    ) -> None:
        clinic, site = clinic_with_card, clinic_with_card.site
        assert not [file for file in card.home.rglob("*.key") if b"shadowed" not in file.read_bytes()]
        back_up(site)
        lost = site.pipeline.keys.read().material(V1)
        (clinic.settings.home / "keys" / "v1.key").unlink()
        with recovery_key(clinic.settings) as key:
            assert recovery_test(site, key).newest.read.values["clients"]["name"] == {"v1": 4}
            restore_key(site.pipeline, V1, *newest_key(site, V1, key))
            assert site.pipeline.keys.read().material(V1) == lost
            new = f"{psycopg.conninfo.conninfo_to_dict(database_url)['dbname']}_by_card"
            try:
                done = restore_to_new_database(
                    site, RestoreToNewDatabase(database_url, None), key, new, None, lambda _progress: None
                )
            finally:
                clinic.connection.execute(f'DROP DATABASE IF EXISTS "{new}" WITH (FORCE)'.encode())
        assert done.read.by_table()["clients"] == 6
        assert "unlock the card" in (card.directory / "asked").read_text()

    @pytest.mark.parametrize("pin", [pytest.param("000000", id="a wrong PIN"), pytest.param("", id="nobody there")])
    def test_a_card_that_is_not_unlocked_is_said_to_be_so(self, card: Card, tmp_path: Path, pin: str) -> None:
        message = encrypted(tmp_path, card.officer())
        (card.directory / "pin").write_text(pin)
        (card.directory / "next").write_text("")  # whoever typed a wrong one gives up
        with pytest.raises(RecoveryKeyError, match="nobody unlocked the recovery key"):
            agent_key(card.home, None).decrypt("x.gpg", message)
        (card.directory / "pin").write_text(PIN)
        assert agent_key(card.home, None).decrypt("x.gpg", message) == b"key"

    def test_a_card_that_nobody_puts_in_is_not_taken_for_a_damaged_backup(self, card: Card, tmp_path: Path) -> None:
        message = encrypted(tmp_path, card.officer())
        card.stop()
        shutil.rmtree(card.directory / "tokens")
        (card.directory / "tokens").mkdir()
        card.start()
        with pytest.raises(RecoveryKeyError, match="nobody unlocked the recovery key"):
            agent_key(card.home, None).decrypt("x.gpg", message)


def encrypted(directory: Path, recipient: DemoOfficer) -> bytes:
    gpg = GnuPG(directory / "gnupg", SystemClock())
    return gpg.encrypt(b"key", [gpg.read_certificate(recipient.certificate)])


def test_an_agent_of_its_own_asks_for_the_passphrase_once(tmp_path: Path, short: Path) -> None:
    officer = make_officer(tmp_path, "Agent Officer")
    message = encrypted(tmp_path, officer)
    officer.gpg(
        "--pinentry-mode=loopback", "--command-fd=0", "--status-fd=2", "--change-passphrase", officer.name,
        text=b"\nhorse\n" * 4,
    )  # fmt: skip
    (short / "g").symlink_to(officer.home)
    (officer.home / "gpg-agent.conf").write_text(f"pinentry-program {pinentry(short, '')}\n")
    try:
        with pytest.raises(RecoveryKeyError, match="nobody unlocked the recovery key"):
            agent_key(short / "g", None).decrypt("x.gpg", message)
        (short / "pin").write_text("horse")
        assert agent_key(short / "g", None).decrypt("x.gpg", message) == b"key"
        (short / "pin").write_text("")  # the agent remembers
        assert agent_key(short / "g", None).decrypt("x.gpg", message) == b"key"
    finally:
        subprocess.run(["gpgconf", "--homedir", str(short / "g"), "--kill", "all"], check=True, capture_output=True)
