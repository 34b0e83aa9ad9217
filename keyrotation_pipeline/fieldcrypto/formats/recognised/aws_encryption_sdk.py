"""Parses the header of a message of the AWS Encryption SDK.

Source: the SDK's message format reference: version [‖ type 0x80], algorithm, message id, encryption context, encrypted
data keys (provider, key information, wrapped key), content type, frame length.
"""

from keyrotation_pipeline.fieldcrypto.format_advice import Advice
from keyrotation_pipeline.fieldcrypto.formats.recogniser import Recognised, in_bytes, key_id
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy

_SUITES_V1 = frozenset(
    (0x0014, 0x0046, 0x0078, 0x0114, 0x0146, 0x0178, 0x0214, 0x0346, 0x0378)
)  # AES-GCM with and without key derivation and signature
_SUITES_V2 = frozenset((0x0478, 0x0578))
_MOST_KEYS = 100
_KMS = b"aws-kms"


class _Reader:
    """Reads big-endian fields of bytes; past the end it reads nothing, and says so in `complete`."""

    def __init__(self, raw: bytes, at: int) -> None:
        self._raw, self._at, self.complete = raw, at, True

    def take(self, size: int) -> bytes:
        part = self._raw[self._at : self._at + size]
        self._at += size
        self.complete = self.complete and len(part) == size
        return part

    def number(self, size: int = 2) -> int:
        return int.from_bytes(self.take(size), "big")


@in_bytes(
    "aws-encryption-sdk",
    starts=(b"\x01\x80", b"\x02\x04", b"\x02\x05"),
    advice=Advice(
        identified_by=IdentifiedBy.MARKER,
        steps="give the keyring both wrapping keys, then encrypt every value again",
        source="the SDK's message format reference",
    ),
)
def aws_encryption_sdk(raw: bytes) -> Recognised | None:
    """Recognises messages of the AWS Encryption SDK, versions 1 and 2: the whole header is parsed.

    Keys are named as ``provider/key``, a KMS key by its ARN alone.
    """
    version_1 = raw.startswith(b"\x01\x80")
    reader = _Reader(raw, 2 if version_1 else 1)
    if reader.number() not in (_SUITES_V1 if version_1 else _SUITES_V2):
        return None
    reader.take(16 if version_1 else 32)
    reader.take(reader.number())  # the encryption context
    names = _key_names(reader)
    content_type = reader.number(1)
    reader.take(5 if version_1 else 0)  # reserved; iv length
    reader.take(4)  # frame length
    is_whole = reader.complete and names is not None and content_type in (1, 2)
    return Recognised("aws-encryption-sdk", key_id(names)) if is_whole else None


def _key_names(reader: _Reader) -> str | None:
    count = reader.number()
    if not 1 <= count <= _MOST_KEYS:
        return None
    names: list[str] = []
    for _ in range(count):
        provider, information = reader.take(reader.number()), reader.take(reader.number())
        if not reader.take(reader.number()):
            return None
        names.append(_name(provider, information))
    return " ".join(names)


def _name(provider: bytes, information: bytes) -> str:
    """Raw keyrings append lengths of tag and iv and the iv itself to the key's name."""
    if provider.startswith(_KMS):
        return information.decode("latin-1")
    raw_keyring = len(information) > 20 and information[-20:-12] == b"\x00\x00\x00\x80\x00\x00\x00\x0c"  # noqa: PLR2004
    name = information[:-20] if raw_keyring else information
    return f"{provider.decode('latin-1')}/{name.decode('latin-1')}"
