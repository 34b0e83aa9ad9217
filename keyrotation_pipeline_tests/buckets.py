"""S3 over HTTP for tests: moto's server, and a fresh versioned bucket a test."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.ports.clock import Clock

if TYPE_CHECKING:
    from keyrotation_pipeline.adapters.backups.s3 import S3Bucket

# Imported where they are used: boto3 and moto take two seconds, which every other test run would wait for.

REGION = "us-east-1"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": REGION}
_numbers = itertools.count()


@dataclass(frozen=True)
class TestBucket:
    """A bucket, a client that looks past our adapter, and the adapter."""

    __test__ = False
    name: str
    url: str
    client: Any

    def place(self, clock: Clock | None = None) -> "S3Bucket":
        from keyrotation_pipeline.adapters.backups.s3 import Bucket, S3Bucket  # noqa: PLC0415

        return S3Bucket(Bucket(self.name, region_name=REGION, endpoint_url=self.url), clock or SystemClock())

    def content(self, name: str) -> bytes:
        return bytes(self.client.get_object(Bucket=self.name, Key=f"encryption-keys/{name}")["Body"].read())

    def tags(self) -> dict[str, str]:
        """Of each file of the backups, what changes with its content."""
        listed = self.client.list_objects_v2(Bucket=self.name, Prefix="encryption-keys/").get("Contents", [])
        return {each["Key"].removeprefix("encryption-keys/"): each["ETag"] for each in listed}

    def overwrite(self, name: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=f"encryption-keys/{name}", Body=content)

    def delete(self, name: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=f"encryption-keys/{name}")


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    """A running moto server."""
    from moto.server import ThreadedMotoServer  # noqa: PLC0415

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> TestBucket:
    """A versioned bucket, and credentials in the environment."""
    return new_bucket(s3_url, monkeypatch)


@pytest.fixture
def locking_bucket(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> TestBucket:
    """A bucket with object lock and no rule of its own."""
    return new_bucket(s3_url, monkeypatch, ObjectLockEnabledForBucket=True)


@contextmanager
def noting(service: str, note: Callable[..., None]) -> Iterator[None]:
    """Inside, a client that the product makes for a service calls `note(params=…, model=…)` before each request."""
    import botocore  # noqa: PLC0415

    def register(session: Any) -> None:  # noqa: ANN401 - botocore's
        session.register(f"provide-client-params.{service}.*", note)

    botocore.register_initializer(register)
    try:
        yield
    finally:
        botocore.unregister_initializer(register)


def new_bucket(url: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> TestBucket:  # noqa: ANN401 - boto3's
    """A fresh versioned bucket, and credentials in the environment."""
    import boto3  # noqa: PLC0415

    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=url, region_name=REGION)
    name = f"pazpaz-key-backups-{next(_numbers)}"
    client.create_bucket(Bucket=name, **options)
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    return TestBucket(name, url, client)
