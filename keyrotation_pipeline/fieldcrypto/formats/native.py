"""Recognises this project's own values, by the grammar itself."""

from keyrotation_pipeline.errors import MalformedCiphertextError
from keyrotation_pipeline.fieldcrypto import grammar
from keyrotation_pipeline.fieldcrypto.formats.recogniser import Recognised

NAME = "native"
STARTS = ("v",)


def recognise(text: str) -> Recognised | None:
    """Recognises ``v<N>:<nonce>:<ciphertext ‖ tag>``."""
    try:
        return Recognised(NAME, str(grammar.parse(text).version))
    except MalformedCiphertextError:
        return None
