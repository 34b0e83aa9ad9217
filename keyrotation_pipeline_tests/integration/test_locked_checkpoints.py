"""Checkpoints as locked objects in S3: nobody who may write there takes one back, or has another one believed."""

import threading
from collections.abc import Collection
from dataclasses import replace
from functools import partial

from keyrotation_pipeline.adapters.backups.locked_checkpoints import LockedCheckpoints
from keyrotation_pipeline.adapters.backups.signing_key import SigningKey
from keyrotation_pipeline.audit.witnessed import witnessed
from keyrotation_pipeline.model.checkpoints import Checkpoint, SignedCheckpoint, VerifierKey
from keyrotation_pipeline.model.merkle import EventTree
from keyrotation_pipeline.monitoring.status import overview
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.policy import change_policy, open_policy
from keyrotation_pipeline.requests.witnessing import signed_checkpoint, witness
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.buckets import REGION, TestBucket
from keyrotation_pipeline_tests.forging import as_another_process
from keyrotation_pipeline_tests.integration.test_database_owner import Office, office
from keyrotation_pipeline_tests.integration.test_witness import news, signed
from keyrotation_pipeline_tests.packs import verified

__all__ = ["office"]


def kept_in(office: Office, bucket: TestBucket) -> None:
    """Officers sign that checkpoints are locked in a bucket."""
    s3 = f'[backup.s3]\nbucket = "{bucket.name}"\nregion_name = "{REGION}"\nendpoint_url = "{bucket.url}"\n'
    office.file.write_text(f'{office.file.read_text()}{s3}[audit]\nwitness = "s3-object-lock"\n')
    with office.pipeline() as pipeline:
        policy = open_policy(pipeline, reason="a bucket", requested_by="test")
        signed(office, pipeline, policy)
        change_policy(pipeline, policy)


def objects(bucket: TestBucket) -> list[str]:
    listed = bucket.client.list_objects_v2(Bucket=bucket.name, Prefix="encryption-keys/checkpoints/").get(
        "Contents", ()
    )
    return [each["Key"] for each in listed]


def test_a_locked_checkpoint_is_continued_and_contradicts_an_audit_that_was_cut(
    office: Office, locking_bucket: TestBucket
) -> None:
    kept_in(office, locking_bucket)
    typed, place = Folder(office.folder, []), f"s3://{locking_bucket.name}/encryption-keys/checkpoints/"
    with office.pipeline() as pipeline:
        [known] = witnessed(pipeline.ledger)
        [first] = objects(locking_bucket)
        head = locking_bucket.client.head_object(Bucket=locking_bucket.name, Key=first)
        assert (head["ObjectLockMode"], known.size > 0) == ("GOVERNANCE", True)
        _by_somebody_else(office, locking_bucket, first)
        _of_another_tree(pipeline, locking_bucket, first)
        for _ in range(3):
            news(pipeline)
        assert witness(pipeline) == ()
        assert witnessed(pipeline.ledger)[0].size == known.size + 4
        seq = pipeline.ledger.head().seq
    assert f"{place} has signed the first {seq - 1} of {seq} events" in typed.run("audit", "verify")
    typed.run("report", "--format", "pack", "--output", "pack")
    code, said = verified(office.folder / "pack")
    assert (code, f"whether the locked objects in {place} say so" in said) == (0, True), said

    newest = max(each for each in objects(locking_bucket) if "99999" not in each)
    locking_bucket.client.delete_object(Bucket=locking_bucket.name, Key=newest)  # which hides it
    with office.forger() as forger:
        forger.truncate(4)
    (office.anchors / "audit-head.json").unlink()
    as_another_process()
    with office.pipeline() as pipeline:
        news(pipeline)
        [sentence] = witness(pipeline)
        assert f"{place} has signed" in sentence
        assert "run `keyrotation reconcile`" in sentence
        assert sentence in overview(pipeline).attention


def _by_somebody_else(office: Office, bucket: TestBucket, like: str) -> None:
    """An object of whoever may write to the bucket and has no key of the home."""
    other = SigningKey(office.folder / "other.pem")
    other.create()
    [_, origin, *_] = bucket.client.get_object(Bucket=bucket.name, Key=like)["Body"].read().decode().splitlines()
    checkpoint = Checkpoint(origin, 999_999, bytes(32))
    note = SignedCheckpoint.by_home(checkpoint, other.public, other.sign(checkpoint.text.encode()))
    content = f"{VerifierKey.of_home(origin, other.public)}\n{note}".encode()
    name = f"{like.rpartition('-')[0]}-000000999999.txt"
    for each in (content, b"garbage", bytes(10_001)):
        bucket.client.put_object(Bucket=bucket.name, Key=name, Body=each)


def _of_another_tree(pipeline: Pipeline, bucket: TestBucket, like: str) -> None:
    """A checkpoint that the home has signed of another tree, which somebody else has filed under this one."""
    assert pipeline.sign is not None
    checkpoint = Checkpoint("keyrotation/left", 999_998, bytes(32))
    public, signature = pipeline.sign(checkpoint.text.encode())
    note = SignedCheckpoint.by_home(checkpoint, public, signature)
    content = f"{VerifierKey.of_home(checkpoint.origin, public)}\n{note}".encode()
    bucket.client.put_object(Bucket=bucket.name, Key=f"{like.rpartition('-')[0]}-000000999998.txt", Body=content)


def test_work_that_is_abandoned_does_not_read_the_audit(office: Office, locking_bucket: TestBucket) -> None:
    """It would read what another thread has appended in a transaction, which may be rolled back."""
    kept_in(office, locking_bucket)
    threads: list[threading.Thread] = []

    def signers(asked: LockedCheckpoints) -> Collection[str]:
        threads.append(threading.current_thread())
        return asked.signers()

    with office.pipeline() as pipeline:
        [asked] = pipeline.witnesses
        assert isinstance(asked, LockedCheckpoints)
        [known], tree = witnessed(pipeline.ledger), EventTree(pipeline.ledger.replayed().hashes)
        note = signed_checkpoint(pipeline.sign, known.origin, tree)
        replace(asked, signers=partial(signers, asked)).sign(note, tree, known.size)
    assert threads == [threading.current_thread()]


def test_a_bucket_that_locks_nothing_is_no_witness(office: Office, bucket: TestBucket) -> None:
    kept_in(office, bucket)
    with office.pipeline() as pipeline:
        [sentence] = witness(pipeline)
        assert "locks no object, so that nothing keeps a checkpoint there" in sentence
        assert len(sentence) <= 200
        assert witnessed(pipeline.ledger)[0].size == 0
