"""What all recognisers share: the tables that they are entered in, what they report, and strict decoders.

Each recogniser is entered with what can be done about its values; that of a format with a spec is told by it.

A decoder of base64, base64url, hex or JSON returns None where a text is none of it, and never raises.
"""

import binascii
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from keyrotation_pipeline.fieldcrypto.format_advice import Advice

GCM_IV_BYTES, TAG_BYTES, BLOCK_BYTES = 12, 16, 16
SHORTEST_GCM_BYTES = GCM_IV_BYTES + TAG_BYTES


@dataclass(frozen=True, slots=True)
class Recognised:
    """A value has the structure of a format.

    Args:
        format: its name.
        key_id: of the key that encrypted the value, where the value names one, as the library's users write it.
        weak: the structure is fulfilled by chance once in some thousand random values, so that only several values
            that name the same key are evidence.
        or_hmac: an HMAC of the same library would look the same; all of a column have the size of a digest.
        in_base64: little but base64 of these sizes makes the structure, which tokens of letters and digits have, too.
        by_size: its parts have these sizes, as other data may: lengths that vary are needed, too.
        body: bytes on which a judgement of several values rests (never shown).
    """

    format: str
    key_id: str | None = None
    weak: bool = False
    or_hmac: bool = False
    in_base64: bool = False
    by_size: bool = False
    body: bytes = field(default=b"", repr=False)


OfText = Callable[[str], Recognised | None]
OfBytes = Callable[[bytes], Recognised | None]
# How texts begin, the least number of characters of one that is recognised, and by what.
OfBeginning = tuple[str, int, OfText]

# Every recogniser by the names of its formats; and by the first character, or the first two, in the order in which they
# are tried.
RECOGNISERS: Final[dict[str, OfText | OfBytes]] = {}
OF_TEXT: Final[dict[str, list[OfBeginning]]] = {}
OF_BYTES: Final[dict[bytes, list[tuple[bytes, OfBytes]]]] = {}
# They begin with any character; those that end so, by the last one.
OF_TEXT_CONTAINING: Final[list[tuple[int, str, OfText]]] = []
OF_TEXT_ENDING: Final[dict[str, list[tuple[str, OfText]]]] = {}
OF_BYTES_ENDING: Final[dict[bytes, list[tuple[bytes, OfBytes]]]] = {}
ADVICE: Final[dict[str, Advice]] = {}
# Patterns of beginnings that no other text has where a word could begin: values are found behind any prefix by them;
# and those that are of base64, which is decoded first.
BEGINNINGS: Final[dict[str, None]] = {}
BEGINNINGS_OF_BASE64: Final[set[str]] = set()


def in_text(
    *names: str,
    starts: tuple[str, ...] = (),
    ends: tuple[str, ...] = (),
    contains: str = "",
    behind: str = "",
    least: int = 0,
    advice: Advice | None = None,
) -> Callable[[OfText], OfText]:
    """Enters a recogniser that is tried on texts that begin or end in one of these ways, or contain something.

    Args:
        least: characters of the shortest one, which spares the others a call.
    """

    def enter(recognise: OfText) -> OfText:
        _enter(names, recognise, advice, behind)
        for start in starts:
            OF_TEXT.setdefault(start[:2], []).append((start, least, recognise))
        for end in ends:
            OF_TEXT_ENDING.setdefault(end[-1], []).append((end, recognise))
        if contains:
            OF_TEXT_CONTAINING.append((least, contains, recognise))
        return recognise

    return enter


def in_bytes(
    *names: str, starts: tuple[bytes, ...] = (), ends: bytes = b"", behind: str = "", advice: Advice | None = None
) -> Callable[[OfBytes], OfBytes]:
    """Enters a recogniser that is tried on bytes that begin in one of these ways, or end so; `behind`: in base64."""

    def enter(recognise: OfBytes) -> OfBytes:
        _enter(names, recognise, advice, behind)
        BEGINNINGS_OF_BASE64.update(filter(None, [behind]))
        for start in starts:
            OF_BYTES.setdefault(start[:1], []).append((start, recognise))
        if ends:
            OF_BYTES_ENDING.setdefault(ends[-1:], []).append((ends, recognise))
        return recognise

    return enter


def _enter(names: tuple[str, ...], recognise: OfText | OfBytes, advice: Advice | None, behind: str) -> None:
    RECOGNISERS.update(dict.fromkeys(names, recognise))
    BEGINNINGS.update(dict.fromkeys(filter(None, [behind])))
    if advice is not None:
        ADVICE.update(dict.fromkeys(names, advice))


# Longer texts are no JSON envelope of one encrypted field, and parsing takes time.
LONGEST_JSON_CHARS = 8_000_000
# A key's name is shown: the length and characters of a name, so that no content passes as one.
LONGEST_KEY_ID_CHARS = 200

_HEX = re.compile(r"[0-9a-f]++\Z|[0-9A-F]++\Z")
_KEY_ID = re.compile(rf"[\w.:/@+ =-]{{1,{LONGEST_KEY_ID_CHARS}}}\Z", re.ASCII)
_URL_TO_STANDARD = str.maketrans("-_", "+/")


def from_base64(text: str) -> bytes | None:
    """Decodes standard base64 with its padding, without stray bits in the last byte."""
    try:
        raw = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:  # also what is not ASCII
        return None
    return raw if _is_canonical(text, raw) else None


def from_base64url(text: str) -> bytes | None:
    """Decodes base64url, with or without its padding."""
    if "+" in text or "/" in text:
        return None
    bare = text.rstrip("=") if text.endswith("=") else text
    if len(bare) % 4 == 1 or len(text) - len(bare) not in (0, -len(bare) % 4):
        return None
    return from_base64(bare.translate(_URL_TO_STANDARD) + "=" * (-len(bare) % 4))


def from_hex(text: str) -> bytes | None:
    """Decodes hex digits of one case."""
    return bytes.fromhex(text) if len(text) % 2 == 0 and _HEX.match(text) else None


def json_object(text: str | bytes | None) -> dict[str, Any] | None:
    """Parses a JSON object."""
    if text is None or len(text) > LONGEST_JSON_CHARS:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def base64_size(value: object) -> int | None:
    """Returns the number of bytes that standard base64 stands for; None for anything else."""
    raw = from_base64(value) if isinstance(value, str) else None
    return None if raw is None else len(raw)


def key_id(value: object) -> str | None:
    """Returns what a value names as its key, if that can be shown: a number, or a short text of a name's characters."""
    if isinstance(value, int):
        value = str(value)
    return value if isinstance(value, str) and _KEY_ID.match(value) else None


def _is_canonical(text: str, raw: bytes) -> bool:
    last_group = raw[(len(raw) - 1) // 3 * 3 :]
    return bool(raw) and text.endswith(binascii.b2a_base64(last_group, newline=False).decode("ascii"))
