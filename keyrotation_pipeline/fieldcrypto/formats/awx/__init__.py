"""AWX and Ansible Tower, which derive a key for each field of each row: a source of values."""

from keyrotation_pipeline.fieldcrypto.source_spec import SourceOption, SourceSpec

SOURCES = (
    SourceSpec(
        name="awx",
        package=__name__,
        library="AWX",
        authenticated=True,
        options=(
            SourceOption(
                name="field",
                says="the field's name as AWX derives keys by it, such as `start_args`; `value` of what "
                "`encrypt_value` makes.",
            ),
            SourceOption(
                name="pk",
                says="the column of the row's primary key; left out where AWX encrypts without one.",
                column=True,
                optional=True,
            ),
        ),
        seen_as="awx",
        text_bytes="greatest(({size} - 18) * 9 / 16 - 57, 0)",
        against=("keys are derived by one round of SHA-512 of a secret, no function of SP 800-108 or SP 800-132",),
        source="ansible/awx, awx/main/utils/encryption.py (0d248a12bc1e)",
    ),
)
