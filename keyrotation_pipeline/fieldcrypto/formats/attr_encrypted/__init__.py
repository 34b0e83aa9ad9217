"""attr_encrypted, a gem for Ruby that reads one key: sources of values, with IV and salt in columns of their own."""

from keyrotation_pipeline.fieldcrypto.source_spec import SourceOption, SourceSpec

_OPTIONS = (
    SourceOption(name="iv", says="the column of the IV, such as `encrypted_ssn_iv`.", column=True),
    SourceOption(
        name="salt",
        says="the column of the salt, in the mode `:per_attribute_iv_and_salt`; left out in every other.",
        column=True,
        optional=True,
    ),
)
_READ = (
    "attr-encrypted/attr_encrypted 4.2, lib/attr_encrypted.rb (6d8928b68453); attr-encrypted/encryptor 3.0, "
    "lib/encryptor.rb"
)
GCM = SourceSpec(
    name="attr-encrypted",
    package=__name__,
    library="attr_encrypted with aes-256-gcm, its default,",
    authenticated=True,
    options=_OPTIONS,
    seen_as="attr_encrypted",
    text_bytes="greatest({size} - 16, 0)",
    source=_READ,
)
CBC = SourceSpec(
    name="attr-encrypted-cbc",
    package=__name__,
    library="attr_encrypted with aes-256-cbc",
    authenticated=False,
    options=_OPTIONS,
    seen_as="attr_encrypted",
    source=_READ,
)
SOURCES = (GCM, CBC)
