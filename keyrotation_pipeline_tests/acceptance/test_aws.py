"""Keys in AWS Secrets Manager: the seed's plain key converted, then rotated twice by the command, over HTTP."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from keyrotation_pipeline.encrypted_type import attest
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline_tests.acceptance.test_cli import Clinic, clinic, officers  # noqa: F401 - fixtures
from keyrotation_pipeline_tests.applications import engine_of
from keyrotation_pipeline_tests.aws_secrets import TestSecret
from keyrotation_pipeline_tests.buckets import REGION

TABLES = """
[[tables]]
name = "clients"
columns = ["first_name", "email"]
[[tables]]
name = "billing.Invoices"
columns = ["memo"]
"""


@contextmanager
def reporting(url: str, secret: TestSecret) -> Iterator[None]:
    """An instance that takes its keys from AWS."""
    store, engine = secret.open(), engine_of(url)

    def ring() -> KeyRing:
        return store.read().ring()

    attestation = attest(engine, ring, instance="web-1", every_seconds=0.5)
    try:
        yield
    finally:
        attestation.stop()
        engine.dispose()


def rotate(clinic: Clinic) -> None:  # noqa: F811
    request = clinic.run("request", "--reason", "yearly rotation").strip()
    text = clinic.run("approve", request, "--text")
    assert "\nKey store: AWS Secrets Manager pazpaz/encryption-key" in text
    for officer in clinic.officers:
        clinic.run("approve", request, "--signature", "-", text=officer.sign(text.encode(), "--armor").decode())
    clinic.run("rotate", request)


def configure(clinic: Clinic, secret: TestSecret) -> None:  # noqa: F811
    """The seed's plain key in AWS, and a configuration that says so."""
    secret.overwrite(base64_of(clinic.key))
    aws = (
        f'secret_id = "{secret.name}"\narchive_prefix = "{secret.prefix}"\n'
        f'endpoint_url = "{secret.url}"\nregion_name = "{REGION}"\n'
    )
    keys = f'[keys]\nstore = "aws-secrets-manager"\n[keys.aws-secrets-manager]\n{aws}'
    clinic.path.write_text(f'database.url = "{clinic.database_url}"\n{keys}{TABLES}\n{clinic.roster}')


@pytest.mark.slow
def test_the_seeds_key_in_aws_is_converted_and_rotated_to_v3(
    clinic: Clinic,  # noqa: F811
    new_secret: Callable[[], TestSecret],
) -> None:
    secret = new_secret()
    configure(clinic, secret)
    clinic.run("init", "--convert")
    assert json.loads(secret.text()) == {"v1": base64_of(clinic.key), "primary": "v1"}
    with reporting(clinic.database_url, secret):
        rotate(clinic)
        second = json.loads(secret.text())
        assert set(second) == {"v2", "primary"}
        rotate(clinic)
    third = json.loads(secret.text())
    assert (set(third), third["primary"]) == ({"v3", "primary"}, "v3")
    assert [secret.text(name) for name in secret.archives()] == [base64_of(clinic.key), second["v2"]]
    clinic.run("verify")
    clinic.run("status", "--exit-code")
    assert not [
        key for key in (base64_of(clinic.key), second["v2"], third["v3"]) if key in "".join(clinic.folder.printed)
    ]


def test_a_rotation_of_the_seeds_plain_key_says_how_to_convert_it(
    clinic: Clinic,  # noqa: F811
    new_secret: Callable[[], TestSecret],
) -> None:
    secret = new_secret()
    configure(clinic, secret)
    clinic.run("init")
    request = clinic.approved_request(*clinic.officers)
    clinic.run("rotate", request, expect=1)
    assert "holds one key without a version; run `keyrotation init --convert`" in clinic.error
    assert secret.text() == base64_of(clinic.key)
