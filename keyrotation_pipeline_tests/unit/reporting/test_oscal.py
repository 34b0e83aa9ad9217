"""The report as OSCAL: valid for a tool that others wrote, the same bytes for the same audit, and no more than it."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from keyrotation_pipeline.model.audit import EventKind, Note
from keyrotation_pipeline.reporting.compliance import Approval, ComplianceReport, TimeStamped
from keyrotation_pipeline.reporting.gathering import gather
from keyrotation_pipeline.reporting.objectives import OBJECTIVES
from keyrotation_pipeline.reporting.oscal import assessment_results, render_oscal
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline_tests.fakes import START, FakeWorld
from keyrotation_pipeline_tests.unit.reporting.test_compliance import DAY, eventful, undecided
from keyrotation_pipeline_tests.unit.rotation.requests import before_any_rotation


def report_of(world: FakeWorld) -> ComplianceReport:
    return gather(world.pipeline, undecided).report


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


def test_the_same_audit_gives_the_same_bytes_and_another_audit_other_uuids() -> None:
    world = eventful()
    before = render_oscal(report_of(world))
    world.clock.at += 40 * DAY
    assert render_oscal(report_of(world)) == before
    ids = set(_uuids(json.loads(before)))
    world.ledger.append(Note(EventKind.COUNTED, {}))
    assert not ids & set(_uuids(json.loads(render_oscal(report_of(world)))))


def test_every_reference_leads_somewhere_and_no_uuid_is_used_twice() -> None:
    content = assessment_results(rotated())
    own, named = list(_uuids(content)), set(_references(content))
    assert len(own) == len(set(own))
    assert named <= set(own)


def test_each_finding_is_what_the_records_say() -> None:
    assert states(rotated()) == {
        "audit-verified": "satisfied",
        "two-officers": "satisfied",
        "old-keys-retired": "satisfied",
        "cryptoperiod": "satisfied",
        "backup-complete": "not-satisfied",  # the bucket was down
        "recovery-tested": "not-satisfied",  # the newest one failed
        "incidents-closed": "not-satisfied",
    }


def test_what_nobody_recorded_has_no_finding_and_is_named() -> None:
    report = report_of(before_any_rotation())
    assert set(states(report)) == {"audit-verified", "cryptoperiod"}
    (result,) = assessment_results(report)["assessment-results"]["results"]
    silent = [each.title for each in OBJECTIVES if each.name not in states(report)]
    assert result["description"].endswith(f"Nothing is on record for: {'; '.join(silent)}.")


def one_signature(report: ComplianceReport) -> ComplianceReport:
    (request,) = report.requests
    return replace(report, requests=(replace(request, approvals=request.approvals[:1]),))


def one_officer_twice(report: ComplianceReport) -> ComplianceReport:
    (request,) = report.requests
    return replace(report, requests=(replace(request, approvals=(request.approvals[0],) * 2),))


def a_refused_signature(report: ComplianceReport) -> ComplianceReport:
    (request,) = report.requests
    refused = replace(request.approvals[1], refusal="it is revoked")
    return replace(report, requests=(replace(request, approvals=(request.approvals[0], refused)),))


def no_evidence(report: ComplianceReport) -> ComplianceReport:
    return replace(report, requests=tuple(replace(each, retirement={}) for each in report.requests))


def overdue(report: ComplianceReport) -> ComplianceReport:
    return replace(report, policy=replace(report.policy, next_rotation_due=report.generated_at - timedelta(seconds=1)))


def slow_recovery(report: ComplianceReport) -> ComplianceReport:
    passed = replace(report.recovery_tests[0], rto_seconds=61.0)
    return replace(report, recovery_tests=(passed,))


def unverified_time_stamp(report: ComplianceReport) -> ComplianceReport:
    return replace(report, timestamps=(TimeStamped(1, "ab", START, START, "tsa", "no certificate"),))


@pytest.mark.parametrize(("change", "finding"), [
    (one_signature, "two-officers"), (one_officer_twice, "two-officers"), (a_refused_signature, "two-officers"),
    (no_evidence, "old-keys-retired"), (overdue, "cryptoperiod"), (slow_recovery, "recovery-tested"),
    (unverified_time_stamp, "audit-time-stamped"),
])  # fmt: skip
def test_what_is_amiss_is_not_satisfied(change: Callable[[ComplianceReport], ComplianceReport], finding: str) -> None:
    assert states(change(rotated()))[finding] == "not-satisfied"


def test_no_text_of_a_report_can_break_the_document() -> None:
    """Names and reasons are people's: line breaks, control characters and quotes stay inside their strings."""
    report = rotated()
    (request,) = report.requests
    wild = Approval('A "B"\n\u2028</script>', "F" * 40, START, None)
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
