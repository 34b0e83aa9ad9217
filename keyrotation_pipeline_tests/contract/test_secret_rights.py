"""What is asked of Secrets Manager is what deploy/aws grants, and no more, as moto reads policies.

moto's server grants everything, so each call is held against the policy by moto's own evaluation of it. Its evaluation
of conditions is not that of AWS, so those that stand in our files are evaluated here: an absent value is not equal.
Which action a call takes is as the Service Authorization Reference of AWS Secrets Manager has it.
"""

import fnmatch
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from keyrotation_pipeline_tests.aws_secrets import TestSecret
from keyrotation_pipeline_tests.buckets import noting
from keyrotation_pipeline_tests.contract.key_store import OWNER, V1, V2, add, archive, destroy, key, restore

POLICIES = Path(__file__).parents[2] / "deploy" / "aws"
PIPELINE, APPLICATION = "keys-pipeline-policy.json", "keys-application-policy.json"
ARN = "arn:aws:secretsmanager:us-east-1:111122223333:secret:"
LIVE, ARCHIVE = "pazpaz/encryption-key", "pazpaz/encryption-key-v1-archived-20260105"
# AWS ends the name in an ARN so. A secret that is only being made is granted with and without it.
SUFFIX = "-a1B2c3"
STAGE = "secretsmanager:VersionStage"
HOLDS: Mapping[str, Callable[[str | None, str], bool]] = {
    "StringEquals": lambda found, wanted: found == wanted,
    "StringNotEquals": lambda found, wanted: found != wanted,
    "Null": lambda found, wanted: (found is None) == (wanted == "true"),
}
Call = tuple[str, str, str | None]


def permits(policy: str, action: str, name: str, stage: str | None = None) -> bool:
    from moto.iam.access_control import IAMPolicy, PermissionResult  # noqa: PLC0415  moto takes two seconds to import

    document = json.loads((POLICIES / policy).read_text())
    concerned = [
        {part: value for part, value in each.items() if part != "Condition"}
        for each in document["Statement"]
        if all(
            HOLDS[how](stage, wanted)
            for how, keys in each.get("Condition", {}).items()
            for wanted in (keys.pop(STAGE), *keys.values())
        )
    ]
    # moto makes a regular expression of a name, and knows `*` alone.
    evaluated = IAMPolicy(json.dumps({**document, "Statement": concerned}).replace("?", "."))
    resource = "*" if name == "*" else ARN + name
    return bool(evaluated.is_action_permitted(action, resource) == PermissionResult.PERMITTED)


def granted(policy: str) -> set[str]:
    statements = json.loads((POLICIES / policy).read_text())["Statement"]
    allowed = [each["Action"] for each in statements if each["Effect"] == "Allow"]
    return {action for each in allowed for action in (each if isinstance(each, list) else [each])}


@pytest.fixture
def calls(new_secret: Callable[[], TestSecret]) -> set[Call]:
    """Every call of a store that does all it can: its action, on what, and the label that a version is read by."""
    secret, calls = new_secret(), set[Call]()

    def note(params: Mapping[str, Any], model: Any, **_: Any) -> None:  # noqa: ANN401 - botocore's
        asked = str(params.get("SecretId", params.get("Name", "*")))
        name = {secret.name: LIVE, "*": "*"}.get(asked, ARCHIVE)
        actions = [model.name, *(["TagResource"] if model.name == "CreateSecret" and params["Tags"] else [])]
        calls.update((f"secretsmanager:{action}", name, params.get("VersionStage")) for action in actions)

    with noting("secretsmanager", note):
        store = secret.open()
        store.create()
        store.exists()
        store.preflight()
        add(store, V1, key(1))
        add(store, V2, key(2))
        store.set_primary(V2, store.read().revision, "Encryption key v2")
        archive(store, V1)
        restore(store, V1)
        archive(store, V1)
        destroy(store, V1)
        store.name_owner(OWNER, store.read().revision)
    return calls


def with_suffix(name: str) -> str:
    return name if name == "*" else name + SUFFIX


def test_the_pipelines_policy_grants_what_is_asked_and_nothing_else(calls: set[Call]) -> None:
    asked = {(action, with_suffix(name), stage) for action, name, stage in calls}
    asked |= {each for each in calls if each[0].endswith(":CreateSecret")}
    assert [each for each in asked if not permits(PIPELINE, *each)] == []
    assert granted(PIPELINE) == {action for action, _, _ in calls}


def test_an_application_may_read_the_present_keys_and_do_nothing_else_that_the_pipeline_does(calls: set[Call]) -> None:
    read = ("secretsmanager:GetSecretValue", LIVE, "AWSCURRENT")
    assert read in calls
    allowed = [each for each in calls if permits(APPLICATION, each[0], with_suffix(each[1]), each[2])]
    assert allowed == [read]
    assert granted(APPLICATION) == {read[0]}


IAM = "arn:aws:iam::111122223333:"


@pytest.mark.parametrize(
    ("principal", "factor", "is_denied"),
    [
        pytest.param(f"{IAM}user/ada", "true", False, id="somebody with a second factor"),
        pytest.param(f"{IAM}user/ada", "false", True, id="a session without one"),
        pytest.param(f"{IAM}user/ada", None, True, id="an access key, which shows none"),
        pytest.param(f"{IAM}role/keyrotation-2", None, True, id="another role"),
        pytest.param(f"{IAM}role/keyrotation", None, False, id="the pipeline"),
        pytest.param(f"{IAM}role/pazpaz-api", None, False, id="the application"),
    ],
)
def test_people_read_and_change_keys_with_a_second_factor_alone(
    principal: str, factor: str | None, is_denied: bool
) -> None:
    """The conditions are evaluated here as AWS documents them: `IfExists` also holds where the key is absent."""
    [statement] = json.loads((POLICIES / "keys-people-policy.json").read_text())["Statement"]
    assert (statement["Effect"], statement["Action"]) == ("Deny", "secretsmanager:*")
    condition = statement["Condition"]
    assert condition.keys() == {"ArnNotEquals", "BoolIfExists"}
    excepted = principal in condition["ArnNotEquals"]["aws:PrincipalArn"]
    shown_none = factor in {None, condition["BoolIfExists"]["aws:MultiFactorAuthPresent"]}
    assert (not excepted and shown_none) is is_denied
    for name in (LIVE, ARCHIVE, f"{LIVE}-v2"):
        assert fnmatch.fnmatchcase(ARN + with_suffix(name), statement["Resource"])
    assert not fnmatch.fnmatchcase(ARN + "pazpaz/database-a1B2c3", statement["Resource"])


@pytest.mark.parametrize("name", [LIVE, ARCHIVE])
def test_the_pipeline_reads_no_unlabelled_version_of_a_secret(name: str) -> None:
    read = "secretsmanager:GetSecretValue"
    assert all(permits(PIPELINE, read, name + SUFFIX, label) for label in ("AWSCURRENT", "AWSPENDING", "AWSPREVIOUS"))
    assert not permits(PIPELINE, read, name + SUFFIX, None)


@pytest.mark.parametrize("stage", ["AWSPREVIOUS", "AWSPENDING", None])
def test_an_application_reads_no_version_by_another_label_or_by_its_id(stage: str | None) -> None:
    assert not permits(APPLICATION, "secretsmanager:GetSecretValue", LIVE + SUFFIX, stage)


def test_an_archived_key_stays_denied_to_an_application_under_a_wider_policy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    policy = json.loads((POLICIES / APPLICATION).read_text())
    policy["Statement"].append({"Effect": "Allow", "Action": "secretsmanager:*", "Resource": "*"})
    (tmp_path / APPLICATION).write_text(json.dumps(policy))
    monkeypatch.setattr(f"{__name__}.POLICIES", tmp_path)
    read = "secretsmanager:GetSecretValue"
    assert permits(APPLICATION, read, "pazpaz/database-a1B2c3", "AWSCURRENT")
    assert permits(APPLICATION, read, LIVE + SUFFIX, "AWSCURRENT")
    assert not permits(APPLICATION, read, ARCHIVE + SUFFIX, "AWSCURRENT")
    assert not permits(APPLICATION, read, LIVE + SUFFIX, "AWSPREVIOUS")


@pytest.mark.parametrize(
    "action", ["secretsmanager:DeleteSecret", "s3:DeleteObject", "s3:DeleteObjectVersion", "s3:PutBucketVersioning"]
)
def test_the_pipeline_is_denied_to_remove_anything_under_a_wider_policy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, action: str
) -> None:
    policy = json.loads((POLICIES / PIPELINE).read_text())
    policy["Statement"].append({"Effect": "Allow", "Action": "*", "Resource": "*"})
    (tmp_path / PIPELINE).write_text(json.dumps(policy))
    monkeypatch.setattr(f"{__name__}.POLICIES", tmp_path)
    assert permits(PIPELINE, "secretsmanager:GetSecretValue", LIVE + SUFFIX, "AWSCURRENT")
    assert not permits(PIPELINE, action, LIVE + SUFFIX)


@pytest.mark.parametrize("name", ["pazpaz/database", "pazpaz/encryption-keys"])
def test_the_pipeline_reaches_no_other_secret(name: str) -> None:
    assert not permits(PIPELINE, "secretsmanager:GetSecretValue", name + SUFFIX, "AWSCURRENT")
