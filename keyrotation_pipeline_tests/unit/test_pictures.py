"""The pictures of the docs: made by `pictures`, well-formed, with a title, and each on a page with words for it."""

import re
from xml.etree import ElementTree as ET

import pytest

from keyrotation_pipeline.console.walk_view import ACTORS
from keyrotation_pipeline_tests.pictures import DOCS, DRAWN_STEPS, IMAGES, LANES, PICTURES

PAGES = "".join(page.read_text() for page in (*DOCS.rglob("*.md"), DOCS.parent / "README.md"))


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_as_it_is_drawn(name: str) -> None:
    drawn = PICTURES[name]()
    assert (IMAGES / name).read_text() == drawn, "uv run python -m keyrotation_pipeline_tests.pictures"
    title = ET.fromstring(drawn).find("{http://www.w3.org/2000/svg}title")  # noqa: S314  our own
    assert title is not None
    assert title.text


def test_every_image_is_on_a_page_and_has_an_alternative() -> None:
    shown = {name: alternative for alternative, name in re.findall(r"!\[(.*?)\]\(\S*?images/(\S+?)\)", PAGES)}
    assert {file.name for file in IMAGES.iterdir()} == shown.keys()
    assert all(shown.values())


def test_the_console_and_the_drawing_have_the_same_actors() -> None:
    drawn = {name: LANES[lane].lower() for name, lane, *_ in DRAWN_STEPS}
    assert {step: drawn.get(step, "pipeline") for step in ACTORS} == ACTORS
