"""Recognises wrapped tokens."""

from keyrotation_pipeline.fieldcrypto.formats.fernet.recognise import fernet
from keyrotation_pipeline.fieldcrypto.formats.recogniser import Recognised, from_base64, in_text, key_id


@in_text("fernet-keyed-wrapper", starts=("enc:fernet:",), behind="enc:fernet:")
def fernet_keyed_wrapper(text: str) -> Recognised | None:
    """Recognises a Fernet token that is wrapped with its key's name: ``enc:fernet:<key id>:<base64 of the token>``.

    Source: the EncryptedField of Sentry.
    """
    _, _, named = text.partition("enc:fernet:")
    name, _, encoded = named.partition(":")
    token = from_base64(encoded)
    if token is None or fernet(token.decode("latin-1")) is None or key_id(name) is None:
        return None
    return Recognised("fernet-keyed-wrapper", name)
