"""S3 over HTTP for tests: moto's server, and a fresh versioned bucket a test."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
import requests

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

    def forget_versions(self, name: str) -> None:
        """Deletes for good what the visible file, or a delete marker, hides."""
        key = f"encryption-keys/{name}"
        for each in self.client.list_object_versions(Bucket=self.name, Prefix=key).get("Versions", []):
            if each["Key"] == key and not each["IsLatest"]:
                self.client.delete_object(Bucket=self.name, Key=key, VersionId=each["VersionId"])

    def lose(self, name: str) -> None:
        """Deletes every version of a file."""
        self.delete(name)
        self.forget_versions(name)

    def delete(self, name: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=f"encryption-keys/{name}")


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    """A running moto server."""
    from moto import backends  # noqa: PLC0415
    from moto.server import ThreadedMotoServer  # noqa: PLC0415

    # At each request it looks through its folders for the names of its services.
    services = tuple(backends.list_of_moto_modules())
    backends.list_of_moto_modules = lambda: services
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


_STATUS = {"AccessDenied": 403, "NotImplemented": 501, "ServiceUnavailable": 503}
_HEADERS = frozenset({"connection", "content-length", "transfer-encoding", "server", "date"})


@contextmanager
def in_front_of(url: str, refuses: Callable[[str, str], str | None]) -> Iterator[str]:
    """A server that hands every request on to S3, but for those that it refuses; yields its address.

    Args:
        refuses: the code that a method and a path with its query are refused with; None: handed on.
    """

    class Handler(BaseHTTPRequestHandler):
        def handle_one(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if (code := refuses(self.command, self.path)) is not None:
                self.answer(_STATUS[code], {}, f"<Error><Code>{code}</Code></Error>".encode())
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            found = requests.request(
                self.command, f"{url}{self.path}", headers=headers, data=sent, timeout=60, stream=True
            )
            self.answer(found.status_code, dict(found.headers), found.raw.read())

        def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in _HEADERS:
                    self.send_header(name, value)
            length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Prints nothing."""

    for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.handle_one)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


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
