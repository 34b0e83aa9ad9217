"""Values of the formats that nothing marks, made as their libraries make them, and the plaintexts of usual columns."""

import base64
import hashlib
import random
from collections.abc import Callable

from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from nacl.secret import SecretBox

KEY = hashlib.sha256(b"key").digest()
FIRST = (
    "Ana", "Bo", "Christoph", "Dimitrios", "Eleonora", "Jo", "Kim", "Maximiliane", "Noor", "Oluwaseun", "Per",
    "Quentin", "Rosalind", "Sam", "Theodora", "Xi",
)  # fmt: skip
LAST = (
    "Pérez", "Li", "Schmidt-Rottluff", "Papadopoulos", "Ng", "Brown", "van-der-Berg", "O'Neill", "Svensson", "Ta",
    "Weatherington", "Ruiz",
)  # fmt: skip
STREETS = ("Main Street", "Oak Avenue", "Am Alten Markt", "Rue de la République", "Calle Mayor", "Via Roma")


def name(rng: random.Random) -> str:
    return f"{rng.choice(FIRST)} {rng.choice(LAST)}"


def email(rng: random.Random) -> str:
    host = rng.choice(("example.com", "mail.example.org"))
    return f"{rng.choice(FIRST)}.{rng.choice(LAST)}{rng.randrange(100)}@{host}".lower()


def address(rng: random.Random) -> str:
    return f"{rng.randrange(1, 900)} {rng.choice(STREETS)}, {rng.randrange(10**4, 10**5)} {rng.choice(LAST)}stadt"


def note(rng: random.Random) -> str:
    return " ".join(rng.choices(FIRST + LAST + STREETS, k=rng.randrange(3, 80)))


PLAINTEXTS: dict[str, Callable[[random.Random], str]] = {"name": name, "email": email, "address": address, "note": note}


def gcm(rng: random.Random, text: str, nonce_bytes: int = 12) -> tuple[bytes, bytes, bytes]:
    """Returns nonce, ciphertext and tag."""
    nonce = rng.randbytes(nonce_bytes)
    sealed = AESGCM(KEY).encrypt(nonce, text.encode(), None)
    return nonce, sealed[:-16], sealed[-16:]


def cbc(text: str, iv: bytes, key: bytes = KEY) -> bytes:
    padder = padding.PKCS7(128).padder()
    padded = padder.update(text.encode()) + padder.finalize()
    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    return encryptor.update(padded) + encryptor.finalize()


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def cbc_with_iv(rng: random.Random, text: str) -> bytes:
    iv = rng.randbytes(16)
    return iv + cbc(text, iv)


def nonce_tag_text(rng: random.Random, text: str, nonce_bytes: int) -> bytes:
    nonce, sealed, tag = gcm(rng, text, nonce_bytes)
    return nonce + tag + sealed


def cryptr(rng: random.Random, text: str) -> str:
    nonce, sealed, tag = gcm(rng, text, 16)
    return (nonce + rng.randbytes(64) + tag + sealed).hex()


def in_parts(parts: tuple[bytes, ...], separator: str, encode: Callable[[bytes], str]) -> str:
    return separator.join(map(encode, parts))


def iv_and_blocks(rng: random.Random, text: str) -> tuple[bytes, bytes]:
    iv = rng.randbytes(16)
    return iv, cbc(text, iv)


UNMARKED: dict[str, Callable[[random.Random, str], str | bytes]] = {
    "sqlalchemy-utils-aes": lambda _, text: b64(cbc(text, KEY[:16])),
    "sqlalchemy-utils-aesgcm": lambda rng, text: b64(nonce_tag_text(rng, text, 12)),
    "django-searchable-encrypted-fields": lambda rng, text: nonce_tag_text(rng, text, 16),
    "nacl-secretbox": lambda rng, text: b64(SecretBox(KEY).encrypt(text.encode(), rng.randbytes(24))),
    "handmade-aesgcm-b64": lambda rng, text: b64(b"".join(gcm(rng, text))),
    "handmade, base64url": lambda rng, text: base64.urlsafe_b64encode(b"".join(gcm(rng, text))).decode().rstrip("="),
    "handmade, hex": lambda rng, text: b"".join(gcm(rng, text)).hex(),
    "handmade, upper hex": lambda rng, text: b"".join(gcm(rng, text)).hex().upper(),
    "handmade, hex of bytea": lambda rng, text: "\\x" + b"".join(gcm(rng, text)).hex(),
    "handmade, bytea": lambda rng, text: b"".join(gcm(rng, text)),
    "typeorm-encrypted-cbc": lambda rng, text: b64(cbc_with_iv(rng, text)),
    "typeorm-encrypted-gcm": lambda rng, text: b64(nonce_tag_text(rng, text, 16)),
    "cryptr": cryptr,
    "sequelize-encrypted": cbc_with_iv,
    "lockbox": lambda rng, text: b64(b"".join(gcm(rng, text))),
    "lockbox, bytea": lambda rng, text: b"".join(gcm(rng, text)),
    "attr_encrypted": lambda rng, text: b64(b"".join(gcm(rng, text)[1:])) + "\n",
    "iv:ciphertext, hex": lambda rng, text: in_parts(iv_and_blocks(rng, text), ":", bytes.hex),
    "iv.ciphertext, base64": lambda rng, text: in_parts(iv_and_blocks(rng, text), ".", b64),
    "iv:ciphertext:tag, base64": lambda rng, text: in_parts(gcm(rng, text), ":", b64),
    "iv|ciphertext|tag, hex": lambda rng, text: in_parts(gcm(rng, text, 16), "|", bytes.hex),
    "base64 in base64": lambda rng, text: b64(b64(b"".join(gcm(rng, text))).encode()),
    "pgcrypto-raw": lambda _, text: cbc(text, bytes(16)),
}
