"""Which key opens a stored value: a diagnosis, which keeps nothing of it.

Values are never read so. Whoever reads takes the key that the value names, and no other (`cipher`).
"""

from cryptography.exceptions import InvalidTag

from keyrotation_pipeline.errors import MalformedCiphertextError
from keyrotation_pipeline.fieldcrypto.grammar import Ciphertext, KeyVersion, parse
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing


def opened_by(ring: KeyRing, value: Ciphertext) -> KeyVersion | None:
    """The version whose key authenticates a value: the one that it names, else any other of the ring; None: no key."""
    candidates = sorted(ring.versions, key=lambda each: each != value.version)
    return next((version for version in candidates if _authenticates(ring, version, value)), None)


def parsed(stored: str) -> Ciphertext | None:
    """A stored value in its parts; None where it is not of the value grammar."""
    try:
        return parse(stored)
    except MalformedCiphertextError:
        return None


def _authenticates(ring: KeyRing, version: KeyVersion, value: Ciphertext) -> bool:
    try:
        ring.cipher(version).decrypt(value.nonce, value.body, None)
    except InvalidTag:
        return False
    return True
