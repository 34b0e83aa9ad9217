"""Secrets Manager whose answers are some seconds old: a proxy in front of moto's server.

Every change goes at once to the region that a test looks into, and some seconds later also to another one, which
answers whoever reads through the proxy. Version ids are the same in both, since our requests name them.
"""

import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError

import pytest

from keyrotation_pipeline_tests.aws_secrets import TestSecret
from keyrotation_pipeline_tests.buckets import REGION

FRESH = "/fresh"
_OLDER = "us-west-2"
_READS = ("GetSecretValue", "DescribeSecret", "ListSecrets", "ListSecretVersionIds")
_SENT_ON = ("Authorization", "Content-Type", "X-Amz-Target", "X-Amz-Date")


@dataclass
class Stale:
    """What a proxy knows: its answers are as of `seconds` ago, but those under the path `/fresh` of the present."""

    upstream: str
    seconds: float
    lock: threading.Lock = field(default_factory=threading.Lock)
    outstanding: deque[tuple[float, Mapping[str, str], bytes]] = field(default_factory=deque)

    def answer(
        self, headers: Mapping[str, str], body: bytes, *, fresh: bool = False
    ) -> tuple[int, Mapping[str, str], bytes]:
        with self.lock:
            now = time.monotonic()
            while self.outstanding and self.outstanding[0][0] <= now:
                _, earlier, change = self.outstanding.popleft()
                self._send(earlier, change, _OLDER)
            if headers["X-Amz-Target"].rpartition(".")[2] in _READS:
                return self._send(headers, body, REGION if fresh else _OLDER)
            self.outstanding.append((now + self.seconds, headers, body))
            return self._send(headers, body, REGION)

    def _send(self, headers: Mapping[str, str], body: bytes, region: str) -> tuple[int, Mapping[str, str], bytes]:
        """moto takes the region from the signature, which it does not check."""
        signed = {**headers, "Authorization": headers["Authorization"].replace(f"/{REGION}/", f"/{region}/")}
        request = urllib.request.Request(self.upstream, body, signed)  # noqa: S310  http, and our own
        try:
            with urllib.request.urlopen(request) as answered:  # noqa: S310
                return answered.status, dict(answered.headers), answered.read()
        except HTTPError as error:
            return error.code, dict(error.headers), error.read()


@contextmanager
def answering(stale: Stale) -> Iterator[str]:
    """The URL of such a proxy."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name: self.headers[name] for name in _SENT_ON if self.headers[name]}
            status, answered, content = stale.answer(headers, body, fresh=self.path.startswith(FRESH))
            self.send_response(status)
            for name, value in answered.items():
                if name.lower().startswith(("x-amz", "content-type")):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_arguments: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def new_stale_secret(new_secret: Callable[[], TestSecret]) -> Iterator[Callable[[float], TestSecret]]:
    """Makes another secret, without a key, whose answers are some seconds old; its `client` sees the present."""
    with ExitStack() as proxies:

        def new(seconds: float) -> TestSecret:
            there = new_secret()
            there.client.delete_secret(SecretId=there.name, ForceDeleteWithoutRecovery=True)
            secret = replace(there, url=proxies.enter_context(answering(Stale(there.url, seconds))))
            secret.open().create()
            return secret

        yield new
