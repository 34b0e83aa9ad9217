"""Officers who sign with SSH keys: real ones by ssh-keygen, and security keys (FIDO2) made of software.

A security key signs ``SHA-256(application) ‖ flags ‖ counter ‖ SHA-256(what ssh signs)`` (OpenSSH's PROTOCOL.u2f). No
hardware is needed to make such a signature, only to keep its key.
"""

import base64
import hashlib
import struct
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

NAMESPACE = "keyrotation-pipeline"
PRESENT, VERIFIED = 0x01, 0x04  # touched; and with the PIN typed


def ssh_keygen(*arguments: str, text: bytes = b"", **environment: str) -> bytes:
    done = subprocess.run(
        ["ssh-keygen", *arguments],
        input=text,
        capture_output=True,
        check=False,
        env={"PATH": "/usr/bin", **environment},
    )
    assert not done.returncode, done.stderr.decode()
    return done.stdout


@dataclass(frozen=True)
class SshOfficer:
    """One officer with a key pair of ssh-keygen; `key` is the private file."""

    name: str
    key: Path

    @classmethod
    def create(cls, directory: Path, name: str, *kind: str) -> "SshOfficer":
        key = directory / f"{name.lower().replace(' ', '-')}-ssh"
        ssh_keygen("-q", *(kind or ("-t", "ed25519")), "-N", "", "-C", f"{name}@clinic.invalid", "-f", str(key))
        return cls(name, key)

    @property
    def public(self) -> Path:
        return self.key.with_name(f"{self.key.name}.pub")

    @property
    def fingerprint(self) -> str:
        return ssh_keygen("-l", "-f", str(self.public)).decode().split()[1]

    def sign(self, text: bytes, namespace: str = NAMESPACE) -> bytes:
        return ssh_keygen("-Y", "sign", "-n", namespace, "-f", str(self.key), text=text)


def _string(content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + content


def _number(value: int) -> bytes:
    """An SSH mpint."""
    return _string(value.to_bytes(value.bit_length() // 8 + 1, "big"))


@dataclass(frozen=True)
class SecurityKey:
    """A security key of software.

    Args:
        kind: its SSH type.
        application: part of its public key, as every one of OpenSSH has it.
    """

    public: Path
    kind: str = "sk-ssh-ed25519@openssh.com"
    application: bytes = b"ssh:"
    secret: ed25519.Ed25519PrivateKey = field(default_factory=ed25519.Ed25519PrivateKey.generate)
    ecdsa: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def _is_ecdsa(self) -> bool:
        return "ecdsa" in self.kind

    @property
    def _blob(self) -> bytes:
        if self._is_ecdsa:
            point = self.ecdsa.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
            key = _string(b"nistp256") + _string(point)
        else:
            key = _string(self.secret.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
        return _string(self.kind.encode()) + key + _string(self.application)

    def write(self, options: str = "") -> "SecurityKey":
        self.public.write_text(f"{options}{self.kind} {base64.b64encode(self._blob).decode()} token\n")
        return self

    def sign(self, text: bytes, flags: int = PRESENT, signed_flags: int | None = None) -> bytes:
        """An armored signature, as ``ssh-keygen -Y sign`` makes it with hardware.

        Args:
            signed_flags: what the key has really signed, where `flags` says something else.
        """
        what = _string(NAMESPACE.encode()) + _string(b"") + _string(b"sha512")
        message = b"SSHSIG" + what + _string(hashlib.sha512(text).digest())
        counted = struct.pack(">BI", flags if signed_flags is None else signed_flags, 7)
        signed = hashlib.sha256(self.application).digest() + counted + hashlib.sha256(message).digest()
        if self._is_ecdsa:
            r, s = decode_dss_signature(self.ecdsa.sign(signed, ec.ECDSA(SHA256())))
            made = _number(r) + _number(s)
        else:
            made = self.secret.sign(signed)
        signature = _string(self.kind.encode()) + _string(made) + struct.pack(">BI", flags, 7)
        whole = b"SSHSIG" + struct.pack(">I", 1) + _string(self._blob) + what + _string(signature)
        lines = base64.encodebytes(whole).replace(b"\n", b"")
        body = b"\n".join(lines[at : at + 70] for at in range(0, len(lines), 70))
        return b"-----BEGIN SSH SIGNATURE-----\n" + body + b"\n-----END SSH SIGNATURE-----\n"
