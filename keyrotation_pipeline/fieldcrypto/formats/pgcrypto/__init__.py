"""pgcrypto's `pgp_sym_encrypt`, in bytea, or with `armor` in text: sources of values."""

from keyrotation_pipeline.fieldcrypto.source_spec import SourceSpec

_READ = "PostgreSQL 15, contrib/pgcrypto (pgp-encrypt.c, pgp-decrypt.c, pgp-s2k.c, pgp-armor.c); RFC 4880"
_AGAINST = ("keys are derived by OpenPGP's S2K, by default SHA-1 over 64 to 248 KiB, no derivation of SP 800-132",)
# A text that was compressed may be longer than its value.
PGP = SourceSpec(
    name="pgcrypto-pgp",
    package=__name__,
    library="pgcrypto",
    authenticated=True,
    seen_as="pgcrypto-pgp",
    text_bytes="greatest({size} - 60, 0)",
    binary=True,
    against=_AGAINST,
    source=_READ,
)
ARMOR = SourceSpec(
    name="pgcrypto-armor",
    package=__name__,
    library="pgcrypto with armor",
    authenticated=True,
    seen_as="pgcrypto-armor",
    text_bytes="greatest({size} * 3 / 4 - 60, 0)",
    against=_AGAINST,
    source=_READ,
)
SOURCES = (PGP, ARMOR)
