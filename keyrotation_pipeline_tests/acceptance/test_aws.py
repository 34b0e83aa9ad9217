"""Keys in AWS Secrets Manager: the source procedure's plain key is never converted by the way."""

import json
from collections.abc import Callable

import pytest

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline_tests.acceptance.test_cli import Clinic, clinic, officers  # noqa: F401 - fixtures
from keyrotation_pipeline_tests.aws_secrets import TestSecret
from keyrotation_pipeline_tests.key_places import AwsPlace
from keyrotation_pipeline_tests.waiting import eventually

TABLES = """
[[tables]]
name = "clients"
columns = ["first_name", "email"]
[[tables]]
name = "billing.Invoices"
columns = ["memo"]
"""


@pytest.fixture
def place(clinic: Clinic, new_secret: Callable[[], TestSecret]) -> AwsPlace:  # noqa: F811
    place = AwsPlace(new_secret())
    place.give(clinic.key)
    clinic.path.write_text(f'database.url = "{clinic.database_url}"\n{place.configuration()}{TABLES}\n{clinic.roster}')
    clinic.run("init")
    return place


def test_a_rotation_of_the_source_procedures_plain_key_says_how_to_convert_it(clinic: Clinic, place: AwsPlace) -> None:  # noqa: F811
    secret = place.secret
    with clinic.path.open("a") as configuration:
        configuration.write('[rollout]\nmode = "none"\n')
    request = clinic.approved_request(*clinic.officers)
    clinic.run("rotate", request, expect=1)
    assert "holds one key without a version; run `keyrotation init --convert`" in clinic.error
    assert secret.text() == base64_of(clinic.key)


def test_an_instance_with_the_plain_key_names_no_primary_until_it_is_converted(clinic: Clinic, place: AwsPlace) -> None:  # noqa: F811
    def names_its_primary() -> bool:
        return [each["names_primary"] for each in json.loads(clinic.run("rollout", "--json"))["instances"]] == [True]

    with place.running(clinic.database_url):
        assert eventually(lambda: bool(json.loads(clinic.run("rollout", "--json"))["instances"]))
        assert not names_its_primary()
        request = clinic.approved_request(*clinic.officers)
        clinic.run("rotate", request, expect=1)
        assert "(writes v1, and does not report that as a named primary): not seen to name its primary" in clinic.error
        assert "`keyrotation init --convert`" in clinic.error
        assert place.secret.text() == base64_of(clinic.key)
        clinic.run("init", "--convert")
        assert eventually(names_its_primary)
        clinic.run("rotate", request, "--through", "key_version")
    assert {"v1", "v2"} <= json.loads(place.secret.text()).keys()


@pytest.mark.extended
def test_rotate_and_status_leave_no_label_on_the_old_key_though_answers_are_three_seconds_old(
    clinic: Clinic,  # noqa: F811
    new_stale_secret: Callable[[float], TestSecret],
) -> None:
    secret = new_stale_secret(3)
    store = secret.open()
    store.add(KeyVersion(1), clinic.key, store.read().revision)
    store.set_primary(KeyVersion(1), store.read().revision)
    place = AwsPlace(secret)
    clinic.path.write_text(
        f'database.url = "{clinic.database_url}"\n{place.configuration()}{TABLES}\n[rollout]\nmode = "none"\n'
        f"{clinic.roster}"
    )
    clinic.run("init")
    clinic.run("rotate", clinic.approved_request(*clinic.officers))
    clinic.run("status", "--exit-code")
    labels = secret.client.describe_secret(SecretId=secret.name)["VersionIdsToStages"]
    texts = [secret.text(VersionId=version) for version, of_it in labels.items() if of_it]
    assert texts
    assert not [text for text in texts if base64_of(clinic.key) in text]
