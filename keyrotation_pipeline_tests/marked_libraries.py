"""Other libraries' formats that name their key, written from the libraries' own text, without any code of ours."""

import base64
import hashlib
import hmac
import json
import secrets
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SALT = "saltsaltsaltsaltsaltsaltsaltsalt"


class CannotReadError(InvalidToken):
    """No key of the list opens a value."""


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


class Rails:
    """ActiveRecord::Encryption with `primary_key = [...]`: the last encrypts, references as configured.

    Args:
        keys: passphrases, the last one encrypts.
        references: `store_key_references`.
        deterministic: as `encrypts :name, deterministic: true`.
        envelope: as with an EnvelopeEncryptionKeyProvider.
    """

    def __init__(
        self,
        keys: Sequence[str],
        *,
        references: bool = True,
        digest: str = "sha256",
        deterministic: bool = False,
        envelope: bool = False,
    ) -> None:
        self._deterministic, self._envelope = deterministic, envelope
        self._keys = [hashlib.pbkdf2_hmac(digest, key.encode(), SALT.encode(), 2**16, 32) for key in keys]
        self._references = references

    @staticmethod
    def reference(key: bytes) -> str:
        return hashlib.sha1(key, usedforsecurity=False).hexdigest()[:4]

    def encrypt(self, text: bytes) -> bytes:
        key = self._keys[-1]
        headers: dict[str, Any] = {}
        secret = key
        if self._envelope:
            secret = secrets.token_bytes(32)
            headers["k"] = self._message(key, secrets.token_bytes(12), secret, {"e": _b64(b"ASCII-8BIT")})
        if self._references:
            headers["i"] = _b64(self.reference(key).encode())
        iv = hmac.digest(key, text, "sha256")[:12] if self._deterministic else secrets.token_bytes(12)
        return json.dumps(self._message(secret, iv, text, headers), separators=(",", ":")).encode()

    @staticmethod
    def _message(key: bytes, iv: bytes, text: bytes, headers: dict[str, Any]) -> dict[str, Any]:
        sealed = AESGCM(key).encrypt(iv, text, None)
        return {"p": _b64(sealed[:-16]), "h": {"iv": _b64(iv), "at": _b64(sealed[-16:]), **headers}}

    def decrypt(self, stored: str) -> bytes:
        message: Any = json.loads(stored)
        return self._opened(message, [self.data_key(stored)] if self._envelope else self._named(message["h"]))

    def data_key(self, stored: str) -> bytes:
        headers = json.loads(stored)["h"]
        return self._opened(headers["k"], self._named(headers))

    def _named(self, headers: dict[str, Any]) -> list[bytes]:
        reference = base64.b64decode(headers["i"]).decode() if "i" in headers else None
        return [key for key in self._keys if reference in {None, self.reference(key)}]

    @staticmethod
    def _opened(message: dict[str, Any], keys: Sequence[bytes]) -> bytes:
        iv, tag, payload = map(base64.b64decode, (message["h"]["iv"], message["h"]["at"], message["p"]))
        for key in keys:
            try:
                return AESGCM(key).decrypt(iv, payload + tag, None)
            except InvalidTag:
                continue
        raise CannotReadError


class Cloak:
    """@47ng/cloak: the fingerprint in each value finds the key among those of the application, the first encrypts."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = {hashlib.sha256(key.encode()).hexdigest()[:8]: self._raw(key) for key in keys}

    @staticmethod
    def _raw(key: str) -> bytes:
        return base64.urlsafe_b64decode(key.removeprefix("k1.aesgcm256."))

    def encrypt(self, text: bytes) -> bytes:
        fingerprint, key = next(iter(self._keys.items()))
        iv = secrets.token_bytes(12)
        parts = (base64.urlsafe_b64encode(each) for each in (iv, AESGCM(key).encrypt(iv, text, None)))
        return b".".join((b"v1.aesgcm256", fingerprint.encode(), *parts))

    def decrypt(self, stored: str) -> bytes:
        _, _, fingerprint, iv, body = stored.split(".")
        try:
            raw = base64.urlsafe_b64decode(body)
            return AESGCM(self._keys[fingerprint]).decrypt(base64.urlsafe_b64decode(iv), raw, None)
        except (KeyError, InvalidTag):
            raise CannotReadError from None


class CloakEcto:
    """Cloak for Elixir: the first cipher encrypts, and the label in a value finds the one that decrypts.

    Args:
        keys: ``label:base64``, the first one encrypts.
        iv_length: of all ciphers.
    """

    def __init__(self, keys: Sequence[str], iv_length: int = 12) -> None:
        self._keys = [(label, base64.b64decode(key)) for label, _, key in (each.partition(":") for each in keys)]
        self._iv_length = iv_length

    def encrypt(self, text: bytes) -> bytes:
        label, key = self._keys[0]
        iv = secrets.token_bytes(self._iv_length)
        sealed = AESGCM(key).encrypt(iv, text, b"AES256GCM")
        return bytes([1, len(label)]) + label.encode() + iv + sealed[-16:] + sealed[:-16]

    def decrypt(self, stored: bytes) -> bytes:
        assert stored[0] == 1
        label, rest = stored[2 : 2 + stored[1]].decode(), stored[2 + stored[1] :]
        iv, tag, ciphertext = rest[: self._iv_length], rest[self._iv_length :][:16], rest[self._iv_length + 16 :]
        try:
            return AESGCM(dict(self._keys)[label]).decrypt(iv, ciphertext + tag, b"AES256GCM")
        except (KeyError, InvalidTag):
            raise CannotReadError from None


class Tink:
    """Tink's AEAD of a keyset with one template: the primary encrypts, the id in a value finds the key that decrypts.

    Args:
        keys: each as JSON in a keyset, the primary first.
        associated_data: what the application gives with every value.
    """

    def __init__(self, keys: Sequence[str], associated_data: str = "") -> None:
        self._data = associated_data.encode()
        parsed: list[Any] = [json.loads(each) for each in keys]
        self._keys: list[tuple[int, bytes]] = [
            (each["keyId"], base64.b64decode(each["keyData"]["value"])[2:]) for each in parsed
        ]

    def encrypt(self, text: bytes) -> bytes:
        number, key = self._keys[0]
        nonce = secrets.token_bytes(12)
        return b"\x01" + number.to_bytes(4, "big") + nonce + AESGCM(key).encrypt(nonce, text, self._data)

    def decrypt(self, stored: bytes) -> bytes:
        assert stored[0] == 1
        try:
            key: bytes = dict(self._keys)[int.from_bytes(stored[1:5], "big")]
            return AESGCM(key).decrypt(stored[5:17], stored[17:], self._data)
        except (KeyError, InvalidTag):
            raise CannotReadError from None

    @staticmethod
    def generated() -> str:
        value = _b64(b"\x1a\x20" + secrets.token_bytes(32))
        kind = "type.googleapis.com/google.crypto.tink.AesGcmKey"
        data = {"typeUrl": kind, "value": value, "keyMaterialType": "SYMMETRIC"}
        number = 1 + secrets.randbelow(2**32 - 1)
        key = {"keyData": data, "status": "ENABLED", "keyId": number, "outputPrefixType": "TINK"}
        return json.dumps(key, separators=(",", ":"))

    @staticmethod
    def keyset(keys: Sequence[str]) -> str:
        return f'{{"primaryKeyId":{json.loads(keys[0])["keyId"]},"key":[{",".join(keys)}]}}'

    @staticmethod
    def listed(text: str) -> list[str]:
        keyset: Any = json.loads(text)
        keys = sorted(keyset["key"], key=lambda each: each["keyId"] != keyset["primaryKeyId"])
        return [json.dumps(each, separators=(",", ":")) for each in keys]


class KeyedWrapper:
    """Sentry's field: the primary encrypts, and the id in a value finds the key that decrypts.

    Args:
        keys: ``id:key of Fernet``, the first one encrypts.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = {name: Fernet(key) for name, _, key in (each.partition(":") for each in keys)}

    def encrypt(self, text: bytes) -> bytes:
        name, key = next(iter(self._keys.items()))
        return b"enc:fernet:%b:%b" % (name.encode(), base64.b64encode(key.encrypt(text)))

    def decrypt(self, stored: str) -> bytes:
        _, _, name, token = stored.split(":")
        try:
            return self._keys[name].decrypt(base64.b64decode(token))
        except KeyError:
            raise CannotReadError from None


class N8n:
    """n8n with key rotation on: the active key encrypts, and the id in a value finds the key that decrypts.

    Args:
        keys: ``id:hexadecimal digits``, the active one first.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = {name: bytes.fromhex(key) for name, _, key in (each.partition(":") for each in keys)}

    def encrypt(self, text: bytes) -> bytes:
        name, key = next(iter(self._keys.items()))
        salt = secrets.token_bytes(32)
        cipher, iv = self._cipher(key, salt)
        sealed = cipher.encrypt(iv, text, None)
        return f"{name}:{_b64(bytes([1]) + salt + sealed[-16:] + sealed[:-16])}".encode()

    def decrypt(self, stored: str) -> bytes:
        name, _, encoded = stored.partition(":")
        raw = base64.b64decode(encoded)
        assert raw[0] == 1
        try:
            cipher, iv = self._cipher(self._keys[name], raw[1:33])
            return cipher.decrypt(iv, raw[49:] + raw[33:49], None)
        except (KeyError, InvalidTag):
            raise CannotReadError from None

    @staticmethod
    def _cipher(key: bytes, salt: bytes) -> tuple[AESGCM, bytes]:
        root = hmac.digest(salt, key, "sha256")
        first = hmac.digest(root, b"n8n-encryption-v1\x01", "sha256")
        return AESGCM(first), hmac.digest(root, first + b"n8n-encryption-v1\x02", "sha256")[:12]


@dataclass(frozen=True)
class Library:
    """A library, and how an application is given its keys.

    Args:
        format: the section `[format]` without the keys.
        keys: made of the application's list, in its order.
        generate: makes one key.
        write, read: the list as it is deployed.
        last: whether the last of the list encrypts.
        in_bytes: whether values are bytes that no text holds.
    """

    format: str
    keys: Callable[[Sequence[str]], Any]
    generate: Callable[[], str]
    write: Callable[[Sequence[str]], str]
    read: Callable[[str], list[str]]
    last: bool
    in_bytes: bool = False

    def alone(self, key: str) -> Any:  # noqa: ANN401  one of these libraries
        """An application that has one key."""
        return self.keys([key])

    def in_order(self, keys: Sequence[str]) -> list[str]:
        """Keys of which the first encrypts, as the application lists them."""
        return list(reversed(keys)) if self.last else list(keys)

    def stored(self, value: bytes) -> Any:  # noqa: ANN401  as a column takes it
        return value if self.in_bytes else value.decode()


RAILS = Library(
    f'name = "rails-ar-encryption"\nsalt = "{SALT}"',
    Rails,
    lambda: secrets.token_hex(16),
    lambda keys: json.dumps(list(keys)),
    lambda text: [each.strip('" ') for each in text.strip()[1:-1].split(",")],
    last=True,
)
RAILS_ENVELOPES = replace(RAILS, keys=partial(Rails, envelope=True))
CLOAK = Library(
    'name = "cloak-47ng"',
    Cloak,
    lambda: f"k1.aesgcm256.{base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()}",
    ",".join,
    lambda text: text.split(","),
    last=False,
)
CLOAK_ECTO = Library(
    'name = "cloak-ecto"',
    CloakEcto,
    lambda: f"App.{secrets.token_hex(4)}.V1:{_b64(secrets.token_bytes(32))}",
    ",".join,
    lambda text: text.split(","),
    last=False,
    in_bytes=True,
)
TINK = Library('name = "tink"', Tink, Tink.generated, Tink.keyset, Tink.listed, last=False, in_bytes=True)
KEYED_WRAPPER = Library(
    'name = "fernet-keyed-wrapper"',
    KeyedWrapper,
    lambda: f"key-{secrets.token_hex(4)}-1:{Fernet.generate_key().decode()}",
    ",".join,
    lambda text: text.split(","),
    last=False,
)
N8N = Library(
    'name = "n8n-keyid"',
    N8n,
    lambda: f"{uuid.uuid4()}:{secrets.token_hex(32)}",
    ",".join,
    lambda text: text.split(","),
    last=False,
)
BOUND_TINK = replace(
    TINK, format='name = "tink"\naad = "of {table}.{column}"', keys=lambda keys: Tink(keys, "of users.email")
)
