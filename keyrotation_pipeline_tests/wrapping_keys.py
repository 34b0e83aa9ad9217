"""AWS KMS for tests: moto's server, and a stub in front of it that counts calls and refuses as AWS does.

moto encrypts and decrypts under keys that are disabled or to be deleted; AWS does not.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import requests

from keyrotation_pipeline_tests.buckets import CREDENTIALS, REGION

_REFUSED = {"Disabled": "DisabledException", "PendingDeletion": "KMSInvalidStateException"}
_USES = frozenset({"Encrypt", "Decrypt"})


@dataclass
class Kms:
    """A KMS over HTTP, and a client of moto that the stub does not see.

    Args:
        refuses: the code with which calls of an operation are refused, by its name.
        origin: what each key says of where it comes from.
        replicated: each key has a replica in another region; moto does not decrypt under multi-Region keys.
        calls: how often each operation was called by each process.
    """

    url: str
    client: Any
    refuses: dict[str, str] = field(default_factory=dict)
    replicated: bool = False
    origin: str = "AWS_KMS"
    calls: Counter[tuple[int, str]] = field(default_factory=Counter)

    def key(self) -> str:
        """The ARN of a new key."""
        return str(self.client.create_key()["KeyMetadata"]["Arn"])

    def described(self, answer: bytes) -> bytes:
        """What DescribeKey answers."""
        content = json.loads(answer)
        if "KeyMetadata" in content:
            content["KeyMetadata"] |= {"Origin": self.origin, "MultiRegion": False}  # the latter moto leaves out
        if self.replicated and "KeyMetadata" in content:
            content["KeyMetadata"]["MultiRegionConfiguration"] = {"ReplicaKeys": [{"Region": "eu-west-1"}]}
        return json.dumps(content).encode()

    def calls_by_process(self) -> Counter[int]:
        """How often each process called."""
        found = Counter[int]()
        for (process, _), number in self.calls.items():
            found[process] += number
        return found

    def refusal(self, operation: str, body: dict[str, Any]) -> str | None:
        """The code with which AWS would refuse a call."""
        if (code := self.refuses.get(operation)) is not None or operation not in _USES:
            return code
        try:
            state = self.client.describe_key(KeyId=body["KeyId"])["KeyMetadata"]["KeyState"]
        except self.client.exceptions.NotFoundException:
            return "NotFoundException"
        return _REFUSED.get(state)


def id_of(arn: str) -> str:
    """What most of moto's operations take in place of an ARN."""
    return arn.rpartition("/")[2]


@contextmanager
def kms_in_front_of(url: str, client: Any) -> Iterator[Kms]:  # noqa: ANN401 - boto3's
    """A stub that hands on to moto whatever AWS would not refuse."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            sent = self.rfile.read(int(self.headers["Content-Length"]))
            operation = self.headers["X-Amz-Target"].rpartition(".")[2]
            made.calls[process_at(self.client_address[1]), operation] += 1
            if (code := made.refusal(operation, json.loads(sent))) is not None:
                self.answer(400, json.dumps({"__type": code, "message": "no"}).encode())
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            found = requests.post(f"{url}{self.path}", headers=headers, data=sent, timeout=60)
            self.answer(
                found.status_code, made.described(found.content) if operation == "DescribeKey" else found.content
            )

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("x-amzn-RequestId", "1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Prints nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        made = Kms(f"http://127.0.0.1:{server.server_port}", client)
        Thread(target=server.serve_forever, daemon=True).start()
        yield made
        server.shutdown()


def process_at(port: int) -> int:
    """The process whose connection has this local port; 0: it has gone."""
    pattern = re.compile(rf"^ *[0-9]+: [0-9A-F]+:{port:04X} \S+ \S+ \S+ \S+ \S+ +[0-9]+ +[0-9]+ ([0-9]+)", re.MULTILINE)
    if (found := pattern.search(Path("/proc/net/tcp").read_text())) is None:
        return 0
    wanted = Path(f"socket:[{found[1]}]")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(each.readlink() == wanted for each in (process / "fd").iterdir()):
                return int(process.name)
        except OSError:
            continue
    return 0


@pytest.fixture(scope="session")
def kms_stub(s3_url: str) -> Iterator[Kms]:
    """The stub, once a session: clients of it are kept."""
    import boto3  # noqa: PLC0415  takes a second

    named = {name.lower(): value for name, value in CREDENTIALS.items() if name != "AWS_DEFAULT_REGION"}
    client = boto3.client("kms", endpoint_url=s3_url, region_name=REGION, **named)  # type: ignore[call-overload]
    with kms_in_front_of(s3_url, client) as made:
        yield made


@pytest.fixture
def kms(kms_stub: Kms, monkeypatch: pytest.MonkeyPatch) -> Kms:
    """A KMS, with credentials and its address in the environment, as applications find it."""
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL_KMS": kms_stub.url}.items():
        monkeypatch.setenv(name, value)
    kms_stub.refuses.clear()
    kms_stub.calls.clear()
    kms_stub.replicated, kms_stub.origin = False, "AWS_KMS"
    return kms_stub
