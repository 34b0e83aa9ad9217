"""The application's list of keys in its library's own notation: which keys it holds, and which of them encrypts."""

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from types import MappingProxyType

from keyrotation_pipeline.errors import InvalidKeyError
from keyrotation_pipeline.fieldcrypto.codecs.derived_keys import PAIR_SEPARATOR
from keyrotation_pipeline.fieldcrypto.format_spec import Derivation
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.material import (
    AES_KEY_BYTES,
    KEY_BYTES,
    LONGEST_PASSPHRASE,
    SHORTEST_PASSPHRASE,
    AesKey,
    KeyMaterial,
    Passphrase,
)


class KeyEncoding(StrEnum):
    """How an application writes the bytes of a key."""

    B64URL = "b64url"
    B64 = "b64"
    HEX = "hex"


_WRITE: Mapping[KeyEncoding, Callable[[bytes], str]] = MappingProxyType(
    {
        KeyEncoding.B64URL: lambda raw: base64.urlsafe_b64encode(raw).decode(),
        KeyEncoding.B64: lambda raw: base64.b64encode(raw).decode(),
        KeyEncoding.HEX: bytes.hex,
    }
)
_IN_WORDS: Mapping[KeyEncoding, str] = MappingProxyType(
    {
        KeyEncoding.B64URL: "the URL-safe base64 of",
        KeyEncoding.B64: "the base64 of",
        KeyEncoding.HEX: "the hexadecimal digits of",
    }
)


def as_list(keys: Sequence[KeyMaterial], encoding: KeyEncoding = KeyEncoding.B64URL) -> str:
    """Formats keys as the application's list, the one that encrypts first."""
    return ",".join(_WRITE[encoding](raw_of(key)) for key in keys)


def parsed_or_refused(parse: Callable[[], KeyMaterial | None], refusal: str) -> KeyMaterial:
    """Returns a key; the refusal is raised after what parsing raises, so that its context holds nothing of the text."""
    key = None
    with suppress(ValueError, InvalidKeyError):  # also binascii.Error
        key = parse()
    if key is None:
        raise InvalidKeyError(refusal)
    return key


def key_in(
    text: str, place: str, encoding: KeyEncoding = KeyEncoding.B64URL, *, of_aes: bool = False, what: str = "a key"
) -> KeyMaterial:
    """Parses one key.

    Args:
        place: where it is, for messages.
        of_aes: whether it may have any length of a key of AES.
        what: it is called where it is not one.

    Raises:
        InvalidKeyError: it is not one.
    """

    def parse() -> KeyMaterial:
        if encoding is KeyEncoding.HEX:
            raw = binascii.unhexlify(text)
        else:
            raw = base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
        return AesKey(raw) if of_aes and len(raw) != KEY_BYTES else KeyMaterial(raw)

    lengths = " or ".join(map(str, AES_KEY_BYTES)) if of_aes else KEY_BYTES
    derived = "" if of_aes else ", or say with [format] derivation how the application derives its keys from that"
    return parsed_or_refused(parse, f"{place} is not {what}; give {_IN_WORDS[encoding]} {lengths} bytes{derived}")


@dataclass(frozen=True, slots=True)
class KeyNotation:
    """How a library writes several keys into one setting.

    Args:
        entries: the parts of a setting that hold a key each.
        key: the key in one of them, with its place for messages.
        write: the setting that holds some keys, in this order.
        encrypts: which of them encrypts, in words: the first or the last.
        passphrases: whether its keys are derived from what is listed.
    """

    entries: Callable[[str], Sequence[str]]
    key: Callable[[str, str], KeyMaterial]
    write: Callable[[Sequence[KeyMaterial]], str]
    encrypts: str = "first"
    passphrases: bool = False

    def keys_in(self, text: str, name: str, *, repeats: bool = False) -> tuple[KeyMaterial, ...]:
        """Parses a setting; the key that encrypts comes first, whatever the library's order.

        Args:
            name: of the setting, for messages.
            repeats: whether it may hold a key twice.

        Raises:
            InvalidKeyError: it holds no key, something that is not one, or a key or a key's name twice; names the
                place, never a key.
        """
        keys: list[KeyMaterial] = []
        for place, entry in enumerate(self.entries(text), 1):
            key = self.key(entry.strip(), f"entry {place} of {name}")
            same = next((at for at, each in enumerate(keys, 1) if each.fingerprint == key.fingerprint), None)
            if same is None:
                keys.append(key)
            elif not repeats or key not in keys:
                raise InvalidKeyError(f"entries {same} and {place} of {name} are the same key; remove one")
            if key.name and any(each.name == key.name and each.fingerprint != key.fingerprint for each in keys):
                raise InvalidKeyError(
                    f"entry {place} of {name} has the name of another key, {key.name}, by which values name their key; "
                    "remove one of them, or correct the name"
                )
        return tuple(keys) if self.encrypts == "first" else tuple(reversed(keys))

    def text_of(self, keys: Sequence[KeyMaterial]) -> str:
        """Formats keys, the one that encrypts first, in the library's order.

        Raises:
            InvalidKeyError: they were imported in another format, so the application could not read this list.
        """
        text = self._written(keys)
        if text is None:
            raise InvalidKeyError(
                "the keys in the key store were imported under another [format], and the application could not read "
                "their list; write name and derivation as before"
            )
        return text

    def _written(self, keys: Sequence[KeyMaterial]) -> str | None:
        """Returns a text from which the application reads just these keys; None: there is none in this notation."""
        if any(isinstance(key, Passphrase) is not self.passphrases for key in keys):
            return None
        try:
            text = self.write(keys if self.encrypts == "first" else keys[::-1])
            return text if self.keys_in(text, "the list") == tuple(keys) else None
        except (InvalidKeyError, ValueError):  # no key of this format, or a name of another one
            return None

    def place(self, number: int, of: int) -> int:
        """Returns where in the setting the key is that stands at a place of what `keys_in` returned, from 1."""
        return number if self.encrypts == "first" else of - number + 1


def entries_by_commas(text: str) -> Sequence[str]:
    """Returns what stands between the commas of a setting."""
    return text.split(",")


def _named_key(text: str, place: str, encoding: KeyEncoding) -> KeyMaterial:
    name, _, encoded = text.partition(":")
    return parsed_or_refused(
        lambda: AesKey(raw_of(key_in(encoded, place, encoding)), name) if name else None,
        f"{place} is not a key with its name; write the name (letters, digits, dots, hyphens, underscores), a "
        f"colon, and {_IN_WORDS[encoding]} {KEY_BYTES} bytes",
    )


def _as_named(keys: Sequence[KeyMaterial], encoding: KeyEncoding = KeyEncoding.B64) -> str:
    return ",".join(f"{key.name}:{as_list([key], encoding)}" for key in keys)


def _derived_from(text: str, place: str, *, pair: bool) -> KeyMaterial:
    """Parses an entry of the application's list.

    Args:
        place: where it is, for messages.
        pair: whether it is ``SECRET_KEY:SALT_KEY``.

    Raises:
        InvalidKeyError: it is none that can be listed.
    """
    secret, separator, salt = text.partition(PAIR_SEPARATOR.decode())
    is_listed = not set(text) & set("\"'\\") and (not pair or (secret and separator and salt))
    what = "a pair SECRET_KEY:SALT_KEY" if pair else "a passphrase"
    return parsed_or_refused(
        lambda: Passphrase(text.encode()) if is_listed else None,
        f"{place} is not {what} that can be listed here: {SHORTEST_PASSPHRASE} to {LONGEST_PASSPHRASE} characters of "
        "printable ASCII, without commas, quotes and backslashes"
        + (", and without a colon in the SECRET_KEY" if pair else ""),
    )


def _as_passphrases(keys: Sequence[KeyMaterial]) -> str:
    """Formats passphrases as the application's list."""
    return ",".join(raw_of(key).decode() for key in keys)


def by_commas(encoding: KeyEncoding, *, of_aes: bool = True, what: str = "a key") -> KeyNotation:
    """Returns the notation of bare keys with commas between them, of which the first encrypts; see `key_in`."""
    key = partial(key_in, encoding=encoding, of_aes=of_aes, what=what)
    return KeyNotation(entries_by_commas, key, partial(as_list, encoding=encoding))


def listed_derived(derivation: Derivation) -> KeyNotation:
    """Returns the notation of what keys are derived from, with commas between them, of which the first counts."""
    return KeyNotation(
        entries_by_commas, partial(_derived_from, pair=derivation.pairs), _as_passphrases, passphrases=True
    )


def named_keys(encoding: KeyEncoding) -> KeyNotation:
    """Returns the notation of ``name:key`` with commas between them, of which the first encrypts."""
    return KeyNotation(entries_by_commas, partial(_named_key, encoding=encoding), partial(_as_named, encoding=encoding))


# Of 32 bytes in URL-safe base64: what a key store delivers where no format is declared.
BARE_KEYS = by_commas(KeyEncoding.B64URL, of_aes=False)
