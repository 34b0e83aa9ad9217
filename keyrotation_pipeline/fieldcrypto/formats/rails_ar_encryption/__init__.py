"""Active Record Encryption (guides/rails.md) with `store_key_references`, by which values name their key."""

from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.format_advice import Advice
from keyrotation_pipeline.fieldcrypto.format_spec import OUTSIDE_ARRAYS, Derivation, FormatSpec, Option
from keyrotation_pipeline.fieldcrypto.formats.options import derivation
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy

# With 2^16 rounds, and a salt that is declared.
PBKDF2_SHA1 = Derivation(
    "pbkdf2-sha1",
    salted=True,
    against="keys are derived by PBKDF2 with SHA-1, which NIST retires by the end of 2030; with `pbkdf2-sha256` they "
    "are not",
)
PBKDF2_SHA256 = Derivation("pbkdf2-sha256", salted=True)
SPEC = FormatSpec(
    name="rails-ar-encryption",
    package=__name__,
    identified_by=IdentifiedBy.MARKER,
    markers=True,
    places=OUTSIDE_ARRAYS,
    options=(
        derivation("default `pbkdf2-sha256`, that of Rails 7.1 and later."),
        Option(
            name="salt",
            takes=str,
            needed='the salt that the application derives its keys with; add salt = "…" with its key_derivation_salt',
            says="its `key_derivation_salt`, which is no secret here.",
        ),
        Option(
            name="deterministic",
            takes=bool,
            default=False,
            says="the list is of `deterministic_key`, and queries find the values.",
        ),
    ),
    variable="ACTIVE_RECORD_ENCRYPTION_PRIMARY_KEY",
    guide="rails",
    derivation=PBKDF2_SHA256,
    derivations=(PBKDF2_SHA1, PBKDF2_SHA256),
    advice=Advice(
        identified_by=IdentifiedBy.DECRYPT,
        steps="add the new key last to `primary_key` (of deterministic attributes, the old scheme to `previous:`), "
        "then call `record.encrypt` for every record",
        also=" (deterministic attributes in one of their own) and the application stores key references",
        source="rails/rails activerecord/lib/active_record/encryption (2a2db1e8d6d1)",
    ),
)
RAILS = ValueFormat.of(SPEC)
