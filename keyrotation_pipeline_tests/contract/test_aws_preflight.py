"""What would stop a rotation in AWS after its first row is known before: rights, KMS key, replicas, quota."""

from collections.abc import Callable

import pytest

from keyrotation_pipeline.errors import KeyStoreUnavailableError, PreflightError
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.model.environment import Problem
from keyrotation_pipeline.model.status import Light
from keyrotation_pipeline.monitoring import data_readiness
from keyrotation_pipeline_tests.archives_in_aws import TestArchivedInAws
from keyrotation_pipeline_tests.aws_secrets import TestSecret
from keyrotation_pipeline_tests.contract.faulty_walk import walk, world_with
from keyrotation_pipeline_tests.contract.key_store import OWNER, V1, V2, add, archive, filled, key, set_primary
from keyrotation_pipeline_tests.contract.test_aws_walk import failing, refusing
from keyrotation_pipeline_tests.unit.rotation.requests import approved

KMS, OTHER_KMS = (f"arn:aws:kms:us-east-1:123456789012:key/{number}" for number in (1, 2))
THEIRS = [{"Key": "Team", "Value": "clinic"}, {"Key": "Status", "Value": "Live"}]


@pytest.fixture
def secret(new_secret: Callable[[], TestSecret]) -> TestSecret:
    return new_secret()


def encrypted_under(secret: TestSecret, kms_key: str) -> None:
    """moto forgets the key at the next version, so this comes last before what depends on it."""
    secret.client.update_secret(SecretId=secret.name, KmsKeyId=kms_key)


def sentences(problems: tuple[Problem, ...]) -> list[tuple[bool, str]]:
    return [(each.fatal, each.message) for each in problems]


def test_a_secret_as_it_should_be_has_no_problem_twice(secret: TestSecret) -> None:
    store = secret.open()
    assert store.preflight() == store.preflight() == ()


def test_an_archive_has_the_kms_key_and_the_tags_of_the_live_secret(secret: TestSecret) -> None:
    store = secret.open()
    for version, number in ((V1, 1), (V2, 2)):
        add(store, version, key(number))
    set_primary(store, V2)
    store.name_owner(OWNER, store.read().revision)
    secret.client.tag_resource(SecretId=secret.name, Tags=THEIRS)
    encrypted_under(secret, KMS)
    archive(store, V1)
    (name,) = secret.archives()
    made = secret.client.describe_secret(SecretId=name)
    tags = {tag["Key"]: tag["Value"] for tag in made["Tags"]}
    assert made["KmsKeyId"] == KMS
    assert tags.pop("RotationDate").startswith("20")
    assert tags == {"Team": "clinic", "Status": "Archived"}


def test_an_archive_of_a_kubernetes_secret_has_those_of_its_index(
    new_split_secrets: Callable[[], TestArchivedInAws],
) -> None:
    place = new_split_secrets()
    client = place.aws.client
    client.tag_resource(SecretId=place.index, Tags=THEIRS)
    client.update_secret(SecretId=place.index, KmsKeyId=KMS)
    store = filled(place.open())
    assert store.preflight() == ()
    (name,) = place.archives()
    for each in (name, f"{place.aws.prefix}preflight"):
        made = client.describe_secret(SecretId=each)
        assert made["KmsKeyId"] == KMS
        assert {"Key": "Team", "Value": "clinic"} in made["Tags"]


@pytest.mark.parametrize(
    ("operation", "code"),
    [
        pytest.param("CreateSecret", "AccessDeniedException", id="no right to create"),
        pytest.param("CreateSecret", "EncryptionFailure", id="no right to encrypt"),
        pytest.param("GetSecretValue", "DecryptionFailure", id="no right to decrypt"),
    ],
)
def test_what_would_keep_a_key_from_being_archived_is_known_before_anything_is_opened(
    secret: TestSecret, operation: str, code: str
) -> None:
    world = world_with(secret.open())
    last: list[str] = []

    def fails(called: str) -> bool:
        last.append(called)
        return called == operation and "CreateSecret" in last

    with failing(fails, refusing(400, code)):
        with pytest.raises(
            KeyStoreUnavailableError, match=rf"no secret for an archived key can be created.*\({code}\)"
        ):
            approved(world)
        seen = {each.name: each for each in data_readiness.database(world.pipeline, V2)}
    assert seen["keys_can_be_archived"].light is Light.RED
    assert world.ledger.requests() == ()
    assert walk(world, approved(world).id) == 0


def test_the_pre_flight_follows_the_live_secret_to_another_kms_key(secret: TestSecret) -> None:
    store, name = secret.open(), f"{secret.prefix}preflight"
    for kms_key in (KMS, OTHER_KMS):
        encrypted_under(secret, kms_key)
        assert store.preflight() == ()
        assert secret.client.describe_secret(SecretId=name)["KmsKeyId"] == kms_key
    assert base64_of(key(1)) not in secret.text(name)


def test_more_tags_than_an_archive_can_have_are_named(secret: TestSecret) -> None:
    tags = [{"Key": f"tag-{number}", "Value": "x"} for number in range(49)]
    secret.client.tag_resource(SecretId=secret.name, Tags=tags)
    ((fatal, sentence),) = sentences(secret.open().preflight())
    assert fatal
    assert "51 tags that archives get, and AWS takes 50; remove some" in sentence


def test_a_secret_whose_tags_name_as_many_archives_as_it_can_is_named(secret: TestSecret) -> None:
    store = secret.open()
    free = 50 - len(secret.client.describe_secret(SecretId=secret.name).get("Tags", []))
    tags = [{"Key": f"keyrotation-archived-v{number}", "Value": "x"} for number in range(100, 100 + free)]
    secret.client.tag_resource(SecretId=secret.name, Tags=tags[1:])
    assert store.preflight() == ()
    secret.client.tag_resource(SecretId=secret.name, Tags=tags[:1])
    ((fatal, sentence),) = sentences(store.preflight())
    assert fatal
    assert "has 50 of at most 50 tags; make room for the next archived key" in sentence


def test_a_rotation_by_aws_itself_stops_the_request(secret: TestSecret) -> None:
    world = world_with(secret.open())
    secret.client.rotate_secret(
        SecretId=secret.name, RotationRules={"AutomaticallyAfterDays": 30}, RotateImmediately=False
    )
    with pytest.raises(PreflightError, match=f"AWS rotates secret .*cancel-rotate-secret --secret-id {secret.name}`"):
        approved(world)


def test_replicas_are_named_and_stop_nothing_while_they_follow(secret: TestSecret) -> None:
    secret.client.replicate_secret_to_regions(SecretId=secret.name, AddReplicaRegions=[{"Region": "eu-central-1"}])
    ((fatal, sentence),) = sentences(secret.open().preflight())
    assert not fatal
    assert "has replicas in eu-central-1 (InSync), and archives have none" in sentence
    assert sentence.endswith("`keyrotation rollout`")


def test_a_replica_that_does_not_follow_stops_the_request(secret: TestSecret) -> None:
    import boto3  # noqa: PLC0415

    there = boto3.client("secretsmanager", endpoint_url=secret.url, region_name="eu-west-1")
    there.create_secret(Name=secret.name, SecretString="another")
    secret.client.replicate_secret_to_regions(SecretId=secret.name, AddReplicaRegions=[{"Region": "eu-west-1"}])
    ((fatal, sentence),) = sentences(secret.open().preflight())
    assert fatal
    assert "eu-west-1 (Failed)" in sentence
    assert sentence.endswith("--remove-replica-regions eu-west-1`")


def test_a_secret_that_got_too_many_versions_today_stops_the_request(secret: TestSecret) -> None:
    for number in range(80):
        secret.client.put_secret_value(SecretId=secret.name, SecretString=f'{{"n": {number}}}', VersionStages=["x"])
    ((fatal, sentence),) = sentences(secret.open().preflight())
    assert fatal
    assert "got 81 versions within a day" in sentence
    assert sentence.endswith("run `keyrotation preflight` tomorrow")
