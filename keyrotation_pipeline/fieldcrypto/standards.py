"""What a report says in NIST's words of the cryptographic modules in use, and of what a format does.

Source: NIST SP 800-38A; SP 800-38D, section 5.2.1.1; SP 800-132; SP 800-131A; FIPS 140-3 and the CMVP's transition
from FIPS 140-2.
"""

from collections.abc import Iterable, Iterator

from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.compiled import MODULE
from keyrotation_pipeline.fieldcrypto.formats.derivations import LONG_NONCES
from keyrotation_pipeline.fieldcrypto.source_spec import SourceSpec

_NO_MODULE = "its default provider, which is no validated module"
_FIPS = (
    "its FIPS provider; whether this version of it is validated, csrc.nist.gov/projects/cryptographic-module-"
    "validation-program says (certificates of FIPS 140-2 are historical since 2026-09-21)"
)
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


def findings(declared: ValueFormat, sources: Iterable[SourceSpec] = ()) -> Iterator[str]:
    """Yields what NIST advises against in how a format encrypts, a sentence each.

    Args:
        sources: of columns whose values are of another library until a rotation has migrated them.
    """
    if _LONG_NONCE in declared.layout:
        yield LONG_NONCES
    if declared.derivation is not None and declared.derivation.against:
        yield declared.derivation.against
    for each in dict.fromkeys(sources):
        yield from (f"values from {each.library} until their rotation: {sentence}" for sentence in each.against)
