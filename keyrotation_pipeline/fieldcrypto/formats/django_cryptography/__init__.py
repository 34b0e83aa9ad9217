"""django-cryptography's `encrypt(field)`, which reads one key: a source of values, in bytea."""

from keyrotation_pipeline.fieldcrypto.source_spec import SourceOption, SourceSpec

SECRET_KEY, BOTH = "SECRET_KEY", "CRYPTOGRAPHY_KEY"
SOURCES = (
    SourceSpec(
        name="django-cryptography",
        package=__name__,
        library="django-cryptography",
        authenticated=True,
        seen_as="django-cryptography",
        options=(
            SourceOption(
                name="key_of",
                choices=(SECRET_KEY, BOTH),
                says="the setting that encrypts; `CRYPTOGRAPHY_KEY` where the application has it: the variable then "
                "holds `SECRET_KEY:CRYPTOGRAPHY_KEY`.",
            ),
        ),
        text_bytes="greatest({size} - 57, 0)",
        binary=True,
        against=("keys are derived with one salt for everybody, where SP 800-132 wants 128 random bits",),
        source="django-cryptography-django5 2.2, fields.py, core/signing.py, utils/crypto.py and conf.py",
    ),
)
