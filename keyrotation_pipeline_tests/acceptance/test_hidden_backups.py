"""`recover` from a versioned bucket in which somebody, who cannot delete versions, has hidden the backups."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from keyrotation_pipeline.model.backups import BackupSet, manifest_name, signature_name
from keyrotation_pipeline_tests.buckets import TestBucket, in_front_of
from keyrotation_pipeline_tests.lost_clinics import EmptyMachine

HUNDREDS = 200


@dataclass(frozen=True)
class Writer:
    """Whoever may put and delete files of the bucket, and not delete versions of them."""

    bucket: TestBucket
    older: BackupSet
    newest: BackupSet

    def delete_everything(self) -> None:
        for name in self.bucket.tags():
            self.bucket.delete(name)

    def delete_the_newest(self) -> None:
        for name in self.newest.names:
            self.bucket.delete(name)

    def overwrite_with_the_older_set(self) -> None:
        """Each file by the one of the older set: genuine, signed and of the same kind."""
        for name, other in zip(self.newest.names, self.older.names, strict=True):
            self.bucket.overwrite(name, self.bucket.content(other))

    def flood(self) -> None:
        """Hundreds of versions, of the size that the files have; those of the manifest name our key."""
        for name in self.newest.names:
            self.write_junk(name, self.bucket.content(name), HUNDREDS if name == self.newest.name else 30)

    def flood_from_before(self) -> None:
        """As somebody who has guessed the names: before the backup, and again after it; and all is deleted."""
        signed = (self.newest.name, signature_name(self.newest.name))
        for name in signed:
            content = self.bucket.content(name)
            self.bucket.lose(name)
            self.write_junk(name, content, HUNDREDS)
            self.bucket.overwrite(name, content)
            self.write_junk(name, content, HUNDREDS)
        self.delete_the_newest()

    def write_junk(self, name: str, content: bytes, times: int) -> None:
        for _ in range(times):
            junk = content + b" " if name == self.newest.name else os.urandom(len(content))
            self.bucket.overwrite(name, junk)

    def add_newer_manifests(self) -> None:
        """One that is visible, unsigned and says what ours says, and one that was deleted again."""
        for days, suffix in ((1, ""), (2, "-2")):
            stamp = f"{self.newest.made_at + timedelta(days=days):%Y%m%d-%H%M%S}{self.newest.stamp[15:24]}{suffix}"
            text = self.bucket.content(self.newest.name).decode().replace(self.newest.stamp, stamp)
            self.bucket.overwrite(manifest_name(stamp), text.encode())
        self.bucket.delete(manifest_name(stamp))
        self.delete_the_newest()


@pytest.fixture
def cloud(machine: EmptyMachine, bucket: TestBucket, monkeypatch: pytest.MonkeyPatch) -> tuple[EmptyMachine, Writer]:
    """The machine, with the backups in a versioned bucket alone."""
    for path in machine.backups.iterdir():
        bucket.overwrite(path.name, path.read_bytes())
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.url)
    writer = Writer(bucket, machine.lost.older, machine.lost.newest)
    return replace(machine, source=f"s3://{bucket.name}/encryption-keys"), writer


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(Writer.delete_everything, id="delete markers over everything"),
        pytest.param(Writer.overwrite_with_the_older_set, id="overwritten by the older set"),
        pytest.param(Writer.flood, id="hundreds of versions over ours", marks=pytest.mark.extended),
        pytest.param(Writer.flood_from_before, id="hundreds on both sides", marks=pytest.mark.extended),
        pytest.param(Writer.add_newer_manifests, id="newer manifests beside", marks=pytest.mark.extended),
    ],
)
def test_the_newest_set_is_recovered_from_the_versions_that_verify(
    cloud: tuple[EmptyMachine, Writer], monkeypatch: pytest.MonkeyPatch, attack: Callable[[Writer], None]
) -> None:
    machine, writer = cloud
    attack(writer)
    asked = list[str]()
    with in_front_of(writer.bucket.url, lambda _method, path: asked.append(path)) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        done = machine.recover()
    assert (done["set"], done["not_examined"]) == (machine.lost.newest.name, None)
    assert machine.values() == machine.lost.values
    assert set(done["versions"]) == set(machine.lost.newest.names)
    assert any("find out who deleted or overwrote files in s3://" in step for step in done["next"])
    assert len(asked) < 4 * HUNDREDS, "as many as were added, and not as there are pairs of them"
    key = {"Bucket": writer.bucket.name, "Key": f"encryption-keys/{machine.lost.newest.name}"}
    found = writer.bucket.client.get_object(**key, VersionId=done["versions"][machine.lost.newest.name])
    assert found["Body"].read() == (machine.lost.backups / machine.lost.newest.name).read_bytes()


@pytest.mark.extended
def test_officers_may_vouch_for_a_manifest_that_is_hidden(cloud: tuple[EmptyMachine, Writer]) -> None:
    machine, writer = cloud
    writer.overwrite_with_the_older_set()
    writer.delete_everything()
    officer, folder = machine.lost.officers["security"], machine.folder.path
    manifest = (machine.lost.backups / machine.lost.newest.name).read_bytes()
    (folder / "manifest.asc").write_bytes(officer.sign(manifest))
    done = machine.recover("--trust-unsigned", "manifest.asc", "--officer", str(officer.certificate), signer="")
    assert done["set"] == machine.lost.newest.name
    assert machine.values() == machine.lost.values


def test_what_is_hidden_and_does_not_verify_is_not_used(cloud: tuple[EmptyMachine, Writer]) -> None:
    """A version counts by its signature: with every genuine version of that gone, the older set is the newest."""
    machine, writer = cloud
    writer.bucket.lose(signature_name(machine.lost.newest.name))
    writer.bucket.overwrite(signature_name(machine.lost.newest.name), os.urandom(64))
    writer.delete_the_newest()
    done = machine.recover()
    assert (done["set"], done["versions"]) == (machine.lost.older.name, {})
    assert "has a signature that is not this pipeline's" in done["rejected"][machine.lost.newest.name]


@pytest.mark.parametrize(
    ("denied", "right"),
    [
        ("?versions", "s3:ListBucketVersions"),
        pytest.param("versionId=", "s3:GetObjectVersion", marks=pytest.mark.extended),
    ],
)
def test_a_missing_right_is_named_and_what_is_visible_can_be_recovered(
    cloud: tuple[EmptyMachine, Writer], monkeypatch: pytest.MonkeyPatch, denied: str, right: str
) -> None:
    """Where a newer set is known to be hidden, an older one is taken only by its name."""
    machine, writer = cloud
    writer.delete_the_newest()
    with in_front_of(writer.bucket.url, lambda _method, path: "AccessDenied" if denied in path else None) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        if right == "s3:GetObjectVersion":
            sentence = machine.refused()
            assert f"{machine.lost.newest.name} was deleted or overwritten in s3://" in sentence
            assert f"grant {right}; run the same again, or name an older set with --set" in sentence
            assert not machine.database_is_there()
            assert machine.recover("--set", machine.lost.older.name)["set"] == machine.lost.older.name
            return
        done = machine.recover()
        assert done["set"] == machine.lost.older.name
        assert f"grant {right}" in done["not_examined"]


def test_without_any_visible_set_the_missing_right_is_named(
    cloud: tuple[EmptyMachine, Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, writer = cloud
    writer.delete_everything()
    with in_front_of(writer.bucket.url, lambda _method, path: "AccessDenied" if "?versions" in path else None) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        sentence = machine.refused()
    assert "no backup of a database is in s3://" in sentence
    assert "grant s3:ListBucketVersions" in sentence
