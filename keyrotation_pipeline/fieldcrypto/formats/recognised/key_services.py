"""Recognises ciphertext of cloud key services, which no key leaves: AWS KMS and Google Cloud KMS."""

from keyrotation_pipeline.fieldcrypto.format_advice import Advice
from keyrotation_pipeline.fieldcrypto.formats.recogniser import Recognised, in_bytes
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy

# PKCS #7 encryptedData, and AES-256-GCM, inside it.
_ENCRYPTED_DATA, _AES_GCM = bytes.fromhex("06092a864886f70d010706"), bytes.fromhex("060960864801650304012e")


@in_bytes(
    "aws-kms",
    starts=(b"\x01\x02\x02\x00", b"\x01\x02\x03\x00", b"\x01\x01\x02\x00", b"\x01\x01\x03\x00"),
    advice=Advice(
        identified_by=IdentifiedBy.MARKER,
        steps="AWS KMS reads what any version of a key encrypted, and `ReEncrypt` moves a value to another key",
        source="CiphertextBlob of Encrypt and GenerateDataKey, which AWS calls opaque; read from published ones",
    ),
)
def aws_kms(raw: bytes) -> Recognised | None:
    """Recognises ciphertext of AWS KMS: ``01 02 02 00 78 ‖ 32 bytes ‖ … ‖ PKCS #7 encryptedData of AES-256-GCM``."""
    return Recognised("aws-kms") if _ENCRYPTED_DATA in raw[32:96] and _AES_GCM in raw[48:128] else None


_BODY_TAG = 0x12


@in_bytes(
    "gcp-kms",
    starts=(b"\x0a\x24\x00", b"\x0a\x25\x00"),
    advice=Advice(
        identified_by=IdentifiedBy.MARKER,
        steps="Cloud KMS reads what any enabled version of a key encrypted, so encrypt every value again",
        source="ciphertext of Encrypt, which Google calls opaque; read from published ones",
    ),
)
def gcp_kms(raw: bytes) -> Recognised | None:
    """Recognises ciphertext of Google Cloud KMS: two fields of protobuf, the key version's 36 bytes and the body."""
    at = 2 + raw[1]
    if len(raw) < at + 2 or raw[at] != _BODY_TAG:
        return None
    size = shift = 0
    for at in range(at + 1, min(at + 5, len(raw))):  # noqa: B020  a varint
        size |= (raw[at] & 0x7F) << shift
        shift += 7
        if raw[at] < 0x80:  # noqa: PLR2004
            break
    return Recognised("gcp-kms") if at + 1 + size == len(raw) and size >= 28 else None  # noqa: PLR2004
