"""What a person reads in the UI: sentences with names, tables and numbers; checks and reasons at every moment."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta

import dagster as dg
import pytest

from keyrotation_pipeline.defs import ledger_sync
from keyrotation_pipeline.defs.conductor import tick
from keyrotation_pipeline.defs.ledger_sync import report_wait_status
from keyrotation_pipeline.defs.outside_reports import SEAL, Seal
from keyrotation_pipeline.defs.partitions import OWN
from keyrotation_pipeline.defs.summaries import (
    SHOWN_WITHOUT_A_CLICK_CHARS,
    WIDTH_CHARS,
    Names,
    instance_table,
    markdown,
    summary,
)
from keyrotation_pipeline.model.fleet import Instance
from keyrotation_pipeline.model.progress import TableProgress
from keyrotation_pipeline.model.requests import WALK, Step, Walk
from keyrotation_pipeline_tests.defs.conftest import Dagster, sentences, shard_of
from keyrotation_pipeline_tests.fakes import START, V1, V2

Walked = Callable[[Step | None], Walk]
ZERO_OLD_ROWS = dg.AssetCheckKey(dg.AssetKey(["rows", "clients"]), "zero_old_rows")
DECRYPTS = dg.AssetCheckKey(dg.AssetKey("retired_key"), "every_value_decrypts")


def pages(dagster: Dagster) -> Iterator[tuple[str, Mapping[str, dg.MetadataValue]]]:
    """The newest metadata of every asset that was materialized."""
    for key in dagster.definitions.resolve_asset_graph().toposorted_asset_keys:
        event = dagster.instance.get_latest_materialization_event(key)
        if event is not None and event.asset_materialization is not None:
            yield key.to_user_string(), event.asset_materialization.metadata


def seen_lines(value: dg.MarkdownMetadataValue) -> list[str]:
    """Without what Markdown does not show."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)|[*`\\]", r"\1", str(value.md_str)).split("  \n")


def test_a_command_that_is_longer_than_a_line_is_shown_in_pieces() -> None:
    command = "keyrotation report --format pack --output DIR"
    shown = markdown(f"For an auditor: `{command}`. [a page](/assets/{'x' * 60}) and the rest.")
    assert isinstance(shown, dg.MarkdownMetadataValue)
    assert seen_lines(shown) == [
        "For an auditor:",
        "keyrotation report --format pack",
        "--output DIR. a page and the",
        "rest.",
    ]


def test_every_page_is_sentences_tables_and_numbers_of_a_length_that_needs_no_click(
    dagster: Dagster, walked: Walked
) -> None:
    walked(None)
    dagster.tick("ledger_mirror")
    dagster.check_run()
    shown = dict(pages(dagster))

    assert {name.split("/")[0] for name in shown} == {*map(str, WALK), "encrypted_columns", "status"}
    for name, metadata in shown.items():
        assert {key for key, value in metadata.items() if isinstance(value, dg.JsonMetadataValue)} <= {SEAL}, name
        for value in metadata.values():
            if isinstance(value, dg.MarkdownMetadataValue):
                assert len(str(value.md_str)) <= SHOWN_WITHOUT_A_CLICK_CHARS
                if name.split("/")[0] in {*map(str, WALK)}:
                    assert [line for line in seen_lines(value) if len(line) > WIDTH_CHARS] == []
        if name not in {"encrypted_columns", "status"}:
            assert str(metadata["approved_by"].value).startswith("Ada (")
            assert "](/runs?q" in str(metadata["reason"].value)
            assert list(metadata)[:2] == ["summary", "next"]
    assert "Nothing under v1 is left.** The count found 0 values under it; all 4 values of 2 tables" in sentences(
        shown["zero_old_rows_proof"]["summary"]
    )
    assert sentences(shown["primary_key_rollout"]["next"]).startswith("[rows/clients](/assets/rows/clients), [rows/bil")
    assert "Nothing is left to do" in sentences(shown["compliance_report"]["next"])
    assert shown["rows/clients"]["table_percent"].value == 100.0
    assert (
        shown["encrypted_columns"]["values_under_v1"].value,
        shown["encrypted_columns"]["values_under_v2"].value,
    ) == (
        0,
        4,
    )


@pytest.mark.parametrize(
    ("missed", "reported"),
    [
        pytest.param([], "Nothing writes **v2** yet.", id="all was read"),
        pytest.param(["notes"], "seen; the search did not reach the end of notes.", id="a large table"),
        pytest.param([f"t{n}" for n in range(9)], "the end of t0, t1, t2 and 6 more.", id="many"),
    ],
)
def test_a_rollout_does_not_say_more_than_it_has_looked_at(
    dagster: Dagster, walked: Walked, missed: list[str], reported: str
) -> None:
    rotation = walked(Step.DUAL_KEY_ROLLOUT)
    record = rotation.done(Step.DUAL_KEY_ROLLOUT)
    assert record is not None
    facts = {**record.facts, **({"not_looked_through": missed} if missed else {})}
    assert summary(rotation, replace(record, facts=facts), Names({})).endswith(reported)


def test_a_shard_says_how_far_its_table_is(dagster: Dagster, walked: Walked) -> None:
    walked(Step.PRIMARY_KEY_ROLLOUT)
    dagster.materialize("rows", "clients", partition=shard_of("v2", 0))
    [shown] = [metadata for name, metadata in pages(dagster) if name == "rows/clients"]

    assert shown["table_percent"].value == 50.0
    assert "Shard 00: 1 rows rewritten. The table: **1 of 2 shards, 50%**" in sentences(shown["summary"])


@pytest.mark.parametrize(("instances", "reported"), [
    pytest.param((), "**No application instance reports itself.**", id="none"),
    pytest.param((Instance("web-1", (V1, V2), V1, START),), "web-1 v1, v2 v1 2 min ago", id="one that reports"),
    pytest.param((Instance("web-2", (V1,), V1, START, silent=True),), "web-2 v1 v1 2 min ago, SILENT", id="silent"),
    pytest.param((Instance("web-3", (), None, START),), "web-3 not known not known 2 min ago", id="nothing known"),
])  # fmt: skip
def test_instances_are_a_table_that_is_loud_where_nobody_reports(
    instances: tuple[Instance, ...], reported: str
) -> None:
    value = instance_table(instances, START + timedelta(seconds=125))
    text = (
        " ".join(map(str, value.records[0].data.values()))
        if isinstance(value, dg.TableMetadataValue)
        else str(value.value)
    )

    assert text.startswith(reported)


def test_the_conductor_and_the_current_step_say_what_is_awaited(dagster: Dagster, requested: Walk) -> None:
    pipeline, instance = dagster.world.pipeline, dagster.instance
    seal = Seal(dagster.resource.signer())
    reported = report_wait_status(instance, OWN, pipeline, tick(instance, OWN, pipeline, seal, "UTC"), "")
    again = report_wait_status(instance, OWN, pipeline, tick(instance, OWN, pipeline, seal, "UTC"), reported)

    assert reported == again
    assert "needs 2 more approvals" in reported
    seen = instance.fetch_observations(dg.AssetKey("key_version"), limit=10).records
    assert [record.asset_observation.description for record in seen if record.asset_observation] == [reported]


def test_the_conductor_says_how_far_the_rows_are(dagster: Dagster, walked: Walked) -> None:
    pipeline, instance = dagster.world.pipeline, dagster.instance
    walked(Step.PRIMARY_KEY_ROLLOUT)
    dagster.materialize("rows", "clients", partition=shard_of("v2", 0))
    reported = report_wait_status(instance, OWN, pipeline, dg.SkipReason("in progress: rows/clients shard 01"), "")

    assert reported.startswith("clients 50%")
    assert "billing.Invoices 0%; in progress: rows/clients shard 01" in reported
    [record] = instance.fetch_observations(dg.AssetKey(["rows", "clients"]), limit=10).records
    assert record.asset_observation is not None
    assert record.asset_observation.metadata["table_percent"].value == 50.0


def test_progress_is_observed_by_percents(dagster: Dagster, walked: Walked, monkeypatch: pytest.MonkeyPatch) -> None:
    walked(Step.PRIMARY_KEY_ROLLOUT)
    said, seen = "", list[int]()
    for share, rate in ((0.1, 9.0), (0.1, 8.0), (0.11, 7.0)):
        far = [TableProgress(str(table.name), 0, 1, share, 9, rate) for table in dagster.world.pipeline.tables]
        monkeypatch.setattr(ledger_sync, "tables_progress", lambda *_, far=far: tuple(far))
        said = report_wait_status(dagster.instance, OWN, dagster.world.pipeline, dg.SkipReason("in progress"), said)
        seen.append(len(dagster.instance.fetch_observations(dg.AssetKey(["rows", "clients"]), limit=10).records))
    assert said.startswith("clients 11%; ")
    assert seen == [1, 1, 2]


def test_a_rollout_that_waits_names_the_instance_on_the_conductors_page(dagster: Dagster, walked: Walked) -> None:
    walked(Step.KEY_VERSION)
    lagging = Instance("web-7", (V1,), V1, dagster.world.clock.at)
    dagster.world.rollout.running = (replace(lagging),)
    reported = report_wait_status(
        dagster.instance, OWN, dagster.world.pipeline, dg.SkipReason("in progress: introduce_key"), ""
    )

    assert reported.startswith("in progress: introduce_key; waiting for web-7 (reads v1): not seen to read v2")
    [record] = dagster.instance.fetch_observations(dg.AssetKey("dual_key_rollout"), limit=10).records
    assert record.asset_observation is not None
    table = record.asset_observation.metadata["instances"]
    assert isinstance(table, dg.TableMetadataValue)
    assert [each.data["name"] for each in table.records] == ["web-7"]


@pytest.mark.parametrize("step", [Step.DUAL_KEY_ROLLOUT, Step.PRIMARY_KEY_ROLLOUT, Step.ARCHIVED_KEY])
def test_the_page_of_a_finished_rollout_says_nothing_of_the_instances_that_run_now(
    dagster: Dagster, walked: Walked, step: Step
) -> None:
    walked(step)
    dagster.world.rollout.running = ()
    dagster.tick("ledger_mirror")
    [shown] = [metadata for name, metadata in pages(dagster) if name == step]

    assert "1 instance (web-1; none proved which keys it holds): " in sentences(shown["summary"])
    assert not [name for name, value in shown.items() if "No application instance reports" in str(value.value)]
