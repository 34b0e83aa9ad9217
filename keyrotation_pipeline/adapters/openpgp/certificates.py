"""Reads one public certificate from gpg's listing."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from keyrotation_pipeline.errors import OpenPGPError
from keyrotation_pipeline.model.visible_text import is_hidden

# Colon listing (doc/DETAILS of GnuPG): kinds of lines, and positions of fields.
_PRIMARY_KEY, _SUBKEY, _USER_ID, _USER_ATTRIBUTE = b"pub", b"sub", b"uid", b"uat"
_EXPIRING = frozenset({_PRIMARY_KEY, _SUBKEY, _USER_ID, _USER_ATTRIBUTE})
_VALIDITY, _KEY_ID, _EXPIRES_AT, _CONTENT, _CAPABILITIES = 1, 4, 6, 9, 11
_ENDED = frozenset({b"e", b"r", b"i", b"d"})
_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})|\\([nrfvb0])")
_KEY_DATA, _ALGORITHM, _INDEX, _VALUE = b"pkd", 3, 1, 3
# Of the numbers of a public key, by its algorithm (RFC 4880, 9.1), the one that no two key pairs have in common.
_TELLING = {b"1": 0, b"2": 0, b"3": 0, b"16": 2, b"17": 3, b"18": 1, b"19": 1, b"20": 2, b"22": 1}
_NATIVE_POINT, _NATIVE_POINT_HEX_CHARS = "40", 66  # before a point of Curve25519, which has 32 bytes
_LETTERS = {b"n": b"\n", b"r": b"\r", b"f": b"\f", b"v": b"\v", b"b": b"\b", b"0": b"\0"}


@dataclass(frozen=True, slots=True)
class Certificate:
    """One public certificate, as it is now.

    Args:
        path: the file that it was read from, for messages.
        fingerprint: of the primary key, upper-case hex; this identifies a person.
        can_sign: it has a key for signing that is neither expired nor revoked.
        can_encrypt: the same for encryption.
        signs_until: when the last of those for signing expires; None: never.
        encrypts_until: the same for encryption.
        encryption_keys: long key ids (16 hex digits) of its keys for encryption, which a message names.
        expiries: when each of its keys and user ids expires, including past dates.
        raw_keys: of each of its keys, in hex, the number or point by which its pair is known in any format.
        content: the file's bytes.
    """

    path: Path
    fingerprint: str
    user_ids: tuple[str, ...]
    expired: bool
    revoked: bool
    can_sign: bool
    can_encrypt: bool
    signs_until: datetime | None
    encrypts_until: datetime | None
    encryption_keys: tuple[str, ...]
    expiries: tuple[datetime, ...]
    raw_keys: frozenset[str]
    content: bytes = field(repr=False)

    @property
    def label(self) -> str:
        """The name for messages; without the user id, which could hold anything."""
        return f"certificate {self.path.name} ({self.fingerprint[-16:]})"

    def require_valid(self) -> None:
        """Refuses an expired or revoked certificate.

        Raises:
            OpenPGPError: it is expired or revoked.
        """
        if self.revoked:
            raise OpenPGPError(f"{self.label} is revoked; name a new one in keyrotation.toml")
        if self.expired:
            raise OpenPGPError(f"{self.label} has expired; have its owner extend it and export it again")

    @property
    def is_recipient(self) -> bool:
        """Whether it can be encrypted to."""
        return self.can_encrypt and not self.expired and not self.revoked

    def require_recipient(self) -> None:
        """Refuses a certificate that cannot be encrypted to.

        Raises:
            OpenPGPError: it is expired, revoked, or has no usable key for encryption.
        """
        self.require_valid()
        if not self.can_encrypt:
            raise OpenPGPError(
                f"{self.label} has no usable key for encryption; have its owner add one and export it again"
            )


Listing = Sequence[Sequence[bytes]]


def listing(output: bytes) -> Listing:
    """Splits a colon listing into lines and fields; gpg escapes newlines and colons in what users wrote."""
    return [line.split(b":") for line in output.split(b"\n") if line]


def date_of(text: str) -> datetime | None:
    """Parses a date as gpg writes it, in seconds since 1970 or as ``20260105T120000``; None: never."""
    if "T" in text:
        return datetime.strptime(text, "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    return datetime.fromtimestamp(int(text), UTC) if text not in {"", "0"} else None


def listed_certificate(path: Path, content: bytes, lines: Listing) -> Certificate:
    """Parses a certificate's colon listing: validity ``r`` or ``e``; upper-case capabilities are usable ones.

    Raises:
        OpenPGPError: a user id holds characters that could make it display as something else.
    """
    primary = next(line for line in lines if line[0] == _PRIMARY_KEY)
    usable = primary[_CAPABILITIES].decode()
    keys = [line for line in lines if line[0] in {_PRIMARY_KEY, _SUBKEY}]
    return Certificate(
        path=path,
        # The primary key's comes first.
        fingerprint=next(line[_CONTENT].decode() for line in lines if line[0] == b"fpr"),
        user_ids=tuple(_user_id(path, line[_CONTENT]) for line in lines if line[0] == _USER_ID),
        expired=primary[_VALIDITY] == b"e",
        revoked=primary[_VALIDITY] == b"r",
        can_sign="S" in usable,
        can_encrypt="E" in usable,
        signs_until=_until(primary, keys, b"s"),
        encrypts_until=_until(primary, keys, b"e"),
        encryption_keys=tuple(key[_KEY_ID].decode() for key in keys if b"e" in key[_CAPABILITIES]),
        expiries=tuple(
            expiry
            for line in lines
            if line[0] in _EXPIRING and (expiry := date_of(line[_EXPIRES_AT].decode())) is not None
        ),
        raw_keys=frozenset(_raw_keys(lines)),
        content=content,
    )


def _raw_keys(lines: Listing) -> Iterator[str]:
    """Yields what tells each key: the modulus of RSA, the point of a curve."""
    telling: bytes | None = None
    for line in lines:
        if line[0] in {_PRIMARY_KEY, _SUBKEY}:
            index = _TELLING.get(line[_ALGORITHM])
            telling = None if index is None else str(index).encode()
        elif line[0] == _KEY_DATA and line[_INDEX] == telling:
            value = line[_VALUE].decode().lower()
            is_native = len(value) == _NATIVE_POINT_HEX_CHARS and value.startswith(_NATIVE_POINT)
            yield value.removeprefix(_NATIVE_POINT) if is_native else value.lstrip("0")


def _until(primary: Sequence[bytes], keys: Listing, capability: bytes) -> datetime | None:
    """Returns when the last usable key for this expires; none outlives the primary key."""
    usable = [line for line in keys if capability in line[_CAPABILITIES] and line[_VALIDITY] not in _ENDED]
    ends = [date_of(line[_EXPIRES_AT].decode()) for line in usable]
    last = None if not ends or None in ends else max(end for end in ends if end is not None)
    return min((end for end in (last, date_of(primary[_EXPIRES_AT].decode())) if end is not None), default=None)


def _user_id(path: Path, field_of_listing: bytes) -> str:
    raw = _ESCAPED.sub(
        lambda found: bytes.fromhex(found[1].decode()) if found[1] else _LETTERS[found[2]], field_of_listing
    )
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise OpenPGPError(f"{path} has a user id that is not UTF-8; have its owner make a plain one") from None
    for character in text:
        if is_hidden(character):
            raise OpenPGPError(
                f"{path} has a user id with the character U+{ord(character):04X}, which can hide or forge text; "
                "have its owner make a certificate with a plain one"
            )
    return text
