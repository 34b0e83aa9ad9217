"""A recovery test counts if its record ties it to a restored set, and a backup if somebody found it within a day."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from keyrotation_pipeline.audit.history import LedgerState, whole_history
from keyrotation_pipeline.errors import BackupError
from keyrotation_pipeline.model.audit import EventKind, Note
from keyrotation_pipeline.model.backup_events import BackupsExamined
from keyrotation_pipeline.model.backups import BackupStatus
from keyrotation_pipeline.model.keys import KeyRecord
from keyrotation_pipeline.reporting.backups_in_audit import recovery_tests_of
from keyrotation_pipeline.reporting.compliance import ComplianceReport, Period
from keyrotation_pipeline.reporting.conclusions import Conclusion, Verdict, concluded
from keyrotation_pipeline.reporting.gathering import gather
from keyrotation_pipeline_tests.fakes import START, FakeWorld
from keyrotation_pipeline_tests.unit.reporting.test_compliance import DAY, FIRST_SET, PASSED, backed_up
from keyrotation_pipeline_tests.unit.rotation.requests import before_any_rotation

CLUSTER = "7"  # of the fake database


def tested(world: FakeWorld, **facts: object) -> None:
    world.ledger.append(Note(EventKind.RECOVERY_TEST_PASSED, {**PASSED, **facts}))


def of(report: ComplianceReport, name: str) -> Conclusion:
    (found,) = [each for each in concluded(report) if each.name == name]
    return found


@pytest.fixture
def world() -> FakeWorld:
    world = before_any_rotation()
    backed_up(world, FIRST_SET)
    return world


def test_a_test_that_names_what_it_restored_and_where_has_passed_and_says_so(world: FakeWorld) -> None:
    tested(world)
    report = gather(world.pipeline).report
    assert of(report, "recovery").verdict is Verdict.MET
    (objective,) = [each for each in report.recovery_tests if each.failure is None]
    assert (objective.manifest, objective.rows, objective.scratch_server) == (FIRST_SET, {"clients": 3}, "31")


@pytest.mark.parametrize(("facts", "why"), [
    pytest.param({"set": None}, "does not say which set", id="of an older version, or by hand"),
    pytest.param({"scratch_server": None}, "does not say which set", id="no server"),
    pytest.param({"set": "backup-20990105-090000-efa1f375.json"}, "did not have before", id="a set that never was"),
    pytest.param({"sha256": "cd" * 32}, "did not have before", id="another manifest of that name"),
    pytest.param({"scratch_server": CLUSTER}, "names the server of the audited database", id="no server of its own"),
])  # fmt: skip
def test_a_record_that_ties_a_test_to_nothing_shows_none(world: FakeWorld, facts: dict[str, Any], why: str) -> None:
    tested(world, **facts)
    found = of(gather(world.pipeline).report, "recovery")
    assert found.verdict is Verdict.NOT_MET
    assert why in found.why[0]


def test_an_older_result_that_is_recorded_again_is_no_new_test(world: FakeWorld) -> None:
    tested(world)
    world.clock.at += 99 * DAY
    tested(world)
    world.clock.at += 2 * DAY
    report = gather(world.pipeline).report
    assert [each.failure is None for each in report.recovery_tests] == [True, False]
    assert "names the server of the test of event" in of(report, "recovery").why[0]
    assert "the last one that passed is of 2026-01-05" in " ".join(of(report, "recovery").why)


def test_a_test_before_the_set_was_sealed_or_the_audit_signed_shows_nothing() -> None:
    world = before_any_rotation()
    tested(world)
    backed_up(world, FIRST_SET)
    tested(world, scratch_server="32")
    events = list(world.ledger.state.events)
    entries, state = whole_history(events, world.ledger.verify)
    assert [each.failure is None for each in recovery_tests_of(entries, state)] == [False, True]
    state.signed_from = len(entries) + 1
    failures = [each.failure or "" for each in recovery_tests_of(entries, state)]
    assert all("before the pipeline signed its audit" in each for each in failures)
    assert recovery_tests_of((), LedgerState(world.ledger.verify)) == ()


def silent(world: FakeWorld) -> None:
    def fails(records: Sequence[KeyRecord]) -> BackupStatus:
        raise BackupError("the bucket does not answer; check it" if records else "")

    world.vault.status = fails  # type: ignore[method-assign]


def gone(world: FakeWorld) -> None:
    world.vault.stands = BackupStatus(None, places=("here", "s3"), problems=(f"{FIRST_SET} is not in s3; look",))


def older(world: FakeWorld) -> None:
    world.vault.stands = BackupStatus(START, "backup-20260104-090000-efa1f375.json", places=("here", "s3"))


def elsewhere_unexamined(world: FakeWorld) -> None:
    world.vault.stands = BackupStatus(START, FIRST_SET, places=("here",))


@pytest.mark.parametrize(("happens", "verdict", "why"), [
    (silent, Verdict.NOT_SHOWN, "not found in every place: the bucket does not answer; check it"),
    (gone, Verdict.NOT_MET, f"{FIRST_SET} is not in s3"),
    (older, Verdict.NOT_MET, "not found in every place: it is gone"),
    (elsewhere_unexamined, Verdict.NOT_SHOWN, "s3 was not looked at"),
])  # fmt: skip
def test_a_backup_that_is_not_where_the_audit_says_is_not_met(
    world: FakeWorld, happens: Callable[[FakeWorld], None], verdict: Verdict, why: str
) -> None:
    assert of(gather(world.pipeline).report, "backups").verdict is Verdict.MET
    happens(world)
    found = of(gather(world.pipeline).report, "backups")
    assert found.verdict is verdict
    assert f"that the newest backup was found where it is said to be: {FIRST_SET}: looked for on" in str(found)
    assert why in str(found.why)


def test_a_report_of_the_past_rests_on_who_looked_then(world: FakeWorld) -> None:
    until, head = world.clock.at + DAY, world.ledger.head()
    world.clock.at += 5 * DAY
    past = gather(world.pipeline, Period(None, until)).report
    assert world.ledger.head() == head, "what is there today says nothing about then"
    assert "nobody looked whether it is there; run `keyrotation report`" in str(of(past, "backups").why)
    world.clock.at -= 5 * DAY
    gather(world.pipeline)
    world.clock.at += 5 * DAY
    assert of(gather(world.pipeline, Period(None, until)).report, "backups").verdict is Verdict.MET
    world.ledger.append(BackupsExamined(FIRST_SET, ("here", "s3")))
    later = gather(world.pipeline, Period(None, until + 3 * DAY)).report
    assert "more than a day before" in str(of(later, "backups").why)
