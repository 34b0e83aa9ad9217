"""Stores backups in a versioned S3 bucket: uploads each file with its SHA-256, then downloads it and compares.

Credentials come from where boto3 looks for them. Source: the source procedure, section 7.2.
"""

import base64
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from copy import copy
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

from keyrotation_pipeline.adapters import aws
from keyrotation_pipeline.adapters.backups.directory import digest_bounded, fetch_bounded, read_small, sha256_of
from keyrotation_pipeline.errors import AbsentBackupError, BackupError, VersionRightError
from keyrotation_pipeline.model.backups import StoredFile, StoredVersion
from keyrotation_pipeline.model.manifest import LARGEST_BYTES
from keyrotation_pipeline.model.older_versions import MOST_VERSIONS, OlderVersion, OlderVersions
from keyrotation_pipeline.ports.clock import Clock

_PART_BYTES = 8 << 20
_TRANSFER = TransferConfig(multipart_threshold=_PART_BYTES, multipart_chunksize=_PART_BYTES)
_ABSENT = frozenset({"404", "NoSuchKey", "NoSuchUpload", "NotFound"})
# What servers that speak S3 answer to a call that they do not know.
_NOT_OFFERED = frozenset({"NotImplemented", "MethodNotAllowed", "405", "501"})
_NO_LOCK = frozenset({"ObjectLockConfigurationNotFoundError", "NoSuchObjectLockConfiguration", "404"})


@dataclass(frozen=True, slots=True)
class Bucket:
    """The bucket, and how files are stored in it; `prefix` ends with ``/``, or is empty."""

    name: str
    prefix: str = "encryption-keys/"
    region_name: str | None = None
    endpoint_url: str | None = None
    storage_class: str = "STANDARD_IA"
    object_lock_days: int = 35


class S3Bucket:
    """`BackupPlace` in a bucket.

    If the bucket has object lock but no default rule, each file is locked (GOVERNANCE) for `object_lock_days`.
    """

    def __init__(self, bucket: Bucket, clock: Clock) -> None:
        self._bucket = bucket
        self._clock = clock
        self._lock: dict[str, Any] | None = None
        self.older = OlderVersions()
        with self._failing_plainly("opened"):
            self._client = aws.client(
                "s3",
                region_name=bucket.region_name,
                endpoint_url=bucket.endpoint_url,
                config=Config(connect_timeout=10, read_timeout=60, retries={"total_max_attempts": 3}),
                of_aws=False,  # what is stored is downloaded and compared
            )

    @property
    def description(self) -> str:
        """``s3://<bucket>/<prefix>``."""
        return f"s3://{self._bucket.name}/{self._bucket.prefix}"

    def require_usable(self) -> None:
        """See `BackupPlace.require_usable`: versioning must be on, or whoever may write could destroy backups."""
        with self._failing_plainly("asked for its versioning"):
            status = self._client.get_bucket_versioning(Bucket=self._bucket.name).get("Status")
        if status != "Enabled":
            self.names()  # which tells an S3 server from another one, whose page names no status either
            raise BackupError(
                f"bucket {self._bucket.name} is not versioned, so a backup that is overwritten there is lost; run "
                f"`aws s3api put-bucket-versioning --bucket {self._bucket.name} "
                "--versioning-configuration Status=Enabled`"
            )

    def names(self) -> tuple[str, ...]:
        """See `BackupPlace.names`."""
        if self.older.visible is not None:
            return self.older.visible
        with self._failing_plainly("listed"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket.name, Prefix=self._bucket.prefix, Delimiter="/"
            )
            keys = [entry["Key"] for page in map(self._require_listing, pages) for entry in page.get("Contents", ())]
        return self._names_of(keys)

    def _names_of(self, keys: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted(key.removeprefix(self._bucket.prefix) for key in keys if key != self._bucket.prefix))

    def with_versions(self) -> "S3Bucket":
        """See `BackupPlace.with_versions`."""
        found = copy(self)
        try:
            with self._failing_plainly("asked for the versions in it"):
                found.older = self._every_version()
        except _DeniedError:
            found.older = OlderVersions(unexamined=self._unexamined("grant s3:ListBucketVersions"))
        except _NotOfferedError:
            found.older = OlderVersions(unexamined=self._unexamined("the server lists no versions"))
        return found

    def _unexamined(self, why: str) -> str:
        return f"deleted and overwritten files in {self.description} cannot be examined: {why}"

    def _every_version(self) -> OlderVersions:
        pages = self._client.get_paginator("list_object_versions").paginate(
            Bucket=self._bucket.name, Prefix=self._bucket.prefix, Delimiter="/"
        )
        older: dict[str, deque[OlderVersion]] = defaultdict(lambda: deque(maxlen=MOST_VERSIONS))
        visible: dict[str, str] = {}
        overwritten = set[str]()
        # Of each file the newest comes first.
        for entry in (each for page in map(self._require_listing, pages) for each in page.get("Versions", ())):
            name = entry["Key"].removeprefix(self._bucket.prefix)
            if not name:
                continue
            if entry["IsLatest"]:
                visible[name] = entry["ETag"]
                continue
            older[name].appendleft(OlderVersion(str(entry["VersionId"]), entry["Size"]))
            if visible.get(name, entry["ETag"]) != entry["ETag"]:
                overwritten.add(name)
        by_name = {name: tuple(versions) for name, versions in older.items()}
        return OlderVersions(
            by_name, self._names_of(visible), frozenset(by_name.keys() - visible), frozenset(overwritten)
        )

    def _require_listing(self, page: Mapping[str, Any]) -> Mapping[str, Any]:
        """Refuses a page that another server sent with status 200, which botocore takes for an empty listing."""
        if "IsTruncated" not in page:
            raise self._refused("listed", "what answers is not S3")
        return page

    def read(self, name: str, most_bytes: int = LARGEST_BYTES) -> bytes:
        """See `BackupPlace.read`."""
        with self._sent(name) as found:
            return read_small(name, self.description, found["ContentLength"], found["Body"], most_bytes)

    def fetch(self, file: StoredFile, target: Path) -> None:
        """See `BackupPlace.fetch`."""
        with self._sent(file.name) as found:
            fetch_bounded(file, self.description, found["ContentLength"], found["Body"], target)

    def digest(self, file: StoredFile) -> str:
        """See `BackupPlace.digest`: by downloading."""
        with self._sent(file.name) as found:
            return digest_bounded(file, found["Body"])

    @contextmanager
    def _sent(self, name: str) -> Iterator[Mapping[str, Any]]:
        """Yields S3's answer, whose body is dropped where it was not read to its end."""
        with self._reading(name), self._naming_the_right(name):
            found: Mapping[str, Any] = self._client.get_object(**self._at(name))
            with closing(found["Body"]):
                yield found

    @contextmanager
    def _naming_the_right(self, name: str) -> Iterator[None]:
        """Says which right a version cannot be read without; that for the visible file is another one."""
        try:
            yield
        except ClientError as error:
            if name not in self.older.used or aws.code_of(error) != "AccessDenied":
                raise
            self.older.unexamined = self._unexamined("grant s3:GetObjectVersion")
            raise VersionRightError(
                f"{name} was deleted or overwritten in {self.description}, and its versions cannot be read: grant "
                "s3:GetObjectVersion"
            ) from None

    def put(self, name: str, source: Path) -> None:
        """See `BackupPlace.put`."""
        sent = StoredFile(name, sha256_of(source), source.stat().st_size, ())
        if sent.size_bytes >= _PART_BYTES:
            self._abort_unfinished(name)
        with self._failing_plainly(f"written ({name})"):
            self._client.upload_file(
                str(source),
                self._bucket.name,
                self._at(name)["Key"],
                ExtraArgs={"ChecksumAlgorithm": "SHA256", **(storage := self._storage())},
                Config=_TRANSFER,
            )
            if "ObjectLockMode" in storage and self.locked_until(name) is None:  # some servers ignore it for parts
                until = {"Mode": storage["ObjectLockMode"], "RetainUntilDate": storage["ObjectLockRetainUntilDate"]}
                self._client.put_object_retention(**self._at(name), Retention=until)
        if self.digest(sent) != sent.sha256:
            raise BackupError(
                f"{name} downloads differently from {self.description} than it was uploaded; run it again"
            )

    def holds(self, file: StoredFile) -> bool:
        """See `BackupPlace.holds`: by the checksum that S3 stores, else by downloading."""
        found = self._head(file.name)
        if found is None or found["ContentLength"] != file.size_bytes:
            return False
        # A multipart upload has a checksum of the checksums of its parts.
        return _has_checksum(found, file.sha256) or self.digest(file) == file.sha256

    def probably_holds(self, file: StoredFile) -> bool:
        """See `BackupPlace.probably_holds`: by size and S3's checksum, or whether it has other versions."""
        found = self._head(file.name)
        if found is None or found["ContentLength"] != file.size_bytes:
            return False
        if file.size_bytes >= _PART_BYTES:
            return file.name not in self.older.overwritten
        return _has_checksum(found, file.sha256)

    def _head(self, name: str) -> Mapping[str, Any] | None:
        try:
            with self._failing_plainly(f"asked for {name}"):
                found: Mapping[str, Any] = self._client.head_object(**self._at(name), ChecksumMode="ENABLED")
        except AbsentBackupError:
            return None
        return found

    def unfinished(self) -> tuple[str, ...]:
        """See `BackupPlace.unfinished`: uploads in parts; none where the account may not list them."""
        return tuple(sorted({name for name, _ in self._uploads("")}))

    def _uploads(self, prefix: str) -> list[tuple[str, str]]:
        """Returns name and id of each upload in parts that has not ended."""
        pages = self._client.get_paginator("list_multipart_uploads").paginate(
            Bucket=self._bucket.name, Prefix=f"{self._bucket.prefix}{prefix}"
        )
        with suppress(_DeniedError), self._failing_plainly("asked for unfinished uploads"):
            found = [entry for page in pages for entry in page.get("Uploads", ())]
            return [(entry["Key"].removeprefix(self._bucket.prefix), entry["UploadId"]) for entry in found]
        return []

    def _abort_unfinished(self, name: str) -> None:
        """Drops the parts that a killed process sent, which cost as much as a file and show in no listing."""
        for other, upload in self._uploads(name):
            if other == name:
                with suppress(_DeniedError, AbsentBackupError), self._failing_plainly(f"written ({name})"):
                    self._client.abort_multipart_upload(**self._at(name), UploadId=upload)

    def locked_until(self, name: str) -> datetime | None:
        """See `BackupPlace.locked_until`."""
        with self._reading(name):
            found = self._client.head_object(**self._at(name)).get("ObjectLockRetainUntilDate")
        return found if isinstance(found, datetime) else None

    def versions(self, prefix: str) -> tuple[StoredVersion, ...]:
        """See `BackupPlace.versions`."""
        with self._failing_plainly("asked for the versions in it"):
            pages = self._client.get_paginator("list_object_versions").paginate(
                Bucket=self._bucket.name, Prefix=f"{self._bucket.prefix}{prefix}"
            )
            found = [entry for page in pages for entry in page.get("Versions", ())]
            return tuple(
                StoredVersion(
                    entry["Key"].removeprefix(self._bucket.prefix),
                    None if entry["IsLatest"] else str(entry["VersionId"]),
                    self._retained_until(entry),
                )
                for entry in found
            )

    def _retained_until(self, entry: Mapping[str, Any]) -> datetime | None:
        """Reads the lock's end; S3 leaves it out of an object's head without the right s3:GetObjectRetention."""
        at = {"Bucket": self._bucket.name, "Key": entry["Key"], "VersionId": entry["VersionId"]}
        found = self._client.head_object(**at).get("ObjectLockRetainUntilDate")
        return found if isinstance(found, datetime) else None

    def _at(self, name: str) -> dict[str, str]:
        version = self.older.used.get(name)
        at = {"Bucket": self._bucket.name, "Key": f"{self._bucket.prefix}{name}"}
        return at if version is None else {**at, "VersionId": version}

    def _storage(self) -> dict[str, Any]:
        if self._lock is None:
            self._lock = self._object_lock()
        lock = dict(self._lock)
        if lock:
            lock["ObjectLockRetainUntilDate"] = self._clock.now() + timedelta(days=self._bucket.object_lock_days)
        return {"StorageClass": self._bucket.storage_class, **lock}

    def _object_lock(self) -> dict[str, Any]:
        """Returns the lock to request: none if the bucket has no object lock, or a default rule."""
        found = self._lock_configuration()
        locks = found.get("ObjectLockEnabled") == "Enabled" and "Rule" not in found
        return {"ObjectLockMode": "GOVERNANCE"} if locks else {}

    def _lock_configuration(self) -> Mapping[str, Any]:
        """Returns the bucket's lock configuration; empty where it has no object lock."""
        try:
            found = self._client.get_object_lock_configuration(Bucket=self._bucket.name)
        except ClientError as error:
            if aws.code_of(error) in _NO_LOCK:
                return {}
            raise
        return dict(found["ObjectLockConfiguration"])

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        try:
            with self._failing_plainly(f"read ({name})"):
                yield
        except AbsentBackupError:
            raise AbsentBackupError(
                f"{name} is not in {self.description}; name one that `keyrotation backup --list` shows"
            ) from None

    @contextmanager
    def _failing_plainly(self, doing: str) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            if (code := aws.code_of(error)) in _ABSENT:
                raise AbsentBackupError(f"the requested file is not in {self.description}; check [backup.s3]") from None
            if code == "NoSuchBucket":
                raise BackupError(
                    f"bucket {self._bucket.name} does not exist; create it, or correct [backup.s3] bucket"
                ) from None
            if code in _NOT_OFFERED:
                raise _NotOfferedError(str(self._refused(doing, code))) from None
            if code == "AccessDenied":
                raise _DeniedError(str(self._refused(doing, code))) from None
            raise self._refused(doing, code) from None
        except aws.FAILURES as error:
            raise self._refused(doing, aws.code_of(error)) from None

    def _refused(self, doing: str, reason: str) -> BackupError:
        return BackupError(
            f"{self.description} cannot be {doing}: {reason}; check [backup.s3], the credentials and the network"
        )


def _has_checksum(found: Mapping[str, Any], sha256: str) -> bool:
    return bool(found.get("ChecksumSHA256") == base64.b64encode(bytes.fromhex(sha256)).decode())


class _DeniedError(BackupError):
    """The account may not do that."""


class _NotOfferedError(BackupError):
    """The server does not know that call."""
