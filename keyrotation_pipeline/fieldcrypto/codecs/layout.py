"""Parses how an application lays out its AES-GCM values, as in ``b64(nonce12 ct tag16)``.

A layout is text with one or more groups. A group is an encoding (`b64`, `b64url`, `hex`, `raw` for bytea, or `b64lines`
for the base64 of Ruby's ``pack("m")``, which ends each line of 60 characters with a line feed) and, in brackets, the
parts that it encodes together: one of `nonce12` and `nonce16`, `tag16`, and `ct`, the ciphertext. Any text before,
between and after groups stands in every value as it is: a marker, a separator. `raw` may begin with bytes that do, in
hexadecimal digits, as in ``raw(0x01 nonce12 ct tag16)``.

A semicolon divides the layout of a value whose nonce is in a column of its own, as in ``b64(ct tag16); b64(nonce12)``.
Both columns are then read as one text with a semicolon between them, raw bytes in hex.
"""

import re
from base64 import b64encode
from binascii import Error as Base64Error
from binascii import a2b_base64, a2b_hex, b2a_hex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Protocol

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyrotation_pipeline.errors import InvalidLayoutError
from keyrotation_pipeline.fieldcrypto.codecs.source import in_lines
from keyrotation_pipeline.fieldcrypto.codecs.value_format import BETWEEN
from keyrotation_pipeline.fieldcrypto.native import CompiledEncoding, CompiledFormat, Nonces

TAG_BYTES = 16
_TO_URL_SAFE, _TO_STANDARD = bytes.maketrans(b"+/", b"-_"), bytes.maketrans(b"-_", b"+/")
_HOW = 'write it as in "b64(nonce12 ct tag16)", "hex(nonce12):hex(tag16):hex(ct)" or "raw(nonce12 ct tag16)"'


class Encoding(StrEnum):
    """How the bytes of a group are written."""

    RAW = "raw"
    B64 = "b64"
    B64URL = "b64url"
    B64LINES = "b64lines"
    HEX = "hex"


class Part(StrEnum):
    """What a group holds."""

    NONCE = "nonce"
    TAG = "tag"
    CIPHERTEXT = "ct"


_PARTS: Mapping[str, tuple[Part, int]] = MappingProxyType(
    {
        "nonce12": (Part.NONCE, 12),
        "nonce16": (Part.NONCE, 16),
        "tag16": (Part.TAG, TAG_BYTES),
        "ct": (Part.CIPHERTEXT, 0),
    }
)
# What a group may look like, without its length; PostgreSQL reads the patterns of the text encodings the same way.
_PATTERNS: Mapping[Encoding, str] = MappingProxyType(
    {
        Encoding.B64: "[A-Za-z0-9+/]*={0,2}",
        Encoding.B64URL: "[A-Za-z0-9_-]*={0,2}",
        Encoding.B64LINES: r"[A-Za-z0-9+/=\n]*",
        Encoding.HEX: "[0-9a-f]*|[0-9A-F]*",
    }
)
_ALPHABETS: Mapping[Encoding, str] = MappingProxyType(
    {
        Encoding.B64: "[A-Za-z0-9+/=]",
        Encoding.B64URL: "[A-Za-z0-9_=-]",
        Encoding.B64LINES: r"[A-Za-z0-9+/=\n]",
        Encoding.HEX: "[0-9A-Fa-f]",
    }
)
_LONGEST_COMPILED_LITERAL = 64
_GROUP = re.compile(r"(raw|b64url|b64lines|b64|hex)\(([a-z0-9 ]+)\)")
_HEAD = re.compile(r"raw\( *0x((?:[0-9a-f]{2})+) ")


@dataclass(frozen=True, slots=True)
class Sealed:
    """The parts of one stored value.

    Args:
        body: ciphertext and tag, as AEAD functions take them.
        written: the text of each group as it was found.
    """

    nonce: bytes
    body: bytes
    written: tuple[bytes, ...] = ()


class AeadCipher(Protocol):
    """One key, ready for use; `AESGCM` is one."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        """Returns ciphertext and tag."""

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        """Returns the plaintext of ciphertext and tag.

        Raises:
            InvalidTag: they are not authentic under this key.
        """


@dataclass(frozen=True, slots=True)
class _Group:
    encoding: Encoding
    parts: tuple[tuple[Part, int], ...]

    @property
    def is_raw(self) -> bool:
        return self.encoding is Encoding.RAW

    @property
    def fixed_bytes(self) -> int:
        return sum(size for _, size in self.parts)

    @property
    def grows(self) -> bool:
        return any(part is Part.CIPHERTEXT for part, _ in self.parts)

    @property
    def has_one_length(self) -> bool:
        """Whether it is written as so many characters in every value: with padding or without is all the same."""
        return self.encoding in {Encoding.HEX, Encoding.B64LINES} or self.fixed_bytes % 3 == 0


class Layout:
    """Takes values apart and puts them together; knows no key.

    Args:
        text: as in `[format] layout`.

    Raises:
        InvalidLayoutError: it is no layout, or values could be read in two ways.

    Attributes:
        key_bytes: how long a key must be; 0: as any of AES.
    """

    def __init__(self, text: str) -> None:
        self.text, self.key_bytes = text, 0
        self.is_pair = BETWEEN in text
        self._groups, self._literals = _parsed(_of_both(text) if self.is_pair else text)
        self.nonce_bytes = next(size for each in self._groups for part, size in each.parts if part is Part.NONCE)
        self.is_binary = any(each.is_raw for each in self._groups)
        pattern = re.escape(self.head) + b"(.*)" if self.is_binary else self.pattern.encode()
        self._form = re.compile(pattern, re.DOTALL)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    @property
    def head(self) -> bytes:
        """How every value begins."""
        return self._literals[0]

    @property
    def pattern(self) -> str:
        """What every value of text matches; lengths and padding are judged by `split` alone."""
        groups = [f"({_PATTERNS[each.encoding]})" for each in self._groups]
        literals = [re.escape(literal.decode()) for literal in self._literals]
        return literals[0] + "".join(map(str.__add__, groups, literals[1:]))

    def cipher(self, key: bytes) -> AeadCipher:
        """Returns what encrypts and decrypts under a key."""
        return AESGCM(key)

    def within(self, text: bytes) -> Sealed | None:
        """Returns the parts of a value in a plaintext that is nothing else; None: it is another text."""
        return self.split(text)

    def compiled(self, *, bound: bool = False) -> CompiledFormat | None:
        """Returns the layout as the compiled codec takes it; None: it does not know such a one.

        Args:
            bound: each value is read with its associated data.
        """
        if max(map(len, self._literals)) > _LONGEST_COMPILED_LITERAL:
            return None
        if len(self._groups) > 1 and not all(each.grows or each.has_one_length for each in self._groups):
            return None
        groups = tuple(
            (CompiledEncoding[group.encoding.name], "".join(part[0] for part, _ in group.parts).encode(), after)
            for group, after in zip(self._groups, self._literals[1:], strict=True)
        )
        layout = (self.head, self.nonce_bytes, groups, bound, Nonces.RANDOM)
        return CompiledFormat("layout", layout=layout)

    @property
    def shortest_bytes(self) -> int:
        """The length of the value of an empty plaintext, without padding."""
        return sum(map(len, self._literals)) + sum(_length(each.encoding, each.fixed_bytes) for each in self._groups)

    def split(self, value: bytes) -> Sealed | None:
        """Returns the parts of a stored value; None for anything that this layout never writes."""
        match = self._form.fullmatch(value)
        if match is None:
            return None
        found: dict[Part, bytes] = {}
        for group, written in zip(self._groups, match.groups(), strict=True):
            content = _decoded(group.encoding, written)
            if content is None or not _fits(group, len(content)):
                return None
            found |= _cut(group, content)
        written = match.groups()
        if _is_upper(self._hex(written)) is None:
            return None
        return Sealed(found[Part.NONCE], found[Part.CIPHERTEXT] + found[Part.TAG], written)

    def join(self, nonce: bytes, body: bytes, like: Sealed | None = None) -> bytes:
        """Returns a stored value.

        Args:
            body: ciphertext and tag.
            like: the value that it replaces, of the same length: the new one is padded, and has its digits, as that.
        """
        content = {Part.NONCE: nonce, Part.CIPHERTEXT: body[:-TAG_BYTES], Part.TAG: body[-TAG_BYTES:]}
        upper = like is not None and _is_upper(self._hex(like.written)) is True
        pieces = [self.head]
        for number, group in enumerate(self._groups):
            written = _encoded(group.encoding, b"".join(content[part] for part, _ in group.parts))
            if like is not None:  # of the same length, unless without its padding
                written = written[: len(like.written[number])]
            pieces += [
                written.upper() if upper and group.encoding is Encoding.HEX else written,
                self._literals[number + 1],
            ]
        return b"".join(pieces)

    def _hex(self, written: Sequence[bytes]) -> bytes:
        return b"".join(
            text for group, text in zip(self._groups, written, strict=True) if group.encoding is Encoding.HEX
        )


def _of_both(text: str) -> str:
    """Returns the layout of the text as which two columns are read."""
    value, *others = text.split(BETWEEN)
    sides = [value.strip(), *(each.strip() for each in others)]
    nonces = [[part for match in _GROUP.finditer(side) for part in match[2].split()] for side in sides]
    if len(sides) > 2 or [each[:5] for each in nonces[1]] != ["nonce"]:  # noqa: PLR2004
        raise InvalidLayoutError(
            f"layout {text!r} has a semicolon, behind which nothing but the nonce in its own column stands; write it "
            'as in "b64(ct tag16); b64(nonce12)"'
        )
    for side in sides:
        if "raw(" in side and not _GROUP.fullmatch(side):
            raise InvalidLayoutError(f"layout {text!r}: raw bytes are a column of their own; {_HOW}")
    return BETWEEN.join(side.replace("raw(", "hex(") for side in sides)


def _parsed(declared: str) -> tuple[tuple[_Group, ...], tuple[bytes, ...]]:
    head = _HEAD.search(declared)
    text = declared.replace(head[0], "raw(", 1) if head else declared
    literals = _GROUP.split(text)[::3]
    groups = tuple(_group(match) for match in _GROUP.finditer(text))
    parts = [part for group in groups for part, _ in group.parts]
    if sorted(parts) != sorted(Part):
        raise InvalidLayoutError(
            f"layout {declared!r} does not hold each of nonce12 or nonce16, ct and tag16 once; {_HOW}"
        )
    if any(not each.isprintable() or not each.isascii() or set("()") & set(each) for each in literals):
        raise InvalidLayoutError(f"layout {declared!r} has text that is neither a group nor plain ASCII; {_HOW}")
    if any(each.is_raw for each in groups) and (len(groups) > 1 or literals[-1]):
        raise InvalidLayoutError(f"layout {declared!r}: after raw bytes nothing can follow; {_HOW}")
    for number, after in enumerate(literals[1:], 1):
        neighbours = [_ALPHABETS[each.encoding] for each in groups[number - 1 : number + 1] if not each.is_raw]
        if (not after and number < len(groups)) or any(re.search(each, after) for each in neighbours):
            raise InvalidLayoutError(
                f"layout {declared!r}: {after!r} does not end a group, since the group may hold it; put the parts into "
                "one group if nothing separates them"
            )
    begins, *others = (each.encode() for each in literals)
    return groups, (begins + bytes.fromhex(head[1] if head else ""), *others)


def _group(match: re.Match[str]) -> _Group:
    names = match[2].split()
    if unknown := [name for name in names if name not in _PARTS]:
        raise InvalidLayoutError(
            f"layout part {unknown[0]!r} is not known; the parts are nonce12 or nonce16, ct and tag16"
        )
    return _Group(Encoding(match[1]), tuple(_PARTS[name] for name in names))


def _fits(group: _Group, size: int) -> bool:
    return size >= group.fixed_bytes if group.grows else size == group.fixed_bytes


def _cut(group: _Group, content: bytes) -> dict[Part, bytes]:
    found, at = {}, 0
    for part, size in group.parts:
        end = at + (len(content) - group.fixed_bytes if part is Part.CIPHERTEXT else size)
        found[part], at = content[at:end], end
    return found


def _length(encoding: Encoding, size: int) -> int:
    match encoding:
        case Encoding.RAW:
            return size
        case Encoding.HEX:
            return 2 * size
        case Encoding.B64 | Encoding.B64URL | Encoding.B64LINES:
            return -(-4 * size // 3)


def _decoded(encoding: Encoding, written: bytes) -> bytes | None:
    """Returns the bytes of a group, if it is written as an encoder writes them: with all of its padding or none."""
    if encoding is Encoding.RAW:
        return written
    try:
        if encoding is Encoding.HEX:
            return a2b_hex(written)
        if encoding is Encoding.B64LINES:
            content = a2b_base64(written)
            return content if _encoded(encoding, content) == written else None
        standard = written.translate(_TO_STANDARD) if encoding is Encoding.B64URL else written
        content = a2b_base64(standard + b"=" * (-len(written) % 4))
    except (Base64Error, ValueError):
        return None
    whole = _encoded(encoding, content)
    return content if written in (whole, whole.rstrip(b"=")) else None


def _encoded(encoding: Encoding, content: bytes) -> bytes:
    match encoding:
        case Encoding.RAW:
            return content
        case Encoding.HEX:
            return b2a_hex(content)
        case Encoding.B64:
            return b64encode(content)
        case Encoding.B64LINES:
            return in_lines(content)
        case Encoding.B64URL:
            return b64encode(content).translate(_TO_URL_SAFE)


def _is_upper(digits: bytes) -> bool | None:
    """Returns whether hex digits are upper case; None: both cases occur."""
    upper, lower = digits != digits.lower(), digits != digits.upper()
    return None if upper and lower else upper
