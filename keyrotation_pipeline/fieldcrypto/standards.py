"""What a report says in NIST's words of the cryptographic modules in use, and of what a format does.

Source: NIST SP 800-38D, section 5.2.1.1; SP 800-132; SP 800-131A; FIPS 140-3 and the CMVP's transition from FIPS 140-2.
"""

from collections.abc import Iterator

from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.compiled import MODULE

_NO_MODULE = "its default provider, which is no validated module"
_FIPS = (
    "its FIPS provider; whether this version of it is validated, csrc.nist.gov/projects/cryptographic-module-"
    "validation-program says (certificates of FIPS 140-2 are historical since 2026-09-21)"
)
_DERIVATIONS = {
    "pbkdf2-sha1": "keys are derived by PBKDF2 with SHA-1, which NIST retires by the end of 2030; "
    "with `pbkdf2-sha256` they are not",
    "sha256": "keys are the SHA-256 of a secret, no derivation of SP 800-132: it must be random, and no password",
}
_LONG_NONCE = "nonce16"


def modules_in_use() -> tuple[str, ...]:
    """Returns the modules by which this process encrypts, each with its version and provider, as far as it knows."""
    from cryptography.hazmat.backends.openssl import backend  # noqa: PLC0415  takes long to import
    from cryptography.hazmat.primitives.hashes import MD5  # noqa: PLC0415

    # Under a FIPS provider it refuses MD5.
    provider = _NO_MODULE if backend.hash_supported(MD5()) else _FIPS  # noqa: S303
    python = f"{backend.openssl_version_text()} of Python's cryptography: {provider}"
    if MODULE is None:
        return (python,)
    return (
        python,
        f"{MODULE.LIBRARY} of the native codec, for rows: the provider is what openssl.cnf of its host says",
    )


def findings(declared: ValueFormat) -> Iterator[str]:
    """Yields what NIST advises against in how a format encrypts, a sentence each."""
    if _LONG_NONCE in declared.layout:
        yield (
            "nonces have 16 bytes, which AES-GCM hashes first; SP 800-38D recommends that implementations restrict "
            "themselves to 12"
        )
    derivation = "" if declared.derivation is None else declared.derivation.name
    if derivation in _DERIVATIONS:
        yield _DERIVATIONS[derivation]
