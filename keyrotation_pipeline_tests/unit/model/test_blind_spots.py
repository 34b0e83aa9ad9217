"""What nobody looks at, in the lines that officers sign."""

from dataclasses import replace

import pytest

from keyrotation_pipeline.model.approval import require_plain
from keyrotation_pipeline.model.environment import SILENT, BlindSpots, Unsearched, gone_as_signed, lines_as_signed

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


OF_NORTH = Unsearched("binary columns", ("scans.pixels",), member="north")
ALL_OF_NORTH = Unsearched(SILENT, member="north")


@pytest.mark.parametrize(
    ("signed", "now", "line"),
    [
        pytest.param(OF_NORTH, OF_NORTH, OF_NORTH, id="the same"),
        pytest.param(OF_NORTH, ALL_OF_NORTH, OF_NORTH, id="down since"),
        pytest.param(ALL_OF_NORTH, OF_NORTH, ALL_OF_NORTH, id="back"),
        pytest.param(ALL_OF_NORTH, None, ALL_OF_NORTH, id="back, and searched as the home's own"),
        pytest.param(None, ALL_OF_NORTH, None, id="down, which was searched as the home's own"),
        pytest.param(None, OF_NORTH, OF_NORTH, id="more than was signed"),
        pytest.param(OF_NORTH, None, None, id="less than was signed"),
    ],
)
def test_a_member_that_goes_or_comes_back_changes_no_line_that_was_signed(
    signed: Unsearched | None, now: Unsearched | None, line: Unsearched | None
) -> None:
    def spots(of_north: Unsearched | None) -> BlindSpots:
        return replace(SPOTS, unsearched=SPOTS.unsearched if of_north is None else (*SPOTS.unsearched, of_north))

    fields = dict(spots(signed).lines())
    assert spots(now).lines(fields) == spots(line).lines()
    assert lines_as_signed(fields) == spots(signed).lines()
