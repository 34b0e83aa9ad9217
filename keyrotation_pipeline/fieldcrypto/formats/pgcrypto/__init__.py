"""pgcrypto's `pgp_sym_encrypt`, in bytea, or with `armor` in text: sources of values."""

from keyrotation_pipeline.fieldcrypto.source_spec import SourceSpec

_READ = "PostgreSQL 15, contrib/pgcrypto (pgp-encrypt.c, pgp-decrypt.c, pgp-s2k.c, pgp-armor.c); RFC 4880"
# A text that was compressed may be longer than its value.
PGP = SourceSpec(
    name="pgcrypto-pgp",
    package=__name__,
    library="pgcrypto",
    authenticated=True,
    seen_as="pgcrypto-pgp",
    text_bytes="greatest({size} - 60, 0)",
    binary=True,
    source=_READ,
)
ARMOR = SourceSpec(
    name="pgcrypto-armor",
    package=__name__,
    library="pgcrypto with armor",
    authenticated=True,
    seen_as="pgcrypto-armor",
    text_bytes="greatest({size} * 3 / 4 - 60, 0)",
    source=_READ,
)
SOURCES = (PGP, ARMOR)
