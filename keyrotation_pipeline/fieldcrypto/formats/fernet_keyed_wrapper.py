"""Recognises a Fernet token that is wrapped with its key's name: ``enc:fernet:<key id>:<base64 of the token>``.

Source: the EncryptedField of Sentry.
"""

from keyrotation_pipeline.fieldcrypto.formats import fernet
from keyrotation_pipeline.fieldcrypto.formats.recogniser import Recognised, from_base64, key_id

NAME = "fernet-keyed-wrapper"
STARTS = ("enc:fernet:",)


def recognise(text: str) -> Recognised | None:
    """Recognises a wrapped token."""
    _, _, named = text.partition("enc:fernet:")
    name, _, encoded = named.partition(":")
    token = from_base64(encoded)
    if token is None or fernet.recognise(token.decode("latin-1")) is None or key_id(name) is None:
        return None
    return Recognised(NAME, name)
