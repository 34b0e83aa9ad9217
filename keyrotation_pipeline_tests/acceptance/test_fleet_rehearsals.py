"""A fleet's rotation is rehearsed on copies of its databases: of all, or of chosen ones."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from keyrotation_pipeline import settings
from keyrotation_pipeline.adapters.postgres.server.scratch import ScratchServers
from keyrotation_pipeline.assembly.backups import RestoredStages
from keyrotation_pipeline.backups import rehearsal
from keyrotation_pipeline.cli.recovery import opened_with_key
from keyrotation_pipeline.model.request_events import Rehearsed
from keyrotation_pipeline.model.requests import WALK
from keyrotation_pipeline.ports.backups import RestoredDump
from keyrotation_pipeline_tests.acceptance.test_fleet import MEMBERS, ROWS, Fleet, fleet, second  # noqa: F401
from keyrotation_pipeline_tests.acceptance.test_fleet_backups import files, recovery_key
from keyrotation_pipeline_tests.servers import Server

pytestmark = pytest.mark.extended
COPIES = "CREATE TABLE copies AS SELECT name AS kept FROM clients"


def rehearsed(fleet: Fleet, request: str, *options: str, expect: int = 0) -> dict[str, Any]:  # noqa: F811
    typed = fleet.typed("rehearse", request, "--key", recovery_key(fleet), *options, "--json", expect=expect)
    found: dict[str, Any] = json.JSONDecoder().raw_decode(typed[typed.index("{") :])[0]
    return found


def test_the_whole_rotation_is_rehearsed_on_copies_and_no_database_is_touched(fleet: Fleet) -> None:  # noqa: F811
    fleet.typed("backup")
    request = fleet.requested("request", "--reason", "yearly")
    before = fleet.events("step_finished")
    done = rehearsed(fleet, request)
    assert (done["findings"], list(done["seconds"])) == ([], [str(step) for step in WALK])
    assert (done["dump_rows"], done["rows_now"], list(done["members"])) == (3 * ROWS, 3 * ROWS, list(MEMBERS))
    assert [files(fleet, name)[0].name for name in done["members"].values()] == list(done["members"].values())
    assert (fleet.read(), fleet.live(), fleet.events("step_finished")) == (fleet.expected, {"v1"}, before)
    assert "v1 to v2 in " in fleet.typed("status")
    fleet.typed("rotate", request)
    assert (fleet.live(), fleet.read()) == ({"v2"}, fleet.expected)


def test_copies_of_a_few_members_run_at_once_and_each_member_is_rehearsed(
    fleet: Fleet,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What stops the rotation in any of the rounds is found, once."""
    running, most = list[ScratchServers](), list[int]()
    restored = ScratchServers.restored

    @contextmanager
    def counted(self: ScratchServers, *arguments: Any, **options: Any) -> Iterator[RestoredDump]:  # noqa: ANN401
        with restored(self, *arguments, **options) as copy:
            running.append(self)
            most.append(len(running))
            yield copy
        running.pop()

    monkeypatch.setattr(rehearsal, "MEMBERS_AT_ONCE", 1)
    monkeypatch.setattr(ScratchServers, "restored", counted)
    for name, url in fleet.variables.items():
        monkeypatch.setenv(name, url)
    declared = settings.load(fleet.folder.path / "keyrotation.toml")

    def in_rounds() -> Rehearsed:
        fleet.typed("backup")
        with opened_with_key(declared, Path(recovery_key(fleet))) as (site, key):
            return rehearsal.rehearse(site, key, RestoredStages(declared), None, lambda _: None)

    done = in_rounds()
    assert (done.findings, list(done.seconds), list(done.members)) == ((), [str(step) for step in WALK], list(MEMBERS))
    assert (done.dump_rows, done.rows_now, most) == (3 * ROWS, 3 * ROWS, [1, 2, 1, 2])
    fleet.execute("", COPIES)
    fleet.write("south", 1, "plaintext that the member's owner wrote")
    found = [each.sentence for each in in_rounds().findings]
    assert any(each.startswith("copies, column kept: ") for each in found)
    assert len(set(found)) == len(found)
    assert any("south:clients, column name: 1 unencrypted value" in each for each in found)


def test_chosen_members_are_rehearsed_and_the_others_are_named(fleet: Fleet, second: Server) -> None:  # noqa: F811
    """One that is down does not keep the others from it."""
    fleet.typed("backup")
    request = fleet.requested("request", "--reason", "yearly")
    key = recovery_key(fleet)
    assert "west is no member of this fleet; name one of north, south" in fleet.refused(
        "rehearse", request, "--key", key, "--database", "west"
    )
    second.stop()
    assert "database south: " in fleet.refused("rehearse", request, "--key", key)
    done = rehearsed(fleet, request, "--database", "north")
    assert (done["findings"], list(done["members"]), done["rows_now"]) == ([], ["north"], 2 * ROWS)
    assert "database south" in done["not_rehearsed"]
    second.start()
    assert "v1 to v2, without database south, in " in fleet.typed("status")
    assert json.loads(fleet.typed("status", "--json"))["last_rehearsal"]["without"] == ["south"]


def test_what_stops_the_rotation_in_a_member_is_found(fleet: Fleet) -> None:  # noqa: F811
    fleet.execute("south", COPIES)
    fleet.write("north", 1, "plaintext that the member's owner wrote")
    fleet.typed("backup")
    request = fleet.requested("request", "--reason", "yearly")
    found = [each["sentence"] for each in rehearsed(fleet, request, expect=1)["findings"]]
    assert any("north:clients, column name: 1 unencrypted value" in each for each in found)
    assert any(each.startswith("south:copies, column kept: undeclared column") for each in found)
