"""What nobody looks at, in the lines that officers sign."""

import pytest

from keyrotation_pipeline.model.approval import require_plain
from keyrotation_pipeline.model.environment import BlindSpots, Unsearched, gone_as_signed, lines_as_signed

SPOTS = BlindSpots(
    (Unsearched("binary columns", ("scans.pixels",)), Unsearched("other databases", ("billing",), fleeting=True)),
    ("copies",),
    ("slot old", "reports@10.0.0.7"),
)


def test_the_lines_say_what_there_is_without_the_names_that_come_and_go() -> None:
    assert dict(SPOTS.lines()) == {
        "Not searched": "binary columns (scans.pixels); other databases",
        "Not seen": "copies",
        "Replicas declared gone": "reports@10.0.0.7, slot old",
    }
    assert str(SPOTS.unsearched[1]) == "other databases (billing)"


@pytest.mark.parametrize("name", ["a\u202eb", "a, b", "a); all is (", " a", "a\nAction: destroy", 'a"b', "a; b"])
def test_no_name_can_make_a_line_read_differently(name: str) -> None:
    spots = BlindSpots((Unsearched("binary columns", (name,)),), gone=(name,))
    for field, line in spots.lines():
        require_plain(field, line)
    assert f"({name})" not in dict(spots.lines())["Not searched"]
    assert gone_as_signed(dict(spots.lines()), (name, "a", "b")) == (name,)


def test_what_was_signed_is_read_out_of_the_text_again() -> None:
    fields = {"Request": "0f", **dict(SPOTS.lines())}
    assert lines_as_signed(fields) == SPOTS.lines()
    assert gone_as_signed(fields, ("slot old", "slot new")) == ("slot old",)
    assert lines_as_signed({"Request": "0f"}) == (), "a text of before these lines"
