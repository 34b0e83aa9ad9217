"""sqlalchemy-utils' `StringEncryptedType` with AesEngine or AesGcmEngine, which reads one key: a source of values."""

from keyrotation_pipeline.fieldcrypto.formats.derivations import ONE_HASH
from keyrotation_pipeline.fieldcrypto.source_spec import SourceOption, SourceSpec

_READ = "sqlalchemy-utils 0.43, types/encrypted/encrypted_type.py and padding.py"
AES = SourceSpec(
    name="sqlalchemy-utils-aes",
    package=__name__,
    library="sqlalchemy-utils with AesEngine",
    authenticated=False,
    deterministic=True,
    seen_as="unknown-cbc",
    options=(
        SourceOption(
            name="padding",
            choices=("naive", "pkcs5", "oneandzeroes", "zeroes"),
            says="the fourth argument of `StringEncryptedType`; `naive` where the application gives none.",
        ),
    ),
    text_bytes="({size} * 3 / 4)",
    against=(ONE_HASH, "the IV is half of the key, where SP 800-38A wants one of CBC that nobody can predict"),
    source=_READ,
)
AES_GCM = SourceSpec(
    name="sqlalchemy-utils-aesgcm",
    package=__name__,
    library="sqlalchemy-utils with AesGcmEngine",
    authenticated=True,
    seen_as="unknown-aead",
    text_bytes="greatest({size} * 3 / 4 - 28, 0)",
    against=(ONE_HASH,),
    source=_READ,
)
SOURCES = (AES, AES_GCM)
