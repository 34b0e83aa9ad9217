"""What the explorer has found, each as the trace that led to it: every transition keeps every invariant."""

from dataclasses import replace
from typing import Any

import pytest

from keyrotation_pipeline.model.approval import VerifiedSignature
from keyrotation_pipeline.requests import approvals
from keyrotation_pipeline_tests.protocol.liveness import stuck
from keyrotation_pipeline_tests.protocol.models import LARGER, MODELS, ROLLBACK, ROUTINE, Model
from keyrotation_pipeline_tests.protocol.search import explore, follow

BACK = Model("back", "a rotation and its rollback", (ROUTINE, ROLLBACK), 2, instances=1, rows=1)
BEGUN = ("request a rotation", "Ada signs routine", "Ben signs routine", "run what is due of routine")
UNDONE = ("request a rollback", "Ada signs rollback", "Ben signs rollback", "run what is due of rollback")
READS, REPORTS, BACKWARDS = "instance 0 reads", "instance 0 reports", "run what is due of rollback"


@pytest.mark.parametrize(
    "labels",
    [
        # The instance reads v2 after it last reported to be without it, and before v2 is withdrawn.
        pytest.param(
            (*BEGUN, *UNDONE, REPORTS, *[BACKWARDS] * 4, READS, *[BACKWARDS] * 3),
            id="an archived key is held",
        ),
        # It reads that v2 is the primary after it last reported to write v1, and before v1 is the primary again.
        pytest.param(
            (*BEGUN, READS, REPORTS, *["run what is due of routine"] * 2, *UNDONE, REPORTS, BACKWARDS, READS,
             *[BACKWARDS] * 4),
            id="a write is refused",
        ),
    ],
)  # fmt: skip
def test_a_report_counts_only_if_it_is_newer_than_the_change_of_the_key_store(labels: tuple[str, ...]) -> None:
    assert follow(BACK, labels) is None


def test_a_report_from_before_a_key_was_brought_back_does_not_say_that_it_is_read() -> None:
    # The retirement died when the key store had withdrawn v1, and one of two instances read that, and reported nothing.
    ran, both = "run what is due of routine", [READS, READS, REPORTS, REPORTS]
    labels = (
        *BEGUN, *UNDONE[:1], "resume routine", *UNDONE[1:3], *both, ran,
        f"{ran} 1 (v1 to v2): primary_key_rollout, dies before `event blocked`", *both, *[ran] * 4,
        f"{ran} 1 (v1 to v2): retired_key, dies before `commit`", READS, *[BACKWARDS] * 2,
        f"{BACKWARDS} 2 (v2 to v1): primary_key_rollout, dies before `event key_state_changed`", READS,
        "instance 0 writes a row under v1",
    )  # fmt: skip
    assert follow(LARGER["rollback"], labels) is None


def test_a_reconciliation_takes_no_key_for_gone_from_instances_since_it_is_in_the_archive() -> None:
    # The retirement had taken it from the key store, and nobody had seen yet that the instance is without it.
    ran = "run what is due of routine"
    labels = (
        *BEGUN, READS, REPORTS, *[ran] * 2, READS, REPORTS, *[ran] * 4,
        f"{ran} 1 (v1 to v2): retired_key, dies before `event step_finished`", "the database is dumped", ran,
        "the database is restored", "request a reconciliation", "Ada signs reconcile", "Ben signs reconcile",
        "carry out reconcile",
    )  # fmt: skip
    assert follow(replace(MODELS["restore"], dies=True), labels) is None


def test_the_intent_alone_tells_when_the_primary_was_changed() -> None:
    # A promotion that died before it was recorded leaves the key states as they were: the rollback records no change.
    labels = (
        *BEGUN, "request a rollback", "resume routine", "Ada signs rollback", "Ben signs rollback", READS, REPORTS,
        "run what is due of routine",
        "run what is due of routine 1 (v1 to v2): primary_key_rollout, dies before `event key_state_changed`",
        *[BACKWARDS] * 2, READS, *[BACKWARDS] * 4,
    )  # fmt: skip
    assert follow(BACK, labels) is None


def test_an_expired_key_strands_a_request_unless_the_other_signatures_count(monkeypatch: pytest.MonkeyPatch) -> None:
    one = replace(MODELS["expiry"], asks=(ROUTINE,), requests=1, controls=frozenset({"expire"}))
    assert not _without_an_end(one)
    counted = approvals._counted  # noqa: SLF001

    def refuses_the_first(*arguments: Any) -> tuple[list[VerifiedSignature], list[str]]:  # noqa: ANN401
        good, refused = counted(*arguments)
        return ([], refused) if refused else (good, refused)

    monkeypatch.setattr(approvals, "_counted", refuses_the_first)
    assert _without_an_end(one)


def _without_an_end(model: Model) -> list[int]:
    found = explore(model)
    assert found.is_whole
    assert found.broken is None
    return stuck(found)
