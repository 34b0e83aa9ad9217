"""What is refused as a list of keys is nowhere in the refusal, in whichever notation it was read."""

from dataclasses import replace

import pytest

from keyrotation_pipeline.errors import InvalidKeyError
from keyrotation_pipeline.fieldcrypto.codecs.format import notation_of
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import KeyEncoding, KeyNotation, by_commas
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.registry import SPECS

NOTATIONS: dict[str, KeyNotation] = {
    **{str(encoding): by_commas(encoding) for encoding in KeyEncoding},
    **{
        f"{spec.name} {layout} {derivation or ''}": notation_of(
            replace(ValueFormat.of(spec), layout=layout, derivation=derivation)
        )
        for spec in SPECS.values()
        if spec.lists_keys
        for layout in spec.layouts or (spec.layout,)
        for derivation in (spec.derivation, *spec.derivations)
    },
}
# Too short for any key, not of base64, with quotes, and what a variable may hold that is not UTF-8.
TEXTS = [
    "s3cr3t",
    "sécret-sécret-sécret-sécret-sécret",
    "'secret\\secret\\secret\\secret'",
    "secret-\udcff-secret-secret",
]


@pytest.mark.parametrize("notation", NOTATIONS.values(), ids=NOTATIONS.keys())
@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_a_refusal_holds_nothing_of_the_text(notation: KeyNotation, text: str) -> None:
    with pytest.raises(InvalidKeyError) as refused:
        notation.keys_in(text, "KEYS")
    error: BaseException | None = refused.value
    while error is not None:
        assert "cret" not in repr(error)
        error = error.__context__
