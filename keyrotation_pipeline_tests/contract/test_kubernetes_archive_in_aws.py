"""The key store in a Kubernetes Secret whose archived keys are in AWS Secrets Manager, over HTTP."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keyrotation_pipeline.errors import KeyStoreDamagedError, KeyStoreError
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.ports.keys import KeyStore
from keyrotation_pipeline_tests.archives_in_aws import TestArchivedInAws
from keyrotation_pipeline_tests.buckets import noting
from keyrotation_pipeline_tests.contract.key_loss import KeyLossContract
from keyrotation_pipeline_tests.contract.key_store import (
    V1,
    V2,
    V3,
    KeyStoreContract,
    Place,
    add,
    archive,
    destroy,
    filled,
    key,
    restore,
    shape,
)
from keyrotation_pipeline_tests.contract.test_secret_rights import ARCHIVE, PIPELINE, permits, with_suffix

NewSecrets = Callable[[], TestArchivedInAws]


class TestKubernetesKeyStoreWithItsArchiveInAws(KeyStoreContract):
    @pytest.fixture
    def new_place(self, new_split_secrets: NewSecrets) -> Callable[[], Place]:
        return new_split_secrets


class TestKubernetesKeyStoreWithItsArchiveInAwsLoses(KeyLossContract):
    @pytest.fixture
    def open_store(self, new_split_secrets: NewSecrets) -> Callable[[], KeyStore]:
        """Everything was deleted, and made again as `restore-key` does."""
        secrets = new_split_secrets()
        secrets.delete()
        secrets.aws.client.delete_secret(SecretId=secrets.index, ForceDeleteWithoutRecovery=True)
        secrets.open().create()
        return secrets.open


@pytest.fixture
def secrets(new_split_secrets: NewSecrets) -> TestArchivedInAws:
    return new_split_secrets()


def test_an_archived_key_is_in_a_secret_of_aws_and_in_none_of_kubernetes(secrets: TestArchivedInAws) -> None:
    store = filled(secrets.open())
    (name,) = secrets.archives()
    assert name.startswith(f"{secrets.aws.prefix}v3-archived-20")
    assert secrets.aws.text(name) == base64_of(key(3))
    index = secrets.aws.client.describe_secret(SecretId=secrets.index)
    assert {"Key": "keyrotation-archived-v3", "Value": name} in index["Tags"]
    held = secrets.cluster.ask("GET", "secrets")["items"]
    assert [each["metadata"]["name"] for each in held if each["metadata"]["name"] == secrets.archive] == []
    assert base64_of(key(3)) not in secrets.entries().values()
    assert f"archive AWS Secrets Manager {secrets.aws.prefix}* in {secrets.aws.region}" in store.description


def test_a_destroyed_key_is_under_no_label_and_what_stays_of_it_is_said(secrets: TestArchivedInAws) -> None:
    store = filled(secrets.open())
    destroy(store, V3)
    (name,) = secrets.archives()
    assert secrets.aws.text(name) == "destroyed"
    assert "backups of etcd" in str(store.residual_copies)
    assert "readable by its version id" in str(store.residual_copies)


def test_a_key_whose_archive_holds_another_one_stays_live(secrets: TestArchivedInAws) -> None:
    store = filled(secrets.open())
    old = f"{secrets.aws.prefix}v1-archived-20200105"
    secrets.aws.client.create_secret(Name=old, SecretString=base64_of(key(9)))
    with pytest.raises(KeyStoreDamagedError, match=f"secret {old} holds another key as v1; find out which one"):
        archive(store, V1)
    with pytest.raises(KeyStoreError, match="different key under v1"):
        add(store, V1, key(1))
    assert store.read().material(V1) == key(1)


def test_an_archive_without_its_index_is_damaged_and_made_whole_again(secrets: TestArchivedInAws) -> None:
    store = secrets.open()
    filled(store)
    secrets.aws.client.delete_secret(SecretId=secrets.index, ForceDeleteWithoutRecovery=True)
    with pytest.raises(KeyStoreDamagedError, match=r"there is no secret .*-index; .*`keyrotation restore-key`"):
        store.read()
    store.create()
    assert shape(store.read()) == ((V1, V2), (V3,), V2), "the list of secrets tells of it"


def test_the_policy_of_the_pipeline_grants_what_is_asked(secrets: TestArchivedInAws) -> None:
    """With the prefix that docs/clusters/kubernetes.md has."""
    calls: set[tuple[str, str, str | None]] = set()

    def note(params: dict[str, Any], model: Any, **_: Any) -> None:  # noqa: ANN401 - botocore's
        asked = str(params.get("SecretId", params.get("Name", "*")))
        index = asked == secrets.index
        name = "*" if asked == "*" else "pazpaz/encryption-key-index" if index else ARCHIVE
        calls.add((f"secretsmanager:{model.name}", name, params.get("VersionStage")))

    with noting("secretsmanager", note):
        store = secrets.open()
        store.create()
        filled(store)
        restore(store, V3)
        archive(store, V3)
        destroy(store, V3)
    assert {name for _, name, _ in calls} == {"*", "pazpaz/encryption-key-index", ARCHIVE}
    asked = {(action, with_suffix(name), stage) for action, name, stage in calls}
    assert [each for each in asked if not permits(PIPELINE, *each)] == []


def test_the_archive_of_the_settings_is_the_one_that_is_used(secrets: TestArchivedInAws, tmp_path: Path) -> None:
    from keyrotation_pipeline import settings  # noqa: PLC0415
    from keyrotation_pipeline.assembly.keystores import open_key_store  # noqa: PLC0415

    file = tmp_path / "keyrotation.toml"
    file.write_text(
        '[keys]\nstore = "kubernetes-secret"\n[keys.kubernetes-secret]\n'
        f'namespace = "{secrets.cluster.namespace}"\nname = "{secrets.name}"\nkubeconfig = "{secrets.kubeconfig}"\n'
        f'[keys.kubernetes-secret.aws-archive]\nprefix = "{secrets.aws.prefix}"\n'
        f'region_name = "{secrets.aws.region}"\nendpoint_url = "{secrets.aws.url}"\n'
        '[[tables]]\nname = "clients"\ncolumns = ["name"]\n'
    )
    before = filled(secrets.open())
    store = open_key_store(settings.load(file))
    assert store.read() == before.read()
    assert store.description == before.description
