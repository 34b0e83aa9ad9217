"""Laravel's encrypter, written from its own text, without any code of ours."""

import base64
import hashlib
import hmac
import json
import os
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.padding import PKCS7


def new_key(size: int = 32) -> str:
    """As `php artisan key:generate --show` prints it."""
    return f"base64:{_b64(secrets.token_bytes(size))}"


def encrypt(key: str, text: str, cipher: str = "AES-256-CBC") -> str:
    raw, iv = _raw(key), os.urandom(12 if cipher.endswith("GCM") else 16)
    mac = tag = ""
    if cipher.endswith("GCM"):
        sealed = AESGCM(raw).encrypt(iv, text.encode(), None)
        value, tag = _b64(sealed[:-16]), _b64(sealed[-16:])
    else:
        padder, encryptor = PKCS7(128).padder(), Cipher(algorithms.AES(raw), modes.CBC(iv)).encryptor()
        value = _b64(encryptor.update(padder.update(text.encode()) + padder.finalize()) + encryptor.finalize())
        mac = _mac(raw, _b64(iv), value)
    payload = {"iv": _b64(iv), "value": value, "mac": mac, "tag": tag}
    return _b64(json.dumps(payload, separators=(",", ":")).encode())


def decrypt(keys: list[str], stored: str) -> str:
    """With the first of the keys that opens it, as with `previous_keys`."""
    payload = json.loads(base64.b64decode(stored))
    iv, value = base64.b64decode(payload["iv"]), base64.b64decode(payload["value"])
    for raw in map(_raw, keys):
        if payload["mac"]:
            if hmac.compare_digest(payload["mac"], _mac(raw, payload["iv"], payload["value"])):
                decryptor, unpadder = Cipher(algorithms.AES(raw), modes.CBC(iv)).decryptor(), PKCS7(128).unpadder()
                padded = decryptor.update(value) + decryptor.finalize()
                return (unpadder.update(padded) + unpadder.finalize()).decode()
            continue
        try:
            return AESGCM(raw).decrypt(iv, value + base64.b64decode(payload["tag"]), None).decode()
        except InvalidTag:
            continue
    raise InvalidTag


def _raw(key: str) -> bytes:
    return base64.b64decode(key.removeprefix("base64:"))


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _mac(raw: bytes, iv: str, value: str) -> str:
    return hmac.new(raw, (iv + value).encode(), hashlib.sha256).hexdigest()
