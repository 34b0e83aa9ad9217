"""The key store in AWS Secrets Manager, over HTTP against moto's server."""

import json
import time
from collections.abc import Callable

import pytest

from keyrotation_pipeline.errors import (
    KeyStoreConflictError,
    KeyStoreDamagedError,
    KeyStoreError,
    KeyStoreUnavailableError,
)
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline_tests.aws_secrets import CHANGING, TestSecret, watched
from keyrotation_pipeline_tests.contract.key_store import (
    CHANGES,
    V1,
    V2,
    V3,
    V4,
    Change,
    KeyStoreContract,
    Place,
    Shape,
    add,
    archive,
    destroy,
    filled,
    key,
    restore,
    set_primary,
    shape,
)
from keyrotation_pipeline_tests.contract.test_aws_walk import failing, refusing


class TestAwsKeyStore(KeyStoreContract):
    @pytest.fixture
    def new_place(self, new_secret: Callable[[], TestSecret]) -> Callable[[], Place]:
        return new_secret


@pytest.fixture
def secret(new_secret: Callable[[], TestSecret]) -> TestSecret:
    return new_secret()


# --- what lies there ------------------------------------------------------------------------------------------------


def test_the_text_is_that_of_the_contract(secret: TestSecret) -> None:
    store = secret.open()
    add(store, V1, key(1))
    add(store, V2, key(2))
    set_primary(store, V2)
    archive(store, V1)
    assert json.loads(secret.text()) == {"v2": base64_of(key(2)), "primary": "v2"}
    (name,) = secret.archives()
    assert name.startswith(f"{secret.prefix}v1-archived-20")
    assert secret.text(name) == base64_of(key(1))
    tags = {tag["Key"]: tag["Value"] for tag in secret.client.describe_secret(SecretId=name)["Tags"]}
    day = name[-8:]
    assert tags == {"Status": "Archived", "RotationDate": f"{day[:4]}-{day[4:6]}-{day[6:]}"}


def test_people_who_look_at_a_secret_read_what_it_is(secret: TestSecret) -> None:
    store = secret.open()
    add(store, V1, key(1))
    add(store, V2, key(2))
    store.set_primary(V2, store.read().revision, "Encryption key v2 (rotated 2026-01-05), authorised by Ada")
    store.archive(V1, store.read().revision, "Archived key v1 (rotated 2026-01-05), authorised by Ada")
    (archived,) = secret.archives()
    described = [secret.client.describe_secret(SecretId=name) for name in (secret.name, archived)]
    assert [each["Description"] for each in described] == [
        "Encryption key v2 (rotated 2026-01-05), authorised by Ada",
        "Archived key v1 (rotated 2026-01-05), authorised by Ada",
    ]
    assert json.loads(secret.text()) == {"v2": base64_of(key(2)), "primary": "v2"}
    assert base64_of(key(1)) not in str(described)


def test_a_policy_that_grants_no_description_keeps_no_key_from_being_promoted(secret: TestSecret) -> None:
    store = secret.open()
    add(store, V1, key(1))
    with failing(lambda operation: operation == "UpdateSecret", refusing(400, "AccessDeniedException")):
        assert store.set_primary(V1, store.read().revision, "Encryption key v1").primary == V1
    assert not secret.client.describe_secret(SecretId=secret.name).get("Description")


def test_entries_of_others_stay(secret: TestSecret) -> None:
    secret.overwrite(json.dumps({"v1": base64_of(key(1)), "primary": "v1", "pepper": "x"}))
    store = secret.open()
    add(store, V2, key(2))
    set_primary(store, V2)
    archive(store, V1)
    assert json.loads(secret.text()) == {"v2": base64_of(key(2)), "primary": "v2", "pepper": "x"}


def test_no_label_leads_to_an_archived_key_in_the_live_secret(secret: TestSecret) -> None:
    store = filled(secret.open())
    archive(store, V1)
    stages = secret.client.describe_secret(SecretId=secret.name)["VersionIdsToStages"]
    labelled = [version for version, labels in stages.items() if labels]
    assert labelled
    for version in labelled:
        assert base64_of(key(1)) not in secret.text(VersionId=version)


def test_an_archive_is_kept_by_a_restore_and_used_again(secret: TestSecret) -> None:
    store = filled(secret.open())
    archive(store, V1)
    before = secret.archives()
    restore(store, V1)
    assert secret.archives() == before
    archive(store, V1)
    assert secret.archives() == before


def test_a_destroyed_key_is_under_no_label_and_its_secret_is_not_deleted(secret: TestSecret) -> None:
    store = filled(secret.open())
    (name,) = secret.archives()
    held = secret.client.describe_secret(SecretId=name)["VersionIdsToStages"]
    (before,) = (version for version, labels in held.items() if "AWSCURRENT" in labels)
    destroy(store, V3)
    # What officers sign: without a label, and still there for who knows the id.
    assert secret.text(name, VersionId=before) == base64_of(key(3))
    assert "readable by its version id" in str(store.residual_copies)
    assert secret.archives() == [name]
    stages = secret.client.describe_secret(SecretId=name)["VersionIdsToStages"]
    texts = {secret.text(name, VersionId=version) for version, labels in stages.items() if labels}
    assert texts == {"destroyed"}


def test_an_archive_that_lost_its_tag_is_found_by_its_name(secret: TestSecret) -> None:
    store = filled(secret.open())
    secret.client.untag_resource(SecretId=secret.name, TagKeys=["keyrotation-archived-v3"])
    assert store.read().archived == {V3: key(3)}


def test_an_archive_that_aws_does_not_list_yet_is_found_by_its_tag(
    secret: TestSecret, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keyrotation_pipeline.adapters.keystores.secrets_manager import SecretsManager  # noqa: PLC0415

    store = filled(secret.open())
    monkeypatch.setattr(SecretsManager, "names", lambda _self, _prefix: iter(()))
    assert store.read().archived == {V3: key(3)}


def test_a_writer_whose_put_was_overtaken_by_a_whole_change_is_told_so_at_once(secret: TestSecret) -> None:
    store, other = filled(secret.open()), secret.open()
    decided = store.read().revision
    calls: list[str] = []

    def overtake(operation: str) -> None:
        """Before the first look for what was put, another writer puts, moves and removes its label."""
        calls.append(operation)
        if calls[-2:] == ["PutSecretValue", "GetSecretValue"] and calls.count("PutSecretValue") == 1:
            other.add(KeyVersion(21), key(9), decided)

    started = time.monotonic()
    with watched(overtake), pytest.raises(KeyStoreConflictError):
        store.add(KeyVersion(20), key(9), decided)
    assert time.monotonic() - started < 30
    assert shape(store.read()) == ((V1, V2, KeyVersion(21)), (V3,), V2)


# --- the source procedure's plain key --------------------------------------------------------------------------------


def test_the_source_procedures_plain_key_is_v1_and_is_changed_by_its_conversion_only(secret: TestSecret) -> None:
    plain = base64_of(key(1)) + "\n"
    secret.overwrite(plain)
    store = secret.open()
    assert shape(store.read()) == ((V1,), (), V1)
    with pytest.raises(KeyStoreError, match="one key without a version; run `keyrotation init --convert`"):
        add(store, V2, key(2))
    assert secret.text() == plain
    assert store.convert(KeyRing({V1: key(1)}, V1))
    assert json.loads(secret.text()) == {"v1": base64_of(key(1)), "primary": "v1"}
    assert not store.convert(KeyRing({V1: key(1)}, V1))
    assert shape(add(store, V2, key(2))) == ((V1, V2), (), V1)


# --- what is refused ------------------------------------------------------------------------------------------------


def deleted(secret: TestSecret) -> None:
    secret.client.delete_secret(SecretId=secret.name, ForceDeleteWithoutRecovery=True)


def to_be_deleted(secret: TestSecret) -> None:
    secret.client.delete_secret(SecretId=secret.name, RecoveryWindowInDays=7)


def binary(secret: TestSecret) -> None:
    secret.overwrite(b"keys")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        pytest.param(deleted, "there is no secret pazpaz/.*`keyrotation restore-key`", id="deleted"),
        pytest.param(
            to_be_deleted, "scheduled for deletion; run `aws secretsmanager restore-secret", id="to be deleted"
        ),
        pytest.param(binary, "holds bytes instead of text", id="bytes"),
        pytest.param(lambda s: s.overwrite("[1]"), "is not JSON of the form", id="a list"),
        pytest.param(lambda s: s.overwrite("half a ke"), "is not JSON of the form", id="no JSON"),
        pytest.param(lambda s: s.overwrite('{"primary": "2"}'), "does not name a key version", id="primary"),
    ],
)
def test_a_secret_that_cannot_be_right_is_damaged(
    secret: TestSecret, spoil: Callable[[TestSecret], object], sentence: str
) -> None:
    store = filled(secret.open())
    spoil(secret)
    with pytest.raises(KeyStoreDamagedError, match=sentence):
        store.read()


def test_an_archive_that_is_scheduled_for_deletion_hides_no_other_key(secret: TestSecret) -> None:
    store = filled(secret.open())
    secret.client.delete_secret(SecretId=secret.archives()[0], RecoveryWindowInDays=7)
    read = store.read()
    assert read.material(V1) == key(1)
    with pytest.raises(KeyStoreDamagedError, match=r"v3-archived-.* is scheduled for deletion; run `aws"):
        read.material(V3)


def test_more_than_aws_takes_is_refused_before_it_is_sent(secret: TestSecret) -> None:
    secret.overwrite(json.dumps({"v1": base64_of(key(1)), "primary": "v1", "other": "x" * 65_450}))
    with pytest.raises(KeyStoreError, match="more than 65,536 bytes"):
        add(secret.open(), V2, key(2))


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("AccessDeniedException", r"AWS refuses get_secret_value on secret pazpaz/.*AccessDeniedException.*rights"),
        ("ThrottlingException", r"AWS throttles calls to secret pazpaz/.*try again"),
        ("DecryptionFailure", r"\(DecryptionFailure\).*KMS key.*try again"),
        ("InternalServiceError", r"\(InternalServiceError\).*try again"),
    ],
)
def test_what_aws_refuses_is_unavailable_and_its_own_text_is_not_shown(
    secret: TestSecret, code: str, sentence: str
) -> None:
    from botocore.exceptions import ClientError  # noqa: PLC0415

    store = filled(secret.open())

    def refuse(operation: str) -> None:
        raise ClientError({"Error": {"Code": code, "Message": "SECRET-TEXT"}}, operation)

    with watched(refuse), pytest.raises(KeyStoreUnavailableError, match=sentence) as caught:
        store.read()
    assert "SECRET-TEXT" not in str(caught.value)


# --- each call fails once, at the level of HTTP ---------------------------------------------------------------------


@pytest.mark.parametrize(("change", "after"), CHANGES)
def test_a_change_whose_answers_are_lost_one_by_one_ends_right(
    new_secret: Callable[[], TestSecret], change: Change, after: Shape
) -> None:
    from botocore.exceptions import ReadTimeoutError  # noqa: PLC0415
    from botocore.httpsession import URLLib3Session  # noqa: PLC0415

    real = URLLib3Session.send
    for moment in range(1, 30):
        secret = new_secret()
        store = filled(secret.open())
        decided = store.read().revision
        calls = iter(range(1, moment))
        lost: list[str] = []

        def send(session, request, calls=calls, lost=lost):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
            from keyrotation_pipeline_tests.aws_secrets import operation_of  # noqa: PLC0415

            answer = real(session, request)
            if operation_of(request) in CHANGING and next(calls, None) is None and not lost:
                lost.append(operation_of(request))
                raise ReadTimeoutError(endpoint_url=request.url)
            return answer

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(URLLib3Session, "send", send)
            patch.setattr("botocore.endpoint.time.sleep", lambda _seconds: None)
            done = change(store, decided)
        assert shape(done) == after
        assert all(done.material(version) == key(version.number) for version in done.versions)
        if not lost:
            break
    assert moment > 1


def test_a_writer_that_lost_the_race_for_the_label_fails(secret: TestSecret) -> None:
    store = filled(secret.open())
    decided = store.read().revision
    overtaken: list[str] = []

    def overtake(operation: str) -> None:
        if operation == "UpdateSecretVersionStage" and not overtaken:
            overtaken.append(operation)
            add(secret.open(), V4, key(4))

    with watched(overtake), pytest.raises(KeyStoreConflictError):
        store.set_primary(V1, decided)
    assert shape(store.read()) == ((V1, V2, V4), (V3,), V2)
