"""Places for backups: what a directory and a bucket have in common, and what a bucket adds."""

import errno
import hashlib
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from botocore.exceptions import ClientError

from keyrotation_pipeline.adapters.backups import directory, s3
from keyrotation_pipeline.adapters.backups.directory import BackupDirectory
from keyrotation_pipeline.adapters.backups.s3 import Bucket, S3Bucket
from keyrotation_pipeline.adapters.backups.signing_key import SigningKey
from keyrotation_pipeline.errors import BackupError, DamagedBackupError, ManifestError, VersionRightError
from keyrotation_pipeline.model.backups import StoredFile, StoredVersion
from keyrotation_pipeline.ports.backup_places import BackupPlace
from keyrotation_pipeline_tests.buckets import REGION, TestBucket, in_front_of
from keyrotation_pipeline_tests.fakes import START, FakeClock


@pytest.fixture(params=["directory", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> BackupPlace:
    if request.param == "directory":
        return BackupDirectory(tmp_path / "backups")
    bucket: TestBucket = request.getfixturevalue("bucket")
    return bucket.place()


def stored(name: str, content: bytes, size_bytes: int | None = None) -> StoredFile:
    """A file as a manifest names it."""
    size_bytes = len(content) if size_bytes is None else size_bytes
    return StoredFile(name, hashlib.sha256(content).hexdigest(), size_bytes, ())


def file_of(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "source"
    path.write_bytes(content)
    return path


def test_a_new_place_is_usable_and_empty(place: BackupPlace) -> None:
    place.require_usable()
    assert place.names() == ()


@pytest.mark.parametrize("size", [0, 300, 9_000_000], ids=["empty", "small", "in several parts"])
def test_what_is_put_is_what_is_read(place: BackupPlace, tmp_path: Path, size: int) -> None:
    content = bytes(range(250)) * (size // 250)
    place.put("a.gpg", file_of(tmp_path, content))
    assert place.names() == ("a.gpg",)
    assert place.read("a.gpg") == content
    assert place.digest(stored("a.gpg", content)) == hashlib.sha256(content).hexdigest()
    assert place.holds(stored("a.gpg", content))
    assert not place.holds(stored("a.gpg", b"other", size))
    assert not place.holds(stored("a.gpg", content, size + 1))
    assert not place.holds(stored("b.gpg", content))
    assert place.unfinished() == ()
    place.fetch(stored("a.gpg", content), tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == content
    assert (tmp_path / "fetched").stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_not_there_is_named_with_the_place(place: BackupPlace, tmp_path: Path) -> None:
    missing = stored("b.gpg", b"")
    for read in (
        lambda: place.read("b.gpg"),
        lambda: place.digest(missing),
        lambda: place.fetch(missing, tmp_path / "b"),
    ):
        with pytest.raises(BackupError, match=r"b\.gpg is not in (directory|s3://)"):
            read()


def test_a_bucket_that_is_not_versioned_is_refused_with_what_to_type(bucket: TestBucket) -> None:
    bucket.client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Suspended"})
    with pytest.raises(BackupError, match=f"is not versioned.*aws s3api put-bucket-versioning --bucket {bucket.name}"):
        bucket.place().require_usable()


class Pages(BaseHTTPRequestHandler):
    """A web server that has a page for everything, such as a proxy where one logs in."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<html><body>Welcome</body></html>")

    def log_message(self, *_: object) -> None:
        """Prints nothing."""


def test_a_server_that_is_not_s3_is_not_taken_for_an_empty_or_unversioned_bucket(bucket: TestBucket) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        place = S3Bucket(Bucket(bucket.name, region_name=REGION, endpoint_url=url), FakeClock())
        for ask in (place.names, place.require_usable):
            with pytest.raises(BackupError, match=r"cannot be listed: what answers is not S3; check \[backup\.s3\]"):
                ask()
        server.shutdown()


def test_a_missing_bucket_is_named(bucket: TestBucket) -> None:
    missing = S3Bucket(Bucket("no-such-bucket", region_name=REGION, endpoint_url=bucket.url), FakeClock())
    with pytest.raises(BackupError, match="bucket no-such-bucket does not exist"):
        missing.require_usable()


def test_a_server_that_does_not_answer_is_one_sentence(bucket: TestBucket) -> None:
    dead = S3Bucket(Bucket("b", region_name=REGION, endpoint_url="http://127.0.0.1:9"), FakeClock())
    with pytest.raises(BackupError, match=r"cannot be listed: EndpointConnectionError; check \[backup\.s3\]"):
        dead.names()


@pytest.mark.parametrize("size", [3, 9_000_000], ids=["small", "in several parts"])
def test_a_stored_file_has_the_source_procedures_storage_class_a_checksum_and_a_version(
    bucket: TestBucket, tmp_path: Path, size: int
) -> None:
    content = b"x" * size
    bucket.place().put("a.gpg", file_of(tmp_path, content))
    found = bucket.client.head_object(Bucket=bucket.name, Key="encryption-keys/a.gpg", ChecksumMode="ENABLED")
    assert found["StorageClass"] == "STANDARD_IA"
    assert found["ChecksumSHA256"]
    assert found["VersionId"]
    assert bucket.place().holds(stored("a.gpg", content))
    assert not bucket.place().holds(stored("a.gpg", b"other", size))
    assert not bucket.place().holds(stored("b.gpg", content))


def test_files_elsewhere_in_the_bucket_are_not_ours(bucket: TestBucket, tmp_path: Path) -> None:
    bucket.client.put_object(Bucket=bucket.name, Key="other/x", Body=b"")
    bucket.client.put_object(Bucket=bucket.name, Key="encryption-keys/deeper/x", Body=b"")
    bucket.place().put("a", file_of(tmp_path, b"1"))
    assert bucket.place().names() == ("a",)


@pytest.mark.parametrize("size", [3, 9_000_000], ids=["small", "in several parts"])
def test_object_lock_is_used_where_the_bucket_has_it(locking_bucket: TestBucket, tmp_path: Path, size: int) -> None:
    clock = FakeClock()
    clock.at = START.replace(year=2036)
    place = locking_bucket.place(clock)
    place.put("a.gpg", file_of(tmp_path, b"x" * size))
    assert place.locked_until("a.gpg") == clock.at + timedelta(days=35)


def test_a_buckets_own_rule_of_locking_is_left_to_it(locking_bucket: TestBucket, tmp_path: Path) -> None:
    locking_bucket.client.put_object_lock_configuration(
        Bucket=locking_bucket.name,
        ObjectLockConfiguration={
            "ObjectLockEnabled": "Enabled",
            "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 400}},
        },
    )
    locking_bucket.place().put("a", file_of(tmp_path, b"1"))
    found = locking_bucket.client.head_object(Bucket=locking_bucket.name, Key="encryption-keys/a")
    assert found["ObjectLockMode"] == "COMPLIANCE"


def test_what_was_overwritten_or_deleted_is_among_the_versions_with_its_lock(
    locking_bucket: TestBucket, tmp_path: Path
) -> None:
    clock = FakeClock(START.replace(year=2036))
    place = locking_bucket.place(clock)
    for name in ("key-1-a", "key-1-b", "key-10"):
        place.put(name, file_of(tmp_path, b"first"))
    locking_bucket.overwrite("key-1-a", b"second")
    locking_bucket.delete("key-1-b")
    until = clock.at + timedelta(days=35)
    found = {(each.name, each.superseded is None): each for each in place.versions("key-1-")}
    assert {key: each.locked_until for key, each in found.items()} == {
        ("key-1-a", True): None,
        ("key-1-a", False): until,
        ("key-1-b", False): until,
    }
    assert place.names() == ("key-1-a", "key-10")
    old = found["key-1-b", False]
    key = {"Bucket": locking_bucket.name, "Key": "encryption-keys/key-1-b", "VersionId": old.superseded}
    assert locking_bucket.client.get_object(**key)["Body"].read() == b"first"


def test_a_directory_and_a_bucket_without_locks_have_versions_too(place: BackupPlace, tmp_path: Path) -> None:
    place.put("key-1", file_of(tmp_path, b"1"))
    assert place.versions("key-") == (StoredVersion("key-1"),)
    assert place.versions("other-") == ()


def test_what_was_deleted_or_overwritten_is_listed_once_and_read_in_its_version(
    bucket: TestBucket, tmp_path: Path
) -> None:
    for name in ("deleted", "kept", "overwritten"):
        bucket.place().put(name, file_of(tmp_path, b"first"))
    bucket.overwrite("overwritten", b"other")
    bucket.delete("deleted")
    place = bucket.place().with_versions()
    bucket.overwrite("later", b"x")
    assert place.names() == ("kept", "overwritten")
    assert (set(place.older.deleted), set(place.older.overwritten)) == ({"deleted"}, {"overwritten"})
    assert place.older.unexamined is None
    assert place.older.of("kept") == place.older.of("never there") == (None,)
    assert place.older.of("overwritten", 6) == (None,), "of another size"
    (visible, first), (only,) = place.older.of("overwritten", 5), place.older.of("deleted")
    assert visible is None
    for name, version in (("overwritten", first), ("deleted", only)):
        with place.older.reading(name, version):
            assert place.read(name) == b"first"
        assert place.digest(stored(name, b"first")) == hashlib.sha256(b"first").hexdigest(), "from then on"
        place.fetch(stored(name, b"first"), tmp_path / f"fetched {name}")
    with pytest.raises(BackupError), place.older.reading("overwritten", "no such version"):
        place.read("overwritten")
    assert place.read("overwritten") == b"other"
    assert bucket.place().names() == ("kept", "later", "overwritten"), "the place itself stays as it is"


def test_of_many_versions_the_oldest_are_kept(
    bucket: TestBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "MOST_VERSIONS", 5)
    bucket.place().put("a", file_of(tmp_path, b"ours"))
    for _ in range(8):
        bucket.overwrite("a", b"junk")
    place = bucket.place().with_versions()
    older = place.older.of("a")
    assert len(older) == 1 + 5
    with place.older.reading("a", older[1]):
        assert place.read("a") == b"ours"


@pytest.mark.parametrize("code", ["AccessDenied", "NotImplemented"])
def test_without_versions_what_is_visible_is_read_and_it_is_said_why(
    bucket: TestBucket, tmp_path: Path, code: str
) -> None:
    bucket.place().put("a", file_of(tmp_path, b"1"))
    with in_front_of(bucket.url, lambda _method, path: code if "versions" in path else None) as url:
        place = replace(bucket, url=url).place().with_versions()
        assert (place.names(), place.read("a"), place.older.of("a")) == (("a",), b"1", (None,))
    why = {"AccessDenied": "grant s3:ListBucketVersions", "NotImplemented": "the server lists no versions"}
    assert place.older.unexamined is not None
    assert why[code] in place.older.unexamined
    assert place.description in place.older.unexamined


def test_versions_that_cannot_be_listed_or_read_now_are_an_error(bucket: TestBucket, tmp_path: Path) -> None:
    bucket.place().put("a", file_of(tmp_path, b"1"))
    bucket.delete("a")
    place = bucket.place().with_versions()
    with place.older.reading("a", place.older.of("a")[0]):
        pass
    with in_front_of(bucket.url, lambda *_: "ServiceUnavailable") as url:
        silent = replace(bucket, url=url).place()
        with pytest.raises(BackupError, match="cannot be asked for the versions in it: ServiceUnavailable"):
            silent.with_versions()
        silent.older = place.older
        with pytest.raises(BackupError, match=r"cannot be read \(a\): ServiceUnavailable"):
            silent.read("a")
    with in_front_of(bucket.url, lambda _method, path: "AccessDenied" if "versionId" in path else None) as url:
        denied = replace(bucket, url=url).place().with_versions()
        sentence = "a was deleted or overwritten in s3://.*, and its versions cannot be read: grant s3:GetObjectVersion"
        with (
            pytest.raises(VersionRightError, match=sentence),
            denied.older.reading("a", denied.older.of("a")[0]),
        ):
            denied.read("a")
        assert "s3:GetObjectVersion" in str(denied.older.unexamined)


@pytest.mark.parametrize("size", [300, 9_000_000], ids=["small", "in several parts"])
def test_a_file_that_was_overwritten_by_one_of_its_size_is_probably_not_there(
    bucket: TestBucket, tmp_path: Path, size: int
) -> None:
    ours = stored("a.gpg", b"x" * size)
    for _ in range(2):  # the same again is no other file
        bucket.place().put("a.gpg", file_of(tmp_path, b"x" * size))
    assert bucket.place().with_versions().probably_holds(ours)
    bucket.place().put("a.gpg", file_of(tmp_path, b"y" * size))
    assert not bucket.place().with_versions().probably_holds(ours)


@pytest.mark.parametrize("mode", ["GOVERNANCE", "COMPLIANCE"])
def test_a_locked_backup_outlives_whoever_may_delete_as_long_as_its_mode_says(
    locking_bucket: TestBucket, tmp_path: Path, mode: str
) -> None:
    """Ours are locked in governance mode; a rule of the bucket may say compliance, which nobody can lift."""
    if mode == "COMPLIANCE":
        rule = {"DefaultRetention": {"Mode": mode, "Days": 400}}
        locking_bucket.client.put_object_lock_configuration(
            Bucket=locking_bucket.name, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
        )
    place = locking_bucket.place()
    place.put("a", file_of(tmp_path, b"1"))
    lock = place.versions("a")[0].locked_until
    assert lock is not None
    assert lock == place.locked_until("a")
    at = {"Bucket": locking_bucket.name, "Key": "encryption-keys/a"}
    at["VersionId"] = locking_bucket.client.head_object(**at)["VersionId"]
    with pytest.raises(ClientError, match="AccessDenied"):
        locking_bucket.client.delete_object(**at)
    if mode == "COMPLIANCE":
        with pytest.raises(ClientError, match="AccessDenied"):
            locking_bucket.client.delete_object(**at, BypassGovernanceRetention=True)
    locking_bucket.delete("a")  # what hides it does not remove it
    assert place.names() == ()
    assert locking_bucket.client.get_object(**at)["Body"].read() == b"1"
    place.put("a", file_of(tmp_path, b"1"))  # and it can be put again
    assert place.read("a") == b"1"


def test_a_full_disk_is_said_to_be_full_and_not_the_place_to_be_wrong(place: BackupPlace, tmp_path: Path) -> None:
    place.put("a.gpg", file_of(tmp_path, b"x" * 300_000))
    with (
        full_disk(tmp_path / "small") as small,
        pytest.raises(
            BackupError, match=r"a\.gpg cannot be copied to .*small \(No space left on device\); free space there"
        ),
    ):
        place.fetch(stored("a.gpg", b"x" * 300_000), small / "a.gpg")


def test_a_backup_directory_on_a_full_disk_says_so_and_keeps_no_half_file(tmp_path: Path) -> None:
    with full_disk(tmp_path / "small") as small:
        with pytest.raises(BackupError, match=r"backup a cannot be written to .*No space left on device"):
            BackupDirectory(small).put("a", file_of(tmp_path, b"x" * 300_000))
        assert list(small.iterdir()) == []


@contextmanager
def full_disk(at: Path) -> Iterator[Path]:
    """A real file system of 100 kB."""
    at.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "none", at], check=False).returncode:
        pytest.skip("only root can mount a file system")
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)


def test_what_is_larger_than_anything_of_ours_is_not_read_into_memory(place: BackupPlace, tmp_path: Path) -> None:
    for name in ("backup-20260105-090000-efa1f375.json", "a.gpg"):
        place.put(name, file_of(tmp_path, b"x" * 11))
    with pytest.raises(ManifestError, match="it has 11 bytes"):
        place.read("backup-20260105-090000-efa1f375.json", 10)
    with pytest.raises(DamagedBackupError, match=r"a\.gpg in .* has 11 bytes, so it is not what its name says"):
        place.read("a.gpg", 10)
    assert place.read("a.gpg", 11) == b"x" * 11


@pytest.mark.parametrize("more", [1, 9_000_000], ids=["one byte", "9 MB"])
def test_what_is_larger_than_its_manifest_says_does_not_reach_the_disk(
    place: BackupPlace, tmp_path: Path, more: int
) -> None:
    content = b"x" * 300
    place.put("a.gpg", file_of(tmp_path, content + b"y" * more))
    with pytest.raises(DamagedBackupError, match=r"a\.gpg in .* has more than the 300 bytes in its manifest"):
        place.fetch(stored("a.gpg", content), tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()
    assert not place.holds(stored("a.gpg", content))
    assert place.digest(stored("a.gpg", content)) == hashlib.sha256(content + b"y").hexdigest()


class Endless:
    """Sends bytes without end, and counts them."""

    sent = 0

    def read(self, size: int, /) -> bytes:
        self.sent += size
        return b"x" * size


def test_what_is_sent_beyond_the_promised_size_is_not_read(tmp_path: Path) -> None:
    """As a file that grows, or a server that says another length than it sends."""
    file, endless = stored("a.gpg", b"", 5 << 20), Endless()
    with pytest.raises(DamagedBackupError, match="more than the 5,242,880 bytes"):
        directory.fetch_bounded(file, "s3://b", 1, endless, tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()
    assert endless.sent == (5 << 20) + 1
    directory.digest_bounded(file, endless := Endless())
    assert endless.sent == (5 << 20) + 1
    with pytest.raises(DamagedBackupError, match="has 11 bytes"):
        directory.read_small("a.gpg", "s3://b", 1, endless := Endless(), 10)
    assert endless.sent == 11


def test_removing_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    BackupDirectory(tmp_path).remove("gone")
    BackupDirectory(tmp_path / "never made").remove("gone")
    assert not (tmp_path / "never made").exists()


def test_a_signing_key_that_cannot_be_stored_leaves_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = SigningKey(tmp_path / "backup-signing-key.pem")
    synced: list[int] = []

    def full(descriptor: int) -> None:
        synced.append(descriptor)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        with pytest.raises(BackupError, match="cannot be created"):
            key.create()
    assert (list(tmp_path.iterdir()), len(synced)) == ([], 1)
    kinds: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: kinds.append(stat.S_ISDIR(os.fstat(descriptor).st_mode)))
    key.create()
    assert kinds == [False, True]  # its name, too, before somebody pins it
    made = key.public
    key.create()
    assert (key.public, [path.name for path in tmp_path.iterdir()]) == (made, ["backup-signing-key.pem"])


def test_a_name_is_claimed_once_by_whichever_process_comes_first(tmp_path: Path) -> None:
    first, second = BackupDirectory(tmp_path), BackupDirectory(tmp_path)
    with first.claiming("a") as is_ours:
        assert is_ours
        with second.claiming("a") as is_theirs, second.claiming("b") as is_free:
            assert (is_theirs, is_free) == (False, True)
            assert first.names() == first.unfinished() == ()
        with second.claiming("a") as is_theirs:
            assert not is_theirs
    with second.claiming("a") as is_theirs:
        assert is_theirs


def test_an_upload_in_parts_that_has_begun_is_unfinished_until_it_ends(bucket: TestBucket, tmp_path: Path) -> None:
    at = {"Bucket": bucket.name, "Key": "encryption-keys/a.gpg"}
    bucket.client.create_multipart_upload(**at)
    bucket.client.create_multipart_upload(**at | {"Key": "other/a.gpg"})
    assert bucket.place().unfinished() == ("a.gpg",)
    assert bucket.place().names() == ()


def test_an_upload_that_was_killed_is_unfinished_until_the_next_one_replaces_it(
    bucket: TestBucket, tmp_path: Path
) -> None:
    source = file_of(tmp_path, bytes(80 << 20))
    program = f"""
from pathlib import Path
from keyrotation_pipeline.adapters.backups.s3 import Bucket, S3Bucket
from keyrotation_pipeline.adapters.clock import SystemClock
bucket = Bucket({bucket.name!r}, region_name={REGION!r}, endpoint_url={bucket.url!r})
S3Bucket(bucket, SystemClock()).put("a.gpg", Path({str(source)!r}))
"""
    with subprocess.Popen([sys.executable, "-c", program]) as uploading:
        while not bucket.client.list_multipart_uploads(Bucket=bucket.name).get("Uploads"):
            assert uploading.poll() is None
        uploading.kill()
    assert bucket.place().unfinished() == ("a.gpg",)
    assert bucket.place().names() == ()
    source.write_bytes(bytes(9 << 20))
    bucket.place().put("a.gpg", source)
    assert bucket.place().unfinished() == ()


def test_a_file_of_a_directory_that_has_begun_is_unfinished_until_it_has_its_name(tmp_path: Path) -> None:
    place = BackupDirectory(tmp_path)
    with place.receiving("a.gpg"):
        assert place.unfinished() == ("a.gpg",)
    assert place.unfinished() == ()


@pytest.mark.parametrize("size", [0, 300, 9_000_000], ids=["empty", "small", "in several parts"])
def test_what_seems_to_be_there_has_its_size_and_a_small_one_its_checksum(
    place: BackupPlace, tmp_path: Path, size: int
) -> None:
    content = bytes(size)
    file = StoredFile("a.gpg", hashlib.sha256(content).hexdigest(), size, ())
    assert not place.probably_holds(file)
    place.put("a.gpg", file_of(tmp_path, content))
    assert place.probably_holds(file)
    assert not place.probably_holds(replace(file, size_bytes=size + 1))
    assert place.probably_holds(replace(file, sha256="0" * 64)) is (size > 8 << 20)


def test_an_upload_that_arrives_altered_is_noticed(bucket: TestBucket, tmp_path: Path) -> None:
    from botocore.httpsession import URLLib3Session  # noqa: PLC0415

    real = URLLib3Session.send
    with pytest.MonkeyPatch.context() as patch:

        def altering(session: Any, request: Any) -> Any:  # noqa: ANN401 - botocore's
            answer = real(session, request)
            if request.method == "PUT":
                patch.undo()
                bucket.overwrite("a", b"altered")
            return answer

        patch.setattr(URLLib3Session, "send", altering)
        with pytest.raises(BackupError, match="downloads differently"):
            bucket.place().put("a", file_of(tmp_path, b"sent"))
