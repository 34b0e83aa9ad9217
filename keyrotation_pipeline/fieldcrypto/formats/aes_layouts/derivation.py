"""Derives the key of a value from the application's and the value's salt, as the standard functions of Node do."""

import hashlib
import re
from binascii import a2b_hex
from collections.abc import Callable, Mapping
from functools import lru_cache, partial

from cryptography.hazmat.primitives.hashes import SHA256, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keyrotation_pipeline.errors import InvalidKeyError
from keyrotation_pipeline.fieldcrypto.codecs.source import canonical_base64

KeyOfValue = Callable[[bytes], bytes]

_KEY_BYTES = 32
_SCRYPT_N, _SCRYPT_R, _MOST_SCRYPT_N, _MOST_ROUNDS = 16384, 8, 2**18, 10_000_000
_HASHES: Mapping[str, HashAlgorithm] = {"sha256": SHA256(), "sha512": SHA512()}
_NUMBER = re.compile(r"[1-9][0-9]{0,7}")


def key_of_value(key: bytes, options: Mapping[str, str]) -> KeyOfValue:
    """Returns what derives a key from a salt; without a derivation it has one answer.

    Raises:
        InvalidKeyError: the key is not written so, has another length, or the options do not say how it is derived.
    """
    derive, raw = derivation(options), _decoded(key, options.get("key_encoding", "text"))
    if derive is None:
        if len(raw) != _KEY_BYTES:
            raise InvalidKeyError(
                f"a key of AES-256 has {_KEY_BYTES} bytes, this one {len(raw)}; say how it is written by key_encoding"
            )
        return lambda _salt: raw
    # What is sealed is opened again.
    return lru_cache(maxsize=4)(partial(derive, raw))


def derivation(options: Mapping[str, str]) -> Callable[[bytes, bytes], bytes] | None:
    """Returns what derives a key from the application's and a salt; None: that is the key.

    Raises:
        InvalidKeyError: the options do not say how it is derived.
    """
    function, _, hash_name = options["kdf"].partition("-")
    for option, functions in (("cost", {"scrypt", "pbkdf2"}), ("info", {"hkdf"})):
        if option in options and function not in functions:
            raise InvalidKeyError(f"kdf {options['kdf']} takes no {option}; leave it out of from in [[tables]]")
    match function:
        case "none":
            return None
        case "scrypt":
            n = _number(options.get("cost", str(_SCRYPT_N)), _MOST_SCRYPT_N)
            if n < 2 or n & (n - 1):  # noqa: PLR2004
                raise InvalidKeyError(f"cost of scrypt is N, a power of two, not {n}; correct from in [[tables]]")
            return lambda key, salt: hashlib.scrypt(
                key, salt=salt, n=n, r=_SCRYPT_R, p=1, maxmem=256 * _SCRYPT_R * n + 2**20, dklen=_KEY_BYTES
            )
        case "pbkdf2":
            rounds = _number(options.get("cost", ""), _MOST_ROUNDS)
            return lambda key, salt: hashlib.pbkdf2_hmac(hash_name, key, salt, rounds, _KEY_BYTES)
        case _:
            algorithm, info = _HASHES[hash_name], options.get("info", "").encode()
            return lambda key, salt: HKDF(algorithm, _KEY_BYTES, salt, info).derive(key)


def _number(text: str, most: int) -> int:
    if _NUMBER.fullmatch(text) is None or int(text) > most:
        raise InvalidKeyError(
            f'cost is a number of at most {most} in quotes, as in cost = "16384"; add the application\'s to from in '
            "[[tables]]"
        )
    return int(text)


def _decoded(key: bytes, encoding: str) -> bytes:
    decoders: Mapping[str, Callable[[bytes], bytes]] = {"text": bytes, "hex": a2b_hex, "b64": canonical_base64}
    try:
        return decoders[encoding](key)
    except ValueError:
        raise InvalidKeyError(f"the key is not written in {encoding}; correct key_encoding") from None
