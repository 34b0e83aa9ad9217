"""crypto-js' `AES.encrypt` with a passphrase, in OpenSSL's form: a source of values."""

from keyrotation_pipeline.fieldcrypto.source_spec import SourceSpec

SOURCES = (
    SourceSpec(
        name="cryptojs-openssl",
        package=__name__,
        library="crypto-js with a passphrase",
        authenticated=False,
        seen_as="cryptojs-openssl",
        against=(
            "keys are derived by one round of MD5, no derivation of SP 800-132 and no approved hash (SP 800-131A)",
        ),
        text_bytes="greatest({size} * 3 / 4 - 16, 0)",
        source="crypto-js 4.2, src/evpkdf.js and src/cipher-core.js",
    ),
)
