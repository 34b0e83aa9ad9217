"""A time-stamping authority of our own: certificates, and `openssl ts` behind a small HTTP server."""

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

DAY = timedelta(days=1)
_CONFIGURATION = """
[tsa]
default_tsa = stamping
[stamping]
serial = serial
signer_cert = signer.pem
signer_key = signer.key
certs = root.pem
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
ess_cert_id_alg = sha256
"""


@dataclass
class Authority:
    """A running one.

    Args:
        answer: what it answers instead of a time stamp: bytes, or an HTTP status.
        asked: every request that it got.
    """

    folder: Path
    url: str = ""
    answer: bytes | int | None = None
    asked: list[bytes] = field(default_factory=list)

    @property
    def root(self) -> Path:
        """Its root certificate."""
        return self.folder / "root.pem"

    def stamp(self, request: bytes) -> bytes:
        """A time stamp, made by openssl."""
        (self.folder / "request.tsq").write_bytes(request)
        subprocess.run(
            ["openssl", "ts", "-reply", "-config", "tsa.cnf", "-queryfile", "request.tsq", "-out", "answer.tsr"],
            cwd=self.folder, check=True, capture_output=True, env={"PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        return (self.folder / "answer.tsr").read_bytes()


def certified(folder: Path, *, until: datetime | None = None) -> Authority:
    """Root, signer and configuration; `until`: when the signer's certificate expires."""
    folder.mkdir()
    now = datetime.now(UTC)
    root_key, signer_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_name = x509.Name.from_rfc4514_string(f"CN=Root {folder.name}")
    ends = until or now + DAY
    root = (
        _builder(root_name, root_name, root_key, now - 9 * DAY, now + 9 * DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(root_key, hashes.SHA256())
    )
    purpose = ExtendedKeyUsageOID.TIME_STAMPING
    signer = (
        _builder(x509.Name.from_rfc4514_string("CN=Stamps"), root_name, signer_key, now - 8 * DAY, ends)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=True)
        .sign(root_key, hashes.SHA256())
    )
    (folder / "root.pem").write_bytes(root.public_bytes(Encoding.PEM))
    (folder / "signer.pem").write_bytes(signer.public_bytes(Encoding.PEM))
    key = signer_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "signer.key").write_bytes(key)
    (folder / "serial").write_text("01\n")
    (folder / "tsa.cnf").write_text(_CONFIGURATION)
    return Authority(folder)


@contextmanager
def serving(authority: Authority) -> Iterator[Authority]:
    """The authority answers on loopback until the context ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = self.rfile.read(int(self.headers["Content-Length"]))
            authority.asked.append(request)
            if isinstance(authority.answer, int):
                self.send_error(authority.answer)
                return
            content = authority.stamp(request) if authority.answer is None else authority.answer
            self.send_response(200)
            self.send_header("Content-Type", "application/timestamp-reply")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    authority.url = f"http://127.0.0.1:{server.server_address[1]}/tsr"
    try:
        yield authority
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, since: datetime, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(since if since < until else until - DAY)
        .not_valid_after(until)
    )
