"""Whose turn it is in a recovery test, and who is overdue, by the audit alone."""

from datetime import datetime, timedelta
from itertools import pairwise

import pytest

from keyrotation_pipeline.backups.member_dumps import dumped, lacking, never_dumped
from keyrotation_pipeline.backups.member_tests import QUARTER, due_members, overdue
from keyrotation_pipeline.model.audit import EventKind, Note
from keyrotation_pipeline.model.backups import TEST_OVERDUE_AFTER, BackupSet, dump_name, manifest_name, stamp_of
from keyrotation_pipeline.model.members import member_line
from keyrotation_pipeline.model.request_events import HostsPinned
from keyrotation_pipeline_tests.fakes import FakeWorld, fake_pipeline

NAMES = ("east", "north", "south", "west", "x")


@pytest.fixture
def world() -> FakeWorld:
    world = fake_pipeline()
    world.ledger.append(HostsPinned(tuple(member_line(each, f"{each}, system identifier 7") for each in NAMES)))
    stamp = stamp_of(world.clock.now(), "3fa9c1d2")
    files = {dump_name(stamp, each): "5" * 64 for each in NAMES}
    world.ledger.append(Note(EventKind.BACKUP_MADE, {"set": manifest_name(stamp), "files": files}))
    return world


def turn(world: FakeWorld) -> tuple[str, ...]:
    names = due_members(world.ledger, world.clock.now())
    world.ledger.append(Note(EventKind.RECOVERY_TEST_PASSED, {"members": [{"member": each} for each in names]}))
    return names


@pytest.mark.parametrize(("every_days", "most"), [(3, 1), (7, 1), (19, 2), (30, 2), (92, 5), (200, 5)])
def test_each_member_is_tested_within_a_quarter_however_often_tests_run(
    world: FakeWorld, every_days: int, most: int
) -> None:
    at: dict[str, list[datetime]] = {}
    assert turn(world) == NAMES
    for _ in range(400 // every_days + 3):
        world.clock.at += timedelta(days=every_days)
        taken = turn(world)
        assert len(taken) <= most
        for each in taken:
            at.setdefault(each, []).append(world.clock.at)
    longest = max(after - before for times in at.values() for before, after in pairwise(times))
    assert longest <= max(QUARTER, timedelta(days=every_days))
    assert set(at) == set(NAMES)


def test_a_member_that_was_never_tested_comes_first_and_becomes_overdue(world: FakeWorld) -> None:
    assert not list(overdue(world.ledger, world.clock.at))
    turn(world)
    world.ledger.append(Note(EventKind.RECOVERY_TEST_PASSED, {"members": [{"member": each} for each in NAMES[1:]]}))
    world.clock.at += TEST_OVERDUE_AFTER + timedelta(days=1)
    world.ledger.append(Note(EventKind.RECOVERY_TEST_PASSED, {"members": [{"member": each} for each in NAMES[1:]]}))
    (said,) = overdue(world.ledger, world.clock.at)
    assert said.startswith("the last recovery test of database east was on 2026-01-05; run ")
    assert due_members(world.ledger, world.clock.at) == ("east",)


def test_a_set_lacks_the_member_that_an_older_one_has_and_none_that_joined_later(world: FakeWorld) -> None:
    """Also if its signed manifest says nothing of it."""
    (first,) = set(dumped(world.ledger)["north"])
    later = stamp_of(world.clock.now() + timedelta(days=1), "3fa9c1d2")
    earlier = stamp_of(world.clock.now() - timedelta(days=1), "3fa9c1d2")
    head = world.ledger.head()
    said = list(lacking(world.ledger, BackupSet(later, "clinic", (), None, head)))
    assert said == [f"no dump of database {name} (the newest is of 2026-01-05 09:00 UTC)" for name in NAMES]
    assert first < later
    assert not list(lacking(world.ledger, BackupSet(earlier, "clinic", (), None, head)))
    assert not list(never_dumped(world.ledger))
