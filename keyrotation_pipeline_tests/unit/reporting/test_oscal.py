"""The report as OSCAL: valid for a tool that others wrote, the same bytes for the same audit, and no more than it."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from keyrotation_pipeline.model.audit import EventKind, Note
from keyrotation_pipeline.reporting.compliance import ComplianceReport
from keyrotation_pipeline.reporting.conclusions import OBJECTIVES
from keyrotation_pipeline.reporting.gathering import gather
from keyrotation_pipeline.reporting.oscal import assessment_results, render_oscal
from keyrotation_pipeline.reporting.sections import (
    Approval,
    CheckpointSigned,
    LaterFinding,
    Span,
    TimeStamped,
    UndeclaredSearched,
)
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline_tests.fakes import START, FakeWorld
from keyrotation_pipeline_tests.unit.reporting.test_compliance import eventful
from keyrotation_pipeline_tests.unit.rotation.requests import before_any_rotation


def report_of(world: FakeWorld) -> ComplianceReport:
    return gather(world.pipeline).report


def rotated() -> ComplianceReport:
    world = eventful()
    rotation = world.ledger.requests()[0]
    for _ in runner.run(world.pipeline, rotation.id, world.report):
        pass
    return report_of(world)


def states(report: ComplianceReport) -> dict[str, str]:
    (result,) = assessment_results(report)["assessment-results"]["results"]
    return {each["target"]["target-id"]: each["target"]["status"]["state"] for each in result["findings"]}


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="compliance-trestle 3, of OSCAL 1.1, needs an older Python")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("report", [rotated, lambda: report_of(eventful()), lambda: report_of(before_any_rotation())])
def test_trestle_takes_it(tmp_path: Path, report: Callable[[], ComplianceReport]) -> None:
    from trestle.oscal.assessment_results import AssessmentResults  # noqa: PLC0415  a second to import

    file = tmp_path / "oscal.json"
    file.write_bytes(render_oscal(report()))
    read = AssessmentResults.oscal_read(file)
    assert isinstance(read, AssessmentResults)
    assert read.metadata.oscal_version.__root__ == "1.1.3"
    assert json.loads(read.oscal_serialize_json()).keys() == {"assessment-results"}

    broken = json.loads(file.read_bytes())
    del broken["assessment-results"]["results"][0]["reviewed-controls"]
    file.write_text(json.dumps(broken))
    with pytest.raises(Exception, match="reviewed-controls"):
        AssessmentResults.oscal_read(file)


def test_the_same_report_gives_the_same_bytes_and_another_audit_or_moment_other_uuids() -> None:
    world = eventful()
    report = report_of(world)
    assert render_oscal(report) == render_oscal(report)
    ids = set(_uuids(assessment_results(report)))
    assert not ids & set(_uuids(assessment_results(replace(report, generated_at=START + timedelta(seconds=1)))))
    world.ledger.append(Note(EventKind.COUNTED, {}))
    assert not ids & set(_uuids(assessment_results(report_of(world))))


def test_every_reference_leads_somewhere_and_no_uuid_is_used_twice() -> None:
    content = assessment_results(rotated())
    own, named = list(_uuids(content)), set(_references(content))
    assert len(own) == len(set(own))
    assert named <= set(own)


SATISFIED_BY_A_ROTATION = {
    "audit-verified", "policy-pinned", "two-officers", "key-age-known", "cryptoperiod", "old-keys-retired",
    "rotations-documented", "backup-daily", "backup-elsewhere", "backup-found", "backup-encrypted",
    "recovery-tested-quarterly", "backup-after-rotation", "recovery-objectives-met", "key-generation-known",
    "values-encrypted", "every-value-decrypts", "incidents-in-time",
}  # fmt: skip


def test_each_finding_is_what_the_records_say() -> None:
    found = states(rotated())
    assert set(found) == {each.name for each in OBJECTIVES}
    # The bucket was down, the newest test failed, and an incident is open whose notices are due.
    assert {name for name, state in found.items() if state == "satisfied"} == SATISFIED_BY_A_ROTATION


def test_what_nobody_recorded_is_not_satisfied_and_says_what_to_do() -> None:
    report = report_of(before_any_rotation())
    found = states(report)
    satisfied = {name for name, state in found.items() if state == "satisfied"}
    assert satisfied == {"audit-verified", "policy-pinned", "incidents-in-time", "incidents-closed", "notices-given"}
    (result,) = assessment_results(report)["assessment-results"]["results"]
    remarks = {each["target"]["target-id"]: each["target"]["status"].get("remarks") for each in result["findings"]}
    assert remarks["backup-daily"] == "No complete backup is on record; run `keyrotation backup`."
    assert remarks["incidents-closed"] == "Not applicable. No incident is on record."


def one_signature(report: ComplianceReport) -> ComplianceReport:
    (request,) = report.requests
    return replace(report, requests=(replace(request, approvals=request.approvals[:1]),))


def one_officer_twice(report: ComplianceReport) -> ComplianceReport:
    (request,) = report.requests
    return replace(report, requests=(replace(request, approvals=(request.approvals[0],) * 2),))


def three_must_sign(report: ComplianceReport) -> ComplianceReport:
    (request,) = report.requests
    return replace(report, requests=(replace(request, required=3),))


def found_later(report: ComplianceReport) -> ComplianceReport:
    finding = LaterFinding(9, START, "a count found 3 values", gone=False)
    return replace(report, requests=tuple(replace(each, later_findings=(finding,)) for each in report.requests))


def never_counted(report: ComplianceReport) -> ComplianceReport:
    return replace(report, data=replace(report.data, not_counted=("large",)))


def no_longer_declared(report: ComplianceReport) -> ComplianceReport:
    tables = tuple(replace(each, table="other") for each in report.data.tables)
    return replace(report, data=replace(report.data, tables=tables))


def not_all_read(report: ComplianceReport) -> ComplianceReport:
    assert report.data.every_value is not None
    return replace(report, data=replace(report.data, every_value=replace(report.data.every_value, tables=())))


def undocumented(report: ComplianceReport) -> ComplianceReport:
    return replace(report, requests=tuple(replace(each, documented_at=None) for each in report.requests))


def of_unknown_age(report: ComplianceReport) -> ComplianceReport:
    unknown = tuple(replace(each, cryptoperiods=(Span(None, None),)) for each in report.keys)
    return replace(report, keys=unknown)


def later(days: int) -> Callable[[ComplianceReport], ComplianceReport]:
    return lambda report: replace(report, generated_at=report.generated_at + timedelta(days=days))


def with_another_key(report: ComplianceReport) -> ComplianceReport:
    keys = tuple(replace(each, fingerprint="00" * 32) for each in report.keys)
    return replace(report, keys=keys)


def in_one_place(report: ComplianceReport) -> ComplianceReport:
    return replace(report, backups=tuple(replace(each, places=("here",)) for each in report.backups))


def unencrypted(report: ComplianceReport) -> ComplianceReport:
    tables = tuple(replace(each, unencrypted=1) for each in report.data.tables)
    return replace(report, data=replace(report.data, tables=tables))


def no_evidence(report: ComplianceReport) -> ComplianceReport:
    return replace(report, requests=tuple(replace(each, retirement={}) for each in report.requests))


def overdue(report: ComplianceReport) -> ComplianceReport:
    return replace(report, policy=replace(report.policy, next_rotation_due=report.generated_at - timedelta(seconds=1)))


def slow_recovery(report: ComplianceReport) -> ComplianceReport:
    passed = replace(report.recovery_tests[0], rto_seconds=61.0)
    return replace(report, recovery_tests=(passed,))


def unverified_time_stamp(report: ComplianceReport) -> ComplianceReport:
    refused = TimeStamped(1, "ab", START, START, "tsa", (), "no certificate")
    return replace(report, timestamps=(*report.timestamps, refused))


def one_must_sign(report: ComplianceReport) -> ComplianceReport:
    return replace(report, policy=replace(report.policy, required=1))


def one_value_does_not_decrypt(report: ComplianceReport) -> ComplianceReport:
    assert report.data.every_value is not None
    return replace(report, data=replace(report.data, every_value=replace(report.data.every_value, failures=1)))


def found_where_nothing_is_declared(report: ComplianceReport) -> ComplianceReport:
    found = UndeclaredSearched(START, ("3 values in public.notes.text",), ())
    return replace(report, data=replace(report.data, undeclared=found))


def not_read_again(report: ComplianceReport) -> ComplianceReport:
    return replace(report, requests=tuple(replace(each, not_read_again="not read again") for each in report.requests))


def backed_up_before_its_end(report: ComplianceReport) -> ComplianceReport:
    earlier = tuple(replace(each, made_at=START - timedelta(seconds=1)) for each in report.backups)
    return replace(report, backups=earlier)


def for_nobody(report: ComplianceReport) -> ComplianceReport:
    return replace(report, backups=tuple(replace(each, recipients=()) for each in report.backups))


def contradicted(report: ComplianceReport) -> ComplianceReport:
    another = tuple(replace(each, contradicted="has signed another history") for each in report.checkpoints)
    return replace(report, checkpoints=another)


def with_nothing_wrong(report: ComplianceReport) -> ComplianceReport:
    """As after a rotation, with the active key in the backup, time stamp, witness, and a search of other columns."""
    assert report.active_key is not None
    keys = {report.active_key.version: report.active_key.fingerprint}
    return replace(
        report,
        backups=tuple(replace(each, keys=keys) for each in report.backups),
        timestamps=(TimeStamped(1, "ab", START, START, "tsa", (), None),),
        checkpoints=(CheckpointSigned("w", "keyrotation/ab", 1, "ab", START, None),),
        data=replace(report.data, undeclared=UndeclaredSearched(START, (), ())),
    )


@pytest.mark.parametrize(("change", "finding"), [
    (one_signature, "two-officers"), (one_officer_twice, "two-officers"), (three_must_sign, "two-officers"),
    (no_evidence, "old-keys-retired"), (found_later, "old-keys-retired"), (undocumented, "rotations-documented"),
    (of_unknown_age, "key-age-known"), (of_unknown_age, "cryptoperiod"), (overdue, "cryptoperiod"),
    (later(2), "backup-daily"), (in_one_place, "backup-elsewhere"), (with_another_key, "backup-has-active-key"),
    (later(101), "recovery-tested-quarterly"), (slow_recovery, "recovery-objectives-met"),
    (later(3), "incidents-in-time"), (unencrypted, "values-encrypted"), (later(8), "values-encrypted"),
    (never_counted, "values-encrypted"), (no_longer_declared, "values-encrypted"),
    (no_longer_declared, "every-value-decrypts"), (not_all_read, "every-value-decrypts"),
    (unverified_time_stamp, "audit-time-stamped"), (one_must_sign, "policy-pinned"),
    (one_value_does_not_decrypt, "every-value-decrypts"), (found_where_nothing_is_declared, "undeclared-searched"),
    (not_read_again, "undeclared-searched"), (backed_up_before_its_end, "backup-after-rotation"),
    (for_nobody, "backup-encrypted"), (contradicted, "audit-witnessed"),
])  # fmt: skip
def test_what_is_wrong_is_not_satisfied(change: Callable[[ComplianceReport], ComplianceReport], finding: str) -> None:
    right = with_nothing_wrong(rotated())
    assert states(right)[finding] == "satisfied"
    assert states(change(right))[finding] == "not-satisfied"


def test_no_text_of_a_report_can_break_the_document() -> None:
    """Names and reasons are people's: line breaks, control characters and quotes stay inside their strings."""
    report = rotated()
    (request,) = report.requests
    wild = Approval('A "B"\n\u2028</script>', "F" * 40, START)
    changed = replace(report, requests=(replace(request, approvals=(wild, request.approvals[0])),))
    (result,) = json.loads(render_oscal(changed))["assessment-results"]["results"]
    assert any('A "B"\n' in each["description"] for each in result["observations"])


def _uuids(content: object) -> Iterator[str]:
    if isinstance(content, dict):
        if "uuid" in content:
            yield content["uuid"]
        for each in content.values():
            yield from _uuids(each)
    elif isinstance(content, list):
        for each in content:
            yield from _uuids(each)


def _references(content: object) -> Iterator[str]:
    if isinstance(content, dict):
        for name, each in content.items():
            if name in {"observation-uuid", "subject-uuid"}:
                yield each
            elif name == "href":
                yield each.removeprefix("#")
            else:
                yield from _references(each)
    elif isinstance(content, list):
        for each in content:
            yield from _references(each)
