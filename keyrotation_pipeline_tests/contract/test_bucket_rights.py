"""What the pipeline asks of S3 is what deploy/aws grants, and no more, as moto reads policies.

moto's server grants everything, so each call is held against the policy by moto's own evaluation of it. Which action a
call takes is as the Service Authorization Reference of Amazon S3 has it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from keyrotation_pipeline.model.backups import StoredFile
from keyrotation_pipeline_tests.buckets import TestBucket, noting

POLICIES = Path(__file__).parents[2] / "deploy" / "aws"
BUCKET = "arn:aws:s3:::pazpaz-key-backups"
OBJECTS = f"{BUCKET}/encryption-keys"
TAKES = {
    "GetBucketVersioning": {"s3:GetBucketVersioning"},
    "GetObjectLockConfiguration": {"s3:GetBucketObjectLockConfiguration"},
    "ListObjectsV2": {"s3:ListBucket"},
    "ListMultipartUploads": {"s3:ListBucketMultipartUploads"},
    "ListObjectVersions": {"s3:ListBucketVersions"},
    # The lock of an object is in its head for those only who may see it.
    "HeadObject": {"s3:GetObject", "s3:GetObjectRetention"},
    "GetObject": {"s3:GetObject"},
    "PutObject": {"s3:PutObject"},
    "CreateMultipartUpload": {"s3:PutObject"},
    "UploadPart": {"s3:PutObject"},
    "CompleteMultipartUpload": {"s3:PutObject"},
    "AbortMultipartUpload": {"s3:AbortMultipartUpload"},
    "PutObjectRetention": {"s3:PutObjectRetention"},
}


def actions_of(call: str, parameters: Mapping[str, Any]) -> set[str]:
    """What one call takes; an unknown call is an error."""
    return (
        TAKES[call]
        | ({"s3:GetObjectVersion"} if "VersionId" in parameters else set())
        | ({"s3:PutObjectRetention"} if "ObjectLockMode" in parameters else set())
    )


def asked(bucket: TestBucket, tmp_path: Path, *, writes: bool) -> set[tuple[str, str]]:
    """Every action that the adapter takes, and on what, when it does all that it can do."""
    found: set[tuple[str, str]] = set()

    def note(params: Mapping[str, Any], model: Any, **_: Any) -> None:  # noqa: ANN401 - botocore's
        on = f"{BUCKET}/{params['Key']}" if "Key" in params else BUCKET
        found.update((action, on) for action in actions_of(model.name, params))

    for name, size in (("small", 3), ("large", 9_000_000)):
        (tmp_path / name).write_bytes(b"x" * size)
        bucket.place().put(name, tmp_path / name)
    bucket.place().put("deleted", tmp_path / "small")
    bucket.delete("deleted")
    with noting("s3", note):
        place = bucket.place()
    every = place.with_versions()
    with every.older.reading("deleted", every.older.of("deleted")[0]):
        every.read("deleted")
    place.names()
    place.read("small")
    large, small = (StoredFile(name, "0" * 64, size, ()) for name, size in (("large", 9_000_000), ("small", 3)))
    place.fetch(large, tmp_path / "fetched")
    place.digest(small)
    if writes:
        place.require_usable()
        place.probably_holds(small)
        place.holds(small)
        place.unfinished()
        bucket.client.create_multipart_upload(Bucket=bucket.name, Key="encryption-keys/large")
        place.put("large", tmp_path / "large")
        place.put("small", tmp_path / "small")
        place.locked_until("small")
        place.versions("s")
    return found


def permits(policy: str, action: str, resource: str) -> bool:
    from moto.iam.access_control import IAMPolicy, PermissionResult  # noqa: PLC0415  moto takes two seconds to import

    document = (POLICIES / policy).read_text()
    return bool(IAMPolicy(document).is_action_permitted(action, resource) == PermissionResult.PERMITTED)


@pytest.mark.parametrize(
    ("policy", "writes"),
    [
        pytest.param("backups-policy.json", True, id="the pipeline"),
        pytest.param("recovery-policy.json", False, id="a machine that recovers"),
    ],
)
def test_the_policy_grants_what_is_asked_and_nothing_else(
    locking_bucket: TestBucket, tmp_path: Path, policy: str, writes: bool
) -> None:
    calls = asked(locking_bucket, tmp_path, writes=writes)
    assert [call for call in sorted(calls) if not permits(policy, *call)] == []
    statements = json.loads((POLICIES / policy).read_text())["Statement"]
    granted = {
        action
        for each in statements
        for action in (each["Action"] if isinstance(each["Action"], list) else [each["Action"]])
    }
    assert granted == {action for action, _ in calls}


@pytest.mark.parametrize("policy", ["backups-policy.json", "recovery-policy.json"])
@pytest.mark.parametrize(
    ("action", "resource"),
    [
        ("s3:DeleteObject", f"{OBJECTS}/backup.json"),
        ("s3:DeleteObjectVersion", f"{OBJECTS}/backup.json"),
        ("s3:BypassGovernanceRetention", f"{OBJECTS}/backup.json"),
        ("s3:PutBucketVersioning", BUCKET),
        ("s3:PutLifecycleConfiguration", BUCKET),
        ("s3:PutObject", f"{BUCKET}/elsewhere/x"),
        ("s3:GetObject", "arn:aws:s3:::another-bucket/encryption-keys/x"),
    ],
)
def test_no_policy_lets_anything_be_removed_or_reach_elsewhere(policy: str, action: str, resource: str) -> None:
    assert not permits(policy, action, resource)
