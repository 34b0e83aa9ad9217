"""Defines what a folder of `formats` brings for the values of a library that reads one key."""

from base64 import b64encode
from binascii import a2b_base64, b2a_base64
from typing import Protocol

# Of what Ruby's ``pack("m")``, which is `Base64.encode64`, writes in a line.
_LINE_BYTES = 45


class ClosedError(ValueError):
    """A value is not of this source, or not under its key; says nothing of the value."""


class Source(Protocol):
    """A library's format under one key. What a folder in `formats` brings as ``codec.source(name, key, options)``."""

    def opened(self, stored: bytes) -> bytes:
        """Decrypts a value as it stands in the column: text in ASCII, or bytes.

        Raises:
            ClosedError: it is not exactly what the library writes under this key.
        """

    def sealed(self, text: bytes) -> bytes:
        """Encrypts a text in UTF-8 as the library does."""


def canonical_base64(stored: bytes) -> bytes:
    """Decodes standard base64 exactly as libraries write it: with padding, and without white space.

    Raises:
        ClosedError: it is anything else.
    """
    try:
        raw = a2b_base64(stored, strict_mode=True)
    except ValueError:
        raise ClosedError from None
    if b64encode(raw) != stored:
        raise ClosedError
    return raw


def in_lines(raw: bytes) -> bytes:
    """Encodes base64 as Ruby's ``pack("m")`` writes it: in lines of 60 characters, the last one ended, too."""
    return b"".join(b2a_base64(raw[at : at + _LINE_BYTES]) for at in range(0, len(raw), _LINE_BYTES))
