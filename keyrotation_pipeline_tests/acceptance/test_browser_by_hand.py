"""People carry a rotation out by the buttons of the UI, in a browser, as guides/materialize-manually.md shows it."""

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from keyrotation_pipeline.demo.home import prepare
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.demo.run import open_home
from keyrotation_pipeline.model.fleet import RolloutMode
from keyrotation_pipeline.model.requests import WALK, RequestStatus, Step
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline_tests.acceptance.browsing import (
    DESK,
    PATIENCE_SECONDS,
    expect_colours,
    open_graph,
    open_ui,
    picture,
)
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.acceptance.test_up import Ui, ask, nodes, running_up, wait_until
from keyrotation_pipeline_tests.fakes import V1, V2
from keyrotation_pipeline_tests.pages import block
from keyrotation_pipeline_tests.programs import needs_chromium

TABLES = ("clients", "appointments")
STEPS = [str(step) for step in WALK if step is not Step.ROWS]
NEW_KEY, EVIDENCE = STEPS[:3], STEPS[-2:]
EVERYTHING = (*STEPS, *TABLES)
PARTITIONS = """{ assetNodes(assetKeys: [{path: ["key_version"]}]) { assetPartitionStatuses {
    ... on DefaultPartitionStatuses { materializedPartitions unmaterializedPartitions } } } }"""

pytestmark = [pytest.mark.slow, needs_chromium]


@contextmanager
def clinic(folder: Folder) -> Iterator[tuple[Pipeline, tuple[DemoOfficer, ...]]]:
    """A small clinic under v1 that nothing has happened to."""
    settings, officers = prepare(folder.path / "keyrotation.toml", RolloutMode.NONE)
    settings.path.write_text(settings.path.read_text().replace("shards = 4", "shards = 1"))
    with open_home(settings, 120, lambda _line: None) as pipeline:
        yield pipeline, officers


def test_people_materialize_a_rotation_from_its_request_to_its_report(tmp_path: Path, page: Page) -> None:
    folder = Folder(tmp_path, [])
    with clinic(folder) as (pipeline, officers), running_up(folder) as (_, ui):
        open_ui(page, ui)
        wait_until(lambda: shown_partitions(ui) == {"v1"}, PATIENCE_SECONDS)
        request = folder.run(*as_the_page_requests()).strip()
        sign(folder, request, officers)
        wait_until(lambda: shown_partitions(ui) == {"v2"}, PATIENCE_SECONDS)
        see_the_graph(page, ui, "by-hand-before", done=())
        type_a_partition(page, ui, "v99")
        assert pipeline.ledger.walk(request).started_at is None

        materialize(page, ui, "key_version", picture_of_dialog="by-hand-dialog")
        wait_until_done(pipeline, request, Step.KEY_VERSION)
        assert "somebody is to materialize dual_key_rollout (partition v2)" in folder.run("status", COLUMNS="400")
        for step in NEW_KEY[1:]:
            materialize(page, ui, step)
            wait_until_done(pipeline, request, Step(step))
        see_the_graph(page, ui, "by-hand-middle", done=NEW_KEY)
        for table in TABLES:
            materialize_rows(page, ui, table)
        wait_until(lambda: rows_are_done(pipeline, request), PATIENCE_SECONDS)
        materialize_group(page, ui, "old_key")
        wait_until_done(pipeline, request, Step.ARCHIVED_KEY)
        for step in EVIDENCE:
            materialize(page, ui, step)
            wait_until_done(pipeline, request, Step(step))
        see_the_graph(page, ui, "by-hand-after", done=EVERYTHING)
        assert times_shown(ui) == {1}, "each by its run, and not once more as one that ran outside Dagster"

        counts = pipeline.inventory.count(pipeline.tables)
        assert {version for each in counts for version, number in each.values_by_version.items() if number} == {V2}
        assert (pipeline.keys.read().primary, tuple(pipeline.keys.read().archived)) == (V2, (V1,))
        assert pipeline.ledger.walk(request).status is RequestStatus.FINISHED
        assert shown_partitions(ui) == {"v2"}
        assert request in folder.run("report", "--format", "json")


def as_the_page_requests() -> list[str]:
    """The arguments of `keyrotation` in the first line of the page's block."""
    line = re.match(r"ID=\$\(keyrotation (.*)\)\n", block("manual"))
    assert line
    return shlex.split(line[1])


def sign(folder: Folder, request: str, officers: tuple[DemoOfficer, ...]) -> None:
    text = folder.run("approve", request, "--text").encode()
    assert b"\nCarried out: by people, in Dagster or by keyrotation rotate; the conductor leaves it\n" in text
    for officer in officers:
        folder.run("approve", request, "--signature", "-", text=officer.sign(text).decode())


def shown_partitions(ui: Ui) -> set[str]:
    [node] = ask(ui, PARTITIONS)["assetNodes"]
    return {key for keys in node["assetPartitionStatuses"].values() for key in keys}


def times_shown(ui: Ui) -> set[int]:
    """How often each asset of the walk was materialized."""
    shown = nodes(ui)
    walk = [*STEPS, *(f"rows/{table}" for table in TABLES)]
    return {len(shown[asset]["assetMaterializations"]) for asset in walk}


def wait_until_done(pipeline: Pipeline, request: str, step: Step) -> None:
    wait_until(lambda: pipeline.ledger.walk(request).done(step) is not None, PATIENCE_SECONDS)


def rows_are_done(pipeline: Pipeline, request: str) -> bool:
    walk = pipeline.ledger.walk(request)
    return all(walk.done(Step.ROWS, table, 0) is not None for table in TABLES)


def see_the_graph(page: Page, ui: Ui, name: str, *, done: tuple[str, ...] | list[str]) -> None:
    """What is done is green, and everything else is grey."""
    open_graph(page, ui)
    expect_colours(page, green=done, grey=[each for each in EVERYTHING if each not in done])
    picture(page, name)
    page.set_viewport_size(DESK)


def dialog_of(page: Page, address: str) -> Locator:
    page.goto(address)
    page.get_by_role("button", name=re.compile("Materialize")).first.click()
    title, confirm = page.get_by_text("Launch runs to materialize"), page.get_by_role("button", name="Confirm")
    expect(title.or_(confirm)).to_be_visible()
    if confirm.is_visible():  # Dagster warns while its page does not know yet that what comes before is materialized
        confirm.click()
    return page.get_by_role("dialog").last


def materialize(page: Page, ui: Ui, asset: str, *, picture_of_dialog: str | None = None) -> None:
    """What is missing is exactly the partition that is due."""
    launch_what_is_missing(page, f"{ui.url}/assets/{asset}", picture_of_dialog)


def materialize_group(page: Page, ui: Ui, group: str) -> None:
    """Several assets at once are one run, in their order."""
    launch_what_is_missing(page, f"{ui.url}/locations/keyrotation_pipeline/asset-groups/{group}/lineage", None)


def launch_what_is_missing(page: Page, address: str, picture_of_dialog: str | None) -> None:
    dialog = dialog_of(page, address)
    dialog.get_by_text("Missing", exact=True).click()
    expect(dialog.get_by_text("1 partition", exact=True)).to_be_visible()
    expect(dialog.get_by_text("v2", exact=True).first).to_be_visible()
    if picture_of_dialog:
        picture(page, picture_of_dialog)
    dialog.get_by_role("button", name="Launch 1 run").click()
    expect(dialog).to_be_hidden()


def materialize_rows(page: Page, ui: Ui, table: str) -> None:
    """Every shard of the one key version that there is."""
    dialog = dialog_of(page, f"{ui.url}/assets/rows/{table}")
    for button in dialog.get_by_role("button", name="All", exact=True).all():
        button.click()
    expect(dialog.get_by_text("1 partition", exact=True)).to_be_visible()
    if table == TABLES[0]:
        picture(page, "by-hand-rows")
    dialog.get_by_role("button", name="Launch 1 run").click()
    expect(dialog).to_be_hidden()


def type_a_partition(page: Page, ui: Ui, name: str) -> None:
    """One that nobody has requested: the page may add none."""
    dialog = dialog_of(page, f"{ui.url}/assets/key_version")
    dialog.get_by_text("Add a partition").click()
    page.get_by_placeholder("name", exact=True).fill(name)
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Could not add partition")).to_be_visible()
    assert shown_partitions(ui) == {"v2"}
