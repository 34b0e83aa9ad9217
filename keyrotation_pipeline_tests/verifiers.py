"""A verifier over the real gpg for tests, and other programs in the place of gpg."""

import os
from base64 import b64encode
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import pytest

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.officer_signatures import OfficerFiles, OfficerSignatures
from keyrotation_pipeline.adapters.openpgp import GnuPG
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.model.approval import Officer, VerifiedSignature

TEXT = b"keyrotation-approval-v1\nRequest: 0f0f\nReason: yearly\n"


class Signatures(OfficerSignatures):
    """Verifies by the officers of the configuration, as they were pinned when this was made."""

    pinned: tuple[Officer, ...] = ()

    def pin(self, gpg: GnuPG) -> "Signatures":
        read = [(each.name, gpg.read_certificate(each.certificate)) for each in self._officers if each.certificate]
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
        officers = [OfficerFiles(each.name, each.certificate) for each in (security_officer, privacy_officer, *others)]
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
