"""Tries the recognisers of all formats on one value: those whose first characters fit, and those that need no start."""

from collections.abc import Callable
from typing import Final

from keyrotation_pipeline.fieldcrypto.formats import (
    acra,
    aws_encryption_sdk,
    ciphersweet,
    cloak_47ng,
    cloak_ecto,
    cryptojs_openssl,
    django_cryptography,
    fernet,
    fernet_keyed_wrapper,
    grafana,
    handmade_hex_colon,
    iron,
    jwe,
    laravel_crypt,
    magento,
    n8n_keyid,
    native,
    pgcrypto_armor,
    pgcrypto_pgp,
    rails_ar_encryption,
    rails_message_encryptor,
    tink,
    vault_transit,
)
from keyrotation_pipeline.fieldcrypto.formats.recogniser import Recognised

OfText = Callable[[str], Recognised | None]
OfBytes = Callable[[bytes], Recognised | None]

_TEXT: Final = (
    fernet, fernet_keyed_wrapper, native, vault_transit, cloak_47ng, iron, ciphersweet, rails_ar_encryption,
    laravel_crypt, jwe, magento, pgcrypto_armor,
)  # fmt: skip
# They begin with any character.
_TEXT_CONTAINING: Final = (handmade_hex_colon, rails_message_encryptor, n8n_keyid)
# Those of more structure first: an SDK message and a label of Cloak begin with Tink's byte as well.
_BYTES: Final = (
    aws_encryption_sdk, cloak_ecto, django_cryptography, cryptojs_openssl, pgcrypto_pgp, acra, grafana, tink,
)  # fmt: skip

_OF_TEXT: dict[str, list[tuple[str, OfText]]] = {}
_OF_BYTES: dict[bytes, list[tuple[bytes, OfBytes]]] = {}
for _module in _TEXT:
    for _start in _module.STARTS:
        _OF_TEXT.setdefault(_start[:1], []).append((_start, _module.recognise))
for _raw_module in _BYTES:
    for _raw_start in _raw_module.STARTS:
        _OF_BYTES.setdefault(_raw_start[:1], []).append((_raw_start, _raw_module.recognise))
_OF_TEXT_CONTAINING: Final[tuple[tuple[str, OfText], ...]] = tuple(
    (module.CONTAINS, module.recognise) for module in _TEXT_CONTAINING
)


def recognise_text(text: str) -> Recognised | None:
    """Returns the format of a text without white space around it."""
    for start, recognise in _OF_TEXT.get(text[:1], ()):
        if text.startswith(start) and (found := recognise(text)) is not None:
            return found
    for inside, recognise in _OF_TEXT_CONTAINING:
        if inside in text and (found := recognise(text)) is not None:
            return found
    return None


def recognise_bytes(raw: bytes) -> Recognised | None:
    """Returns the format of bytes, as bytea holds them or base64 and hex decode to them."""
    for start, recognise in _OF_BYTES.get(raw[:1], ()):
        if raw.startswith(start) and (found := recognise(raw)) is not None:
            return found
    return None
