"""The formats: how an application gets its keys, and how its own library makes and opens values.

Each `Keys` is what one process of an application holds; it stays as it is while the key store goes on.
"""

import base64
import hashlib
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keyrotation_pipeline_tests import laravel, marked_libraries
from keyrotation_pipeline_tests.fuzzing import native_values
from keyrotation_pipeline_tests.fuzzing.columns import Column, Document, Elements, Pair, Stored
from keyrotation_pipeline_tests.fuzzing.native_values import NotReadableError, Where

VARIABLE = "FIELD_KEYS"
Values = Callable[[Sequence[str]], "Library"]


class Library(Protocol):
    """Values under a list of keys, of which the first encrypts."""

    def seal(self, text: str, where: Where) -> Stored: ...
    def open(self, stored: Any, where: Where) -> str: ...  # noqa: ANN401


@dataclass(frozen=True)
class Keys:
    """What a process of the application holds.

    Args:
        names: of the keys, the one that encrypts first; nobody else reads them.
    """

    names: tuple[str, ...]
    library: Library

    def seal(self, text: str | None, where: Where) -> Stored | None:
        return None if text is None else self.library.seal(text, where)

    def open(self, stored: Stored | None, where: Where) -> str | None:
        return stored if stored is None or stored == "" else self.library.open(stored, where)


# Some derive their keys slowly.
_MADE: dict[tuple[str, ...], Keys] = {}


@dataclass(frozen=True)
class Format:
    """How an application of this format is configured and gets its keys.

    Args:
        section: of `keyrotation.toml`, without keys and logins.
        values: makes the library of a list of keys, the one that encrypts first.
        generate: makes a key.
        columns: those of a table, of which a round takes some.
        listed: reads the list as it is delivered, and `written` writes it so, the key that encrypts first.
        logins: whether each version has a login of its own.
        table: further lines of each `[[tables]]`.
    """

    name: str
    section: str
    values: Values
    generate: Callable[[], str]
    columns: tuple[Column, ...]
    listed: Callable[[str], list[str]] = lambda text: text.split(",")
    written: Callable[[Sequence[str]], str] = ",".join
    logins: bool = False
    table: str = ""

    def first(self) -> tuple[dict[str, str], Keys]:
        """The environment of `init`, and what the application holds before it."""
        key = self.generate()
        return {VARIABLE: self.written([key])}, self._keys([key])

    def delivered(self, home: Path) -> Keys:
        """What the application gets from the key store now."""
        name, _, listed = (home / "keys" / "application.env").read_text().strip().partition("=")
        assert name == VARIABLE
        return self._keys(self.listed(listed))

    def configured(self) -> str:
        keys = f'keys = {{ env = "{VARIABLE}" }}\n' if VARIABLE else ""
        return f"[format]\n{self.section}\n{keys}"

    def _keys(self, listed: Sequence[str]) -> Keys:
        made = self.name, *listed
        if made not in _MADE:
            _MADE[made] = Keys(tuple(listed), self.values(listed))
        return _MADE[made]


@dataclass(frozen=True)
class Native(Format):
    """Our own: a file for each version, and one that names the primary.

    Args:
        row_from: the number of the first version whose values are bound to their row.
        second: whether the first key is of the second generation.
    """

    row_from: int | None = None
    second: bool = False

    def first(self) -> tuple[dict[str, str], Keys]:
        key, version = self.generate(), "v1x" if self.second else "v1"
        variable = "ENCRYPTION_MASTER_KEY_V1X" if self.second else "ENCRYPTION_MASTER_KEY"
        return {variable: key, "ENCRYPTION_PRIMARY_VERSION": version}, self._keys([f"{version}={key}"])

    def delivered(self, home: Path) -> Keys:
        directory = home / "keys"
        primary = (directory / "primary").read_text().strip()
        files = sorted(directory.glob("v*.key"), key=lambda file: file.stem != primary)
        held = [f"{file.stem}={file.read_text().strip()}" for file in files]
        if (directory / "primary").read_text().strip() != primary:
            raise FileNotFoundError  # changed meanwhile: read again
        return self._keys(held)

    def configured(self) -> str:
        return f"[format]\n{self.section}\n"


class NativeValues:
    """Our own format, of keys as `v2=base64`, the primary first."""

    def __init__(self, listed: Sequence[str], row_from: int | None) -> None:
        self.keys = {name: base64.b64decode(key) for name, _, key in (each.partition("=") for each in listed)}
        self._row_from = row_from

    def seal(self, text: str, where: Where) -> Stored:
        primary, key = next(iter(self.keys.items()))
        return native_values.seal(primary, key, text, where, self._row_from)

    def open(self, stored: Any, where: Where) -> str:  # noqa: ANN401
        text = stored.decode() if isinstance(stored, bytes) else stored
        return native_values.opened(self.keys, text, where, self._row_from)


class FernetTokens:
    """MultiFernet over derived keys."""

    def __init__(self, keys: Sequence[str], derived: Callable[[str], bytes] = str.encode) -> None:
        self._keys = MultiFernet([Fernet(derived(key)) for key in keys])

    def seal(self, text: str, where: Where) -> Stored:
        return self._keys.encrypt(text.encode()).decode()

    def open(self, stored: Any, where: Where) -> str:  # noqa: ANN401
        try:
            return self._keys.decrypt(stored).decode()
        except InvalidToken:
            raise NotReadableError(f"{where}: no key opens the token") from None


class OtherLibrary:
    """One of `marked_libraries`, which are written from their libraries' own text."""

    def __init__(self, library: marked_libraries.Library, listed: Sequence[str]) -> None:
        self._library, self._values = library, library.keys(library.in_order(listed))

    def seal(self, text: str, where: Where) -> Stored:
        value: Stored = self._library.stored(self._values.encrypt(text.encode()))
        return value

    def open(self, stored: Any, where: Where) -> str:  # noqa: ANN401
        try:
            text: bytes = self._values.decrypt(
                stored.decode() if isinstance(stored, bytes) and not self._library.in_bytes else stored
            )
        except InvalidToken:
            raise NotReadableError(f"{where}: no key opens the value") from None
        return text.decode()


class BoundTink:
    """Tink with associated data of table and column."""

    def __init__(self, listed: Sequence[str]) -> None:
        self._listed = listed

    def seal(self, text: str, where: Where) -> Stored:
        return self._tink(where).encrypt(text.encode())

    def open(self, stored: Any, where: Where) -> str:  # noqa: ANN401
        try:
            return self._tink(where).decrypt(stored).decode()
        except InvalidToken:
            raise NotReadableError(f"{where}: no key opens the value") from None

    def _tink(self, where: Where) -> marked_libraries.Tink:
        return marked_libraries.Tink(self._listed, f"of {where.table}.{where.column}")


class Laravel:
    """Crypt of Laravel, as `laravel.py` has it from the framework's text."""

    def __init__(self, keys: Sequence[str], cipher: str) -> None:
        self._keys, self._cipher = list(keys), cipher

    def seal(self, text: str, where: Where) -> Stored:
        return laravel.encrypt(self._keys[0], text, self._cipher)

    def open(self, stored: Any, where: Where) -> str:  # noqa: ANN401
        try:
            return laravel.decrypt(self._keys, stored.decode() if isinstance(stored, bytes) else stored)
        except InvalidTag:
            raise NotReadableError(f"{where}: no key opens the payload") from None


@dataclass(frozen=True)
class AesGcm:
    """AES-GCM values put together by hand.

    Args:
        key: of an entry of the list, for a column.
        join: of nonce, ciphertext and tag.
        part: a stored value into these.
    """

    keys: Sequence[str]
    key: Callable[[str, Where], bytes]
    join: Callable[[bytes, bytes, bytes], Stored]
    part: Callable[[Any], tuple[bytes, bytes, bytes]]
    data: Callable[[Where], bytes | None] = field(default=lambda _: None)

    def seal(self, text: str, where: Where) -> Stored:
        nonce = os.urandom(12)
        sealed = AESGCM(self.key(self.keys[0], where)).encrypt(nonce, text.encode(), self.data(where))
        return self.join(nonce, sealed[:-16], sealed[-16:])

    def open(self, stored: Any, where: Where) -> str:  # noqa: ANN401
        nonce, ciphertext, tag = self.part(stored)
        for key in self.keys:
            try:
                return AESGCM(self.key(key, where)).decrypt(nonce, ciphertext + tag, self.data(where)).decode()
            except InvalidTag:
                continue
        raise NotReadableError(f"{where}: no key opens the value")


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _lines(raw: bytes) -> str:
    """As Ruby's `pack("m")`."""
    text = _b64(raw)
    return "".join(text[at : at + 60] + "\n" for at in range(0, len(text), 60))


def _hex_key(key: str, where: Where) -> bytes:
    return bytes.fromhex(key)


def _lockbox_key(key: str, where: Where) -> bytes:
    """`KeyGenerator#attribute_key` of Lockbox."""
    info = b"\xb4" * 32 + where.column.encode()
    return HKDF(SHA384(), 32, where.table.encode(), info).derive(bytes.fromhex(key))


def _django_fernet_fields(key: str) -> bytes:
    derived = HKDF(SHA256(), 32, b"django-fernet-fields-hkdf-salt", b"django-fernet-fields").derive(key.encode())
    return base64.urlsafe_b64encode(derived)


def _django_fernet_encrypted_fields(pair: str) -> bytes:
    secret, _, salt = pair.partition(":")
    return base64.urlsafe_b64encode(hashlib.pbkdf2_hmac("sha256", secret.encode(), salt.encode(), 100_000))


def _part_joined(stored: Any) -> tuple[bytes, bytes, bytes]:  # noqa: ANN401
    raw = base64.b64decode(stored)
    return raw[:12], raw[12:-16], raw[-16:]


def _part_hex(stored: Any) -> tuple[bytes, bytes, bytes]:  # noqa: ANN401
    nonce, tag, ciphertext = (bytes.fromhex(each) for each in _text(stored).split(":"))
    return nonce, ciphertext, tag


def _part_raw(stored: Any) -> tuple[bytes, bytes, bytes]:  # noqa: ANN401
    assert stored[0] == 1
    return stored[1:13], stored[13:-16], stored[-16:]


def _part_pair(stored: Any) -> tuple[bytes, bytes, bytes]:  # noqa: ANN401
    sealed = base64.b64decode(stored[0])
    return base64.b64decode(stored[1]), sealed[:-16], sealed[-16:]


def _text(stored: str | bytes) -> str:
    return stored.decode() if isinstance(stored, bytes) else stored


def _aes_gcm(layout: str, join: Any, part: Any, data: Any = None) -> tuple[str, Values]:  # noqa: ANN401
    section = f'name = "aes-gcm"\nlayout = "{layout}"\nkey_encoding = "hex"'
    given = {} if data is None else {"data": data}
    return section, lambda keys: AesGcm(keys, _hex_key, join, part, **given)


TEXTS = (Column("email"), Column("phone", "varchar(900)"))
BYTES = Column("secret", "bytea")
EVERYWHERE = (*TEXTS, BYTES, Document("doc"), Elements("tags"))
WITHOUT_ARRAYS = EVERYWHERE[:-1]
PAIRS = (Pair("ssn"), Pair("card", "varchar(900)"))
RAW = (BYTES, Column("photo", "bytea"))


DETERMINISTIC_RAILS = replace(
    marked_libraries.RAILS,
    format=f"{marked_libraries.RAILS.format}\ndeterministic = true",
    keys=partial(marked_libraries.Rails, deterministic=True),
)


def _key32() -> str:
    return _b64(secrets.token_bytes(32))


def _fernet(name: str, section: str, generate: Callable[[], str], derived: Callable[[str], bytes]) -> Format:
    return Format(name, section, lambda keys: FernetTokens(keys, derived), generate, EVERYWHERE)


def _other(name: str, library: marked_libraries.Library, columns: tuple[Column, ...]) -> Format:
    def listed(text: str) -> list[str]:
        return library.in_order(library.read(text))

    def written(keys: Sequence[str]) -> str:
        return library.write(library.in_order(keys))

    return Format(
        name, library.format, lambda keys: OtherLibrary(library, keys), library.generate, columns, listed, written
    )


def _with_logins(
    name: str,
    section: str,
    values: Values,
    columns: tuple[Column, ...],
    generate: Callable[[], str] = lambda: secrets.token_hex(32),
) -> Format:
    return Format(name, section, values, generate, columns, logins=True)


def _native(name: str, section: str, columns: tuple[Column, ...], **further: Any) -> Native:  # noqa: ANN401
    row_from = further.get("row_from")
    return Native(
        name, f'name = "native"\n{section}', lambda keys: NativeValues(keys, row_from), _key32, columns, **further
    )


ALL: tuple[Format, ...] = (
    _native("native", "", EVERYWHERE),
    _native("native, second generation", "generation = 2", (*TEXTS, BYTES)),
    _native(
        "native, bound to rows", "generation = 2", (*TEXTS, BYTES), row_from=2, table='row = { key = "id", from = 2 }\n'
    ),
    _fernet("fernet", 'name = "fernet"', lambda: Fernet.generate_key().decode(), str.encode),
    _fernet(
        "fernet, times kept", 'name = "fernet"\nkeep_time = true', lambda: Fernet.generate_key().decode(), str.encode
    ),
    _fernet(
        "fernet of sqlalchemy-utils",
        'name = "fernet"\nderivation = "sha256"',
        lambda: secrets.token_urlsafe(24),
        lambda key: base64.urlsafe_b64encode(hashlib.sha256(key.encode()).digest()),
    ),
    _fernet(
        "django-fernet-fields",
        'name = "fernet"\nderivation = "django-fernet-fields"',
        lambda: secrets.token_urlsafe(24),
        _django_fernet_fields,
    ),
    _fernet(
        "django-fernet-encrypted-fields",
        'name = "fernet"\nderivation = "django-fernet-encrypted-fields"',
        lambda: f"{secrets.token_hex(16)}:{secrets.token_hex(16)}",
        _django_fernet_encrypted_fields,
    ),
    _other("rails", marked_libraries.RAILS, WITHOUT_ARRAYS),
    _other("rails, envelopes", marked_libraries.RAILS_ENVELOPES, WITHOUT_ARRAYS),
    _other("rails, deterministic", DETERMINISTIC_RAILS, WITHOUT_ARRAYS),
    _other("47ng", marked_libraries.CLOAK, WITHOUT_ARRAYS),
    _other("cloak-ecto", marked_libraries.CLOAK_ECTO, RAW),
    _other("tink", marked_libraries.TINK, RAW),
    Format(
        "tink with associated data",
        'name = "tink"\naad = "of {table}.{column}"',
        BoundTink,
        marked_libraries.Tink.generated,
        RAW,
        marked_libraries.Tink.listed,
        marked_libraries.Tink.keyset,
    ),
    _other("sentry", marked_libraries.KEYED_WRAPPER, WITHOUT_ARRAYS),
    _other("n8n", marked_libraries.N8N, WITHOUT_ARRAYS),
    _with_logins(
        "laravel",
        'name = "laravel-crypt"',
        lambda keys: Laravel(keys, "AES-256-CBC"),
        EVERYWHERE,
        laravel.new_key,
    ),
    _with_logins(
        "laravel, gcm",
        'name = "laravel-crypt"\ncipher = "AES-128-GCM"',
        lambda keys: Laravel(keys, "AES-128-GCM"),
        EVERYWHERE,
        lambda: laravel.new_key(16),
    ),
    _with_logins(
        "lockbox",
        'name = "lockbox"',
        lambda keys: AesGcm(keys, _lockbox_key, lambda nonce, ct, tag: _b64(nonce + ct + tag), _part_joined),
        (*TEXTS, BYTES),
    ),
    _with_logins(
        "aes-gcm in base64",
        *_aes_gcm("b64(nonce12 ct tag16)", lambda nonce, ct, tag: _b64(nonce + ct + tag), _part_joined),
        EVERYWHERE,
    ),
    _with_logins(
        "aes-gcm in hex",
        *_aes_gcm("hex(nonce12):hex(tag16):hex(ct)", lambda *p: f"{p[0].hex()}:{p[2].hex()}:{p[1].hex()}", _part_hex),
        EVERYWHERE,
    ),
    _with_logins(
        "aes-gcm in bytes",
        *_aes_gcm("raw(0x01 nonce12 ct tag16)", lambda nonce, ct, tag: b"\1" + nonce + ct + tag, _part_raw),
        RAW,
    ),
    _with_logins(
        "aes-gcm in pairs",
        *_aes_gcm(
            "b64lines(ct tag16); b64lines(nonce12)",
            lambda nonce, ct, tag: (_lines(ct + tag), _lines(nonce)),
            _part_pair,
        ),
        PAIRS,
    ),
    _with_logins(
        "aes-gcm with associated data",
        _aes_gcm("b64(nonce12 ct tag16)", None, None)[0] + '\naad = "{table}|{column}|{id}"',
        lambda keys: AesGcm(
            keys,
            _hex_key,
            lambda nonce, ct, tag: _b64(nonce + ct + tag),
            _part_joined,
            lambda where: f"{where.table}|{where.column}|{where.row}".encode(),
        ),
        (*TEXTS, BYTES),
    ),
)
