"""Officers for tests: real keys in real gpg homes, and the things that go wrong with them."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keyrotation_pipeline.demo.officers import DemoOfficer


def roster_in_toml(officers: Iterable[DemoOfficer]) -> str:
    """The officers as keyrotation.toml has them, by OpenPGP certificate."""
    return "".join(
        f'[[approvals.officers]]\nname = "{each.name}"\ncertificate = "{each.certificate}"\n' for each in officers
    )


def make_officer(directory: Path, name: str, expires: str = "0", extra: Sequence[str] = ()) -> DemoOfficer:
    """An officer with a certificate that is valid now."""
    return DemoOfficer.create(directory, name, expires, extra)


def make_expired_officer(directory: Path, name: str) -> DemoOfficer:
    """An officer whose certificate was valid in January 2020 only."""
    return DemoOfficer.create(directory, name, "20200201T000000", extra=at_instant(datetime(2020, 1, 1, tzinfo=UTC)))


def make_officer_with_uid(directory: Path, uid: str) -> DemoOfficer:
    """An officer whose certificate bears this user id to the letter."""
    officer = DemoOfficer("Odd Officer", directory / "odd.gnupg", directory / "odd.asc")
    officer.home.mkdir(mode=0o700)
    generate = ("--utf8-strings", "--allow-freeform-uid", "--passphrase", "", "--quick-generate-key", uid)
    officer.gpg(*generate, "ed25519", "sign", "never")
    officer.export()
    return officer


def sign_at(officer: DemoOfficer, text: bytes, instant: datetime) -> bytes:
    """A signature that says it was made at `instant`."""
    return officer.sign(text, *at_instant(instant))


def at_instant(instant: datetime) -> tuple[str, ...]:
    """Options that make gpg believe that it is `instant`."""
    return ("--faked-system-time", f"{instant.astimezone(UTC):%Y%m%dT%H%M%S}!")


def revoke(officer: DemoOfficer) -> Path:
    """Revoke the officer's certificate and export it so; gives back its path."""
    (stored,) = (officer.home / "openpgp-revocs.d").glob("*.rev")
    # gpg puts a colon before the armor, so that nobody imports it by accident.
    officer.gpg("--import", text=stored.read_text().replace(":-----BEGIN", "-----BEGIN").encode())
    return officer.export()


@pytest.fixture(scope="session")
def security_officer(tmp_path_factory: pytest.TempPathFactory) -> DemoOfficer:
    """An officer who stays valid through the session; never revoke her."""
    return make_officer(tmp_path_factory.mktemp("security"), "Security Officer")


@pytest.fixture(scope="session")
def privacy_officer(tmp_path_factory: pytest.TempPathFactory) -> DemoOfficer:
    """Another officer who stays valid through the session; never revoke him."""
    return make_officer(tmp_path_factory.mktemp("privacy"), "Privacy Officer")


@pytest.fixture(scope="session")
def sealed_officer(tmp_path_factory: pytest.TempPathFactory) -> DemoOfficer:
    """An officer whose key lies in a safe until another one's is lost."""
    return make_officer(tmp_path_factory.mktemp("sealed"), "Sealed Officer")


@pytest.fixture(scope="session")
def recovery_officer(tmp_path_factory: pytest.TempPathFactory) -> DemoOfficer:
    """Who can decrypt backups, and approves nothing."""
    return make_officer(tmp_path_factory.mktemp("recovery"), "Recovery Officer")
