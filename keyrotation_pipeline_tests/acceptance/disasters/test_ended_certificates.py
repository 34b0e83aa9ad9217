"""An officer's or a recipient's certificate ends in any phase of an emergency, which is ended all the same."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline_tests.acceptance.disasters.clinic import Clinic, Safe, open_clinic
from keyrotation_pipeline_tests.acceptance.test_clusters_page import one_gnupg_home
from keyrotation_pipeline_tests.acceptance.test_policy import expire
from keyrotation_pipeline_tests.acceptance.test_reference import OFFICERS
from keyrotation_pipeline_tests.buckets import TestBucket
from keyrotation_pipeline_tests.officers import make_officer
from keyrotation_pipeline_tests.servers import Server

pytestmark = pytest.mark.extended
SPARE = "Sealed Officer"


@pytest.fixture
def own_safe(tmp_path: Path, s3_url: str) -> Iterator[Safe]:
    """Officers and a recipient of this test's own, whose keys may end."""
    officers = [make_officer(tmp_path, name) for name in (*OFFICERS, SPARE)]
    with one_gnupg_home(*officers) as home:
        yield Safe(officers, make_officer(tmp_path, "Recovery Officer"), home, s3_url)


@pytest.fixture
def clinic(tmp_path: Path, server: Server, bucket: TestBucket, own_safe: Safe) -> Iterator[Clinic]:
    with open_clinic(tmp_path / "clinic", server, bucket, own_safe) as made:
        yield made


@pytest.mark.parametrize("phase", ["before the request", "requested", "primary_key_rollout", "zero_old_rows_proof"])
@pytest.mark.parametrize("who", [OFFICERS[1], SPARE, "Recovery Officer"], ids=["who signs", "officer", "recipient"])
def test_an_emergency_is_ended_whose_certificate_ever_ends(
    clinic: Clinic, own_safe: Safe, who: str, phase: str
) -> None:
    person = next(each for each in (*own_safe.officers, own_safe.recovery) if each.name == who)
    signers = [OFFICERS[0], SPARE if phase == "before the request" and who == OFFICERS[1] else OFFICERS[1]]
    with clinic.application.working() as application:
        if phase == "before the request":
            end(clinic, person)
        request = clinic.exposed()
        for name in signers:
            sign(clinic, request, name)
        if phase not in {"before the request", "requested"}:
            clinic.machine.shell(f"keyrotation rotate {request} --through {phase}")
        if phase != "before the request":
            end(clinic, person)
        if who in signers:
            clinic.machine.shell(f"! keyrotation rotate {request} 2>refused && grep 'has expired' refused")
            sign(clinic, request, SPARE)
        # The backup after it is made for the others, and is not complete.
        clinic.machine.shell(f"keyrotation rotate {request} &>printed || grep 'is finished, but the backup' printed")
        application.wait_for(20)
    assert outcome(clinic, request) == "finished"
    dropped(clinic, person)
    clinic.strike()
    clinic.require_whole()


def end(clinic: Clinic, person: DemoOfficer) -> None:
    """The certificate ends, and the clinic has it as it is then."""
    expire(person)
    shutil.copy(person.certificate, certificate_of(clinic, person))
    status = json.loads(clinic.machine.shell("keyrotation status --json"))
    assert any(certificate_of(clinic, person).name in each and "has expired" in each for each in status["attention"])


def certificate_of(clinic: Clinic, person: DemoOfficer) -> Path:
    return clinic.machine.path / "officers" / f"{person.name.partition(' ')[0].lower()}.asc"


def sign(clinic: Clinic, request: str, name: str) -> None:
    approve = f"keyrotation approve {request}"
    clinic.machine.shell(f'{approve} --text | gpg -u "{name}" -ab | {approve} --signature -')


def outcome(clinic: Clinic, request: str) -> str:
    history = json.loads(clinic.machine.shell("keyrotation history --json"))
    return next(str(each["outcome"]) for each in history if each["id"] == request)


def dropped(clinic: Clinic, person: DemoOfficer) -> None:
    """The others drop whose certificate has ended, by a policy that they sign; backups are complete again then."""
    configuration, name = clinic.machine.path / "keyrotation.toml", certificate_of(clinic, person).name
    text = configuration.read_text()
    officer = f'[[approvals.officers]]\nname = "{person.name}"\ncertificate = "officers/{name}"\n'
    configuration.write_text(text.replace(officer, "").replace(f'"officers/{name}", ', ""))
    policy = clinic.machine.shell("keyrotation policy --reason ended 2>/dev/null").strip()
    for signer in [each for each in (*OFFICERS, SPARE) if each != person.name][:2]:
        sign(clinic, policy, signer)
    clinic.machine.shell("keyrotation policy && keyrotation backup")
