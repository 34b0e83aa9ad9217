"""The hosts that the configuration names are those that officers signed; another one is reported, and gets no key."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest

from keyrotation_pipeline import settings
from keyrotation_pipeline.adapters.postgres.server.connection import connect
from keyrotation_pipeline.assembly.backups import open_backups
from keyrotation_pipeline.assembly.pipeline import initialise
from keyrotation_pipeline.backups.catalog import BackupContext
from keyrotation_pipeline.backups.key_loss import restore_key
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.errors import ApprovalError, BackupError, RequestError
from keyrotation_pipeline.model.request_events import HostsPinned
from keyrotation_pipeline.model.requests import Request
from keyrotation_pipeline.model.status import Light
from keyrotation_pipeline.monitoring.readiness import readiness
from keyrotation_pipeline.monitoring.status import overview
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.approvals import add_approval, require_authorised
from keyrotation_pipeline.requests.policy import change_policy, open_policy
from keyrotation_pipeline.rotation.rotate import open_request
from keyrotation_pipeline_tests.backup_sites import Clinic, admit, write_configuration
from keyrotation_pipeline_tests.buckets import CREDENTIALS, REGION, TestBucket
from keyrotation_pipeline_tests.fakes import V1
from keyrotation_pipeline_tests.forging import Forger
from keyrotation_pipeline_tests.integration.encrypted_rows import ring_of

WEBHOOK = '[alerts]\nwebhook_url = "https://hooks.example/services/secret"\n'
OTHER = WEBHOOK.replace("hooks.example", "evil.example")
REPORTED = (
    "keyrotation.toml names other hosts than officers signed (alerts.webhook_url https://evil.example is new{}); "
    "restore them there, or have the change signed with `keyrotation policy --reason TEXT`"
)


@contextmanager
def configured(clinic: Clinic, more: str) -> Iterator[BackupContext]:
    """Opened, as commands are, with more in the configuration than at `init`."""
    before = clinic.settings.path.read_text()
    clinic.settings.path.write_text(before + more)
    try:
        with open_backups(settings.load(clinic.settings.path), actor="test") as site:
            yield site
    finally:
        clinic.settings.path.write_text(before)


def sign(clinic: Clinic, pipeline: Pipeline, request: Request) -> None:
    text = pipeline.ledger.approval_text(request.id)
    for officer in clinic.signers:
        add_approval(pipeline, request, officer.sign(text))


def reported(pipeline: Pipeline) -> list[str]:
    return [each for each in overview(pipeline).attention if "hosts" in each]


def test_a_host_that_nobody_signed_is_reported_until_officers_have_signed_it(local_clinic: Clinic) -> None:
    with configured(local_clinic, OTHER) as site:
        pipeline = site.pipeline
        assert reported(pipeline) == [REPORTED.format("")]
        [check] = [each for each in readiness(site).checks if each.name == "hosts_are_the_signed_ones"]
        assert (check.light, "`keyrotation policy --reason TEXT`" in check.do) == (Light.AMBER, True)
        request = open_policy(pipeline, reason="a new webhook", requested_by="test")
        text = pipeline.ledger.approval_text(request.id).decode()
        assert "\nHosts: alerts.webhook_url https://evil.example\n" in text
        assert "secret" not in text
        assert reported(pipeline), "nobody has signed it yet"
        sign(local_clinic, pipeline, request)
        change_policy(pipeline, pipeline.ledger.request(request.id))

        assert reported(pipeline) == []
        with pytest.raises(RequestError, match="the recipients and the hosts that are pinned"):
            open_policy(pipeline, reason="again", requested_by="test")
    with configured(local_clinic, "") as site:
        assert "alerts.webhook_url https://evil.example is gone" in reported(site.pipeline)[0]
    with configured(local_clinic, WEBHOOK) as site:
        [check] = [each for each in readiness(site).checks if each.name == "hosts_are_the_signed_ones"]
        assert check.value.endswith("hooks.example is new, alerts.webhook_url https://evil.example is gone)")
        assert check.do.startswith("restore them there")


def test_what_officers_signed_for_a_rotation_goes_to_no_other_host(local_clinic: Clinic) -> None:
    with configured(local_clinic, WEBHOOK) as site:
        request = open_request(site.pipeline, reason="yearly", requested_by="test")
        assert b"\nHosts: alerts.webhook_url https://hooks.example\n" in site.pipeline.ledger.approval_text(request.id)
        sign(local_clinic, site.pipeline, request)
        require_authorised(site.pipeline, site.pipeline.ledger.request(request.id), site.pipeline.keys.read())
    with (
        configured(local_clinic, OTHER) as site,
        pytest.raises(ApprovalError, match=r"text for signing says \(Hosts\)"),
    ):
        require_authorised(site.pipeline, site.pipeline.ledger.request(request.id), site.pipeline.keys.read())


def test_an_event_of_the_databases_owner_pins_no_host(local_clinic: Clinic) -> None:
    """Nor of one who has the home, too, whose key signs it."""
    with configured(local_clinic, OTHER) as site:
        Forger(local_clinic.connection, local_clinic.signer).append(HostsPinned(site.pipeline.hosts))
        attention = overview(site.pipeline).attention

    assert REPORTED.format("") in attention
    assert any("pins hosts that nobody has signed" in each for each in attention)


def test_no_key_goes_to_a_store_on_a_host_that_nobody_signed(
    local_clinic: Clinic, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    more = f"""[keys]
store = "aws-secrets-manager"
[keys.aws-secrets-manager]
secret_id = "elsewhere-{local_clinic.directory.name}"
endpoint_url = "{s3_url}"
region_name = "{REGION}"
"""
    sentence = f"keys would go to {s3_url}, which officers have not signed"
    aws: Any = boto3.client("secretsmanager", endpoint_url=s3_url, region_name=REGION)

    with configured(local_clinic, more) as site:
        with pytest.raises(ApprovalError, match=sentence):
            initialise(settings.load(local_clinic.settings.path), local_clinic.ring, actor="test")
        material = local_clinic.ring.material(V1)
        with pytest.raises(ApprovalError, match=sentence):
            restore_key(site.pipeline, V1, material, "a backup")
        text = aws.get_secret_value(SecretId=f"elsewhere-{local_clinic.directory.name}")["SecretString"]
        assert '"v1"' not in text
        request = open_policy(site.pipeline, reason="the keys move", requested_by="test")
        sign(local_clinic, site.pipeline, request)
        change_policy(site.pipeline, site.pipeline.ledger.request(request.id))
        restore_key(site.pipeline, V1, material, "a backup")

        assert site.pipeline.keys.read().material(V1) == material


def test_a_mistyped_bucket_is_corrected_without_signatures_where_init_has_failed_because_of_it(
    tmp_path: Path,
    already_migrated: str,
    database_url: str,
    backup_officers: dict[str, DemoOfficer],
    bucket: TestBucket,
) -> None:
    ring = ring_of(1, 2)
    with connect(database_url) as connection:
        admit(connection, ring)
    path = write_configuration(tmp_path, database_url, backup_officers, bucket)
    right = path.read_text()
    path.write_text(right.replace(f'bucket = "{bucket.name}"', f'bucket = "{bucket.name}x"'))
    with pytest.raises(BackupError, match=f"{bucket.name}x"):
        initialise(settings.load(path), ring, actor="test")
    path.write_text(right)
    initialise(settings.load(path), ring, actor="test")
    with open_backups(settings.load(path), actor="test") as site:
        assert reported(site.pipeline) == []
        assert site.pipeline.hosts
        assert site.pipeline.ledger.replayed().hosts == site.pipeline.hosts
