"""Recognises values of django-cryptography: the bytes of a Fernet token without its base64url, in bytea."""

from keyrotation_pipeline.fieldcrypto.formats import fernet
from keyrotation_pipeline.fieldcrypto.formats.recogniser import Recognised

NAME = "django-cryptography"
STARTS = (fernet.VERSION,)


def recognise(raw: bytes) -> Recognised | None:
    """Recognises ``0x80 ‖ u64 time ‖ iv16 ‖ AES-CBC(pickle) ‖ HMAC-SHA-256``."""
    return Recognised(NAME) if fernet.is_token(raw) else None
