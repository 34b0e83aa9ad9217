"""Reads one sampled value: the format it is in, or the bytes that its encoding stands for, or neither.

A format is found in the value itself, behind a prefix (``enc:``, ``{cipher}``, ``ENC(…)``), and inside base64 or hex;
bytes that are ASCII are read as text.
"""

import re
from collections.abc import Sequence
from itertools import islice
from operator import itemgetter
from typing import NamedTuple

from keyrotation_pipeline.fieldcrypto.formats.recogniser import (
    BEGINNINGS,
    BEGINNINGS_OF_BASE64,
    Recognised,
    from_base64,
    from_base64url,
    from_hex,
)
from keyrotation_pipeline.fieldcrypto.formats.recognition import recognise_bytes, recognise_text

# One block of AES, or a tag alone: less than this is no ciphertext. In base64 it is 22 characters.
SHORTEST_BYTES = 16
SHORTEST_CHARS = 22
_HEAD_CHARS = 200
# Formats with spaces: JSON and armor, also behind a prefix.
_ARMOR = "-----BEGIN"
_WITH_SPACES = re.compile(rf'(?:.{{0,120}}[:$|!#~}})(\]/>=;_-])?(?:\{{\s*"|{_ARMOR})')
# Encodings around encodings that are followed: bytea of ASCII of base64 of a token.
_DEEPEST = 3

# Possessive, so that a character at the end of a megabyte that does not fit is no reason to go back.
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]++={0,2}\Z")
_WRAPPED_BASE64 = re.compile(r"[A-Za-z0-9+/]{32,}+\r?\n[A-Za-z0-9+/=\r\n]++\Z")
_PREFIX = re.compile(
    r"[$!]?[A-Za-z0-9][\w.+-]{0,31}(?:://|[:$|!#~]{1,3})|\{[\w.+:-]{1,32}\}|\[[\w.+:-]{1,32}\]|<[\w.+:-]{1,32}>|"
    r"[A-Za-z][\w.-]{1,31}[({]|(?:v[0-9]{1,3}|[Ee][Nn][Cc]\w{0,7}|[Aa][Ee][Ss]\w{0,8})\.|(?:enc|ENC)[_-]|ENC\[|\||"
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.",
    re.ASCII,
)
_MOST_PREFIXES = 3
# Beginnings that no other text has where a word could begin: behind these, whatever the prefix looks like.
_MARKERS = re.compile(rf"(?<![A-Za-z0-9+])(?:{'|'.join(BEGINNINGS)})")
_LONGEST_PREFIX, _MOST_MARKERS = 48, 4
_CLOSING_OF = {"(": ")", "{": "}", "[": "]", "|": "|"}
_CLOSING = "]})>\"';!"
_CHARACTER = "[A-Za-z0-9+/_=-]"
_SEPARATORS = ":.|$,;*"
_SEPARATING = frozenset(_SEPARATORS)
_PARTS = re.compile(rf"({_CHARACTER}{{16,48}}+)(::|[{_SEPARATORS}])({_CHARACTER}{{2,}}+)(?:\2({_CHARACTER}{{2,}}+))?\Z")
# An iv of 16 bytes at the end, in base64 and hex; the separator stands before so many characters.
_IV_LAST = re.compile(rf"({_CHARACTER}{{2,}}+)(::|[{_SEPARATORS}])({_CHARACTER}{{22,32}}+)()\Z")
_IV_LAST_AT = itemgetter(-25, -33, -23)
_IV_BYTES, _TAG_BYTES = (12, 16, 24), 16
# In base64, with padding or without, and in hex.
_IV_CHARS = frozenset((16, 22, 24, 32, 48))
_PREFIX_IN_BYTES = re.compile(rb"(?:%b){1,%d}" % (_PREFIX.pattern.encode("ascii"), _MOST_PREFIXES))
# Prefixes of what is no ciphertext: passwords' hashes name their algorithm, and tokens their version.
_HASHED = re.compile(
    r"\$?(?:pbkdf2|scrypt|bcrypt|argon2|sha\d|md5|hmac|hash|digest|apr1|s\$|[1256y]\$|2[abxy]?\$|scram)|\{(?:ssha|s?md5|sha|"
    r"crypt|pbkdf2|bcrypt|argon2|scrypt|noop)|v\d\.public\.",
    re.IGNORECASE,
)


class Reading(NamedTuple):
    """What one value is. Holds decoded bytes, so it is never shown.

    Args:
        hit: the format, or None.
        prefix: before the value, as the column's values may share it.
        wrapped: whether a token of text is inside base64 or hex once more.
        encoding: ``raw``, ``base64``, ``base64url`` or ``hex``; empty for what is none of it: plaintext.
        broken: whether a text has the characters of base64 and is none: base58 and base62 are so, mostly.
        raw: the bytes behind the encoding (and behind the prefix).
        text: the characters that encode them.
        parts: how many parts between separators the bytes are joined of, as in ``iv:ciphertext``; 0 for a whole.
        head: whether bytes that many values share were taken off.
    """

    hit: Recognised | None = None
    prefix: str = ""
    wrapped: bool = False
    encoding: str = ""
    broken: bool = False
    raw: bytes = b""
    text: str = ""
    parts: int = 0
    head: bool = False

    def __repr__(self) -> str:
        return f"Reading({self.hit!r}, {self.encoding or 'plain'}, {len(self.raw)} bytes)"


# Of every value in which nothing is found.
PLAIN = Reading()
_BROKEN = Reading(broken=True)


def read(value: str | bytes) -> Reading:
    """Reads one value."""
    return _read_text(value.strip(), 0) if isinstance(value, str) else _read_bytes(value, 0)


def _read_text(text: str, depth: int) -> Reading:
    if len(text) < SHORTEST_CHARS:
        return PLAIN
    if " " in text and not (("{" in text or _ARMOR in text) and _WITH_SPACES.match(text)):
        return PLAIN
    hit = recognise_text(text)
    if hit is not None and not hit.weak:
        return Reading(hit)
    if hit is None and (marked := _read_at_marker(text, depth)) is not None:
        return marked
    if _BASE64.match(text) or text.startswith("\\x") or ("\n" in text and _WRAPPED_BASE64.match(text)):
        decoded = _decoded(text)
        inner = _read_encoded(*decoded, depth) if decoded else PLAIN if _is_in_one_case(text) else _BROKEN
    else:
        inner = _read_parts(text) or _read_behind_prefix(text, depth)
    if hit is not None:
        inner = inner._replace(hit=hit, wrapped=False, prefix="")
    return inner


def _read_at_marker(text: str, depth: int) -> Reading | None:
    """Reads a value that begins with a marker, behind any prefix that ends with a separator: ``enc=``, ``__enc__``."""
    # One that is repeated on and on is nobody's prefix, and each is looked for in the whole text.
    markers = _MARKERS.finditer(text[: _LONGEST_PREFIX + len("-----BEGIN PGP")])
    for marker in islice(markers, _MOST_MARKERS):
        prefix, rest = text[: marker.start()], text[marker.start() :]
        for value in (rest, rest.rstrip(_CLOSING)) if prefix else ():
            hit = recognise_text(value)
            if hit is None and marker[0] in BEGINNINGS_OF_BASE64 and (decoded := _decoded(value)):
                hit = _read_encoded(*decoded, depth).hit
            if hit is not None and not hit.weak:
                return Reading(hit, prefix)
    return None


def _decoded(text: str) -> tuple[str, bytes, str] | None:
    """Returns encoding, bytes and the characters that encode them; hex may have PostgreSQL's prefix, or C's."""
    digits = text[2:] if text.startswith(("\\x", "0x")) else text
    if (raw := from_hex(digits)) is not None:
        return "hex", raw, digits
    if "\n" in text and _WRAPPED_BASE64.match(text):
        text = text.replace("\n", "").replace("\r", "")
    if _is_in_one_case(text) or not _BASE64.match(text):
        return None
    if "-" in text or "_" in text:
        encoding, raw = "base64url", from_base64url(text)
    else:
        encoding = "base64" if len(text) % 4 == 0 or "+" in text or "/" in text else "base64url"
        raw = from_base64(text if len(text) % 4 == 0 else text + "=" * (-len(text) % 4))
    return None if raw is None else (encoding, raw, text)


def _is_in_one_case(text: str) -> bool:
    """Returns whether a text is of words and numbers that have the characters of base64, but not its cases."""
    head = text[:_HEAD_CHARS]
    return head.islower() or head.isupper()


def _read_encoded(encoding: str, raw: bytes, characters: str, depth: int) -> Reading:
    """Reads what base64 or hex stand for: a format of bytes, a text, or bytes that nothing marks."""
    if len(raw) < SHORTEST_BYTES:
        return PLAIN
    hit = recognise_bytes(raw)
    if hit is not None and not hit.weak:
        return Reading(hit)
    if raw.isascii():
        inner = _read_text(raw.decode("ascii").strip(), depth + 1) if depth < _DEEPEST else PLAIN
        return inner._replace(wrapped=True) if inner.hit or inner.encoding else PLAIN
    return Reading(hit, encoding=encoding, raw=raw, text=characters)


def _read_parts(text: str) -> Reading | None:
    """Reads ``iv:ciphertext`` and ``iv:tag:ciphertext`` (in any order of these), in hex or base64, by any separator."""
    match = _PARTS.match(text)
    if match is None and len(text) > _LONGEST_PREFIX and not _SEPARATING.isdisjoint(_IV_LAST_AT(text)):
        match = _IV_LAST.match(text)
    if match is None:
        return None
    first, second, third = match[1], match[3], match[4]
    if len(first) not in _IV_CHARS and (third or len(second) not in _IV_CHARS):
        return None
    parts = [part for part in (first, second, third) if part]
    encoding = "hex" if all(from_hex(part) for part in parts) else "base64"
    raws = [_part_bytes(part, encoding) for part in parts]
    if not all(raws) or not _have_sizes_of_parts([len(raw) for raw in raws]):
        return None
    # The bits of a last character are not all free.
    characters = "".join([part.rstrip("=")[:-1] for part in parts])
    return Reading(encoding=encoding, raw=b"".join(raws), text=characters, parts=len(parts))


def _have_sizes_of_parts(sizes: Sequence[int]) -> bool:
    """Returns whether an iv comes first, with a tag among three parts; or last, of two."""
    first, *rest = sizes
    if first in _IV_BYTES:
        return len(rest) == 1 or _TAG_BYTES in rest
    return len(rest) == 1 and rest[0] == _TAG_BYTES


def _part_bytes(part: str, encoding: str) -> bytes:
    raw = from_hex(part) if encoding == "hex" else from_base64(part) or from_base64url(part)
    return raw or b""


def _read_behind_prefix(text: str, depth: int) -> Reading:
    """Reads what stands behind up to three prefixes; the shortest one behind which something is found."""
    at = 0
    for _ in range(_MOST_PREFIXES):
        prefix = _PREFIX.match(text, at)
        if prefix is None:
            return PLAIN
        at = prefix.end()
        closed = text.endswith(_CLOSING_OF.get(prefix[0][-1], "\0"))
        rest = text[at:-1] if closed else text[at:]
        if len(rest) < SHORTEST_CHARS:
            return PLAIN
        hit = recognise_text(rest)
        if hit is not None and not hit.weak:
            return Reading(hit, text[:at])
        decoded = None if _HASHED.match(text) else _decoded(rest)
        inner = _read_encoded(*decoded, depth) if decoded else _read_parts(rest) or PLAIN
        if hit is not None or inner is not PLAIN:
            return inner._replace(hit=hit or inner.hit, prefix=text[:at])
    return PLAIN


def _read_bytes(raw: bytes, depth: int) -> Reading:
    if len(raw) < SHORTEST_BYTES:
        return PLAIN
    hit = recognise_bytes(raw)
    if hit is not None and not hit.weak:
        return Reading(hit)
    if (text := _as_text(raw)) is not None:
        return _read_text(text.strip(), depth)
    prefix = _PREFIX_IN_BYTES.match(raw)
    if hit is None and prefix is not None and (behind := recognise_bytes(raw[prefix.end() :])) is not None:
        return Reading(behind, prefix[0].decode("ascii"), encoding="raw", raw=raw)
    return Reading(hit, prefix[0].decode("ascii") if prefix else "", encoding="raw", raw=raw)


def _as_text(raw: bytes) -> str | None:
    """Decodes UTF-8; random bytes are none after some ten of them."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return None


def companion_bytes(value: str | bytes) -> int | None:
    """Returns the size of what may be an IV, a salt or a tag in a column of its own: base64, hex or raw bytes."""
    if isinstance(value, bytes):
        return len(value)
    text = value.strip()
    raw = from_hex(text) or from_base64(text) or from_base64url(text)
    return None if raw is None else len(raw)
