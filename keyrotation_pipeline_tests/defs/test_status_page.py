"""The asset `status` says what `keyrotation status` says, and is renewed when that has changed, and only then."""

import re
from collections.abc import Sequence

import dagster as dg
import pytest

from keyrotation_pipeline.defs.status_page import GROUPS, described
from keyrotation_pipeline.errors import DatabaseUnavailableError
from keyrotation_pipeline.incidents.alerts import Channels
from keyrotation_pipeline.model.backups import BackupStatus
from keyrotation_pipeline.model.key_events import RecoveryTestFailed
from keyrotation_pipeline.model.keys import KeyRecord
from keyrotation_pipeline.model.requests import RequestStatus, Walk
from keyrotation_pipeline.monitoring import status
from keyrotation_pipeline.settings.loading import CONSOLE_VARIABLE
from keyrotation_pipeline_tests.defs.conftest import Dagster, channels
from keyrotation_pipeline_tests.fakes import FakeLedger, FakeVault

STATUS = dg.AssetKey("status")


@pytest.fixture(autouse=True)
def _no_channels() -> None:
    channels["test"] = Channels(())


def shown(dagster: Dagster) -> dict[str, str]:
    """The page as people see it after one look of the sensor, without Markdown's escapes and line breaks."""
    dagster.tick("alert_delivery")
    event = dagster.instance.get_latest_materialization_event(STATUS)
    assert event is not None
    assert event.asset_materialization is not None
    texts = {name: str(value.value) for name, value in event.asset_materialization.metadata.items()}
    return {name: re.sub(r"\s+", " ", re.sub(r"\\(.)", r"\1", text)) for name, text in texts.items()}


def times_reported(dagster: Dagster) -> int:
    return len(dagster.instance.fetch_materializations(STATUS, 100).records)


def test_without_a_rotation_the_page_says_how_the_next_one_begins(dagster: Dagster) -> None:
    page = shown(dagster)
    assert page["rotation"].startswith("None is open. The next begins with `keyrotation request")
    assert page["keys"] == "**v1** active"
    assert page["incidents"] == "None is open."
    assert "/asset-groups?expanded=global@global:status,global@global:inventory" in page["where_to_look"]


def test_it_names_the_open_rotation_and_what_it_waits_for(dagster: Dagster, approved: Walk) -> None:
    dagster.world.ledger.set_status(approved.id, RequestStatus.PAUSED)
    page = shown(dagster)
    assert page["rotation"].startswith(f"**v1 → v2**, routine, `{approved.id[:8]}` At requested, 0% 2 of 2 approvals ")
    assert (
        f"Waits: rotation {approved.id[:8]} is paused; continue with `keyrotation resume {approved.id[:8]}`"
        in (page["rotation"])
    )
    assert f"{approved.id}" in page["where_to_look"], "its runs"


def test_what_blocks_it_is_shown_as_it_was_said_and_cannot_pretend_to_be_markdown(
    dagster: Dagster, approved: Walk
) -> None:
    dagster.world.ledger.block(approved.id, "[all is well](http://evil) <b>x</b>; grant the right")
    event = shown(dagster)
    assert "BLOCKED: [all is well](http://evil) <b>x</b>; grant the right" in event["rotation"]
    latest = dagster.instance.get_latest_materialization_event(STATUS)
    assert latest is not None
    assert latest.asset_materialization is not None
    text = str(latest.asset_materialization.metadata["rotation"].value).replace("  \n", " ")
    assert r"\[all is well\](http://evil)" in text


def test_it_is_renewed_by_a_change_and_by_nothing_else(dagster: Dagster, approved: Walk) -> None:
    shown(dagster)
    shown(dagster)
    assert times_reported(dagster) == 1
    dagster.world.ledger.set_status(approved.id, RequestStatus.PAUSED)
    shown(dagster)
    shown(dagster)
    assert times_reported(dagster) == 2


def test_what_was_known_does_not_stay_on_the_page_once_nothing_is_known(
    dagster: Dagster, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = shown(dagster)
    with monkeypatch.context() as patched:
        patched.setattr(FakeLedger, "keys", unavailable)
        assert set(shown(dagster)) - {"sealed"} == {"needs_attention"}
        assert "no server answers there; start it" in shown(dagster)["needs_attention"]
    assert times_reported(dagster) == 2
    assert shown(dagster)["rotation"] == before["rotation"]


def unavailable(_ledger: FakeLedger) -> tuple[KeyRecord, ...]:
    raise DatabaseUnavailableError("cannot connect to clinic: no server answers there; start it")


def test_one_look_of_the_sensor_gathers_the_status_once(dagster: Dagster, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, status = [], FakeVault.status

    def counted(vault: FakeVault, records: Sequence[KeyRecord]) -> BackupStatus:
        asked.append(vault)
        return status(vault, records)

    monkeypatch.setattr(FakeVault, "status", counted)
    shown(dagster)
    assert len(asked) == 1


def test_hours_that_are_left_are_shown_to_the_quarter(
    dagster: Dagster, approved: Walk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seconds, left in ((3000, "50 min"), (5400, "1 h 30 min"), (5600, "1 h 30 min"), (129_600, "36 h 00 min")):
        monkeypatch.setattr(status, "progress_and_eta", lambda *_, seconds=seconds: (0.5, seconds))
        assert f"`{approved.id[:8]}` At requested, 50%, about {left} left " in shown(dagster)["rotation"]


def test_a_recovery_test_that_failed_since_is_named(dagster: Dagster) -> None:
    assert shown(dagster)["last_recovery_test"] == "never"
    dagster.world.ledger.append(RecoveryTestFailed("here", "cd", "DamagedBackupError", "it is damaged"))
    assert shown(dagster)["last_recovery_test"].startswith("FAILED, 20")


def test_a_report_from_outside_is_replaced(dagster: Dagster) -> None:
    honest = shown(dagster)
    forged = {name: dg.MetadataValue.md("Nothing to see here.") for name in honest}
    dagster.instance.report_runless_asset_event(dg.AssetMaterialization(STATUS, metadata=forged))
    dagster.tick("ledger_mirror")
    after = shown(dagster)
    assert after["rotation"] == honest["rotation"]


@pytest.mark.parametrize("served", [True, False], ids=["by up", "in somebody's own Dagster"])
def test_the_console_is_linked_where_this_server_has_it(*, served: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In another project's Dagster `/` is Dagster's own page."""
    monkeypatch.delenv(CONSOLE_VARIABLE, raising=False)
    if served:
        monkeypatch.setenv(CONSOLE_VARIABLE, "/")
    assert described() == f"**Where we stand**: see `now` below{', or [the console](/)' if served else ''}."


def test_every_group_is_open_in_the_graph_to_which_it_links(dagster: Dagster) -> None:
    groups = {spec.group_name for spec in dagster.definitions.get_repository_def().asset_graph.asset_nodes}
    assert groups == set(GROUPS)


def test_people_can_materialize_it_too(dagster: Dagster) -> None:
    job = dagster.definitions.resolve_implicit_global_asset_job_def()
    done = job.execute_in_process(instance=dagster.instance, asset_selection=[STATUS])
    [page] = done.asset_materializations_for_node("status")
    assert "None is open" in str(page.metadata["rotation"].value)
