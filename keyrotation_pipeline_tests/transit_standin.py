"""A small server that stands in for the transit engine of Vault and OpenBao, and how tests talk to either.

It is not the engine. What it does was learned from the real one (OpenBao's transit backend behind HTTP): the same tests
run against that where KEYROTATION_TEST_TRANSIT names it. Both know three paths that Vault has not, or not so:
``sys/seal``, ``sys/unseal`` and ``sys/limit?requests=N``, which refuses the next N; and the tokens ``root``,
``application`` (encrypts and decrypts), ``nobody`` and ``only:read transit/keys/app,update …``, as a policy says it.
"""

import base64
import json
import os
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MOST_STRINGS = 1000
_RIGHTS = {"root": ("",), "application": ("encrypt/", "decrypt/"), "nobody": ()}


class _RefusedError(Exception):
    def __init__(self, status: int, sentence: str) -> None:
        self.status, self.message = status, sentence
        super().__init__(sentence)


@dataclass
class _Key:
    versions: dict[int, bytes] = field(default_factory=lambda: {1: os.urandom(32)})
    kind: str = "aes256-gcm96"
    derived: bool = False
    settings: dict[str, Any] = field(
        default_factory=lambda: {
            "min_decryption_version": 1,
            "min_encryption_version": 0,
            "min_available_version": 0,
            "deletion_allowed": False,
            "auto_rotate_period": 0,
            "exportable": False,
        }
    )

    @property
    def latest(self) -> int:
        return max(self.versions)

    def described(self) -> dict[str, Any]:
        return {"type": self.kind, "derived": self.derived, "latest_version": self.latest, **self.settings}

    def configure(self, body: dict[str, Any]) -> None:
        wanted = {**self.settings, **body}
        oldest, encrypting = wanted["min_decryption_version"], wanted["min_encryption_version"]
        if max(oldest, encrypting) > self.latest:
            raise _RefusedError(400, "cannot set a version of more than the latest key version")
        if 0 < encrypting < oldest:
            raise _RefusedError(400, "min encryption version must be greater than or equal to min decryption version")
        if self.settings["min_available_version"] > min(oldest, encrypting):
            raise _RefusedError(400, "should not be less than min available version")
        self.settings = wanted

    def trim(self, version: int) -> None:
        if version < self.settings["min_available_version"]:
            raise _RefusedError(400, "minimum available version cannot be decremented")
        if version > min(self.settings["min_encryption_version"], self.settings["min_decryption_version"]):
            raise _RefusedError(400, "minimum available version cannot be greater than minimum encryption version")
        self.settings["min_available_version"] = version
        self.versions = {number: raw for number, raw in self.versions.items() if number >= version}

    def encrypt(self, plaintext: str, wanted: int = 0) -> str:
        version = wanted or self.latest
        if self.derived:
            raise _RefusedError(400, "missing 'context' for key derivation")
        if version < self.settings["min_encryption_version"] or version > self.latest:
            raise _RefusedError(400, "requested version for encryption is less than the minimum encryption key version")
        nonce = os.urandom(12)
        body = nonce + AESGCM(self.versions[version]).encrypt(nonce, base64.b64decode(plaintext), None)
        return f"vault:v{version}:{base64.b64encode(body).decode()}"

    def decrypt(self, ciphertext: str) -> str:
        begins, version, encoded = (*ciphertext.split(":", 2), "", "")[:3]
        if begins != "vault" or not version.startswith("v"):
            raise _RefusedError(400, "invalid ciphertext: no prefix")
        number = int(version[1:])
        if number > self.latest:
            raise _RefusedError(400, "invalid ciphertext: version is too new")
        if number < self.settings["min_decryption_version"]:
            raise _RefusedError(400, "ciphertext or signature version is disallowed by policy (too old)")
        body = base64.b64decode(encoded)
        if len(body) < 12:
            raise _RefusedError(400, "invalid ciphertext length")
        try:
            return base64.b64encode(AESGCM(self.versions[number]).decrypt(body[:12], body[12:], None)).decode()
        except InvalidTag:
            raise _RefusedError(400, "cipher: message authentication failed") from None


def _only(token: str) -> list[str]:
    return token.removeprefix("only:").split(",") if token.startswith("only:") else []


def _strings(value: object) -> int:
    if isinstance(value, dict):
        return len(value) + sum(map(_strings, value.values()))
    return sum(map(_strings, value)) if isinstance(value, list) else isinstance(value, str)


class _Engine:
    def __init__(self) -> None:
        self.keys: dict[str, _Key] = {}
        self.sealed, self.limited = False, 0
        self.lock = threading.Lock()

    def answer(self, method: str, url: str, token: str, body: dict[str, Any]) -> tuple[int, Any]:
        parts = urlsplit(url)
        path = parts.path.removeprefix("/v1/")
        match path:
            case "sys/seal" | "sys/unseal":
                self.sealed = path == "sys/seal"
                return 204, None
            case "sys/limit":
                self.limited = int(parse_qs(parts.query)["requests"][0])
                return 204, None
        if self.sealed:
            raise _RefusedError(503, "Vault is sealed")
        if self.limited > 0:
            self.limited -= 1
            raise _RefusedError(429, "request path: rate limit quota exceeded")
        rest = path.removeprefix("transit/")
        asked = f"{'read' if method == 'GET' else 'update'} {path}"
        if not any(rest.startswith(each) for each in _RIGHTS.get(token, ())) and asked not in _only(token):
            raise _RefusedError(403, "1 error occurred:\n\t* permission denied\n\n")
        if _strings(body) > MOST_STRINGS:
            raise _RefusedError(400, "refused JSON input due to high complexity: too many strings")
        return self._transit(method, rest.split("/"), body)

    def _transit(self, method: str, path: list[str], body: dict[str, Any]) -> tuple[int, Any]:  # noqa: PLR0911, PLR0912
        match method, path:
            case "POST", ["keys", name]:
                self.keys.setdefault(
                    name, _Key(kind=body.get("type", "aes256-gcm96"), derived=bool(body.get("derived")))
                )
                return 200, self.keys[name].described()
            case "DELETE", ["keys", name]:
                if not self.keys[name].settings["deletion_allowed"]:
                    raise _RefusedError(400, "deletion is not allowed for this key")
                del self.keys[name]
                return 204, None
        if (key := self.keys.get(path[1])) is None:
            raise _RefusedError(404 if method == "GET" else 400, "encryption key not found")
        match method, path:
            case "GET", ["keys", _]:
                return 200, key.described()
            case "POST", ["keys", _, "rotate"]:
                key.versions[key.latest + 1] = os.urandom(32)
                return 200, key.described()
            case "POST", ["keys", _, "config"]:
                key.configure(body)
                return 200, key.described()
            case "POST", ["keys", _, "trim"]:
                key.trim(body["min_available_version"])
                return 200, key.described()
            case "POST", ["encrypt", _]:
                return 200, {"ciphertext": key.encrypt(body["plaintext"], body.get("key_version", 0))}
            case "POST", ["decrypt", _] if "batch_input" in body:
                results = _each(lambda each: {"plaintext": key.decrypt(each["ciphertext"])}, body)
                failed = sum("error" in each for each in results)
                status = 200 if not failed else 400
                if 0 < failed < len(results):
                    status = body.get("partial_failure_response_code", 400)
                return status, {"batch_results": results}
            case "POST", ["decrypt", _]:
                return 200, {"plaintext": key.decrypt(body["ciphertext"])}
            case "POST", ["rewrap", _]:
                anew = _each(lambda each: {"ciphertext": key.encrypt(key.decrypt(each["ciphertext"]))}, body)
                return 200, {"batch_results": anew}
        raise _RefusedError(404, "unsupported path")


def _each(work: Callable[[dict[str, Any]], dict[str, Any]], body: dict[str, Any]) -> list[dict[str, Any]]:
    if not body["batch_input"]:
        raise _RefusedError(400, "missing batch input to process")
    results = []
    for each in body["batch_input"]:
        try:
            results.append(work(each))
        except _RefusedError as error:
            results.append({"error": error.message})
    return results


def _handler(engine: _Engine) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._do()

        def do_POST(self) -> None:
            self._do()

        def do_DELETE(self) -> None:
            self._do()

        def log_message(self, *_: object) -> None:
            pass

        def _do(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                with engine.lock:
                    status, data = engine.answer(
                        self.command, self.path, self.headers.get("X-Vault-Token", ""), json.loads(content or b"{}")
                    )
                answer = b"" if data is None else json.dumps({"data": data}).encode()
            except _RefusedError as error:
                status, answer = error.status, json.dumps({"errors": [error.message]}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    return Handler


@dataclass(frozen=True)
class Transit:
    """A server, whichever it is, as an administrator and as an application use it.

    Args:
        url: without the path.
        name: of a key of its own.
    """

    url: str
    name: str = field(default_factory=lambda: f"app-{uuid4().hex[:8]}")

    @property
    def address(self) -> str:
        """As `[format] transit` names the key."""
        return f"{self.url}/transit/{self.name}"

    def ask(self, method: str, path: str, body: object = None, token: str = "root") -> tuple[int, Any]:  # noqa: S107
        parts = urlsplit(self.url)
        connection = HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        try:
            connection.request(method, f"/v1/{path}", json.dumps(body or {}), {"X-Vault-Token": token})
            response = connection.getresponse()
            content = response.read()
            return response.status, json.loads(content) if content else {}
        finally:
            connection.close()

    def done(self, method: str, path: str, body: object = None, token: str = "root") -> Any:  # noqa: ANN401, S107
        status, answer = self.ask(method, path, body, token)
        assert status < 300, (path, answer)
        return answer.get("data", {})

    def create(self, **settings: object) -> "Transit":
        self.done("POST", f"transit/keys/{self.name}", settings)
        return self

    def rotate(self) -> None:
        self.done("POST", f"transit/keys/{self.name}/rotate")

    def configure(self, **settings: object) -> None:
        self.done("POST", f"transit/keys/{self.name}/config", settings)

    def described(self) -> dict[str, Any]:
        found: dict[str, Any] = self.done("GET", f"transit/keys/{self.name}")
        return found

    def encrypt(self, text: bytes, version: int = 0) -> bytes:
        """As an application does; it names no version as a rule."""
        body = {"plaintext": base64.b64encode(text).decode(), **({"key_version": version} if version else {})}
        found: str = self.done("POST", f"transit/encrypt/{self.name}", body, "application")["ciphertext"]
        return found.encode()

    def decrypt(self, value: bytes | str) -> bytes:
        text = value if isinstance(value, str) else value.decode()
        found = self.done("POST", f"transit/decrypt/{self.name}", {"ciphertext": text}, "application")
        return base64.b64decode(found["plaintext"])

    def seal(self) -> None:
        self.done("POST", "sys/seal")

    def unseal(self) -> None:
        self.done("POST", "sys/unseal")

    def limit(self, requests: int) -> None:
        self.done("POST", f"sys/limit?requests={requests}")


@contextmanager
def transit_at_work() -> Iterator[Transit]:
    """The server that KEYROTATION_TEST_TRANSIT names, or else the stand-in, with a key that is not made yet."""
    if named := os.environ.get("KEYROTATION_TEST_TRANSIT"):
        yield Transit(named)
        return
    with _serving(_Engine()) as port:
        yield Transit(f"http://127.0.0.1:{port}")


@contextmanager
def standin_over_tls(certificate: Path, key: Path) -> Iterator[tuple[Transit, str]]:
    """The stand-in for whoever runs it, and where it serves the same over TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    engine = _Engine()
    with _serving(engine) as port, _serving(engine, context) as encrypted:
        yield Transit(f"http://127.0.0.1:{port}"), f"https://127.0.0.1:{encrypted}"


@contextmanager
def _serving(engine: _Engine, context: ssl.SSLContext | None = None) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(engine))
    server.daemon_threads = True
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
