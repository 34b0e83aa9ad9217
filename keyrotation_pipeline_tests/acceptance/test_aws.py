"""Keys in AWS Secrets Manager: the seed's plain key is never converted by the way."""

from collections.abc import Callable

from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline_tests.acceptance.test_cli import Clinic, clinic, officers  # noqa: F401 - fixtures
from keyrotation_pipeline_tests.aws_secrets import TestSecret
from keyrotation_pipeline_tests.key_places import AwsPlace

TABLES = """
[[tables]]
name = "clients"
columns = ["first_name", "email"]
[[tables]]
name = "billing.Invoices"
columns = ["memo"]
"""


def test_a_rotation_of_the_seeds_plain_key_says_how_to_convert_it(
    clinic: Clinic,  # noqa: F811
    new_secret: Callable[[], TestSecret],
) -> None:
    secret = new_secret()
    place = AwsPlace(secret)
    place.give(clinic.key)
    clinic.path.write_text(f'database.url = "{clinic.database_url}"\n{place.configuration()}{TABLES}\n{clinic.roster}')
    clinic.run("init")
    request = clinic.approved_request(*clinic.officers)
    clinic.run("rotate", request, expect=1)
    assert "holds one key without a version; run `keyrotation init --convert`" in clinic.error
    assert secret.text() == base64_of(clinic.key)
