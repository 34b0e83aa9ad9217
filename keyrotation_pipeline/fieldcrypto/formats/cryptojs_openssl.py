"""Recognises what OpenSSL's ``enc`` and crypto-js write under a passphrase: ``Salted__ ‖ salt8 ‖ AES-CBC``."""

from keyrotation_pipeline.fieldcrypto.formats.recogniser import Recognised

NAME = "cryptojs-openssl"
STARTS = (b"Salted__",)
HEAD_BYTES = 16
BLOCK_BYTES = 16


def recognise(raw: bytes) -> Recognised | None:
    """Recognises one value, after its base64."""
    blocks, rest = divmod(len(raw) - HEAD_BYTES, BLOCK_BYTES)
    return Recognised(NAME) if raw.startswith(b"Salted__") and blocks >= 1 and rest == 0 else None
