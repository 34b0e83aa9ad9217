"""AES in layouts of an application's own, with a key for each value or parts in further columns: sources of values."""

from keyrotation_pipeline.fieldcrypto.source_spec import SourceOption, SourceSpec

_READ = (
    "Node.js, node:crypto (`scryptSync`, `pbkdf2Sync`, `hkdfSync`, `createCipheriv`); Infisical/infisical, "
    "backend/src/lib/crypto/cryptography/crypto.ts (09d179f30d1f)"
)


def _column(name: str, what: str) -> SourceOption:
    return SourceOption(
        name=name, says=f"the column of the {what}, where the layout lacks it.", column=True, optional=True
    )


_BEFORE_COLUMNS = (
    SourceOption(
        name="layout",
        says="the encoding `b64`, `b64url` or `hex`, then the parts: of `salt8` to `salt64`, `nonce12` or `nonce16`, "
        "`tag16` and `ct` at least `ct`, as in `b64.salt16.nonce12.tag16.ct`. `hex-each` encodes each part alone, with "
        "a colon between them.",
    ),
    SourceOption(
        name="kdf",
        choices=("none", "scrypt", "pbkdf2-sha256", "pbkdf2-sha512", "pbkdf2-sha1", "hkdf-sha256", "hkdf-sha512"),
        says="how the key of a value is derived from its salt; `none`: there is one key for all.",
    ),
    SourceOption(
        name="cost",
        says="the rounds of PBKDF2; of scrypt N, by default 16384 (r = 8, p = 1).",
        optional=True,
    ),
    SourceOption(name="info", says="the `info` of HKDF, if there is one.", optional=True),
    SourceOption(
        name="key_encoding",
        choices=("text", "hex", "b64"),
        says="how the key is written that keys are derived from; default: its text is the key.",
        optional=True,
    ),
)
GCM = SourceSpec(
    name="aes-256-gcm",
    package=__name__,
    library="the application's own AES-256-GCM",
    authenticated=True,
    options=(*_BEFORE_COLUMNS, _column("iv", "nonce"), _column("tag", "tag"), _column("salt", "salt")),
    seen_as="",
    options_may_clash=True,
    source=_READ,
)
CBC = SourceSpec(
    name="aes-256-cbc",
    package=__name__,
    library="the application's own AES-256-CBC",
    authenticated=False,
    options=(*_BEFORE_COLUMNS, _column("iv", "nonce"), _column("salt", "salt")),
    seen_as="",
    options_may_clash=True,
    source=_READ,
)
SOURCES = (GCM, CBC)
