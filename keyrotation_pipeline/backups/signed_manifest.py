"""Reads a manifest that one of some keys has signed; nothing of another one is parsed."""

from collections.abc import Callable, Collection

from keyrotation_pipeline.errors import UnsignedBackupError
from keyrotation_pipeline.model.backups import BackupSet, signer_fingerprint
from keyrotation_pipeline.model.manifest import parse, signer_of

# As `ManifestSigner.verifies`: a public key (base64 of its SubjectPublicKeyInfo), the signed bytes, the signature.
Verifies = Callable[[str, bytes, bytes], bool]


def signed_manifest(
    name: str, place: str, text: bytes, signature: bytes, *, signers: Collection[str], verifies: Verifies
) -> BackupSet:
    """The set of a manifest that one of these keys has signed.

    Args:
        name: the manifest's file name.
        place: where it is, for the error.
        signature: the content of its `.sig` file.
        signers: fingerprints of public keys, 64 hex digits each; see `signer_fingerprint`.

    Raises:
        UnsignedBackupError: none of them has signed exactly this.
        ManifestError: one has, but it is damaged, or has another name than it says.
    """
    if (public := signer_of(text)) is None:
        raise UnsignedBackupError(name, place, "does not name its signer")
    try:
        signer = signer_fingerprint(public)
    except ValueError:
        raise UnsignedBackupError(name, place, "does not name its signer") from None
    if signer not in signers:
        raise UnsignedBackupError(name, place, f"names the signer {signer}, which is not this pipeline's")
    if not verifies(public, text, signature):
        raise UnsignedBackupError(name, place, "has a signature that is not this pipeline's")
    return parse(name, text)
