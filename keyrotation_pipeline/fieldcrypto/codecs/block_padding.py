"""Pads AES blocks, by which a value without a tag shows whether it was opened rightly."""

from cryptography.hazmat.primitives.padding import ANSIX923, PKCS7

from keyrotation_pipeline.fieldcrypto.codecs.source import ClosedError

BLOCK_BYTES = 16
BY_PKCS7 = PKCS7(8 * BLOCK_BYTES)


def padded(text: bytes, padding: PKCS7 | ANSIX923 = BY_PKCS7) -> bytes:
    """Returns a text with 1 to 16 bytes behind it, of which the last says how many they are."""
    padder = padding.padder()
    return padder.update(text) + padder.finalize()


def unpadded(text: bytes, padding: PKCS7 | ANSIX923 = BY_PKCS7) -> bytes:
    """Returns a text without its padding.

    Raises:
        ClosedError: it does not end with exactly such bytes.
    """
    unpadder = padding.unpadder()
    try:
        return unpadder.update(text) + unpadder.finalize()
    except ValueError:
        raise ClosedError from None
