"""Backups of a fleet: one set of keys, a dump of each database, and each of them proven and brought back."""

import json
import re
from pathlib import Path

from keyrotation_pipeline_tests.acceptance.test_fleet import ROWS, Fleet, fleet, second  # noqa: F401
from keyrotation_pipeline_tests.servers import Server


def files(fleet: Fleet, pattern: str) -> list[Path]:  # noqa: F811
    return sorted((fleet.folder.path / ".keyrotation" / "backups").glob(pattern))


def manifest(fleet: Fleet, made: str) -> dict[str, dict[str, object]]:  # noqa: F811
    """What a set's manifest says of each member."""
    (found,) = files(fleet, made)
    return {each["member"]: each for each in json.loads(found.read_text())["members"]}


def test_a_set_has_a_dump_of_each_database_and_names_the_one_that_is_down(fleet: Fleet, second: Server) -> None:  # noqa: F811
    assert "no backup of database south was ever made" in fleet.typed("status")
    first = json.loads(fleet.typed("backup", "--json"))
    said = manifest(fleet, first["set"])
    assert list(said) == list(first["members"]) == ["north", "south"]
    assert said["south"]["place"] == f"south, system identifier {fleet.system('south')}"
    assert said["north"]["audit"]["seq"] <= said["south"]["audit"]["seq"]  # type: ignore[index]
    for each in said.values():
        (table,) = each["dump"]["tables"]  # type: ignore[index]
        assert (table["table"], table["rows"], table["values"]["name"]) == ("clients", ROWS, {"v1": ROWS})
        assert b"clients" not in files(fleet, each["dump"]["file"])[0].read_bytes()  # type: ignore[index]
    second.stop()
    refused = fleet.refused("backup")
    assert "is incomplete: no dump of database south: cannot connect to south@" in refused
    assert re.search(r"the newest is of \d{4}-", refused)
    (later,) = re.findall(r"the backup (\S+) is incomplete", refused)
    assert list(manifest(fleet, later)) == ["north"]
    status = json.loads(fleet.typed("status", "--json"))
    assert any(f"{later} has no dump of database south (the newest is of 20" in each for each in status["warnings"])
    assert not any("database north" in each for each in status["warnings"])
    second.start()
    assert list(json.loads(fleet.typed("backup", "--json"))["members"]) == ["north", "south"]
    assert "no dump" not in fleet.typed("status")
    assert "south" in fleet.typed("backup", "--list")
