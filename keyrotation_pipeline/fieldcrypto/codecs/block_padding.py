"""PKCS 7 padding of AES blocks, by which a value without a tag shows whether it was opened rightly."""

from keyrotation_pipeline.fieldcrypto.codecs.source import ClosedError

BLOCK_BYTES = 16


def padded(text: bytes) -> bytes:
    """Returns a text with 1 to 16 bytes behind it, each of which says how many they are."""
    size = BLOCK_BYTES - len(text) % BLOCK_BYTES
    return text + bytes([size]) * size


def unpadded(text: bytes) -> bytes:
    """Returns a text without its padding.

    Raises:
        ClosedError: it does not end with exactly such bytes.
    """
    size = text[-1] if text else 0
    if not 1 <= size <= BLOCK_BYTES or not text.endswith(bytes([size]) * size):
        raise ClosedError
    return text[:-size]
