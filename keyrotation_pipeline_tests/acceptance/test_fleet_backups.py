"""Backups of a fleet: one set of keys, a dump of each database, and each of them proven and brought back."""

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest

from keyrotation_pipeline_tests.acceptance.command import KEYROTATION, Folder, environment
from keyrotation_pipeline_tests.acceptance.test_fleet import ROWS, Fleet, fleet, second  # noqa: F401
from keyrotation_pipeline_tests.servers import Server
from keyrotation_pipeline_tests.waiting import eventually


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
    report = json.loads(fleet.typed("report", "--format", "json"))
    assert {each["name"]: each["place"] for each in report["members"]} == {
        each: f"{'south' if each == 'south' else report['members'][0]['place'].partition(',')[0]}, "
        f"system identifier {fleet.system(each)}"
        for each in ("north", "south")
    }
    assert all(each["dumped_at"] and each["tested_at"] for each in report["members"])
    assert report["backups"][-1]["members"] == ["north", "south"]
    assert [each["members"] for each in report["recovery_tests"]] == [["north", "south"], ["north"], ["south"]]
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


def lose(server: Server, database: str) -> None:
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {database} WITH (FORCE)".encode())


def recovered(fleet: Fleet, member: str, **options: str) -> dict[str, Any]:  # noqa: F811
    """Brings a member back as the database that it was, from the home's own backups."""
    given = {"--database": member, "--into": member, "--from": ".keyrotation/backups", "--key": recovery_key(fleet)}
    typed = [word for option in {**given, **options}.items() for word in option]
    found: dict[str, Any] = json.loads(fleet.typed("recover", *typed, "--json"))
    return found


@pytest.mark.extended
@pytest.mark.parametrize("through", ["dual_key_rollout", "primary_key_rollout", "zero_old_rows_proof"])
def test_a_member_is_brought_back_and_the_rotation_goes_on(
    fleet: Fleet,  # noqa: F811
    second: Server,  # noqa: F811
    through: str,
) -> None:
    fleet.typed("backup")
    request = fleet.requested("request", "--reason", "yearly")
    fleet.typed("rotate", request, "--through", through)
    lose(second, "south")
    done = recovered(fleet, "south")
    assert (done["rows"], done["values_decrypted"]) == ({"south:clients": ROWS}, {"south:clients": ROWS})
    assert done["set"] == recovered(fleet, "south")["set"]
    if through == "zero_old_rows_proof":
        refused = fleet.refused("rotate", request)
        assert "table south:clients, column name: 60 values still under v1" in refused
        assert fleet.live() == {"v1", "v2"}
    fleet.typed("rotate", request)
    assert (fleet.live(), fleet.read()) == ({"v2"}, fleet.expected)
    fleet.typed("audit", "verify")
    fleet.typed("verify")
    fleet.typed("backup")


@pytest.mark.extended
def test_a_member_of_before_a_finished_rotation_is_read_and_rotated_again(
    fleet: Fleet,  # noqa: F811
    second: Server,  # noqa: F811
) -> None:
    """Its values are under a key that no application has any more."""
    old = json.loads(fleet.typed("backup", "--json"))["set"]
    fleet.typed("rotate", fleet.requested("request", "--reason", "yearly"))
    lose(second, "south")
    steps = recovered(fleet, "south", **{"--set": old})["next"]
    assert any("values under v1: " in each and "`keyrotation reconcile`" in each for each in steps)
    said = json.loads(fleet.typed("status", "--count", "--json"))["attention"]
    assert any("south:clients holds 60 values under v1, which is archived" in each for each in said)
    assert "v1 is archived, and `keyrotation reconcile` makes it readable" in fleet.refused("request", "--reason", "x")
    fleet.requested("reconcile")
    fleet.typed("reconcile")
    fleet.typed("rotate", fleet.requested("request", "--reason", "south is back"))
    assert (fleet.live(), fleet.read()) == ({"v3"}, fleet.expected)
    fleet.typed("audit", "verify")


@pytest.mark.extended
def test_everything_is_brought_back_on_an_empty_machine(
    fleet: Fleet,  # noqa: F811
    server: Server,
    second: Server,  # noqa: F811
) -> None:
    signer = json.loads(fleet.typed("backup", "--json"))["backup_signer"]
    fleet.typed("rotate", fleet.requested("request", "--reason", "yearly"))
    key, north = recovery_key(fleet), fleet.urls["north"].partition("?")[0].rpartition("/")[2]
    lose(server, north)
    lose(second, "south")
    new = Fleet(
        Folder(fleet.folder.path / "new", []), {**fleet.urls, "": server.url("new")}, fleet.officers, fleet.expected
    )
    new.folder.path.mkdir()
    backups = str(fleet.folder.path / ".keyrotation" / "backups")
    given = ("--from", backups, "--key", key, "--signer", signer, "--json")
    done = json.loads(new.typed("recover", *given, "--server", server.url(), "--into", "new"))
    for member, at, name in (("north", server, north), ("south", second, "south")):
        assert any(f"--database {member}" in each for each in done["next"])
        one = json.loads(new.typed("recover", *given, "--server", at.url(), "--database", member, "--into", name))
        assert one["rows"] == {f"{member}:clients": ROWS}
    new.requested("reconcile")
    new.typed("reconcile")
    assert (new.live(), new.read()) == ({"v2"}, new.expected)
    new.typed("backup")
    new.typed("rotate", new.requested("request", "--reason", "yearly"))
    assert (new.live(), new.read()) == ({"v3"}, new.expected)
    new.typed("audit", "verify")


@pytest.mark.extended
def test_a_home_that_alone_was_lost_goes_on_with_its_members(fleet: Fleet, server: Server) -> None:  # noqa: F811
    """Their copies of the audit hold what came after the newest dump, and are made anew by what officers sign."""
    signer = json.loads(fleet.typed("backup", "--json"))["backup_signer"]
    request = fleet.requested("request", "--reason", "yearly")
    fleet.typed("rotate", request, "--through", "primary_key_rollout")
    fleet.typed("inventory")
    folder, urls = fleet.folder.path / "new", {**fleet.urls, "": server.url("alone")}
    new = Fleet(Folder(folder, []), urls, fleet.officers, fleet.expected)
    folder.mkdir()
    backups, key = str(fleet.folder.path / ".keyrotation" / "backups"), recovery_key(fleet)
    given = ("--from", backups, "--key", key, "--signer", signer)
    new.typed("recover", *given, "--server", server.url(), "--into", "alone")
    assert "its copy of the audit has events" in new.refused("inventory")
    new.requested("reconcile")
    new.typed("reconcile")
    assert new.read() == new.expected
    new.typed("inventory")
    former = {each.name: each.read_bytes() for each in (folder / ".keyrotation" / "former-audit").iterdir()}
    assert len(former) == len(new.urls) - 1
    signer = json.loads(new.typed("backup", "--json"))["backup_signer"]
    third = Fleet(Folder(fleet.folder.path / "third", []), {**urls, "": server.url("third")}, fleet.officers)
    third.folder.path.mkdir()
    given = ("--from", str(folder / ".keyrotation" / "backups"), "--key", key, "--signer", signer)
    third.typed("recover", *given, "--server", server.url(), "--into", "third")
    kept = third.folder.path / ".keyrotation" / "former-audit"
    assert {each.name: each.read_bytes() for each in kept.iterdir()} == former
    new.typed("rotate", new.requested("request", "--reason", "after the loss"))
    assert (len(new.live()), new.read()) == (1, new.expected)
    new.typed("audit", "verify")


@pytest.mark.extended
def test_a_backup_that_is_killed_between_two_dumps_leaves_nothing_to_read_and_is_made_anew(fleet: Fleet) -> None:  # noqa: F811
    fleet.typed("backup")
    manifests = files(fleet, "backup-*.json")
    with psycopg.connect(fleet.urls["south"]) as holder:
        holder.execute("LOCK TABLE clients")
        log = fleet.folder.path / "killed.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [KEYROTATION, "backup"],
                cwd=fleet.folder.path,
                env=environment(**fleet.variables),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            assert eventually(lambda: len(files(fleet, "database-north-*")) == 2, seconds=60), log.read_text()
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    begun = [each for each in fleet.folder.path.rglob("*") if each.is_file()]
    assert not [each for each in begun if b"PGDMP" in each.read_bytes()]
    assert files(fleet, "backup-*.json") == manifests
    status = json.loads(fleet.typed("status", "--json"))
    (said,) = (each for each in status["warnings"] if "was begun in" in each)
    assert "and not finished" in said
    (_, left) = files(fleet, "database-north-*")
    done = json.loads(fleet.typed("backup", "--json"))
    assert list(done["members"]) == ["north", "south"]
    assert left not in files(fleet, "database-*")
    assert not [each for each in json.loads(fleet.typed("status", "--json"))["warnings"] if "was begun in" in each]


@pytest.mark.extended
def test_a_database_that_was_made_in_a_members_place_is_not_dumped_as_the_member(
    fleet: Fleet,  # noqa: F811
    second: Server,  # noqa: F811
) -> None:
    """Name and server are those that were signed, and its dump would supersede all earlier ones."""
    fleet.typed("backup")
    with psycopg.connect(second.url(), autocommit=True) as admin:
        admin.execute("ALTER DATABASE south RENAME TO former")
        admin.execute("CREATE DATABASE south")
    fleet.execute("south", "CREATE TABLE clients (id int PRIMARY KEY, name text, note text)")
    refused = fleet.refused("backup")
    assert "no dump of database south: it does not say that it is a member of this home" in refused
    assert "bring that one back: `keyrotation recover --database south`" in refused
    assert len(files(fleet, "database-south-*")) == 1
    lose(second, "south")
    with psycopg.connect(second.url(), autocommit=True) as admin:
        admin.execute("ALTER DATABASE former RENAME TO south")
    fleet.typed("backup")
    assert fleet.read() == fleet.expected


@pytest.mark.extended
def test_a_backup_names_the_setting_of_the_member_that_is_down(fleet: Fleet) -> None:  # noqa: F811
    fleet.urls["south"] = "postgresql://nobody@127.0.0.1:1/south"
    refused = fleet.refused("backup")
    assert "no dump of database south: cannot connect to south@127.0.0.1:1: " in refused
    assert "[[databases]] south url" in refused
    assert "[database] url" not in refused
