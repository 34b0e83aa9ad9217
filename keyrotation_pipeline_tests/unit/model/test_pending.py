"""A reason is short: who is waited for, and what helps."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.fleet import Confirmation, Gone, Instance, RolloutMode, RolloutTarget, TargetKind
from keyrotation_pipeline.model.pending import MOST_WORDS, PendingCode, PendingReason, pending_rollout, words
from keyrotation_pipeline.model.requests import RequestStatus
from keyrotation_pipeline.requests.conductor import decide
from keyrotation_pipeline_tests.fakes import fake_pipeline, rotation_of

V1, V2 = KeyVersion(1), KeyVersion(2)
UNCONFIRMED = Confirmation()
AT = datetime(2026, 1, 5, 9, tzinfo=UTC)
LAGGING = tuple(Instance(f"web-{number}", (V1,), V1, AT) for number in range(300))
SILENT = tuple(Instance(f"web-{number}", (V1,), V1, AT, silent=True) for number in range(300))


def reason(
    mode: RolloutMode, *instances: Instance, kind: TargetKind = TargetKind.READS, by: Confirmation = UNCONFIRMED
) -> PendingReason | None:
    versions = (V1,) if kind in {TargetKind.NAMES, TargetKind.WITHOUT} else (V2,)
    return pending_rollout(RolloutTarget(kind, versions), mode, instances, by, "0" * 32)


@pytest.mark.parametrize("kind", TargetKind)
@pytest.mark.parametrize("instances", [(), LAGGING, SILENT, LAGGING[:1], SILENT[:1]], ids=len)
@pytest.mark.parametrize("mode", [RolloutMode.ATTEST, RolloutMode.CONFIRM, RolloutMode.KUBERNETES])
def test_however_many_are_waited_for_the_sentence_stays_short(
    mode: RolloutMode, instances: tuple[Instance, ...], kind: TargetKind
) -> None:
    found = reason(mode, *instances, kind=kind)
    if found is not None:
        assert words(str(found)) <= MOST_WORDS
        assert len(found.why) <= 200
        assert "`keyrotation " in found.to_do
        assert str(found) == f"{found.while_waiting}; then run `keyrotation rotate {'0' * 32}`"


def test_names_are_left_out_with_their_number() -> None:
    found = reason(RolloutMode.ATTEST, *LAGGING)
    assert found is not None
    shown = found.why.count("web-")
    assert found.why.endswith(f"and {300 - shown} more: not seen to read v2")


def test_what_lags_is_named_before_what_is_silent_and_that_before_a_missing_signature() -> None:
    gone = Confirmation((), frozenset({Gone("web-0", AT)}))
    codes = [
        reason(RolloutMode.CONFIRM, SILENT[0], LAGGING[1]),
        reason(RolloutMode.CONFIRM, SILENT[0]),
        reason(RolloutMode.CONFIRM, SILENT[0], by=gone),
    ]
    assert [None if each is None else each.code for each in codes] == [
        PendingCode.INSTANCES,
        PendingCode.SILENT_INSTANCES,
        PendingCode.CONFIRMATION,
    ]


def test_a_message_of_the_program_is_a_reason_with_what_to_do() -> None:
    message = "the cluster does not answer; try again; or ask"
    found = PendingReason.of(PendingCode.UNREACHABLE, "the cluster", message)
    assert (str(found), found.why, found.do) == (message, "the cluster does not answer", "try again; or ask")
    paused = PendingReason(PendingCode.PAUSED, "an operator", "it is paused", since=AT)
    assert paused.with_since == "it is paused (since 2026-01-05 09:00:00 UTC)"


def test_every_reason_of_a_request_is_short() -> None:
    walk, after = rotation_of(fake_pipeline()), timedelta(days=400)
    changes = (
        {"status": RequestStatus.PAUSED},
        {"status": RequestStatus.CANCELLED},
        {"approvals": ()},
        {"not_before": walk.start_by + 2 * after, "start_by": walk.start_by + 3 * after},
        {"started_at": None},
        {"started_at": walk.requested_at},
    )
    for each in changes:
        decision = decide(replace(walk, **each), 2, (), 1, walk.finish_by + after)
        assert decision.pending is not None, each
        assert words(decision.pending.with_since) <= MOST_WORDS, str(decision.pending)


@pytest.mark.parametrize(
    ("instances", "why"),
    [
        pytest.param([{"cases.note": 2}], None, id="it begins with the target"),
        pytest.param([{"cases.note": 1}], None, id="it has begun"),
        pytest.param([{"cases.note": 3}], "web-0 (reports no encrypted_from", id="it begins later"),
        pytest.param([{"cases.other": 2}], "web-0 (reports no encrypted_from for cases.note)", id="another column"),
        pytest.param([{"cases.note": 2}, {}], "web-1 (reports no encrypted_from", id="an older release beside it"),
    ],
)
def test_whoever_does_not_report_that_it_reads_plaintext_and_values_is_waited_for(
    instances: list[dict[str, int]], why: str | None
) -> None:
    target = RolloutTarget(TargetKind.READS, (V2,), ("cases.note",))
    alive = [Instance(f"web-{n}", (V1, V2), V1, AT, encrypts_from=each) for n, each in enumerate(instances)]
    found = pending_rollout(target, RolloutMode.ATTEST, alive, UNCONFIRMED, "0" * 32)
    assert (found is None) is (why is None)
    assert found is None or found.why.startswith(str(why))


@pytest.mark.parametrize(
    ("reported", "why"),
    [
        pytest.param({"cases.note": "aes: 12"}, None, id="the declared form and key"),
        pytest.param({}, None, id="it never uses the column"),
        pytest.param({"cases.note": "aes: 34"}, "web-0 (reports another legacy of cases.note", id="another key"),
        pytest.param({"cases.note": "plaintext"}, "web-0 (reports another legacy of cases.note", id="no legacy"),
    ],
)
def test_whoever_reads_another_librarys_values_otherwise_than_is_declared_is_waited_for(
    reported: dict[str, str], why: str | None
) -> None:
    target = RolloutTarget(TargetKind.READS, (V2,), ("cases.note",), (("cases.note", "aes: 12"),))
    alive = [Instance("web-0", (V1, V2), V1, AT, encrypts_from={"cases.note": 2}, old_forms=reported)]
    found = pending_rollout(target, RolloutMode.ATTEST, alive, UNCONFIRMED, "0" * 32)
    assert (found is None) is (why is None)
    assert found is None or found.why.startswith(str(why))
    assert target.statement() == "reads v2, and aes in cases.note until v2 is the primary"


@pytest.mark.parametrize(
    ("encrypts_from", "is_met"),
    [
        pytest.param(2, True, id="writes plaintext under v1, and encrypts under v2 until then"),
        pytest.param(1, False, id="encrypts under v1, too"),
        pytest.param(3, False, id="writes plaintext already, which tables may refuse"),
        pytest.param(0, False, id="knows of no plaintext"),
    ],
)
def test_values_are_decrypted_when_every_instance_writes_plaintext_under_the_earlier_key(
    encrypts_from: int, *, is_met: bool
) -> None:
    target = RolloutTarget(TargetKind.READS, (V1,), ("cases.note",), before=V2)
    alive = [Instance("web-0", (V1, V2), V2, AT, encrypts_from={"cases.note": encrypts_from} if encrypts_from else {})]
    found = pending_rollout(target, RolloutMode.ATTEST, alive, UNCONFIRMED, "0" * 32)
    assert (found is None) is is_met
    assert found is None or "reports no encrypted_from=2 for cases.note" in found.why
    assert target.statement() == "reads v1, and plaintext in cases.note, which it writes until v2 is the primary"
