"""typeorm-encrypted with aes-256-cbc or aes-256-gcm, which reads one key: a source of values."""

from keyrotation_pipeline.fieldcrypto.formats.derivations import LONG_NONCES
from keyrotation_pipeline.fieldcrypto.source_spec import SourceSpec

_READ = "typeorm-encrypted 0.8, src/crypto.ts"
CBC = SourceSpec(
    name="typeorm-encrypted-cbc",
    package=__name__,
    library="typeorm-encrypted with aes-256-cbc",
    authenticated=False,
    seen_as="unknown-cbc",
    text_bytes="greatest({size} * 3 / 4 - 16, 0)",
    source=_READ,
)
GCM = SourceSpec(
    name="typeorm-encrypted-gcm",
    package=__name__,
    library="typeorm-encrypted with aes-256-gcm",
    authenticated=True,
    seen_as="unknown-aead",
    text_bytes="greatest({size} * 3 / 4 - 32, 0)",
    against=(LONG_NONCES,),
    source=_READ,
)
SOURCES = (CBC, GCM)
