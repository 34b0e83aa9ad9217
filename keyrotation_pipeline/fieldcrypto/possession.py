"""Proves that somebody holds a key, without revealing it: an HMAC under a key that HKDF derives from its bytes."""

import hmac

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.material import KEY_BYTES, KeyMaterial

LABEL = b"keyrotation-possession-v1"


def proof_of_possession(material: KeyMaterial, name: KeyVersion | str, instance: str, report: str) -> str:
    """Returns HMAC-SHA256 over the key's name, instance and report, a line each, as 64 hex digits.

    Args:
        name: what the report names the key by: its version, or its fingerprint.
        report: as it is stored, to the byte.

    Source: RFC 2104; RFC 5869 without a salt, with `LABEL` as the info.
    """
    derived = HKDF(SHA256(), KEY_BYTES, salt=None, info=LABEL).derive(raw_of(material))
    return hmac.new(derived, f"{name}\n{instance}\n{report}".encode(), "sha256").hexdigest()
