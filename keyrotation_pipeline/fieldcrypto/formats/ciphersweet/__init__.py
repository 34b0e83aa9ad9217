"""CipherSweet's encrypted fields, by each of its back ends: sources of values."""

from keyrotation_pipeline.fieldcrypto.source_spec import SourceOption, SourceSpec

_OPTIONS = (
    SourceOption(name="table", says="the table's name as the application gives it to CipherSweet."),
    SourceOption(name="column", says="the field's name as the application gives it to CipherSweet."),
)


def _back_end(name: str, says: str, overhead_bytes: int, *against: str) -> SourceSpec:
    return SourceSpec(
        name=f"ciphersweet-{name}",
        package=__name__,
        library=f"CipherSweet with {says}",
        authenticated=True,
        options=_OPTIONS,
        seen_as=f"ciphersweet-{name}",
        text_bytes=f"greatest({{size}} * 3 / 4 - {overhead_bytes}, 0)",
        against=against,
        source="paragonie/ciphersweet 4.10, src/Backend, CipherSweet.php and Util.php (06cbd57f5d0a)",
    )


_NOT_APPROVED = "XChaCha20 is no approved cipher (SP 800-175B)"
SOURCES = (
    _back_end("brng", "BoringCrypto, its default", 24 + 32, _NOT_APPROVED),
    _back_end("nacl", "ModernCrypto", 24 + 16, _NOT_APPROVED),
    _back_end("fips", "FIPSCrypto", 32 + 16 + 48),
)
