"""The pipeline's own key, which signs manifests: Ed25519 in a file of the home, made by `init`.

A signature is the plain 64 bytes over the manifest's bytes, so a machine with only openssl can verify it
(``openssl pkeyutl -verify -pubin -inkey backup.pub -rawin -in MANIFEST -sigfile MANIFEST.sig``). Source: RFC 8032.
"""

import base64
import binascii
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
)

from keyrotation_pipeline.adapters.backups.directory import write_new
from keyrotation_pipeline.errors import BackupError
from keyrotation_pipeline.regular_files import read_bytes


@dataclass(frozen=True)
class LoadedKey:
    """The key as it was read."""

    private: Ed25519PrivateKey = field(repr=False)

    @cached_property
    def public(self) -> str:
        """See `ManifestSigner.public`."""
        der = self.private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return base64.b64encode(der).decode()

    def sign(self, manifest: bytes) -> bytes:
        """See `ManifestSigner.sign`."""
        return self.private.sign(manifest)


class SigningKey:
    """`ManifestSigner` over a file of mode 0600."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def create(self) -> None:
        """Creates the key, if there is none.

        Raises:
            BackupError: the operating system refuses.
        """
        if self._path.exists():
            return
        text = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        try:
            write_new(self._path, text)
        except OSError as error:
            raise BackupError(f"{self._path} cannot be created ({error.strerror}); fix that and run it again") from None

    @property
    def public(self) -> str:
        """See `ManifestSigner.public`."""
        return self.loaded().public

    def sign(self, manifest: bytes) -> bytes:
        """See `ManifestSigner.sign`."""
        return self.loaded().sign(manifest)

    def signed(self, content: bytes) -> tuple[str, bytes]:
        """Returns the public key, base64, and its signature; raises as `public`."""
        return self.public, self.sign(content)

    def verifies(self, public: str, manifest: bytes, signature: bytes) -> bool:
        """See `ManifestSigner.verifies`."""
        return verifies(public, manifest, signature)

    def loaded(self) -> LoadedKey:
        """Reads the key, to be used more than once; raises as `public`."""
        try:
            key = load_pem_private_key(read_bytes(self._path), None)
        except OSError:
            raise BackupError(
                f"the key that signs backups, {self._path}, cannot be read; run `keyrotation init`"
            ) from None
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise BackupError(f"{self._path} is not an Ed25519 key; move it away and run `keyrotation init`")
        return LoadedKey(key)


def verifies(public: str, manifest: bytes, signature: bytes) -> bool:
    """Returns whether a signature is over exactly this, by this Ed25519 key; see `ManifestSigner.verifies`."""
    try:
        key = load_der_public_key(base64.b64decode(public, validate=True))
        if not isinstance(key, Ed25519PublicKey):
            return False
        key.verify(signature, manifest)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, binascii.Error):
        return False
    return True
