"""The procedure's checklist as performed: each line by an event of the audit, and nothing that no event shows."""

import re
from dataclasses import replace

import pytest

from keyrotation_pipeline.audit.history import whole_history
from keyrotation_pipeline.errors import BlockedError
from keyrotation_pipeline.model.audit import EventKind, Note
from keyrotation_pipeline.model.backup_events import BackupSealed, ReportWritten
from keyrotation_pipeline.model.fleet import RolloutMode
from keyrotation_pipeline.model.incident_events import AlertDelivered
from keyrotation_pipeline.model.request_events import Rehearsed, StepFinished
from keyrotation_pipeline.model.requests import Step, Walk, announced_key
from keyrotation_pipeline.reporting.checklist import ChecklistLine, checklist_of
from keyrotation_pipeline.reporting.compliance import ComplianceReport
from keyrotation_pipeline.reporting.gathering import gather
from keyrotation_pipeline.requests.confirming import add_confirmation, confirmation_text
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline_tests.fakes import START, V1, V2, FakeSignatures, FakeWorld
from keyrotation_pipeline_tests.unit.reporting.test_compliance import DAY, backed_up
from keyrotation_pipeline_tests.unit.rotation.requests import ADA, BEN, approved, before_any_rotation, request, sign

# Appendix A, in the words that the report uses; v1 and v2 are its keys.
NEVER_RECORDED = (
    "Test dual-key mode in a staging environment",
    "Verify that old reads use v1, without errors",
    "Check for errors in application logs",
    "Update runbooks and documentation",
)


def lines(report: ComplianceReport) -> dict[str, ChecklistLine]:
    (checklist,) = report.checklists
    return {each.item: each for each in checklist.lines}


def of(world: FakeWorld) -> dict[str, ChecklistLine]:
    return lines(gather(world.pipeline).report)


def walked(world: FakeWorld, through: Step | None = None) -> None:
    for _ in runner.run(world.pipeline, world.ledger.requests()[0].id, world.report, through):
        pass


def rotated() -> FakeWorld:
    """A rotation that ended, with nothing before it and nothing after it."""
    world = before_any_rotation()
    approved(world)
    walked(world)
    return world


def test_each_line_of_appendix_a_is_there_once() -> None:
    shown = of(rotated())
    assert len(shown) == 25
    assert [each.group for each in shown.values()] == sorted(
        (each.group for each in shown.values()),
        key=["Pre-rotation", "Day 1: deploy the dual-key application", "Days 1–7: re-encrypt data",
             "Day 8: retire the old key", "Post-rotation"].index,
    )  # fmt: skip


def test_what_was_performed_names_the_event_that_shows_it() -> None:
    world = rotated()
    events = {each.seq: each for each in world.ledger.events()}
    shown = of(world)
    performed = {item for item, each in shown.items() if each.at is not None}
    assert performed == set(shown) - {
        *NEVER_RECORDED, "Back up the current encryption key (v1)", "Estimate the re-encryption time",
        "Communicate the rotation schedule to the team", "Verify that database backups are current",
        "Generate the compliance report",
    }  # fmt: skip
    for each in (shown[item] for item in performed):
        assert each.event in events
        assert each.by == "test"
    assert shown["Run the re-encryption"].evidence == "1 row, 2 values re-encrypted"
    assert (
        shown["Verify that 100 % of the data is under v2"].evidence
        == "0 values left under v1; the database refuses more"
    )


@pytest.mark.parametrize("item", NEVER_RECORDED)
def test_what_no_program_sees_is_not_recorded(item: str) -> None:
    line = of(rotated())[item]
    assert (line.at, line.by, line.event) == (None, None, None)
    assert re.search(r"pipeline (does not read|sees no)|no command records it", line.evidence)


def test_what_was_prepared_before_and_done_after_is_found() -> None:
    world = before_any_rotation()
    backed_up(world, "backup-20260105-090000-efa1f375.json")
    opened = request(world)
    world.ledger.append(Rehearsed(None, V1, V2, "d", START, "scratch", 10, 10, {"rows": 90.0}, ()))
    world.ledger.append(AlertDelivered(announced_key(opened.id), "email"))
    for officer in (ADA, BEN):
        sign(world, opened, officer)
    walked(world)
    world.ledger.append(ReportWritten("html", {"report.html": "ab" * 32}))
    shown = of(world)
    assert shown["Back up the current encryption key (v1)"].evidence.startswith("backup-20260105-090000-efa1f375.json")
    assert shown["Verify that database backups are current"].at == START
    assert shown["Estimate the re-encryption time"].evidence == "a rehearsal predicted 90 s for 10 rows"
    assert shown["Communicate the rotation schedule to the team"].evidence == "announced by email"
    assert shown["Generate the compliance report"].evidence == "written as html"
    staging = shown["Test dual-key mode in a staging environment"]
    assert staging.at is None, "a rehearsal is no staging environment"
    assert "was rehearsed without findings on a restored backup, without applications" in staging.evidence


def test_a_backup_counts_only_if_it_was_there_before_and_its_manifest_signed() -> None:
    world = before_any_rotation()
    world.ledger.append(
        Note(EventKind.BACKUP_MADE, {"set": "invented.json", "keys": {"v1": world.ledger.keys()[0].fingerprint},
             "recipients": [], "dump": "d", "dump_needs": [], "places": []})
    )  # fmt: skip
    approved(world)
    walked(world, Step.KEY_VERSION)
    world.clock.at += DAY
    world.ledger.append(BackupSealed("invented.json", "ab" * 32, has_dump=True))  # too late
    world.ledger.append(BackupSealed("another.json", "ab" * 32, has_dump=True))
    world.ledger.append(
        Note(EventKind.BACKUP_MADE, {"set": "another.json", "keys": {"v2": "ab" * 32},
             "recipients": [], "dump": "d", "dump_needs": [], "places": []})
    )  # fmt: skip
    backed_up(world, "backup-20260106-090000-efa1f375.json")
    world.ledger.append(AlertDelivered(announced_key(world.ledger.requests()[0].id), "email"))
    walked(world)
    shown = of(world)
    assert shown["Back up the new key (v2)"].evidence.startswith("backup-20260106-090000-efa1f375.json")
    assert shown["Communicate the rotation schedule to the team"].at is None, "not before it began"
    assert shown["Back up the current encryption key (v1)"].at is None
    assert "no complete backup of the 26 hours before" in shown["Verify that database backups are current"].evidence


def test_what_was_told_of_another_rotation_or_backed_up_of_another_key_alone_shows_nothing() -> None:
    world = before_any_rotation()
    world.ledger.append(AlertDelivered(announced_key("another"), "email"))
    world.ledger.append(BackupSealed("another-key.json", "ab" * 32, has_dump=False))
    world.ledger.append(
        Note(EventKind.BACKUP_MADE, {"set": "another-key.json", "keys": {"v1": "ab" * 32},
             "recipients": [], "dump": None, "dump_needs": [], "places": []})
    )  # fmt: skip
    approved(world)
    walked(world)
    shown = of(world)
    assert shown["Communicate the rotation schedule to the team"].at is None
    assert shown["Back up the current encryption key (v1)"].at is None
    assert shown["Verify that database backups are current"].at is None


def test_facts_of_another_type_show_nothing() -> None:
    """Whoever owns the database can write events that no signature covers."""
    world = before_any_rotation()
    for backup in ({"a": 1}, None, 7):
        world.ledger.append(Note(EventKind.KEY_BACKED_UP, {"version": "v1", "backup": backup}))
    approved(world)
    walked(world)
    events = world.ledger.state.events
    entries = whole_history(events, world.ledger.verify)[0]
    left = {
        "moment": {"xid": 1, "lsn": "0/1"},
        "retired": ["v1"],
        "swept_rows": {},
        "values_decrypted": 9,
        "old_values": 5,
    }
    odd = {**left, "instances": True, "proven": "all", "archived": [{"backup": {"x": 1}}, 3], "rows": "many"}
    changed = [
        replace(each, fact=replace(each.fact, facts=odd)) if isinstance(each.fact, StepFinished) else each
        for each in entries
    ]
    (rotation,) = world.ledger.requests()
    assert isinstance(rotation, Walk)
    shown = {each.item: each for each in checklist_of(rotation, changed).lines}
    assert shown["Back up the current encryption key (v1)"].at is None
    performed = {item for item, each in shown.items() if each.at is not None}
    assert not performed & {
        "Deploy the dual-key application", "Verify that new writes use v2", "Run the re-encryption",
        "Verify that 100 % of the data is under v2", "Archive the old key in a secure vault",
    }  # fmt: skip


def test_a_rotation_that_goes_on_has_not_done_the_rest_yet() -> None:
    world = before_any_rotation()
    approved(world)
    walked(world, Step.PRIMARY_KEY_ROLLOUT)
    shown = of(world)
    assert shown["Verify that new writes use v2"].at is not None
    assert {shown[item].evidence for item in ("Run the re-encryption", "Remove v1 from the secrets manager")} == {
        "not done yet"
    }


def test_a_rollout_that_an_officer_confirmed_names_the_officer() -> None:
    world = before_any_rotation()
    world.rollout.mode = RolloutMode.CONFIRM
    rotation = approved(world)
    for _ in range(3):
        with pytest.raises(BlockedError, match="no officer has confirmed"):
            walked(world)
        text = confirmation_text(world.pipeline, world.ledger.walk(rotation.id))
        add_confirmation(world.pipeline, rotation, FakeSignatures.sign(BEN, text))
    walked(world)
    shown = of(world)
    assert (
        shown["Deploy the dual-key application"].evidence
        == f"Ben ({BEN}) signed that every instance was seen to read v2"
    )
    assert f"Ben ({BEN})" in shown["Deploy the single-key application"].evidence


def test_daily_means_each_day() -> None:
    world = before_any_rotation()
    approved(world)
    walked(world, Step.PRIMARY_KEY_ROLLOUT)
    world.clock.at += 3 * DAY
    walked(world)
    shown = of(world)["Monitor progress daily by counts"]
    assert (shown.at, shown.evidence) == (None, "counted on 1 of 4 days")
    assert of(rotated())["Monitor progress daily by counts"].evidence == "counted on 1 day"


def test_no_instance_seen_is_not_every_instance() -> None:
    world = before_any_rotation()
    world.rollout.mode, world.rollout.running = RolloutMode.NONE, ()
    approved(world)
    walked(world)
    shown = of(world)["Deploy the dual-key application"]
    assert shown.at is None
    assert "no instance was seen to read v2" in shown.evidence


def test_a_rotation_that_never_began_has_no_checklist() -> None:
    world = before_any_rotation()
    request(world)
    assert gather(world.pipeline).report.checklists == ()
