"""Secrets Manager whose answers are seconds old: what is seen is waited for, and no label leads to an old key."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from keyrotation_pipeline.errors import KeyStoreError, KeyStoreUnavailableError
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.monitoring.status import overview
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline_tests.aws_secrets import TestSecret
from keyrotation_pipeline_tests.contract.faulty_walk import assert_ended_right, walk, world_with
from keyrotation_pipeline_tests.contract.key_store import V1, V2, V3, add, archive, destroy, filled, key, shape
from keyrotation_pipeline_tests.contract.test_aws_walk import failing, refusing
from keyrotation_pipeline_tests.unit.rotation.requests import approved

SECONDS = 0.3
NewSecret = Callable[[float], TestSecret]


@pytest.fixture(autouse=True)
def _looking_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyrotation_pipeline.adapters.keystores.secrets_manager.PAUSE_SECONDS", 0.1)


def texts_with_labels(secret: TestSecret, name: str | None = None) -> list[str]:
    """The text of every version of a secret that has a label, as it is now."""
    labels = secret.client.describe_secret(SecretId=name or secret.name)["VersionIdsToStages"]
    return [secret.text(name, VersionId=version) for version, of_it in labels.items() if of_it]


def test_no_label_leads_to_an_archived_key_whatever_the_answers_show(new_stale_secret: NewSecret) -> None:
    secret = new_stale_secret(SECONDS)
    store = filled(secret.open())
    assert shape(archive(store, V1)) == ((V2,), (V1, V3), V2)
    assert not [text for text in texts_with_labels(secret) if base64_of(key(1)) in text]


def test_no_label_leads_to_a_destroyed_or_a_replaced_key(new_stale_secret: NewSecret) -> None:
    secret = new_stale_secret(SECONDS)
    store = filled(secret.open())
    (name,) = secret.archives()
    assert shape(destroy(store, V3)) == ((V1, V2), (), V2)
    assert texts_with_labels(secret, name) == ["destroyed"]
    store.replace(V1, key(9), store.read().revision)
    assert not [text for text in texts_with_labels(secret) if base64_of(key(1)) in text]


@pytest.mark.parametrize("seconds", [SECONDS, pytest.param(3.0, marks=pytest.mark.extended)])
def test_a_walk_is_refused_nowhere_and_leaves_no_label(new_stale_secret: NewSecret, seconds: float) -> None:
    secret = new_stale_secret(seconds)
    world = world_with(secret.open())
    rotation = approved(world)
    assert walk(world, rotation.id) == 0
    assert_ended_right(world, rotation.id)
    first = base64_of(world.pipeline.keys.read().material(V1))
    assert not [text for text in texts_with_labels(secret) if first in text]
    assert not [sentence for sentence in overview(world.pipeline).attention if "restored" in sentence]


def test_a_change_that_is_never_seen_is_reported_as_a_late_answer(
    new_stale_secret: NewSecret, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = new_stale_secret(5)
    monkeypatch.setattr("keyrotation_pipeline.adapters.keystores.secrets_manager.PATIENCE_SECONDS", 0.2)
    with pytest.raises(KeyStoreUnavailableError, match=r"does not show it after.*run this again"):
        add(secret.open(), V1, key(1))


# --- a label that somebody set ----------------------------------------------------------------------------------------


def labelled(secret: TestSecret, label: str, text: str) -> str:
    """A label on a version that holds this text; gives back the id."""
    made = secret.client.put_secret_value(SecretId=secret.name, SecretString=text, VersionStages=[label])
    return str(made["VersionId"])


@pytest.mark.parametrize("label", ["AWSPREVIOUS", "AWSPENDING", "before-the-rotation"])
def test_a_label_that_still_leads_to_an_archived_key_is_named_with_the_command(
    new_secret: Callable[[], TestSecret], label: str
) -> None:
    secret = new_secret()
    store = filled(secret.open())
    archive(store, V1)
    assert store.read().left_behind == {}
    entries = {"v1": base64_of(key(1)), "v2": base64_of(key(2)), "primary": "v2"}
    version = labelled(secret, label, json.dumps(entries))
    left = store.read().left_behind
    assert list(left) == [V1]
    command = f"update-secret-version-stage --secret-id {secret.name} --version-stage {label} --remove-from-version-id"
    assert f"{command} {version}`" in left[V1]
    assert base64_of(key(1)) not in left[V1]


def test_only_an_archived_copy_is_said_to_be_left_behind(new_secret: Callable[[], TestSecret]) -> None:
    """Never the last copy of a key that was lost from the live secret: nobody is to take the label off that."""
    secret = new_secret()
    store = filled(secret.open())
    entries = json.loads(secret.text())
    lost = {name: text for name, text in entries.items() if name != "v1"}
    secret.overwrite(json.dumps(lost))
    assert V1 not in store.read()
    assert "v1" in json.loads(secret.text(VersionStage="AWSPREVIOUS"))
    assert store.read().left_behind == {}


def test_a_label_whose_version_cannot_be_read_is_named_too(new_secret: Callable[[], TestSecret]) -> None:
    """As where its KMS key is gone: else nothing would say why nothing works, or what to do."""
    secret = new_secret()
    store = filled(secret.open())
    labelled(secret, "before", "{}")
    refused = refusing(400, "AccessDeniedException")

    def of_other_labels(request: Any, send: Callable[[], Any]) -> Any:  # noqa: ANN401 - botocore's
        return send() if b"AWSCURRENT" in request.body else refused(request, send)

    with (
        failing(lambda operation: operation == "GetSecretValue", of_other_labels),
        pytest.raises(KeyStoreUnavailableError, match=r"under the label .* is not known .*AccessDenied.*`aws .*`"),
    ):
        store.read()


def test_a_walk_is_not_finished_and_status_is_not_quiet_while_a_label_leads_to_the_old_key(
    new_secret: Callable[[], TestSecret],
) -> None:
    secret = new_secret()
    world = world_with(secret.open())
    rotation = approved(world)
    list(runner.run(world.pipeline, rotation.id, world.report, Step.RETIRED_KEY))
    stored = world.pipeline.keys.read()
    made = labelled(secret, "AWSPREVIOUS", json.dumps({"v1": base64_of(stored.material(V1)), "primary": "v1"}))
    assert [
        each for each in overview(world.pipeline).attention if "still gives its key under the label AWSPREVIOUS" in each
    ]
    with pytest.raises(KeyStoreError, match="still gives its key under the label AWSPREVIOUS"):
        list(runner.run(world.pipeline, rotation.id, world.report))
    secret.client.update_secret_version_stage(
        SecretId=secret.name, VersionStage="AWSPREVIOUS", RemoveFromVersionId=made
    )
    assert walk(world, rotation.id) == 0
    assert_ended_right(world, rotation.id)
