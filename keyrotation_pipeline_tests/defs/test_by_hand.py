"""A click in the UI: what is due runs, what is not is refused with the reason, and nothing secret is stored."""

from collections.abc import Callable
from dataclasses import replace

import dagster as dg
import pytest

from keyrotation_pipeline.defs.step_runner import step_failures
from keyrotation_pipeline.errors import BlockedError
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of, raw_of
from keyrotation_pipeline.model.requests import WALK, RequestStatus, Step, Walk
from keyrotation_pipeline_tests.defs.conftest import ROWS, Dagster, failure_of, shard_of
from keyrotation_pipeline_tests.fakes import V1, V2, FakeKeyStore, FakeLedger

Walked = Callable[[Step | None], Walk]
LATER = [str(step) for step in WALK if step not in {Step.KEY_VERSION, Step.ROWS}]
SHARD = shard_of("v2", 0)


@pytest.mark.parametrize("asset", LATER)
def test_a_step_that_is_not_due_is_refused_and_nothing_changes(dagster: Dagster, approved: Walk, asset: str) -> None:
    before = list(dagster.world.journal.entries)
    result = dagster.materialize(asset, partition="v2")

    assert not result.success
    assert failure_of(result).startswith(f"{asset} is not due in rotation {approved.id}; due is: key_version")
    assert dagster.world.journal.entries == before
    assert dagster.world.ledger.walk(approved.id) == approved


def test_rows_before_promotion_are_refused_and_stay_as_they_are(dagster: Dagster, approved: Walk) -> None:
    result = dagster.materialize("rows", "clients", partition=SHARD)

    assert "rows/clients shard 00 is not due" in failure_of(result)
    assert dagster.world.database.rows["clients"] == ROWS["clients"]


def test_a_request_without_two_approvals_is_refused(dagster: Dagster, requested: Walk) -> None:
    result = dagster.materialize("key_version", partition="v2")

    assert "2 more approvals" in failure_of(result)
    assert dagster.world.keys.versions() == (V1,)


def test_a_version_that_nobody_requested_is_refused(dagster: Dagster, approved: Walk) -> None:
    assert "no rotation to v9 was requested" in failure_of(dagster.materialize("key_version", partition="v9"))


def test_a_refusal_asks_dagster_for_no_retry() -> None:
    with pytest.raises(dg.Failure) as refused, step_failures():
        raise BlockedError("somebody must wait; wait")

    assert refused.value.allow_retries is False


def test_what_is_due_runs_and_again_is_no_change(dagster: Dagster, approved: Walk) -> None:
    first = dagster.materialize("key_version", partition="v2")
    fingerprint = dagster.world.keys.get(V2).fingerprint
    again = dagster.materialize("key_version", partition="v2")

    assert first.success
    assert again.success
    assert dagster.world.keys.get(V2).fingerprint == fingerprint


def test_a_finished_rotation_is_shown_again_without_a_new_one(dagster: Dagster, walked: Walked) -> None:
    walked(None)
    # The certificate opens the backups, and those of the fake world pin their key only then.
    assert dagster.materialize("retired_key", partition="v2").success
    before = list(dagster.world.journal.entries)

    assert dagster.materialize("retired_key", partition="v2").success
    assert dagster.world.journal.entries == [*before, "event counted"], "which the certificate rests on"


def test_the_newest_request_that_was_not_cancelled_is_meant(dagster: Dagster, approved: Walk) -> None:
    cancelled = replace(approved, id="ff" * 16, status=RequestStatus.CANCELLED)
    dagster.world.ledger.state.requests[cancelled.id] = cancelled

    assert dagster.materialize("key_version", partition="v2").success
    assert dagster.world.ledger.walk(approved.id).done(Step.KEY_VERSION)


def test_a_step_shows_what_a_dba_asks(dagster: Dagster, walked: Walked) -> None:
    rotation = walked(Step.PRIMARY_KEY_ROLLOUT)
    shown = metadata_of(dagster.materialize("rows", "clients", partition=SHARD))

    assert shown["rows"] == 1
    assert shown["values"] == 2
    assert {"rows_per_second", "seconds", "audit_seq", "finished_at"} <= set(shown)
    assert (shown["rotation"], shown["from"], shown["to"]) == (rotation.id, "v1", "v2")


def test_a_fingerprint_is_shown_short(dagster: Dagster, approved: Walk) -> None:
    shown = metadata_of(dagster.materialize("key_version", partition="v2"))

    assert shown["fingerprint"] == dagster.world.keys.get(V2).fingerprint[:16]


def test_the_inventory_shows_values_per_version(dagster: Dagster) -> None:
    events = dagster.check_run().get_asset_materialization_events()
    [event] = [each for each in events if each.asset_key == dg.AssetKey("encrypted_columns")]
    table = event.materialization.metadata["tables"]

    assert isinstance(table, dg.TableMetadataValue)
    assert [(each.data["table"], each.data["values"]) for each in table.records] == [
        ("clients", "v1 3"),
        ("billing.Invoices", "v1 1"),
    ]


def test_the_proof_is_refused_by_its_own_name_while_shards_are_open(dagster: Dagster, walked: Walked) -> None:
    walked(Step.PRIMARY_KEY_ROLLOUT)

    sentence = failure_of(dagster.materialize("zero_old_rows_proof", partition="v2"))
    assert sentence.startswith("zero_old_rows_proof is not due")
    assert "rows/clients shard 00" in sentence


@pytest.mark.parametrize("where", ["a step", "the cause of a step's error"])
def test_the_text_of_an_unexpected_error_is_not_stored(
    dagster: Dagster, approved: Walk, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def defect(_: FakeKeyStore) -> None:
        cause = ValueError("SECRET-PLAINTEXT")
        raise RuntimeError("SECRET-KEY" if where == "a step" else "something") from cause

    monkeypatch.setattr(FakeKeyStore, "read", defect)
    result = dagster.materialize("key_version", partition="v2")

    assert not result.success
    assert failure_of(result).startswith("unexpected ")
    assert "SECRET" not in stored_text(dagster.instance)


def test_no_key_and_no_plaintext_is_in_the_event_log_of_a_whole_rotation(dagster: Dagster, walked: Walked) -> None:
    walked(Step.DUAL_KEY_ROLLOUT)
    for asset in ("primary_key_rollout", *LATER[2:]):
        if asset == "zero_old_rows_proof":
            for table in (["rows", "clients"], ["rows", "billing.Invoices"]):
                for shard in range(2):
                    assert dagster.materialize(*table, partition=shard_of("v2", shard)).success
        assert dagster.materialize(asset, partition="v2").success
    dagster.check_run()
    text = stored_text(dagster.instance)

    assert dagster.world.keys.archived() == (V1,)
    for material in (dagster.world.keys.get(V1), dagster.world.keys.get(V2)):
        assert base64_of(material) not in text
        assert raw_of(material).hex() not in text
    assert not any(stored in text for stored in ("ada@example.org", "v1:Ada", "v2:Ada", "v2:Cy"))


def metadata_of(result: dg.ExecuteInProcessResult) -> dict[str, object]:
    [event] = result.get_asset_materialization_events()
    return {name: value.value for name, value in event.materialization.metadata.items()}


def stored_text(instance: dg.DagsterInstance) -> str:
    """Everything that the instance keeps of its runs."""
    runs = instance.get_runs()
    return "\n".join(str(run) + "".join(map(repr, instance.all_logs(run.run_id))) for run in runs)


def test_a_dead_database_is_one_sentence(dagster: Dagster, approved: Walk, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(self: FakeLedger, *_: object) -> None:
        raise ConnectionError("server closed the connection; DETAIL: SECRET-PLAINTEXT")

    monkeypatch.setattr(FakeLedger, "requests", gone)
    sentence = failure_of(dagster.materialize("key_version", partition="v2"))

    assert sentence.startswith("unexpected ConnectionError at ")
    assert "SECRET" not in sentence
