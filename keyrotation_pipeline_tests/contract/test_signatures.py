"""The fake verifier and the one over gpg pass the same suite."""

from base64 import b64encode
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from shutil import copyfile

import pytest

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.officer_signatures import OfficerFiles, OfficerSignatures
from keyrotation_pipeline.adapters.openpgp import GnuPG
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.model.approval import Officer, Roster
from keyrotation_pipeline_tests.contract.signatures_suite import AFTERWARDS, SignatureSuite, Stage
from keyrotation_pipeline_tests.fakes import FakeSignatures
from keyrotation_pipeline_tests.officers import make_expired_officer, make_officer, revoke, sign_at


class FakeStage:
    """Certificates that are nothing but fingerprints."""

    def __init__(self) -> None:
        self.fake = FakeSignatures(Roster(2, (), ()), lone_officer_allowed=False)
        self.people = {name: Officer(name, name[0] * 40, name) for name in ("Ada", "Ben", "Eve", "Gone")}
        self.configured = dict(self.people)
        self.fake.expired[self.people["Gone"].fingerprint] = AFTERWARDS

    def verifier(self, *names: str, required: int = 2) -> FakeSignatures:
        self.fake.configured = Roster(required, tuple(self.configured[name] for name in names), ())
        return self.fake

    def officer(self, name: str) -> Officer:
        return self.people[name]

    def sign(self, name: str, text: bytes, at: datetime | None = None) -> bytes:
        self.fake.signed_at = at or self.fake.signed_at
        return FakeSignatures.sign(self.people[name].fingerprint, text)

    def revoke(self, name: str) -> None:
        self.fake.revoked.add(self.people[name].fingerprint)

    def give_certificate_of(self, other: str, name: str) -> None:
        self.configured[name] = replace(self.people[other], name=name)


class GpgStage:
    """Certificate files of one test, over keys of real gpg homes."""

    def __init__(self, directory: Path, *people: DemoOfficer) -> None:
        self.gpg = GnuPG(directory / "gnupg", SystemClock())
        self.people = {name: people[place] for place, name in enumerate(("Ada", "Ben", "Gone"))}
        self.directory = directory / "certificates"
        self.directory.mkdir()
        for name in self.people:
            copyfile(self.people[name].certificate, self.file(name))

    def file(self, name: str) -> Path:
        if name == "Eve" and name not in self.people:
            self.people[name] = make_officer(self.directory.parent, name)
            copyfile(self.people[name].certificate, self.directory / name)
        return self.directory / name

    def verifier(self, *names: str, required: int = 2) -> OfficerSignatures:
        return OfficerSignatures(self.gpg, [OfficerFiles(name, self.file(name)) for name in names], required, [])

    def officer(self, name: str) -> Officer:
        self.file(name)
        read = self.gpg.read_certificate(self.people[name].certificate)
        return Officer(name, read.fingerprint, b64encode(read.content).decode())

    def sign(self, name: str, text: bytes, at: datetime | None = None) -> bytes:
        self.file(name)
        return sign_at(self.people[name], text, at) if at else self.people[name].sign(text)

    def revoke(self, name: str) -> None:
        copyfile(revoke(self.people[name]), self.file(name))

    def give_certificate_of(self, other: str, name: str) -> None:
        copyfile(self.file(other), self.file(name))


class TestFakeSignatures(SignatureSuite):
    @pytest.fixture
    def stage(self) -> Stage:
        return FakeStage()


@pytest.fixture(scope="session")
def expired_officer(tmp_path_factory: pytest.TempPathFactory) -> DemoOfficer:
    return make_expired_officer(tmp_path_factory.mktemp("expired"), "Gone")


class TestOfficerSignatures(SignatureSuite):
    @pytest.fixture
    def stage(
        self,
        tmp_path: Path,
        security_officer: DemoOfficer,
        privacy_officer: DemoOfficer,
        expired_officer: DemoOfficer,
    ) -> Stage:
        return GpgStage(tmp_path, security_officer, privacy_officer, expired_officer)
