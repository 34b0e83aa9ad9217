"""Backups of a fleet: one set of keys, a dump of each database, and each of them proven and brought back."""

import json
import re
import shutil
from pathlib import Path

import pytest

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


def recovery_key(fleet: Fleet) -> str:  # noqa: F811
    file = fleet.folder.path / "recovery.asc"
    file.write_bytes(fleet.officers[0].gpg("--armor", "--export-secret-keys"))
    return str(file)


@pytest.mark.extended
def test_a_recovery_test_takes_the_members_in_turn_and_reads_every_value(fleet: Fleet) -> None:  # noqa: F811
    key = recovery_key(fleet)
    fleet.typed("backup")

    def tested() -> list[str]:
        done = json.loads(fleet.typed("recovery-test", "--key", key, "--json"))
        for each in done["members"]:
            name = f"{each['member']}:clients"
            assert each["place"].endswith(f"system identifier {fleet.system(each['member'])}")
            assert (each["rows"], each["decrypted"][name]["name"]) == ({name: ROWS}, {"v1": ROWS})
        return [each["member"] for each in done["members"]]

    assert tested() == ["north", "south"]
    assert tested() == ["north"]
    assert tested() == ["south"]
    assert "restored  database-north-" in fleet.typed("recovery-test", "--key", key)


@pytest.mark.extended
def test_a_dump_that_is_not_the_one_of_its_manifest_fails_the_test_by_name(fleet: Fleet) -> None:  # noqa: F811
    key = recovery_key(fleet)
    fleet.typed("backup")
    fleet.write("south", 1, "plaintext that a member's owner wrote")
    fleet.typed("backup")
    (_, north), (old_south, south) = files(fleet, "database-north-*"), files(fleet, "database-south-*")
    for target, source in ((south, old_south), (north, south), (south, north), (south, None), (old_south, None)):
        there = target.read_bytes()
        target.unlink() if source is None else shutil.copy(source, target)
        if target == old_south:
            fleet.typed("recovery-test", "--key", key)
        else:
            assert target.name in fleet.refused("recovery-test", "--key", key)
        target.write_bytes(there)
    document = files(fleet, "backup-*.json")[-1]
    whole = document.read_text()
    without = json.loads(whole)
    without["members"] = [each for each in without["members"] if each["member"] != "south"]
    for content in (json.dumps(without, indent=2), files(fleet, "backup-*.json")[0].read_text()):
        document.write_text(content)
        assert document.name in fleet.refused("recovery-test", "--key", key)
    document.unlink()
    assert f"{document.name}, the newest backup of the database, is not in" in fleet.refused(
        "recovery-test", "--key", key
    )
