"""Tries the recognisers of all formats on one value: those whose first characters fit, and those that need no start."""

# Importing them enters their recognisers. Of bytes those of more structure come first: an SDK message and a label of
# Cloak begin with Tink's byte as well.
from keyrotation_pipeline.fieldcrypto.formats import (  # noqa: F401
    aws_encryption_sdk,
    byte_values,
    openpgp,
    text_values,
)
from keyrotation_pipeline.fieldcrypto.formats.recogniser import OF_BYTES, OF_TEXT, OF_TEXT_CONTAINING, Recognised


def recognise_text(text: str) -> Recognised | None:
    """Returns the format of a text without white space around it."""
    for start, recognise in OF_TEXT.get(text[:1], ()):
        if text.startswith(start) and (found := recognise(text)) is not None:
            return found
    for inside, recognise in OF_TEXT_CONTAINING:
        if inside in text and (found := recognise(text)) is not None:
            return found
    return None


def recognise_bytes(raw: bytes) -> Recognised | None:
    """Returns the format of bytes, as bytea holds them or base64 and hex decode to them."""
    for start, recognise in OF_BYTES.get(raw[:1], ()):
        if raw.startswith(start) and (found := recognise(raw)) is not None:
            return found
    return None
