"""GitLab's tokens, all encrypted with one key: a source of values."""

from keyrotation_pipeline.fieldcrypto.source_spec import SourceSpec

SOURCES = (
    SourceSpec(
        name="gitlab-token",
        package=__name__,
        library="GitLab (`token_encrypted`, `runners_token_encrypted`)",
        authenticated=True,
        deterministic=True,
        seen_as="gitlab-token",
        text_bytes="greatest({size} * 3 / 4 - 16, 0)",
        against=(
            "most values have one nonce, which SP 800-38D forbids: who knows a text can read others, and forge values",
        ),
        source="gitlabhq/gitlabhq, lib/gitlab/crypto_helper.rb (f61bb2a16a51), "
        "app/models/concerns/token_authenticatable_strategies/encryption_helper.rb, config/settings.rb (0067ea312c4c); "
        "attr-encrypted/encryptor 3.0, lib/encryptor.rb",
    ),
)
