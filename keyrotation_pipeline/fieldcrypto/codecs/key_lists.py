"""The application's list of keys in its library's own notation: which keys it holds, and which of them encrypts.

``FERNET_KEYS=new,old`` is what `cryptography.fernet.MultiFernet`, Airflow and the Django packages read: bare keys, of
which the first encrypts. So are the keys of AES-GCM written, in one of three encodings.
"""

import base64
import binascii
import json
import re
import string
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from types import MappingProxyType

from keyrotation_pipeline.errors import InvalidKeyError
from keyrotation_pipeline.fieldcrypto.codecs import tink
from keyrotation_pipeline.fieldcrypto.codecs.cloak_47ng import KEY_BEGINS, key_text
from keyrotation_pipeline.fieldcrypto.codecs.derived_keys import PAIR_SEPARATOR
from keyrotation_pipeline.fieldcrypto.codecs.laravel_crypt import CIPHERS
from keyrotation_pipeline.fieldcrypto.codecs.value_format import (
    CLOAK_47NG,
    CLOAK_ECTO,
    FERNET,
    KEYED_WRAPPER,
    LARAVEL,
    RAILS,
    TINK,
    Derivation,
    ValueFormat,
)
from keyrotation_pipeline.fieldcrypto.key_bytes import key_from_base64, raw_of
from keyrotation_pipeline.fieldcrypto.material import (
    AES_KEY_BYTES,
    KEY_BYTES,
    LONGEST_PASSPHRASE,
    SHORTEST_PASSPHRASE,
    AesKey,
    KeyMaterial,
    Passphrase,
)

# What YAML and JSON never need to escape.
_PASSPHRASE = frozenset(string.ascii_letters + string.digits + "!$()*+-./:;<=>?@^_|~")
_APP_KEY_BEGINS = "base64:"
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


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


def _parsed(parse: Callable[[], KeyMaterial | None], refusal: str) -> KeyMaterial:
    """Returns a key; the refusal is raised after what parsing raises, so that its context holds nothing of the text."""
    key = None
    with suppress(ValueError, InvalidKeyError):  # also binascii.Error
        key = parse()
    if key is None:
        raise InvalidKeyError(refusal)
    return key


def key_in(text: str, place: str, encoding: KeyEncoding = KeyEncoding.B64URL, *, of_aes: bool = False) -> KeyMaterial:
    """Parses one key.

    Args:
        place: where it is, for messages.
        of_aes: whether it may have any length of a key of AES.

    Raises:
        InvalidKeyError: it is not one.
    """

    def parse() -> KeyMaterial:
        if encoding is KeyEncoding.HEX:
            raw = binascii.unhexlify(text)
        else:
            raw = base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
        return AesKey(raw) if of_aes and len(raw) != KEY_BYTES else KeyMaterial(raw)

    what = "a key" if of_aes else "a Fernet key"
    lengths = " or ".join(map(str, AES_KEY_BYTES)) if of_aes else KEY_BYTES
    derived = "" if of_aes else ", or say with [format] derivation how the application derives its keys from that"
    return _parsed(parse, f"{place} is not {what}; give {_IN_WORDS[encoding]} {lengths} bytes{derived}")


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
                "the keys in the key store were imported under another [format] than the present one, so the "
                "application would get a list that it cannot read; write name and derivation as they were"
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


def _by_commas(text: str) -> Sequence[str]:
    return text.split(",")


def _in_yaml(text: str) -> Sequence[str]:
    stripped = text.strip()
    return _by_commas(stripped[1:-1] if stripped.startswith("[") and stripped.endswith("]") else stripped)


def _passphrase(text: str, place: str) -> KeyMaterial:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    passphrase = text[1:-1] if quoted else text
    return _parsed(
        lambda: Passphrase(passphrase.encode()) if _PASSPHRASE.issuperset(passphrase) else None,
        f"{place} is not a passphrase that can be listed here: {SHORTEST_PASSPHRASE} to {LONGEST_PASSPHRASE} "
        "characters, without commas, quotes, brackets and white space",
    )


def _as_yaml(keys: Sequence[KeyMaterial]) -> str:
    # Without quotes where YAML needs none, since a shell that reads the file would take them away.
    texts = (raw_of(key).decode() for key in keys)
    return f"[{','.join(text if _PLAIN.fullmatch(text) else json.dumps(text) for text in texts)}]"


def _cloak_key(text: str, place: str) -> KeyMaterial:
    def parse() -> KeyMaterial | None:
        key = key_from_base64(text.removeprefix(KEY_BEGINS).replace("-", "+").replace("_", "/"))
        return key if text == key_text(key) else None

    return _parsed(
        parse,
        f"{place} is not a key of @47ng/cloak; write {KEY_BEGINS} and the padded URL-safe base64 of {KEY_BYTES} "
        "bytes, since the fingerprint is that of the whole text",
    )


def _master_key(text: str, place: str) -> KeyMaterial:
    return _parsed(
        lambda: key_in(text, place, KeyEncoding.HEX),
        f"{place} is not a master key of Lockbox; give its {2 * KEY_BYTES} hexadecimal digits, as Lockbox.generate_key "
        "makes them",
    )


def _app_key(text: str, place: str, size: int) -> KeyMaterial:
    def parse() -> KeyMaterial | None:
        key = key_in(text.removeprefix(_APP_KEY_BEGINS), place, KeyEncoding.B64, of_aes=True)
        return key if text.startswith(_APP_KEY_BEGINS) and len(raw_of(key)) == size else None

    return _parsed(
        parse,
        f"{place} is not an APP_KEY of this cipher; write {_APP_KEY_BEGINS} and the base64 of {size} bytes, as "
        "`php artisan key:generate --show` prints it",
    )


def _as_app_keys(keys: Sequence[KeyMaterial]) -> str:
    return ",".join(_APP_KEY_BEGINS + as_list([key], KeyEncoding.B64) for key in keys)


def _named_key(text: str, place: str) -> KeyMaterial:
    name, _, encoded = text.partition(":")
    return _parsed(
        lambda: AesKey(raw_of(key_in(encoded, place)), name) if name else None,
        f"{place} is not a key with its name; write the name (letters, digits, dots, hyphens, underscores), a "
        f"colon, and the base64 of {KEY_BYTES} bytes",
    )


def _as_named(keys: Sequence[KeyMaterial], encoding: KeyEncoding = KeyEncoding.B64) -> str:
    return ",".join(f"{key.name}:{as_list([key], encoding)}" for key in keys)


def _as_cloak(keys: Sequence[KeyMaterial]) -> str:
    return ",".join(map(key_text, keys))


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
    return _parsed(
        lambda: Passphrase(text.encode()) if is_listed else None,
        f"{place} is not {what} that can be listed here: {SHORTEST_PASSPHRASE} to {LONGEST_PASSPHRASE} characters of "
        "printable ASCII, without commas, quotes and backslashes"
        + (", and without a colon in the SECRET_KEY" if pair else ""),
    )


def _as_passphrases(keys: Sequence[KeyMaterial]) -> str:
    """Formats passphrases as the application's list."""
    return ",".join(raw_of(key).decode() for key in keys)


def by_commas(encoding: KeyEncoding, *, of_aes: bool = True) -> KeyNotation:
    """Returns the notation of bare keys with commas between them, of which the first encrypts; see `key_in`."""
    key = partial(key_in, encoding=encoding, of_aes=of_aes)
    return KeyNotation(_by_commas, key, partial(as_list, encoding=encoding))


_LOCKBOX = KeyNotation(_by_commas, _master_key, partial(as_list, encoding=KeyEncoding.HEX))
FERNET_NOTATION = by_commas(KeyEncoding.B64URL, of_aes=False)
_NOTATIONS: Mapping[str, KeyNotation] = MappingProxyType(
    {
        FERNET.name: FERNET_NOTATION,
        RAILS.name: KeyNotation(_in_yaml, _passphrase, _as_yaml, "last", passphrases=True),
        CLOAK_47NG.name: KeyNotation(_by_commas, _cloak_key, _as_cloak),
        CLOAK_ECTO.name: KeyNotation(_by_commas, _named_key, _as_named),
        KEYED_WRAPPER.name: KeyNotation(_by_commas, _named_key, partial(_as_named, encoding=KeyEncoding.B64URL)),
        TINK.name: KeyNotation(tink.entries, tink.key_of, tink.as_keyset),
    }
)


def notation_of(declared: ValueFormat, encoding: KeyEncoding = KeyEncoding.B64URL) -> KeyNotation:
    """Returns the notation of a declared format's library.

    Args:
        encoding: of each key, where the library has no notation of its own.
    """
    if declared.derivation is Derivation.LOCKBOX:
        return _LOCKBOX
    if declared.name == LARAVEL.name:
        return KeyNotation(_by_commas, partial(_app_key, size=CIPHERS[declared.layout]), _as_app_keys)
    if declared.name != RAILS.name and declared.derivation is not None:
        pair = declared.derivation is Derivation.DJANGO_FERNET_ENCRYPTED_FIELDS
        return KeyNotation(_by_commas, partial(_derived_from, pair=pair), _as_passphrases, passphrases=True)
    return _NOTATIONS.get(declared.name) or by_commas(encoding)
