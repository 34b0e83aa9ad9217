"""The backup assets on a real clinic, and the recovery key that may stay on a machine."""

import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from keyrotation_pipeline import settings
from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.openpgp import GnuPG
from keyrotation_pipeline.assembly.backups import recovery_key
from keyrotation_pipeline.backups.backup import back_up
from keyrotation_pipeline.backups.recovery_test import recovery_test
from keyrotation_pipeline.defs.code_location import build_definitions
from keyrotation_pipeline.defs.resources import PipelineResource
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.errors import RecoveryKeyError, SigningRecoveryKeyError
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.model.status import Check, Light
from keyrotation_pipeline.monitoring.readiness import readiness
from keyrotation_pipeline_tests.backup_sites import Clinic, open_clinic
from keyrotation_pipeline_tests.buckets import TestBucket

PASSPHRASE = "correct horse"


@contextmanager
def gpg_home() -> Iterator[Callable[..., bytes]]:
    """gpg in a home of its own, whose keys have a passphrase."""
    with tempfile.TemporaryDirectory(prefix="kr-", dir="/tmp") as home:

        def gpg(*arguments: str) -> bytes:
            command = ["gpg", "--homedir", home, "--batch", "--pinentry-mode", "loopback", "--passphrase", PASSPHRASE]
            return subprocess.run([*command, *arguments], capture_output=True, check=True).stdout

        yield gpg
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)


def decrypting_key(directory: Path) -> tuple[Path, Path]:
    """Certificate and secret key, with a passphrase, that can decrypt and nothing else."""
    with gpg_home() as gpg:
        gpg("--quick-generate-key", "Recovery <recovery@clinic.invalid>", "ed25519", "cert")
        (fingerprint,) = [
            line.split(":")[9]
            for line in gpg("--with-colons", "--list-keys").decode().splitlines()
            if line.startswith("fpr")
        ]
        gpg("--quick-add-key", fingerprint, "cv25519", "encr")
        certificate, secret = directory / "machine.asc", directory / "machine.sec.asc"
        certificate.write_bytes(gpg("--armor", "--export"))
        secret.write_bytes(gpg("--armor", "--export-secret-keys"))
    return certificate, secret


def recovery_check(clinic: Clinic, declared: settings.Settings) -> Check:
    """What the pre-flight says of the key that stays on the machine."""
    checks = readiness(clinic.site, None, partial(recovery_key, declared)).checks
    return next(check for check in checks if check.name == "recovery_key_only_decrypts")


def with_recovery(clinic: Clinic, key: Path) -> Path:
    path = clinic.settings.path
    (clinic.directory / "passphrase").write_text(f"{PASSPHRASE}\n")
    recovery = f'[recovery]\nsecret_key = {{ file = "{key}" }}\npassphrase = {{ file = "passphrase" }}\n'
    path.write_text(path.read_text() + recovery)
    return path


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A secret key that can only decrypt, which stays on the machine; its certificate lies next to it."""
    return decrypting_key(tmp_path)[1]


@pytest.fixture
def unattended_clinic(
    tmp_path: Path,
    secret: Path,
    already_migrated: str,
    database_url: str,
    backup_officers: dict[str, DemoOfficer],
    bucket: TestBucket,
) -> Iterator[Clinic]:
    """A clinic whose machine has a recovery key of its own."""
    machine = replace(backup_officers["recovery"], certificate=secret.with_name("machine.asc"))
    with ExitStack() as stack:
        yield open_clinic(stack, tmp_path, database_url, {**backup_officers, "recovery": machine}, bucket)


def test_the_assets_back_up_and_test_a_real_clinic(unattended_clinic: Clinic, secret: Path) -> None:
    clinic = unattended_clinic
    path = with_recovery(clinic, secret)
    resource = PipelineResource(config_file=str(path))
    definitions = build_definitions(clinic.site.pipeline.tables, 2, resource, "Europe/Berlin")
    today = f"{datetime.now(ZoneInfo('Europe/Berlin')):%Y-%m-%d}"
    with dg.DagsterInstance.ephemeral() as instance:
        made = definitions.resolve_job_def("backup").execute_in_process(instance=instance, partition_key=today)
        events = made.get_asset_materialization_events()
        assert {str(each.step_materialization_data.materialization.label) for each in events} == {
            "key_backup", "database_backup",
        }  # fmt: skip
        tested = definitions.resolve_job_def("recovery_drill").execute_in_process(instance=instance)
        (event,) = tested.get_asset_materialization_events()
        stored = "".join(repr(log) for run in instance.get_runs() for log in instance.all_logs(run.run_id))
    decrypted: Any = event.materialization.metadata["values_decrypted"].value
    assert decrypted["clients"] == {"name": {"v1": 4}, "email": {"v2": 2}}
    assert not any(base64_of(clinic.ring.material(version)) in stored for version in clinic.ring.versions)
    assert PASSPHRASE not in stored


def test_a_key_that_can_sign_must_not_stay_on_a_machine(clinic: Clinic) -> None:
    secret = clinic.directory / "can-sign.sec.asc"
    secret.write_bytes(clinic.secret_key())
    declared = settings.load(with_recovery(clinic, secret))
    with (
        pytest.raises(SigningRecoveryKeyError, match="can sign; name one that can only decrypt") as refused,
        recovery_key(declared),
    ):
        pass
    with recovery_key(declared, secret) as brought:  # an officer brings it for once
        assert brought.label

    check = recovery_check(clinic, declared)
    assert (check.light, check.value) == (Light.RED, "[recovery] secret_key can sign")
    assert check.do in str(refused.value)
    typed = re.findall(r"`gpg (.+) > recovery\.sec\.asc`", check.do)
    secret.write_bytes(clinic.officer.gpg(*shlex.split(typed[0])))
    check = recovery_check(clinic, declared)
    assert (check.light, check.do) == (Light.GREEN, "")
    back_up(clinic.site)
    with recovery_key(declared) as exported:
        assert recovery_test(clinic.site, exported).newest.rows


def test_a_key_that_decrypts_with_what_it_signs_with_is_refused_with_how_to_make_another(clinic: Clinic) -> None:
    secret = clinic.directory / "everything.sec.asc"
    with gpg_home() as gpg:
        gpg("--quick-generate-key", "Everything <all@clinic.invalid>", "rsa2048", "sign,encr,cert")
        secret.write_bytes(gpg("--armor", "--export-secret-keys"))
    check = recovery_check(clinic, settings.load(with_recovery(clinic, secret)))
    assert (check.light, check.value) == (
        Light.RED, "[recovery] secret_key has no subkey that can only decrypt"
    )  # fmt: skip


def test_a_recovery_key_that_is_not_there_was_not_seen(clinic: Clinic) -> None:
    check = recovery_check(clinic, settings.load(with_recovery(clinic, clinic.directory / "not-mounted.asc")))
    assert check.light is Light.AMBER
    assert check.value.startswith("not seen: ")


def test_an_officers_key_must_not_stay_on_a_machine(clinic: Clinic, security_officer: DemoOfficer) -> None:
    secret = clinic.directory / "officer.sec.asc"
    secret.write_bytes(security_officer.gpg("--armor", "--export-secret-keys"))
    declared = settings.load(with_recovery(clinic, secret))
    with pytest.raises(RecoveryKeyError, match="is an officer's key"), recovery_key(declared):
        pass


def test_a_wrong_passphrase_is_said_to_be_one(clinic: Clinic) -> None:
    certificate, secret = decrypting_key(clinic.directory)
    gpg = GnuPG(clinic.directory / "g", SystemClock())
    message = gpg.encrypt(b"text", [gpg.read_certificate(certificate)])
    declared = settings.load(with_recovery(clinic, secret))
    with recovery_key(declared) as key:
        assert key.decrypt("x.gpg", message) == b"text"
    with (
        recovery_key(declared, passphrase=b"wrong") as key,
        pytest.raises(RecoveryKeyError, match="the passphrase does not open the recovery key"),
    ):
        key.decrypt("x.gpg", message)
