"""What the report concludes about each section: no further than what was examined, and why in words."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from keyrotation_pipeline.reporting.compliance import ComplianceReport, Stated
from keyrotation_pipeline.reporting.conclusions import OBJECTIVES, SECTIONS, Conclusion, Verdict, assessed, concluded
from keyrotation_pipeline.reporting.gathering import gather
from keyrotation_pipeline.reporting.sections import RecoveryTested
from keyrotation_pipeline.rotation.keys import declare_activation
from keyrotation_pipeline_tests.fakes import START
from keyrotation_pipeline_tests.unit.reporting.test_compliance import DAY, eventful
from keyrotation_pipeline_tests.unit.reporting.test_oscal import (
    found_later,
    in_one_place,
    later,
    never_counted,
    no_evidence,
    not_all_read,
    of_unknown_age,
    one_officer_twice,
    one_signature,
    overdue,
    rotated,
    slow_recovery,
    undocumented,
    unencrypted,
    unverified_time_stamp,
)
from keyrotation_pipeline_tests.unit.rotation.requests import before_any_rotation

Change = Callable[[ComplianceReport], ComplianceReport]
MET, NOT_MET, NOT_SHOWN, NOT_APPLICABLE = Verdict.MET, Verdict.NOT_MET, Verdict.NOT_SHOWN, Verdict.NOT_APPLICABLE


def of(report: ComplianceReport, name: str) -> Conclusion:
    (found,) = [each for each in concluded(report) if each.name == name]
    return found


def verdicts(report: ComplianceReport) -> dict[str, Verdict]:
    return {each.name: each.verdict for each in concluded(report)}


def just_initialised() -> ComplianceReport:
    return gather(before_any_rotation().pipeline).report


def of_a_young_key() -> ComplianceReport:
    """Nothing was rotated, and it is on record that nothing had to be."""
    world = before_any_rotation()
    declare_activation(world.pipeline, START - 30 * DAY)
    return gather(world.pipeline).report


def everything_in_order() -> ComplianceReport:
    report = rotated()
    return replace(
        report,
        recovery_tests=report.recovery_tests[:1],
        incidents=(),
        backups=tuple(each for each in report.backups if each.is_complete),
    )


def test_every_objective_decides_exactly_one_section() -> None:
    named = [name for section in SECTIONS for name in section.objectives]
    assert sorted(named) == sorted(each.name for each in OBJECTIVES)


@pytest.mark.parametrize("made", [just_initialised, of_a_young_key, rotated, everything_in_order])
def test_nothing_is_met_that_was_not_examined(made: Callable[[], ComplianceReport]) -> None:
    report = made()
    answers = {each.name: each for each in assessed(report)}
    for section in concluded(report):
        asked = [answers[name] for name in section.objectives]
        judged = [each for each in asked if each.applies]
        assert (section.verdict is NOT_APPLICABLE) == (not judged)
        assert (section.verdict is MET) == (bool(judged) and all(each.satisfied and each.evidence for each in judged))
        assert section.why, "every conclusion has its reason"
        assert (section.newest_at is None) == (not any(each.evidence for each in asked))
        assert all(not each.satisfied or each.evidence for each in judged)


def test_a_home_in_which_nothing_was_done_has_met_only_what_init_did() -> None:
    found = verdicts(just_initialised())
    assert {name for name, verdict in found.items() if verdict is MET} == {"policy"}
    assert {name for name, verdict in found.items() if verdict is NOT_APPLICABLE} == {"incidents"}


def test_a_finished_rotation_meets_what_its_records_show() -> None:
    found = verdicts(everything_in_order())
    assert {name for name, verdict in found.items() if verdict is MET} >= {"policy", "keys", "rotations", "recovery"}
    # Nothing records reviews; no log, inventory or authority was configured.
    assert {name for name, verdict in found.items() if verdict is NOT_SHOWN} >= {"review", "access", "audit", "data"}


def test_no_rotation_is_in_order_only_as_long_as_it_is_shown_that_none_is_due() -> None:
    assert verdicts(of_a_young_key())["rotations"] is NOT_APPLICABLE
    assert of(of_a_young_key(), "rotations").why == ("No request has begun.", "No rotation is finished.")
    for late in (later(366)(of_a_young_key()), just_initialised()):
        assert verdicts(late)["rotations"] is NOT_SHOWN
        assert "no rotation is finished, and it is not shown that none is due" in of(late, "rotations").why[0]


def too_slow_by_now(report: ComplianceReport) -> ComplianceReport:
    """Somebody has tightened the objective since the test."""
    return replace(report, parameters=replace(report.parameters, stated=Stated(rto_seconds=20, rpo_seconds=9999)))


def loosened(report: ComplianceReport) -> ComplianceReport:
    """Whoever writes the configuration cannot make a test pass that missed its objectives."""
    stated = Stated(rto_seconds=10**9, rpo_seconds=10**9)
    return slow_recovery(replace(report, parameters=replace(report.parameters, stated=stated)))


def evidence_by_somebody(report: ComplianceReport) -> ComplianceReport:
    return replace(report, requests=tuple(replace(each, retirement={"old_values": 0}) for each in report.requests))


def failed_test(report: ComplianceReport) -> ComplianceReport:
    return replace(report, recovery_tests=(*report.recovery_tests, RecoveryTested(START, "s3", "it is damaged")))


@pytest.mark.parametrize(("change", "section", "why"), [
    (one_signature, "rotations", "Not true that enough officers signed every request that began: rotate"),
    (one_officer_twice, "rotations", "Not true that enough officers signed every request that began: rotate"),
    (no_evidence, "rotations", "retired no key"),
    (found_later, "rotations", "a count found 3 values"),
    (undocumented, "rotations", "has no completed row in key_rotation_audit"),
    (overdue, "keys", "Not true that the key in use is within its cryptoperiod"),
    (later(2), "backups", "Not true that the newest backup is of the last day"),
    (in_one_place, "backups", "Not true that the newest backup was stored in several places"),
    (unencrypted, "data", "1 unencrypted"),
    (failed_test, "recovery", "recovery test from s3: it is damaged"),
    (slow_recovery, "recovery", "RTO 61 s, allowed 60 s"), (loosened, "recovery", "RTO 61 s, allowed 60 s, and"),
    (too_slow_by_now, "recovery", "and 20 s by now"), (unverified_time_stamp, "audit", "no certificate"),
])  # fmt: skip
def test_what_is_wrong_is_not_met_and_said(change: Change, section: str, why: str) -> None:
    changed = change(everything_in_order())
    found = of(changed, section)
    assert found.verdict is NOT_MET
    assert any(why in sentence for sentence in found.why), found.why
    assert found.why[0].startswith("Not true"), "what is false comes before what nobody recorded"


@pytest.mark.parametrize(("change", "section", "why"), [
    (evidence_by_somebody, "rotations", "has incomplete evidence"),
    (of_unknown_age, "keys", "Not shown that the age of the key in use is known"),
    (later(8), "data", "more than 7 days before"), (never_counted, "data", "not counted: large"),
    (not_all_read, "data", "not read: clients"),
])  # fmt: skip
def test_what_nobody_recorded_is_not_shown_and_is_not_called_false(change: Change, section: str, why: str) -> None:
    found = of(change(everything_in_order()), section)
    assert found.verdict is NOT_SHOWN
    assert any(why in sentence for sentence in found.why), found.why
    assert not any(sentence.startswith("Not true") for sentence in found.why)


def test_an_incident_whose_stages_or_notices_are_late_is_not_met() -> None:
    report = gather(eventful().pipeline).report
    found = of(report, "incidents")
    assert found.verdict is NOT_MET
    assert "Not true that every incident is closed: INC-2026-001 (key exposed) is open" in found.why[0]
    assert "due to individuals by" in found.why[1]
    late = of(replace(report, generated_at=report.generated_at + timedelta(days=3)), "incidents")
    assert "Not true that incidents were answered in time" in late.why[0]


def test_reasons_are_cut_after_the_first_and_those_of_one_cause_are_said_once() -> None:
    report = unencrypted(everything_in_order())
    tables = tuple(replace(report.data.tables[0], table=f"table_{number}") for number in range(9))
    (why, *_) = of(replace(report, data=replace(report.data, tables=tables)), "data").why
    assert "table_2" in why
    assert "table_3" not in why.partition("and 6 more")[0]
    untested = of(replace(report, recovery_tests=()), "recovery").why
    assert len(untested) == 1
    assert untested[0].startswith(
        "Not shown that the newest recovery test passed, that a recovery test passed within the last quarter"
    )
