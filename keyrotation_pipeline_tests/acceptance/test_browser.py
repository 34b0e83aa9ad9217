"""A person in front of the UI, in a real browser: one world, from the open rotation to the report."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, ViewportSize, expect

from keyrotation_pipeline.demo.home import prepare
from keyrotation_pipeline.demo.run import approve, open_home
from keyrotation_pipeline.model.fleet import RolloutMode
from keyrotation_pipeline.model.requests import WALK, RequestStatus, Step, Walk
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.control import set_pace
from keyrotation_pipeline.rotation.rotate import open_request
from keyrotation_pipeline_tests.acceptance.browsing import (
    DESK,
    PATIENCE_SECONDS,
    expect_colours,
    open_graph,
    open_ui,
    picture,
    violations,
)
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.acceptance.test_browser_situations import SCREEN, WIDER
from keyrotation_pipeline_tests.acceptance.test_up import Ui, checks, running_up, wait_until
from keyrotation_pipeline_tests.programs import needs_chromium

PHONE = ViewportSize(width=390, height=844)

pytestmark = [pytest.mark.slow, needs_chromium]


@contextmanager
def clinic(folder: Folder) -> Iterator[tuple[Pipeline, Walk]]:
    """A small clinic with an approved rotation that Dagster will take as slowly as a person looks."""
    settings, officers = prepare(folder.path / "keyrotation.toml", RolloutMode.NONE)
    settings.path.write_text(settings.path.read_text().replace("shards = 4", "shards = 2"))
    with open_home(settings, 120, lambda _line: None) as pipeline:
        rotation = open_request(pipeline, reason="yearly rotation", requested_by="test")
        approve(pipeline, rotation, officers, lambda _line: None)
        set_pace(pipeline.ledger, rotation, {"rows_per_second": 1}, "a person looks")
        yield pipeline, rotation


def test_a_person_finds_a_rotation_is_refused_out_of_order_sees_it_end_and_opens_the_report(
    tmp_path: Path, page: Page
) -> None:
    folder = Folder(tmp_path, [])
    with clinic(folder) as (pipeline, rotation), running_up(folder) as (_, ui):
        open_ui(page, ui)
        find_by_search(page, "zero_old_rows_proof")
        wait_until(lambda: is_at_the_rows(pipeline, rotation), PATIENCE_SECONDS)
        materialize(page, ui, "retired_key")
        read_the_refusal(page, rotation)
        page.goto(f"{ui.url}/assets/rows/clients?view=partitions")
        expect(page.get_by_text("Materialized (0)")).to_be_visible()
        set_pace(pipeline.ledger, rotation, {}, "seen enough")
        expect(page.get_by_text("Materialized (2)")).to_be_visible()  # the page looks again by itself
        wait_until(lambda: pipeline.ledger.walk(rotation.id).status is RequestStatus.FINISHED, PATIENCE_SECONDS)
        wait_until(lambda: set(checks(ui).values()) == {"SUCCEEDED"}, PATIENCE_SECONDS)
        see_all_green(page, ui)
        read_what_stands_on_the_last_page(page, ui, rotation)
        folder.run("report", "--output", "report.html")
        read_the_report(page, tmp_path / "report.html")


def is_at_the_rows(pipeline: Pipeline, rotation: Walk) -> bool:
    return pipeline.ledger.walk(rotation.id).done(Step.PRIMARY_KEY_ROLLOUT) is not None


def find_by_search(page: Page, asset: str) -> None:
    page.get_by_role("button", name="Search").first.click()
    page.get_by_placeholder(re.compile("Search")).last.fill(asset)
    page.get_by_role("link", name=re.compile(asset)).first.click()
    expect(page.get_by_text("Sweeps find nothing, every value decrypts")).to_be_visible()


def materialize(page: Page, ui: Ui, asset: str) -> None:
    """By hand, for every partition that there is, whatever Dagster warns of."""
    page.goto(f"{ui.url}/assets/{asset}")
    page.get_by_role("button", name=re.compile("Materialize")).first.click()
    page.get_by_role("button", name="Confirm").click()
    dialog = page.get_by_role("dialog").last
    dialog.get_by_text("All", exact=True).click()
    dialog.get_by_role("button", name=re.compile("Launch")).click()


def read_the_refusal(page: Page, rotation: Walk) -> None:
    page.get_by_role("link", name="View", exact=True).first.click()
    sentence = re.compile(f"retired_key is not due in rotation {rotation.id}; due is: rows/")
    expect(page.get_by_text(sentence).first).to_be_visible()


def see_all_green(page: Page, ui: Ui) -> None:
    """Every step of the walk is green in the graph."""
    open_graph(page, ui)
    expect_colours(page, green=(*(str(step) for step in WALK if step is not Step.ROWS), "clients", "appointments"))


def read_what_stands_on_the_last_page(page: Page, ui: Ui, rotation: Walk) -> None:
    page.set_viewport_size(DESK)
    page.goto(f"{ui.url}/assets/compliance_report")
    expect(page.get_by_text(f"Routine rotation {rotation.source} to {rotation.target} is finished")).to_be_visible()
    picture(page, "asset-page")
    page.set_viewport_size(SCREEN)
    assert page.evaluate(WIDER) <= 0
    page.get_by_role("link", name="its runs").click()
    expect(page.get_by_text("retire_key").first).to_be_visible()


def read_the_report(page: Page, file: Path) -> None:
    """On a phone nothing has to be moved sideways; on paper it is a document."""
    page.set_viewport_size(PHONE)
    page.goto(file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert violations(page) == []
    printed = page.pdf(format="A4")
    assert printed.startswith(b"%PDF")
