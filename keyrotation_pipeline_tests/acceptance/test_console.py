"""The console as people see it, in each situation: real homes, a real browser, nothing but reading."""

import re
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Page, ViewportSize, expect

from keyrotation_pipeline.assembly.home import database_url
from keyrotation_pipeline.demo.home import prepare
from keyrotation_pipeline.demo.run import open_home
from keyrotation_pipeline.model.fleet import RolloutMode
from keyrotation_pipeline_tests.acceptance.browsing import paper, picture, violations
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.acceptance.console_server import ServedConsole, serving_console
from keyrotation_pipeline_tests.acceptance.test_browser_situations import DAMAGE, READ, execute, sign
from keyrotation_pipeline_tests.applications import beside, reporting
from keyrotation_pipeline_tests.programs import needs_chromium

pytestmark = [pytest.mark.extended, needs_chromium]
SIZES = {
    "desk": ViewportSize(width=1280, height=800),
    "wide": ViewportSize(width=1440, height=900),
    "phone": ViewportSize(width=390, height=844),
}
PAPER_PAGES = 2
ROWS, PACE = 12_000, "200"  # as many as let a browser look three times while they are re-encrypted
INCIDENT = ("incident", "open", "--type", "key_exposed", "--description", "key in a log file", "--discovered-at", "now")


def test_each_situation_has_its_sentence_above_the_fold_and_nothing_scrolls_sideways(
    tmp_path: Path, page: Page
) -> None:
    folder = Folder(tmp_path, [])
    settings, officers = prepare(tmp_path / "keyrotation.toml", RolloutMode.ATTEST)
    settings.path.write_text(settings.path.read_text().replace("shards = 4", "shards = 2"))
    with ExitStack() as stack:
        stack.enter_context(open_home(settings, ROWS, lambda _line: None))
        console = stack.enter_context(serving_console(folder))
        page.goto(f"{console.url}/?token={console.token}")
        folder.run("backup")
        folder.run("status", "--count")
        see(page, console, "Nothing to do. v1 is the primary key.", "idle")

        request = folder.run("request", "--reason", "yearly rotation").strip()
        see(
            page,
            console,
            "v1 → v2 waits for 2 signatures (Security Officer, Privacy Officer or Sealed Officer)",
            "to-sign",
        )
        sign(folder, request, officers)
        see(page, console, "v1 → v2 waits: no application instance reports itself", "for-an-instance")
        folder.run("pause", request)
        see(page, console, "v1 → v2 is paused", "paused")
        whole = execute(settings, READ)
        damaged = execute(settings, DAMAGE)
        folder.run("resume", request)
        url, keys = stack.enter_context(database_url(settings)), settings.home / "keys"
        for name in ("web-1", "web-2"):
            stack.enter_context(reporting(url, keys, name))
        folder.run("pace", request, "--rows-per-second", PACE, "--reason", "the clinic is open")
        with beside(lambda _stop: rotate_until_it_fails(folder, request)):
            see(page, console, re.compile("v1 → v2 re-encrypts rows: [2-7][0-9]%"), "rows")
            folder.run("pace", request, "--reset")
        see(page, console, "v1 → v2 stopped at ", "failed")
        execute(settings, f"UPDATE clients SET email = '{whole}' WHERE id = '{damaged}' RETURNING id")
        folder.run("rotate", request)
        see(page, console, "v1 → v2 finished at ", "finished")
        expect(page.get_by_text("No value under v1 when last counted.")).to_be_visible()

        incident, emergency = folder.run(*INCIDENT).splitlines()
        see(page, console, "Emergency v2 → v3 waits for 2 signatures", "emergency")
        sign(folder, emergency, officers)
        folder.run("rotate", emergency)
        see(page, console, "Incident INC-", "incident")
        for path in (f"requests/{request}", f"requests/{emergency}", f"incidents/{incident}"):
            page.goto(f"{console.url}/console/{path}")
            assert violations(page) == []
            assert page.evaluate("document.documentElement.scrollWidth") <= SIZES["phone"]["width"]


def test_the_page_holds_no_key_value_or_ciphertext_and_refuses_whoever_has_no_token(tmp_path: Path) -> None:
    folder = Folder(tmp_path, [])
    settings, officers = prepare(tmp_path / "keyrotation.toml", RolloutMode.NONE)
    with open_home(settings, 100, lambda _line: None), serving_console(folder) as console:
        request = folder.run("request", "--reason", "<script>alert(1)</script>").strip()
        sign(folder, request, officers)
        folder.run("rotate", request)
        incident, _ = folder.run(*INCIDENT).splitlines()
        paths = ("/", f"/console/requests/{request}", f"/console/incidents/{incident}")
        pages = "".join(map(console.page, paths))
        assert console.client.get("/console/requests/nosuch").status_code == 404
        keys = [file.read_text().strip() for file in (settings.home / "keys").glob("**/*.key*")]
        assert keys
        assert not [each for each in keys if each in pages]
        assert "<script>alert" not in pages
        assert "&lt;script&gt;alert(1)" in pages
        assert not re.search(r"v[12]:[A-Za-z0-9+/]{16}:", pages)
        console.client.cookies.clear()
        assert console.client.get("/").status_code == 403
        assert console.client.post("/", headers={"authorization": f"Bearer {console.token}"}).status_code == 405
        assert console.client.get("/", headers={"host": "evil.example"}).status_code == 400


def see(page: Page, console: ServedConsole, said: str | re.Pattern[str], name: str) -> None:
    """The sentence is read without scrolling, at each width; pictures where they are asked for."""
    for size, viewport in SIZES.items():
        page.set_viewport_size(viewport)
        page.goto(f"{console.url}/")
        heading = page.get_by_role("heading", level=1)
        expect(heading).to_contain_text(said, timeout=60_000)
        box = heading.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] < viewport["height"]
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        picture(page, f"console-{name}-{size}")
        if size != "wide":
            assert violations(page) == []
        if size == "desk":
            assert paper(page, f"console-{name}").count(b"/Type /Page\n") <= PAPER_PAGES
            page.emulate_media(color_scheme="dark")
            picture(page, f"console-{name}-dark")
            page.emulate_media(color_scheme="light")
    assert failed_resources(page) == []


def failed_resources(page: Page) -> list[str]:
    """The addresses of what the page loads and does not get."""
    script = (
        "performance.getEntriesByType('resource').filter(each => each.responseStatus >= 400).map(each => each.name)"
    )
    return [str(each) for each in page.evaluate(script)]


def rotate_until_it_fails(folder: Folder, request: str) -> None:
    """As an operator would, with a value in the table that no key opens."""
    folder.run("rotate", request, expect=1)
