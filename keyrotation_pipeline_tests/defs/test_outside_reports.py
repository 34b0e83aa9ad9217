"""Results that no run has reported, over Dagster's own web server: each is corrected at the next tick of the sync."""

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dagster as dg
import httpx
import pytest
from dagster._core.instance import RUNLESS_RUN_ID
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster_webserver.app import create_app_from_workspace_process_context
from starlette.types import ASGIApp

from keyrotation_pipeline.defs.instance import Instance, shared_engine
from keyrotation_pipeline.defs.outside_reports import CORRECTED, SEAL, Seal, report_at
from keyrotation_pipeline.model.requests import Step, Walk
from keyrotation_pipeline_tests.defs.conftest import Dagster, sentences

Walked = Callable[[Step | None], Walk]
OLD_ROWS = dg.AssetCheckKey(dg.AssetKey(["rows", "clients"]), "zero_old_rows")
FENCED = dg.AssetCheckKey(dg.AssetKey("encrypted_columns"), "retired_versions_are_refused")
RETIRED = dg.AssetKey("retired_key")
POSTGRES = "PostgreSQL"
on_both_storages = pytest.mark.parametrize("dagster", ["files", POSTGRES], indirect=True)


@pytest.fixture
def dagster(dagster: Dagster, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dagster]:
    """On an instance that a web server can share: in files, or with PostgreSQL, as that of `keyrotation up`."""
    if getattr(request, "param", None) != POSTGRES:
        with dg.instance_for_test() as instance:
            yield replace(dagster, instance=instance)
        return
    url = request.getfixturevalue("database_url").replace("postgresql://", "postgresql+psycopg2://", 1)
    monkeypatch.setenv("DAGSTER_PG_URL", url)
    ours = {"module": Instance.__module__, "class": Instance.__name__}
    with dg.instance_for_test(overrides={"instance_class": ours}) as instance:
        yield replace(dagster, instance=instance)
    shared_engine(url, os.getpid()).dispose()


@pytest.fixture
def open_server(dagster: Dagster) -> Iterator[ASGIApp]:
    """Dagster's own web server, as somebody else serves the same instance: without any access control."""
    with WorkspaceProcessContext(dagster.instance, EmptyWorkspaceTarget()) as context:
        yield create_app_from_workspace_process_context(context)


def report(server: ASGIApp, path: str, **body: object) -> None:
    async def post() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(server), base_url="http://dagster") as client:
            return await client.post(f"/report_asset_{path}", json=body)

    assert asyncio.run(post()).status_code == 200


def result_of(dagster: Dagster, key: dg.AssetCheckKey) -> dg.AssetCheckEvaluation:
    record = dagster.instance.event_log_storage.get_latest_asset_check_execution_by_key([key])[key]
    assert record.event is not None
    assert record.event.asset_check_evaluation is not None
    return record.event.asset_check_evaluation


def shown(dagster: Dagster, key: dg.AssetKey = RETIRED) -> set[str]:
    return set(dagster.instance.get_materialized_partitions(key))


def event_of(dagster: Dagster, key: dg.AssetKey) -> dg.AssetMaterialization:
    event = dagster.instance.get_latest_materialization_event(key)
    assert event is not None
    assert event.asset_materialization is not None
    return event.asset_materialization


@on_both_storages
def test_a_failed_check_that_was_reported_green_is_red_again_and_names_the_event(
    dagster: Dagster, walked: Walked, open_server: ASGIApp
) -> None:
    walked(None)
    dagster.tick("ledger_mirror")
    dagster.world.database.rows["clients"][0]["first_name"] = "v1:Ada"
    red = dagster.check("zero_old_rows", "rows/clients")
    assert not red.passed
    report(open_server, "check/rows/clients", check_name="zero_old_rows", passed=True)
    assert result_of(dagster, OLD_ROWS).passed
    dagster.tick("ledger_mirror")

    corrected = result_of(dagster, OLD_ROWS)
    assert (corrected.passed, corrected.severity, corrected.description) == (False, red.severity, red.description)
    name = str(corrected.metadata[CORRECTED].value)
    assert name.startswith("event ")
    assert f"of {datetime.now(UTC):%Y-%m-%d}" in name
    assert name.endswith("from outside every run, does not count")


def test_a_result_of_the_sync_is_red_again_too(dagster: Dagster, walked: Walked, open_server: ASGIApp) -> None:
    walked(Step.PRIMARY_KEY_ROLLOUT)
    dagster.materialize("rows", "clients", partition=dg.MultiPartitionKey({"key_version": "v2", "shard": "00"}))
    dagster.tick("ledger_mirror")
    assert not result_of(dagster, OLD_ROWS).passed
    report(open_server, "check/rows/clients", check_name="zero_old_rows", passed=True)
    dagster.tick("ledger_mirror")

    assert not result_of(dagster, OLD_ROWS).passed


def test_a_check_that_never_ran_is_not_passed(dagster: Dagster, open_server: ASGIApp) -> None:
    report(open_server, "check/encrypted_columns", check_name="retired_versions_are_refused", passed=True)
    dagster.tick("ledger_mirror")

    assert not result_of(dagster, FENCED).passed
    assert "launch the job `evidence`" in str(result_of(dagster, FENCED).description)


@on_both_storages
def test_a_step_that_was_not_done_is_not_materialized(dagster: Dagster, walked: Walked, open_server: ASGIApp) -> None:
    walked(Step.DUAL_KEY_ROLLOUT)
    dagster.tick("ledger_mirror")
    report(open_server, "materialization/retired_key", partition="v2")
    report(open_server, "materialization/key_version", partition="v9")
    assert shown(dagster) == {"v2"}
    dagster.tick("ledger_mirror")

    assert shown(dagster) == set()
    assert dagster.instance.get_latest_materialization_event(RETIRED) is None
    assert shown(dagster, dg.AssetKey("key_version")) == {"v2"}


def test_a_step_that_was_reported_before_it_was_done_is_shown_once_it_is(
    dagster: Dagster, walked: Walked, open_server: ASGIApp
) -> None:
    report(open_server, "materialization/retired_key", partition="v2", metadata={"summary": "a lie"})
    walked(None)
    dagster.tick("ledger_mirror")

    assert shown(dagster) == {"v2"}
    assert "left the applications" in sentences(event_of(dagster, RETIRED).metadata["summary"])


def test_what_is_said_of_a_step_is_said_again(dagster: Dagster, walked: Walked, open_server: ASGIApp) -> None:
    walked(None)
    dagster.tick("ledger_mirror")
    dagster.check_run()
    said = event_of(dagster, RETIRED).metadata["summary"]
    counted = event_of(dagster, dg.AssetKey("encrypted_columns")).metadata["rows"]
    report(open_server, "materialization/retired_key", partition="v2", metadata={"summary": "a lie"})
    report(open_server, "materialization/encrypted_columns", metadata={"rows": 0})
    dagster.tick("ledger_mirror")

    assert event_of(dagster, RETIRED).metadata["summary"] == said
    assert event_of(dagster, dg.AssetKey("encrypted_columns")).metadata["rows"] == counted


def test_a_copy_of_an_earlier_report_does_not_count(dagster: Dagster, walked: Walked, open_server: ASGIApp) -> None:
    walked(None)
    dagster.tick("ledger_mirror")
    sealed = event_of(dagster, RETIRED)
    seal = json.dumps(sealed.metadata[SEAL].value)
    bare = {name: value.value for name, value in sealed.metadata.items() if isinstance(value, dg.TextMetadataValue)}
    for metadata in (
        bare,
        {SEAL: seal},
        {SEAL: " ".join(json.loads(seal)[:2])},
        {SEAL: "x y"},
        {SEAL: 1},
        {SEAL: ["x"]},
    ):
        report(open_server, "materialization/retired_key", partition="v9", metadata=metadata)
        dagster.tick("ledger_mirror")
        assert shown(dagster) == {"v2"}


def test_an_earlier_report_that_is_copied_whole_does_not_count(dagster: Dagster, walked: Walked) -> None:
    """By whoever writes to the instance; nor where the copy says another moment."""
    walked(None)
    dagster.tick("ledger_mirror")
    assert dagster.check("zero_old_rows", "rows/clients").passed
    green = dg.AssetCheckEvaluation(asset_key=OLD_ROWS.asset_key, check_name=OLD_ROWS.name, passed=True)
    yesterday, seal = datetime.now(UTC) - timedelta(days=1), Seal(dagster.resource.signer())
    report_at(dagster.instance, seal, green, yesterday)
    dagster.tick("ledger_mirror")
    sealed = result_of(dagster, OLD_ROWS)
    assert CORRECTED not in sealed.metadata, "it counted then"
    dagster.world.database.rows["clients"][0]["first_name"] = "v1:Ada"
    assert not dagster.check("zero_old_rows", "rows/clients").passed
    mark = sealed.metadata[SEAL].value
    assert isinstance(mark, list)
    moment, signature = str(mark[0]), "".join(map(str, mark[1:]))
    assert moment == yesterday.isoformat()
    now = datetime.now(UTC).isoformat()
    for copied in (dg.MetadataValue.json([moment, signature]), dg.MetadataValue.json([now, signature]),
                   dg.MetadataValue.text(f"{moment} {signature}")):  # fmt: skip
        copy = green.with_metadata({SEAL: copied})
        dagster.instance.report_runless_asset_event(copy)
        assert result_of(dagster, OLD_ROWS).passed
        dagster.tick("ledger_mirror")
        assert not result_of(dagster, OLD_ROWS).passed


def test_nothing_is_corrected_again_and_again(dagster: Dagster, walked: Walked, open_server: ASGIApp) -> None:
    walked(None)
    dagster.tick("ledger_mirror")
    dagster.check_run()
    report(open_server, "check/rows/clients", check_name="zero_old_rows", passed=False)
    report(open_server, "materialization/retired_key", partition="v9")
    report(open_server, "materialization/archived_key", partition="v2")
    for _ in range(2):
        dagster.tick("ledger_mirror")
    before = len(dagster.instance.get_records_for_run("").records)

    assert isinstance(dagster.tick("ledger_mirror"), dg.SkipReason)
    assert len(dagster.instance.get_records_for_run("").records) == before


def test_another_projects_assets_and_checks_are_left_alone(dagster: Dagster, open_server: ASGIApp) -> None:
    report(open_server, "materialization/sales", partition="2026-01-05")
    report(open_server, "check/sales", check_name="fresh", passed=True)
    dagster.tick("ledger_mirror")

    assert shown(dagster, dg.AssetKey("sales")) == {"2026-01-05"}
    assert result_of(dagster, dg.AssetCheckKey(dg.AssetKey("sales"), "fresh")).passed


def test_a_wiped_history_is_reported_again(dagster: Dagster, walked: Walked) -> None:
    walked(None)
    dagster.tick("ledger_mirror")
    dagster.instance.wipe_assets([RETIRED])
    assert shown(dagster) == set()
    dagster.tick("ledger_mirror")

    assert shown(dagster) == {"v2"}


def test_a_cursor_that_somebody_has_set_hides_nothing(dagster: Dagster, walked: Walked, open_server: ASGIApp) -> None:
    walked(None)
    dagster.tick("ledger_mirror")
    synced, _, signature = dagster.cursors["ledger_mirror"].split(" ")
    report(open_server, "materialization/retired_key", partition="v9")
    past = dagster.instance.get_records_for_run(RUNLESS_RUN_ID).cursor
    dagster.cursors["ledger_mirror"] = f"{synced} {past} {signature}"
    dagster.tick("ledger_mirror")

    assert shown(dagster) == {"v2"}


def test_a_report_that_an_earlier_release_sealed_still_counts(dagster: Dagster, walked: Walked) -> None:
    walked(None)
    dagster.tick("ledger_mirror")
    green = dg.AssetCheckEvaluation(asset_key=OLD_ROWS.asset_key, check_name=OLD_ROWS.name, passed=True)
    sealed = Seal(dagster.resource.signer()).on(green)
    mark = sealed.metadata[SEAL].value
    assert isinstance(mark, list)
    dagster.instance.report_runless_asset_event(
        sealed.with_metadata(
            {**sealed.metadata, SEAL: dg.MetadataValue.text(f"{mark[0]} {''.join(map(str, mark[1:]))}")}
        )
    )
    dagster.tick("ledger_mirror")
    assert CORRECTED not in result_of(dagster, OLD_ROWS).metadata
