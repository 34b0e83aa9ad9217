"""Tries the recognisers of all formats on one value: those whose first characters fit, and those that need no start."""

from functools import lru_cache
from importlib import import_module

from keyrotation_pipeline.fieldcrypto.format_advice import Advice

# Importing a recogniser enters it. Those of most structure come first: of bytes that begin as Tink's do, and of texts
# with a colon in them.
from keyrotation_pipeline.fieldcrypto.formats.recognised import (  # noqa: F401
    aws_encryption_sdk,
    byte_headers,
    byte_values,
    json_envelopes,
    key_services,
    openpgp,
    text_grammars,
    text_prefixes,
    text_values,
)
from keyrotation_pipeline.fieldcrypto.formats.recogniser import (
    ADVICE,
    OF_BYTES,
    OF_BYTES_ENDING,
    OF_TEXT,
    OF_TEXT_CONTAINING,
    OF_TEXT_ENDING,
    OfBeginning,
    Recognised,
)
from keyrotation_pipeline.fieldcrypto.formats.registry import SPECS

for _spec in SPECS.values():
    if _spec.advice is not None:
        import_module(f"{_spec.package}.recognise")
        ADVICE[_spec.name] = _spec.advice


def known_advice(name: str) -> Advice | None:
    """Returns what can be done about values of a format; None: none is recognised by that name."""
    return ADVICE.get(name)


@lru_cache(4096)
def _beginning(two: str) -> tuple[OfBeginning, ...]:
    """Returns the recognisers of texts that begin with these characters; those of one character are tried last."""
    return (*OF_TEXT.get(two, ()), *(OF_TEXT.get(two[:1], ()) if len(two) > 1 else ()))


def recognise_text(text: str) -> Recognised | None:
    """Returns the format of a text without white space around it."""
    length = len(text)
    for start, least, recognise in _beginning(text[:2]):
        if length >= least and text.startswith(start) and (found := recognise(text)) is not None:
            return found
    for end, recognise in OF_TEXT_ENDING.get(text[-1:], ()):
        if text.endswith(end) and (found := recognise(text)) is not None:
            return found
    for least, inside, recognise in OF_TEXT_CONTAINING:
        if length >= least and inside in text and (found := recognise(text)) is not None:
            return found
    return None


def recognise_bytes(raw: bytes) -> Recognised | None:
    """Returns the format of bytes, as bytea holds them or base64 and hex decode to them."""
    for start, recognise in OF_BYTES.get(raw[:1], ()):
        if raw.startswith(start) and (found := recognise(raw)) is not None:
            return found
    for end, recognise in OF_BYTES_ENDING.get(raw[-1:], ()):
        if raw.endswith(end) and (found := recognise(raw)) is not None:
            return found
    return None
