"""One rule says which characters are hidden; signed texts refuse them, and output escapes them."""

import pytest

from keyrotation_pipeline.errors import ApprovalError
from keyrotation_pipeline.model.approval import require_plain
from keyrotation_pipeline.model.visible_text import is_hidden, is_of_one_script, visible

HIDDEN = [
    pytest.param("\x1b", id="escape"),
    pytest.param("\x9b", id="control sequence introducer of 8 bits"),
    pytest.param("\u202e", id="right-to-left override"),
    pytest.param("\u2066", id="isolate"),
    pytest.param("\u200b", id="zero-width space"),
    pytest.param("\u3164", id="Hangul filler"),
    pytest.param("\uffa0", id="halfwidth Hangul filler"),
    pytest.param("\u115f", id="Hangul choseong filler"),
    pytest.param("\u2800", id="blank Braille pattern"),
    pytest.param("\ufe0f", id="variation selector 16"),
    pytest.param("\U000e0101", id="variation selector 18"),
    pytest.param("\U000e0041", id="tag A"),
    pytest.param("\u180b", id="Mongolian variation selector"),
    pytest.param("\u034f", id="grapheme joiner"),
    pytest.param("\u17b4", id="Khmer inherent vowel"),
    pytest.param("\U0001d159", id="null notehead"),
    pytest.param("\u00ad", id="soft hyphen"),
    pytest.param("\u00a0", id="no-break space"),
    pytest.param("\u3000", id="ideographic space"),
    pytest.param("\u2028", id="line separator"),
    pytest.param("\x85", id="next line"),
    pytest.param("\ue000", id="private use"),
    pytest.param("\u0378", id="unassigned"),
    pytest.param("\udc80", id="surrogate"),
]


@pytest.mark.parametrize("character", HIDDEN)
def test_a_hidden_character_is_refused_in_a_signed_text_and_escaped_in_output(character: str) -> None:
    with pytest.raises(ApprovalError, match=f"U\\+{ord(character):04X}"):
        require_plain("Reason", f"a{character}b")
    shown = visible(f"a{character}b")
    assert shown.isascii()
    assert shown.isprintable()
    assert (shown[0], shown[1], shown[-1]) == ("a", "\\", "b")


@pytest.mark.parametrize("text", ["plain", "Zoë Łukasz 東京 عربي עברית", "a ✓ → … 😀", "e\u0301"])
def test_what_can_be_seen_stays_as_it_is(text: str) -> None:
    assert visible(text) == text
    require_plain("Reason", text)


def test_a_line_break_is_kept_only_where_it_was_asked_for() -> None:
    assert visible("a\nb\x07", keep="\n") == "a\nb\\x07"
    assert visible("a\nb") == "a\\nb"
    assert is_hidden("\n")


ONE_SCRIPT = [
    "Ada",
    "Zoë Łukasz",
    "\u0410\u0434\u0430",
    "東京 Tower タワー",
    "\ud55c\uad6d Kim",
    "e\u0301",
    "v2-1",
    "Kal\u02bba",
    "",
    "\uff21da",
]
SEVERAL = ["\u0410da", "Ad\u0430", "\u0391da", "Ada \u0410\u0434\u0430", "\u30bf\ud55c", "\u13aada"]


@pytest.mark.parametrize("name", ONE_SCRIPT)
def test_a_name_of_one_script_is_one(name: str) -> None:
    assert is_of_one_script(name)


@pytest.mark.parametrize("name", SEVERAL)
def test_a_name_with_letters_that_look_like_those_of_another_script_is_not(name: str) -> None:
    assert not is_of_one_script(name)
