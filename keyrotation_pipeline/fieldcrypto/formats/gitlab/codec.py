"""Opens and seals GitLab's tokens: the base64 of AES-256-GCM's ciphertext and tag.

The key is the first 32 bytes of `db_key_base`, the nonce its first 12. Some releases took the first 12 hexadecimal
digits of the token's SHA-256 for the nonce, and wrote ``|<base64><nonce>``. Older ones wrote the base64 in lines.
"""

from base64 import b64encode
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyrotation_pipeline.errors import InvalidKeyError
from keyrotation_pipeline.fieldcrypto.codecs.source import ClosedError, Source, canonical_base64, in_lines

_KEY_BYTES, _NONCE_BYTES, _TAG_BYTES = 32, 12, 16
_OWN_NONCE, _LINE_END = b"|", b"\n"


def source(name: str, key: bytes, options: Mapping[str, str]) -> Source:  # noqa: ARG001  there is one
    """Returns what opens and seals tokens under `db_key_base`.

    Raises:
        InvalidKeyError: it is shorter than the key, or no ASCII, which GitLab would cut in another place.
    """
    if len(key) < _KEY_BYTES or not key.isascii():
        raise InvalidKeyError(
            f"GitLab's db_key_base has {_KEY_BYTES} characters of ASCII at least; give it as config/secrets.yml has it"
        )
    return _Tokens(key)


class _Tokens:
    def __init__(self, secret: bytes) -> None:
        self._cipher, self._nonce = AESGCM(secret[:_KEY_BYTES]), secret[:_NONCE_BYTES]

    def opened(self, stored: bytes) -> bytes:
        nonce, written = self._nonce, stored
        if stored.startswith(_OWN_NONCE):
            nonce, written = stored[-_NONCE_BYTES:], stored[len(_OWN_NONCE) : -_NONCE_BYTES]
        body = canonical_base64(written.replace(_LINE_END, b""))
        if len(body) < _TAG_BYTES or (_LINE_END in written and in_lines(body) != written):
            raise ClosedError
        try:
            return self._cipher.decrypt(nonce, body, None)
        except InvalidTag:
            raise ClosedError from None

    def sealed(self, text: bytes) -> bytes:
        return b64encode(self._cipher.encrypt(self._nonce, text, None))
