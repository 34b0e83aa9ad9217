"""The page of one request, once its rotation is over."""

from datetime import timedelta

from keyrotation_pipeline.console.pages import request_page
from keyrotation_pipeline.model.backup_events import ReportWritten
from keyrotation_pipeline.model.data_events import UndeclaredColumnsSearched, UndeclaredValues
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline.templates import whole_dates
from keyrotation_pipeline_tests.fakes import START, V1, FakeWorld
from keyrotation_pipeline_tests.unit.rotation.requests import approved, before_any_rotation


def shown(world: FakeWorld, request: str, overview_path: str | None = None) -> str:
    return (request_page(world.pipeline, request, overview_path) or b"").decode()


def test_a_finished_rotation_shows_its_proof_its_reports_and_what_contradicts_it() -> None:
    world = before_any_rotation()
    rotation = approved(world).id
    assert "What was proved" not in shown(world, rotation)
    list(runner.run(world.pipeline, rotation, world.report))
    world.ledger.append(ReportWritten("html", {"report.html": "ab" * 32}))
    page = shown(world, rotation, "/overview")
    certificate = f"keyrotation report --format certificate --rotation {rotation[:8]}"
    for said in ("What was proved", certificate, "ab" * 32, "/assets/retired_key"):
        assert said in page
    assert "Since then:" not in page

    copy = UndeclaredValues("scratch.copy", "email", 4, 0, (V1,))
    world.ledger.append(UndeclaredColumnsSearched(START + timedelta(days=1), (copy,), ()))
    page = shown(world, rotation)
    assert "Since then:" in page
    assert "scratch.copy.email (4 values)" in page
    assert "/assets/" not in page, "Dagster is not served here"


def test_a_date_is_not_broken_and_nothing_else_is_taken_for_markup() -> None:
    assert whole_dates("<b> by 2026-12-02 14:02 UTC") == ('&lt;b&gt; by <span class="date">2026-12-02 14:02 UTC</span>')
    world = before_any_rotation()
    assert '<dt>Start by</dt><dd><span class="date">20' in shown(world, approved(world).id)


def test_there_is_no_page_of_what_nobody_requested() -> None:
    assert request_page(before_any_rotation().pipeline, "0" * 32, None) is None
