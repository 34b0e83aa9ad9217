"""Reads the names of columns: what they promise, and which of a table's columns belong together.

A name is no evidence: it shifts a tier by one.
"""

import re

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_ENCRYPTED = re.compile(
    r"(?:^|_)(?:enc|encrypted|encryption|encr|cipher|ciphertext|ciphered|crypt|crypted|sealed)(?:_|$)"
)
_PREFIX_OF_CIPHERTEXT = re.compile("enc|crypt|cipher|aes|gcm|sealed|kms")
# Digests, identifiers, signatures and files, random as they are, are named so.
_RANDOM = re.compile(
    r"(?:^|_)(?:bidx|blind_?index|hash|hashed|digest|fingerprint|hmac|mac|sha\d*|md5|checksum|crc|etag|id|ids|uid|uuid|guid|"
    r"signature|sig|signed|salt|nonce|iv|state|cookie|cursor|challenge|verifier|pubkey|public_key|cert|certificate|"
    r"embedding|avatar|image|photo|thumbnail|file|attachment)$"
)
# So are tokens; but who encrypts anything encrypts these first. As they are, they are fit for a URL.
_TOKEN = re.compile(r"(?:^|_)(?:token|tokens|key|keys|password|passwd|pwd|secret|otp|session)$")
_BLIND_INDEX = re.compile(r"_(?:bidx|blind_?index|bi|hash|hashed|digest|hmac|sha\d+|fingerprint|search|lookup)$")
_PART = re.compile(r"_(iv|nonce|tag|auth_tag|salt|mac|hmac|key_id|kid|key_version|key_label|key_name)$")
_OF_TABLE = frozenset(
    (
        "iv",
        "nonce",
        "tag",
        "auth_tag",
        "salt",
        "key_id",
        "kid",
        "key_version",
        "encryption_key_id",
        "encryption_key_label",
        "enc_key_id",
    )
)
_STEM = re.compile(r"^(?:encrypted|enc|crypted)_|_(?:ciphertext|encrypted|cipher|enc|crypted)$")


def snake(name: str) -> str:
    """Returns a name in lower case with underscores, also of ``emailHash``."""
    return _CAMEL.sub("_", name).lower()


def promises_encryption(name: str) -> bool:
    """Returns whether a name says that values are encrypted."""
    return _ENCRYPTED.search(snake(name)) is not None


def is_prefix_of_ciphertext(prefix: str) -> bool:
    """Returns whether a prefix says so: ``enc:``, ``{cipher}``, ``AES(``."""
    return _PREFIX_OF_CIPHERTEXT.search(prefix.lower()) is not None


def promises_other_randomness(name: str, *, fit_for_url: bool) -> bool:
    """Returns whether a name says that values are random and not encrypted.

    Args:
        name: of the column.
        fit_for_url: whether the values are in base64url, as tokens are.
    """
    if promises_encryption(name):
        return False
    return _RANDOM.search(snake(name)) is not None or (fit_for_url and _TOKEN.search(snake(name)) is not None)


def is_attr_encrypted_pair(column: str, other: str) -> bool:
    """Returns whether two columns are named as attr_encrypted names ciphertext and IV."""
    return snake(column).startswith("encrypted_") and snake(other) == snake(column) + "_iv"


def blind_index_of(column: str, other: str) -> bool:
    """Returns whether a column is named as the blind index of another one."""
    return _belongs(_BLIND_INDEX, column, other)


def part_of(column: str, other: str) -> str | None:
    """Returns which part of a value another column is named to hold, such as ``iv`` or ``key_id``."""
    if snake(other) in _OF_TABLE:
        return snake(other)
    found = _PART.search(snake(other))
    return found[1] if found and _belongs(_PART, column, other) else None


def is_part_of(column: str, other: str) -> bool:
    """Returns whether a column is named as a part of this one alone, and not of any in its table."""
    return _belongs(_PART, column, other)


def _belongs(suffix: re.Pattern[str], column: str, other: str) -> bool:
    name = snake(other)
    found = suffix.search(name)
    return found is not None and _stem(name[: found.start()]) == _stem(snake(column))


def _stem(name: str) -> str:
    return _STEM.sub("", name)
