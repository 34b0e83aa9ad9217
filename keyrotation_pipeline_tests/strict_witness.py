"""A witness of our own, by C2SP's words and by code that shares nothing with the pipeline's, behind a real server."""

import base64
import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

Answer = tuple[int, bytes, str]


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def _continues(old: int, size: int, proof: list[bytes], old_root: bytes, root: bytes) -> bool:
    """RFC 9162, section 2.1.4.2, for 0 < old < size."""
    if old & (old - 1) == 0:
        proof = [old_root, *proof]
    if not proof:
        return False
    fn, sn = old - 1, size - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    first = second = proof[0]
    for each in proof[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            first, second = _node(each, first), _node(each, second)
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            second = _node(second, each)
        fn, sn = fn >> 1, sn >> 1
    return (first, second, sn) == (old_root, root, 0)


def key_id(name: str, kind: int, public: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + public).digest()[:4]


@dataclass
class StrictWitness:
    """Signs what continues the last checkpoint that it has signed, of logs that its operator has added.

    Args:
        logs: the keys of each origin, 32 bytes each.
        latest: size and root of the last checkpoint of each origin.
        lie: answers a request instead.
        late_seconds: how far its clock is behind.
    """

    name: str = "witness.example/w1"
    url: str = ""
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    logs: dict[str, set[bytes]] = field(default_factory=dict)
    latest: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    asked: list[bytes] = field(default_factory=list)
    lie: Answer | None = None
    late_seconds: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def vkey(self) -> str:
        public = self.key.public_key().public_bytes_raw()
        encoded = base64.b64encode(b"\4" + public).decode()
        return f"{self.name}+{key_id(self.name, 4, public).hex()}+{encoded}"

    @property
    def setting(self) -> str:
        """As `[audit] witness` names it."""
        return f'{{ url = "{self.url}", key = "{self.vkey}" }}'

    def add(self, vkey: str) -> None:
        """What its operator does with the key of a log."""
        name, digest, key = vkey.split("+", 2)
        public = base64.b64decode(key)
        assert public[:1] == b"\1"
        assert key_id(name, 1, public[1:]).hex() == digest
        self.logs.setdefault(name, set()).add(public[1:])

    def answer(self, body: bytes) -> Answer:
        self.asked.append(body)
        if self.lie is not None:
            return self.lie
        try:
            return 200, self._signed(body).encode(), "text/plain"
        except _RefusedError as refusal:
            return refusal.answer

    def _signed(self, body: bytes) -> str:
        try:
            head, text, signed = body.decode().split("\n\n")
            first, *lines = head.split("\n")
            origin, count, root64 = text.split("\n")
            old, size = int(first.removeprefix("old ")), int(count)
            proof, root = [base64.b64decode(each, validate=True) for each in lines], base64.b64decode(root64)
        except ValueError:
            raise _RefusedError(400) from None
        _refuse_if((f"old {old}", str(size)) != (first, count) or len(lines) > 63, 400)
        _refuse_if(origin not in self.logs, 404)
        _refuse_if(not any(_is_by(origin, each, text, signed) for each in self.logs[origin]), 403)
        _refuse_if(old > size, 400)
        with self._lock:
            known, known_root = self.latest.get(origin, (0, b""))
            _refuse_if(old != known or (old == size and root != known_root), 409, f"{known}\n".encode())
            needs_none = old in {0, size}
            _refuse_if(bool(proof) if needs_none else not _continues(old, size, proof, known_root, root), 422)
            self.latest[origin] = size, root
        return self.cosign(f"{text}\n")

    def cosign(self, text: str) -> str:
        now = int(time.time()) - self.late_seconds
        signature = self.key.sign(f"cosignature/v1\ntime {now}\n{text}".encode())
        public = self.key.public_key().public_bytes_raw()
        content = key_id(self.name, 4, public) + now.to_bytes(8) + signature
        return f"\N{EM DASH} {self.name} {base64.b64encode(content).decode()}\n"


def _is_by(origin: str, public: bytes, text: str, lines: str) -> bool:
    for line in lines.splitlines():
        _, name, content = line.split(" ")
        signature = base64.b64decode(content)
        if (name, signature[:4]) == (origin, key_id(origin, 1, public)):
            try:
                Ed25519PublicKey.from_public_bytes(public).verify(signature[4:], f"{text}\n".encode())
            except InvalidSignature:
                return False
            return True
    return False


class _RefusedError(Exception):
    def __init__(self, status: int, content: bytes = b"") -> None:
        self.answer: Answer = status, content, "text/x.tlog.size" if content else "text/plain"


def _refuse_if(holds: bool, status: int, content: bytes = b"") -> None:
    if holds:
        raise _RefusedError(status, content)


@contextmanager
def serving(witness: StrictWitness) -> Iterator[StrictWitness]:
    """Serves it on loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, content, kind = (404, b"", "") if self.path != "/add-checkpoint" else witness.answer(body)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        witness.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield witness
        finally:
            server.shutdown()
