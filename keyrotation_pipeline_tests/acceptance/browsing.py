"""A real browser, Debian's chromium, in front of the UI; it also makes the pictures of README and docs.

Pictures are made in the folder `KEYROTATION_TEST_PICTURES`, such as docs/images; where it is not set, there are none.
"""

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, FloatRect, Locator, Page, ViewportSize, expect, sync_playwright

from keyrotation_pipeline_tests.acceptance.test_up import Ui

CHROMIUM = shutil.which("chromium")
PICTURES = Path(os.environ.get("KEYROTATION_TEST_PICTURES", ""))
GROUPS = ("inventory", "new_key", "rows", "old_key", "evidence")
PATIENCE_SECONDS = 120.0  # only a failure takes so long
DESK = ViewportSize(width=1440, height=900)
GREEN, GREY = "rgb(46, 204, 129)", "rgb(103, 116, 138)"  # what Dagster calls materialized, and missing


@pytest.fixture
def browser() -> Iterator[Browser]:
    assert CHROMIUM, "CI needs Debian's chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        # Chromium's own sandbox does not work for root, as whom CI runs.
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Browser) -> Page:
    opened = browser.new_page(viewport=DESK)
    opened.set_default_timeout(PATIENCE_SECONDS * 1000)
    expect.set_options(timeout=PATIENCE_SECONDS * 1000)
    return opened


def open_ui(page: Page, ui: Ui) -> None:
    """As `up` prints the address; the token is no longer in it afterwards."""
    page.goto(f"{ui.url}/assets/status?token={ui.token}")
    expect(page.get_by_text("Where we stand")).to_be_visible()
    assert "token" not in page.url
    page.goto(f"{ui.url}/asset-groups")
    expect(page.get_by_text("Global asset lineage")).to_be_visible()
    for group in GROUPS:
        expect(page.locator("svg").get_by_text(group, exact=True).last).to_be_visible()


def open_graph(page: Page, ui: Ui) -> None:
    """The graph with its groups open, as the docs show it: nothing else of the page is touched."""
    page.set_viewport_size(DESK)
    opened = ",".join(f"global@global:{group}" for group in GROUPS)
    page.goto(f"{ui.url}/asset-groups?expanded={opened}")
    expect(page.locator("svg").get_by_text("key_rotation_audit", exact=True).last).to_be_visible()


def expect_colours(page: Page, *, green: Iterable[str], grey: Iterable[str] = ()) -> None:
    """What the open graph shows of assets, by the last part of their keys."""
    for colour, assets in ((GREEN, green), (GREY, grey)):
        for asset in assets:
            expect(node(page, asset)).to_have_css("border-top-color", colour)


def node(page: Page, asset: str) -> Locator:
    """An asset in the graph, where long names are shortened in the middle."""
    shown = re.compile(f"^{re.escape(asset[:3])}.*{re.escape(asset[-3:])}$")
    return page.locator("svg").get_by_text(shown).last.locator("..")


def violations(page: Page) -> list[str]:
    """What axe-core finds wrong with a page for people who see or hear it otherwise, in light and in dark."""
    found: list[str] = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for each in Axe().run(page).response["violations"]:
            places = [" ".join(node["target"]) for node in each["nodes"]]
            found.append(f"{scheme}: {each['id']}: {each['help']}: {', '.join(places)}")
    page.emulate_media(color_scheme="light")
    return found


def picture(page: Page, name: str, clip: FloatRect | None = None) -> None:
    """Keep what is seen, or a part of it, where pictures are asked for."""
    if os.environ.get("KEYROTATION_TEST_PICTURES"):
        page.screenshot(path=PICTURES / f"{name}.png", clip=clip)


def paper(page: Page, name: str) -> bytes:
    """The page printed, as PDF, which is kept where pictures are asked for."""
    printed = page.pdf(format="A4")
    if os.environ.get("KEYROTATION_TEST_PICTURES"):
        (PICTURES / f"{name}.pdf").write_bytes(printed)
    return printed
