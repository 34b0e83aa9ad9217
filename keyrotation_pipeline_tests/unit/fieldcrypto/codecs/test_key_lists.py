"""What is refused as a list of keys is nowhere in the refusal, in whichever notation it was read."""

from dataclasses import replace

import pytest

from keyrotation_pipeline.errors import InvalidKeyError
from keyrotation_pipeline.fieldcrypto.codecs.derived_keys import DERIVATIONS
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import KeyEncoding, KeyNotation, by_commas, notation_of
from keyrotation_pipeline.fieldcrypto.codecs.laravel_crypt import CIPHERS
from keyrotation_pipeline.fieldcrypto.codecs.value_format import (
    AES_GCM,
    CLOAK_47NG,
    CLOAK_ECTO,
    FERNET,
    KEYED_WRAPPER,
    LARAVEL,
    RAILS,
    TINK,
)

NOTATIONS: dict[str, KeyNotation] = {
    **{each.name: notation_of(each) for each in (FERNET, RAILS, CLOAK_47NG, CLOAK_ECTO, KEYED_WRAPPER, TINK)},
    **{cipher: notation_of(replace(LARAVEL, layout=cipher)) for cipher in CIPHERS},
    **{str(encoding): by_commas(encoding) for encoding in KeyEncoding},
    **{
        f"{each.name} by {how}": notation_of(replace(each, derivation=how))
        for each in (FERNET, AES_GCM)
        for how in DERIVATIONS[each.name]
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
