import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyrotation_pipeline.errors import MalformedCiphertextError
from keyrotation_pipeline.fieldcrypto.grammar import (
    VALUE_PATTERN,
    Ciphertext,
    KeyVersion,
    any_value_in,
    ciphertext_length,
    looks_damaged,
    parse,
)
from keyrotation_pipeline_tests.unit.fieldcrypto.value_cases import (
    ACCEPTED,
    BODY,
    LIKE_VALUES,
    NEAR_MISSES,
    NO_NEAR_MISSES,
    NONCE,
    REFUSED,
)

versions = st.integers(1, 999_999).map(KeyVersion)
ciphertexts = st.builds(Ciphertext, versions, st.binary(min_size=12, max_size=12), st.binary(min_size=16, max_size=99))


def parses(stored: str) -> bool:
    try:
        parse(stored)
    except MalformedCiphertextError:
        return False
    return True


@pytest.mark.parametrize("stored", [pytest.param(value, id=name) for name, value in ACCEPTED.items()])
def test_a_value_of_the_grammar_comes_back_as_it_was(stored: str) -> None:
    assert str(parse(stored)) == stored
    assert re.fullmatch(VALUE_PATTERN, stored)


@pytest.mark.parametrize("stored", [pytest.param(value, id=name) for name, value in REFUSED.items()])
def test_anything_else_is_refused_by_parser_and_pattern_alike(stored: str) -> None:
    with pytest.raises(MalformedCiphertextError):
        parse(stored)
    assert not re.fullmatch(VALUE_PATTERN, stored)


@settings(deadline=None)
@given(ciphertexts)
def test_parsing_undoes_formatting(value: Ciphertext) -> None:
    assert parse(str(value)) == value


@settings(deadline=None)
@given(ciphertexts.map(str), st.data())
def test_parser_and_pattern_agree_on_damaged_values(stored: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(stored)))
    piece = data.draw(st.text(st.sampled_from("v0159AQgw+/=:-_ \nÿ\u0661"), max_size=3))
    damaged = stored[:at] + piece + stored[at + data.draw(st.integers(0, 3)) :]
    assert parses(damaged) == bool(re.fullmatch(VALUE_PATTERN, damaged))


def test_a_refusal_shows_nothing_of_the_value() -> None:
    with pytest.raises(MalformedCiphertextError) as caught:
        parse(f"v1:{NONCE}:Schmidt")
    assert "Schmidt" not in str(caught.value)
    assert NONCE not in str(caught.value)


def test_repr_shows_version_and_size_only() -> None:
    assert repr(parse(ACCEPTED["an empty text"])) == "Ciphertext(v1, 16 bytes)"


_REST = f"{NONCE}:{BODY}"


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        *(
            pytest.param(f"{value.partition(':')[0]}:{_REST}", True, id=f"damaged: {name}")
            for name, value in NEAR_MISSES.items()
        ),
        pytest.param(ACCEPTED["17 bytes"][:-1], True, id="damaged: cut in its body"),
        pytest.param(f"v1:{NONCE}:", True, id="damaged: no body"),
        pytest.param(REFUSED["space after"], True, id="damaged: space after"),
        pytest.param(REFUSED["url alphabet in nonce"], True, id="damaged: url alphabet in nonce"),
        *(pytest.param(value, True, id=f"is one: {name}") for name, value in ACCEPTED.items()),
        *(pytest.param(value, False, id=f"a text: {name}") for name, value in NO_NEAR_MISSES.items()),
        *(pytest.param(value, False, id=f"a short text: {name}") for name, value in NEAR_MISSES.items()),
        *(
            pytest.param(text, False, id=text)
            for text in ("v2: final version of the plan", "V1: see above", "v1x:", "v1:note", "v3: 10:30, ward 2")
        ),
    ],
)
def test_a_damaged_value_is_distinguished_from_a_text_that_begins_like_one(stored: str, expected: bool) -> None:
    assert looks_damaged(stored) is expected


def test_only_a_value_is_one_within_a_value() -> None:
    assert all(any_value_in([b"Anna", value.encode()]) for value in ACCEPTED.values())
    assert not any_value_in([text.encode() for text in LIKE_VALUES])
    assert not any_value_in([])


@pytest.mark.parametrize(
    ("characters", "options", "width"),
    [
        pytest.param(0, {}, 8 + 16 + 1 + 24, id="empty text, any version"),
        pytest.param(1, {}, 8 + 16 + 1 + 28, id="one emoji"),
        pytest.param(100, {}, 8 + 16 + 1 + 556, id="a hundred characters of four bytes"),
        pytest.param(100, {"bytes_per_character": 1}, 8 + 16 + 1 + 156, id="a hundred ASCII characters"),
        pytest.param(0, {"version_digits": 1}, 3 + 16 + 1 + 24, id="up to v9"),
    ],
)
def test_column_width_is_that_of_the_longest_value(characters: int, options: dict[str, int], width: int) -> None:
    assert ciphertext_length(characters, **options) == width


def test_a_value_of_the_second_generation_is_at_most_61_characters_longer() -> None:
    longer = {ciphertext_length(size, generation=2) - ciphertext_length(size) for size in range(100)}
    assert longer == {57, 61}


@settings(deadline=None)
@given(versions, st.text(max_size=50))
def test_no_value_is_wider_than_its_column(version: KeyVersion, text: str) -> None:
    body = bytes(len(text.encode()) + 16)
    assert len(str(Ciphertext(version, bytes(12), body))) <= ciphertext_length(len(text))
