"""AES-GCM in whatever layout an application has (guides/aes-gcm.md): only decryption tells the key."""

from typing import Literal

from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.format_advice import Guess
from keyrotation_pipeline.fieldcrypto.format_spec import ANYWHERE, TEXT, Derivation, FormatSpec, Option
from keyrotation_pipeline.fieldcrypto.formats.derivations import SHA256
from keyrotation_pipeline.fieldcrypto.formats.options import AAD, LOGINS, derivation
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy

# Of Lockbox for Ruby, whose values are of this format; see `formats.lockbox`.
FOR_EACH_COLUMN = Derivation(
    "lockbox", "keyrotation_pipeline.fieldcrypto.formats.aes_gcm.derived:of_column", for_each_column=True
)
_NEXT = (
    "Find out in the application how it encrypts. Where that is AES-256-GCM with a list of keys, declare the place in "
    'a `keyrotation.toml` with `[format] name = "aes-gcm"` and its layout: keyrotation rotates it in place, without '
    "downtime (`keyrotation docs aes-gcm`). Code that reads one key only must read two first."
)
_ATTR_ENCRYPTED = (
    "Give attr_encrypted an encryptor that reads a list of keys, then declare both columns in a `keyrotation.toml` "
    'with `[format] name = "aes-gcm"` and `layout = "b64lines(ct tag16); b64lines(nonce12)"`: keyrotation rotates it '
    "in place, without downtime (`keyrotation docs aes-gcm`)."
)
_MESSAGE_ENCRYPTOR = (
    "In its GCM mode, which rotates (`rotate`), declare the place in a `keyrotation.toml` with `[format] name = "
    '"aes-gcm"` and `layout = "b64(ct)--b64(nonce12)--b64(tag16)"`: keyrotation rotates it in place, without downtime '
    "(`keyrotation docs aes-gcm`); its CBC mode is not rotated yet."
)
SPEC = FormatSpec(
    name="aes-gcm",
    package=__name__,
    identified_by=IdentifiedBy.DECRYPT,
    places=ANYWHERE,
    options=(
        Option(
            name="layout",
            takes=str,
            layout="{}",
            needed='to know how values are put together; add layout = "b64(nonce12 ct tag16)", or as the application '
            "does it",
            says="how a value is put together, as in `b64(nonce12 ct tag16)`, `hex(nonce12):hex(tag16):hex(ct)` or, in "
            "bytea, `raw(nonce12 ct tag16)`; `b64(ct tag16); b64(nonce12)` if the nonce has a column of its own.",
        ),
        AAD,
        Option(
            name="key_encoding",
            takes=Literal["b64url", "b64", "hex"],
            default="b64url",
            says="how each key of the list is written.",
        ),
        Option(
            name="key_bytes",
            takes=Literal[16, 24, 32],
            says="how long new keys are; default: as long as the key that each replaces.",
        ),
        LOGINS,
        derivation("`sha256`, or `lockbox`, whose list has master keys."),
    ),
    variable="FIELD_KEYS",
    guide="aes-gcm",
    derivations=(SHA256, FOR_EACH_COLUMN),
    row_data=True,
    guesses=(
        Guess(name="attr_encrypted", places=frozenset({TEXT}), next=_ATTR_ENCRYPTED, reads_two_keys=False),
        Guess(name="handmade-hex-colon", places=ANYWHERE, next=_NEXT, reads_two_keys=None),
        Guess(name="rails-message-encryptor", places=ANYWHERE, next=_MESSAGE_ENCRYPTOR, reads_two_keys=True),
        Guess(name="unknown-aead", places=ANYWHERE, next=_NEXT, reads_two_keys=None),
    ),
)
AES_GCM = ValueFormat.of(SPEC)
