"""Each situation as Dagster's pages show it, from nothing open to an incident: pictures of the graph are made here."""

import re
from pathlib import Path

import psycopg
import pytest
from playwright.sync_api import Page, ViewportSize, expect

from keyrotation_pipeline.assembly.home import database_url
from keyrotation_pipeline.demo.home import prepare
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.demo.run import open_home
from keyrotation_pipeline.model.fleet import RolloutMode
from keyrotation_pipeline.model.requests import RequestStatus
from keyrotation_pipeline.settings import Settings
from keyrotation_pipeline_tests.acceptance.browsing import expect_colours, open_graph, open_ui, picture
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.acceptance.test_up import Ui, running_up, wait_until
from keyrotation_pipeline_tests.programs import needs_chromium

pytestmark = [pytest.mark.extended, needs_chromium]
SCREEN = ViewportSize(width=1280, height=800)
WIDER = """Math.max(...[...document.querySelectorAll("table")].map(
    each => each.scrollWidth - each.parentElement.clientWidth))"""
# Dagster shows its history and the description first, which take the screen down to here.
LOWEST = 620
# The daemon looks every few seconds, and tries a step that failed again after a while.
PATIENCE_SECONDS = 600.0
# A value that no key opens: nothing says so before it is read.
ONE = "(SELECT id FROM clients ORDER BY id LIMIT 1)"
READ = f"SELECT email FROM clients WHERE id = {ONE}"
DAMAGE = f"UPDATE clients SET email = overlay(email placing 'AAAA' from 40) WHERE id = {ONE} RETURNING id"


def test_the_page_of_status_says_what_the_situation_is(tmp_path: Path, page: Page) -> None:
    folder = Folder(tmp_path, [])
    settings, officers = prepare(tmp_path / "keyrotation.toml", RolloutMode.NONE)
    settings.path.write_text(settings.path.read_text().replace("shards = 4", "shards = 2"))
    with open_home(settings, 120, lambda _line: None) as pipeline, running_up(folder) as (_, ui):
        folder.run("backup")
        folder.run("status", "--count")
        open_ui(page, ui)
        see(page, ui, "None is open. The next begins with")

        request = folder.run("request", "--reason", "yearly rotation").strip()
        see(page, ui, "needs 2 more approvals")
        folder.run("pace", request, "--rows-per-second", "1", "--reason", "the clinic is open")
        sign(folder, request, officers)
        see(page, ui, re.compile("At (requested|rows|zero_old_rows_proof), [1-9]"))
        see_the_graph(page, ui, "ui-open-graph")

        whole = execute(settings, READ)
        damaged = execute(settings, DAMAGE)
        folder.run("pace", request, "--reset")
        wait_until(lambda: pipeline.ledger.walk(request).blocked_by is not None, PATIENCE_SECONDS)
        see(page, ui, "BLOCKED: ")
        see_the_graph(page, ui, "ui-failed-graph")

        execute(settings, f"UPDATE clients SET email = '{whole}' WHERE id = '{damaged}' RETURNING id")
        wait_until(lambda: pipeline.ledger.walk(request).status is RequestStatus.FINISHED, PATIENCE_SECONDS)
        see(page, ui, re.compile(r"archived,\s*v2 active"))

        folder.run(
            "incident", "open", "--type", "key_exposed", "--description", "key in a log file", "--discovered-at", "now"
        )
        see(page, ui, re.compile(r"INC-\d{4}-001, key_exposed"))


def sign(folder: Folder, request: str, officers: tuple[DemoOfficer, ...]) -> None:
    text = folder.run("approve", request, "--text").encode()
    for officer in officers:
        folder.run("approve", request, "--signature", "-", text=officer.sign(text).decode())


def see(page: Page, ui: Ui, said: str | re.Pattern[str]) -> None:
    """Wait until the page of the asset `status` says it, in a table that is not wider than the page."""
    page.set_viewport_size(SCREEN)
    page.goto(f"{ui.url}/assets/status")
    expect(page.get_by_text(said).first).to_be_visible(timeout=PATIENCE_SECONDS * 1000)
    picture(page, "ui-status")
    answer = page.get_by_role("table").get_by_text("now", exact=True).bounding_box()
    assert answer is not None
    assert answer["y"] < LOWEST
    expect(page.get_by_role("link", name="the console")).to_have_attribute("href", "/")
    assert page.evaluate(WIDER) <= 0


def see_the_graph(page: Page, ui: Ui, name: str) -> None:
    """The walk, of which the new key is made."""
    open_graph(page, ui)
    expect_colours(page, green=("key_version", "dual_key_rollout", "primary_key_rollout"))
    picture(page, name)


def execute(settings: Settings, statement: str) -> str:
    """Execute one statement on the clinic, and return the first value that it returns."""
    with database_url(settings) as url, psycopg.connect(url, autocommit=True) as connection:
        returned = connection.execute(statement.encode()).fetchone()
    assert returned
    return str(returned[0])
