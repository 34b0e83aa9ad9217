"""How places and shares are named, and what becomes JSON."""

from dataclasses import replace

import pytest

from keyrotation_pipeline.scan.report import Place, as_json_of, in_other_formats, name_of, share_of
from keyrotation_pipeline_tests.fakes import FERNET_TOKENS


@pytest.mark.parametrize(
    ("path", "elements", "name"),
    [
        pytest.param(None, False, "public.t.c", id="column"),
        pytest.param(None, True, "public.t.c[]", id="elements"),
        pytest.param(("a", "[]", "b"), False, "public.t.c -> a -> [] -> b", id="leaf"),
        pytest.param(("a",), True, "public.t.c[] -> a", id="leaf of elements"),
    ],
)
def test_the_name_of_a_place(path: tuple[str, ...] | None, elements: bool, name: str) -> None:
    assert name_of(Place("public.t", "c", path, elements, "text")) == name


@pytest.mark.parametrize(
    ("share", "shown"),
    [(1.0, "all 1,000"), (0.9999, "99 % of 1,000"), (0.5, "50 % of 1,000"), (0.0001, "1 % of 1,000")],
)
def test_a_share_is_whole_only_if_it_is(share: float, shown: str) -> None:
    assert share_of(replace(FERNET_TOKENS, share=share, values=1000)) == shown


def test_notes_stand_at_the_end_of_what_is_next() -> None:
    found = as_json_of(replace(FERNET_TOKENS, notes=("One.", "Two."), key_ids=("a",), share=1 / 3))
    assert (found["next"], found["key_ids"], found["share"]) == ("Not rotated yet. One. Two.", ["a"], 0.3333)


def test_only_what_is_certain_and_not_ours_is_in_another_format() -> None:
    ours, guessed = replace(FERNET_TOKENS, format="native"), replace(FERNET_TOKENS, tier="likely")
    assert in_other_formats([ours, FERNET_TOKENS, guessed]) == (FERNET_TOKENS,)
