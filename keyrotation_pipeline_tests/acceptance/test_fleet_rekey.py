"""An old set of a fleet is made again under the present key: every dump of it, or none."""

import json
import os
import signal
import subprocess

import psycopg
import pytest

from keyrotation_pipeline_tests.acceptance.command import KEYROTATION, Folder, environment
from keyrotation_pipeline_tests.acceptance.test_fleet import MEMBERS, ROWS, Fleet, fleet, second  # noqa: F401
from keyrotation_pipeline_tests.acceptance.test_fleet_backups import files, lose, manifest, recovered, recovery_key
from keyrotation_pipeline_tests.servers import Server
from keyrotation_pipeline_tests.waiting import eventually

pytestmark = pytest.mark.extended
EVERYWHERE = ("clients", *(f"{member}:clients" for member in MEMBERS))


def test_every_dump_of_a_set_is_made_again_and_a_member_is_brought_back_from_it(
    fleet: Fleet,  # noqa: F811
    second: Server,  # noqa: F811
) -> None:
    old = json.loads(fleet.typed("backup", "--json"))["set"]
    emergency = fleet.requested(
        "incident", "open", "--type", "key_exposed", "--description", "a laptop", "--discovered-at", "2026-01-01"
    )
    fleet.typed("rotate", emergency)
    key = recovery_key(fleet)
    done = json.loads(fleet.typed("backup", "--rekey", "--key", key, "--json"))
    assert (done["made_from"], done["left"], done["values"]) == (old, [], dict.fromkeys(EVERYWHERE, ROWS))
    before, after = manifest(fleet, old), manifest(fleet, done["set"])
    for member in MEMBERS:
        assert (before[member]["dump"]["versions"], after[member]["dump"]["versions"]) == (["v1"], ["v2"])  # type: ignore[index]
        assert {each: after[member][each] for each in ("place", "audit")} == {
            each: before[member][each] for each in ("place", "audit")
        }
    fleet.typed("backup")
    tested = json.loads(fleet.typed("recovery-test", "--key", key, "--json"))
    assert tested["rekeyed"]["file"] in done["files"]
    for each in tested["members"]:
        assert each["rekeyed"]["file"] == after[each["member"]]["dump"]["file"]  # type: ignore[index]
        assert each["rekeyed"]["decrypted"] == {f"{each['member']}:clients": {"name": {"v2": ROWS}}}
    lose(second, "south")
    back = recovered(fleet, "south", **{"--set": done["set"]})
    assert (back["rows"], back["values_decrypted"]) == ({"south:clients": ROWS}, {"south:clients": ROWS})
    assert fleet.read() == fleet.expected
    fleet.typed("rotate", fleet.requested("request", "--reason", "south is back"))
    assert (fleet.live(), fleet.read()) == ({"v3"}, fleet.expected)
    fleet.typed("audit", "verify")


def test_everything_is_brought_back_from_a_set_that_was_made_again(
    fleet: Fleet,  # noqa: F811
    server: Server,
    second: Server,  # noqa: F811
) -> None:
    """The home and every member are lost, and the present key is not in the audit of the time of the dumps."""
    old = json.loads(fleet.typed("backup", "--json"))["set"]
    fleet.typed("rotate", fleet.requested("request", "--reason", "yearly"))
    key = recovery_key(fleet)
    made = json.loads(fleet.typed("backup", "--rekey", old, "--key", key, "--json"))["set"]
    signer = json.loads(fleet.typed("status", "--json"))["backup_signer"]
    own, north = (fleet.urls[each].partition("?")[0].rpartition("/")[2] for each in ("", "north"))
    for at, name in ((server, own), (server, north), (second, "south")):
        lose(at, name)
    new = Fleet(Folder(fleet.folder.path / "new", []), fleet.urls, fleet.officers, fleet.expected)
    new.folder.path.mkdir()
    backups = str(fleet.folder.path / ".keyrotation" / "backups")
    given = ("--from", backups, "--key", key, "--signer", signer, "--set", made, "--json")
    done = json.loads(new.typed("recover", *given, "--server", server.url(), "--into", own))
    assert (done["rows"], done["put_back"]) == ({"clients": ROWS}, {"v2": "live"})
    for member, at, name in (("north", server, north), ("south", second, "south")):
        one = json.loads(new.typed("recover", *given, "--server", at.url(), "--database", member, "--into", name))
        assert one["values_decrypted"] == {f"{member}:clients": ROWS}
    new.requested("reconcile")
    new.typed("reconcile")
    assert (new.live(), new.read()) == ({"v2"}, new.expected)
    new.typed("verify")
    new.typed("audit", "verify")
    assert any("keyrotation restore-key v1" in each for each in done["next"]), done["next"]
    first, *_ = files(fleet, "*v1*.gpg")
    new.typed("restore-key", "v1", "--key", key, "--from", str(first))
    new.typed("backup")
    new.typed("rotate", new.requested("request", "--reason", "yearly"))
    assert (new.live(), new.read()) == ({"v3"}, new.expected)
    new.typed("audit", "verify")


def test_a_rekeying_that_is_killed_between_two_dumps_leaves_nothing_and_is_repeated(fleet: Fleet) -> None:  # noqa: F811
    old = json.loads(fleet.typed("backup", "--json"))["set"]
    fleet.typed("rotate", fleet.requested("request", "--reason", "yearly"))
    key, manifests, dumps = recovery_key(fleet), files(fleet, "backup-*.json"), len(files(fleet, "database-*"))
    process = subprocess.Popen(
        [KEYROTATION, "backup", "--rekey", old, "--key", key],
        cwd=fleet.folder.path,
        env=environment(**fleet.variables),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert eventually(lambda: len(files(fleet, "database-north-*-2.dump.gpg")) == 1, seconds=120)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert (files(fleet, "backup-*.json"), files(fleet, "database-south-*-2.dump.gpg")) == (manifests, [])
    assert not [each for each in fleet.folder.path.rglob("*") if each.is_file() and b"PGDMP" in each.read_bytes()]
    done = json.loads(fleet.typed("backup", "--rekey", old, "--key", key, "--json"))
    assert done["values"] == dict.fromkeys(EVERYWHERE, ROWS)
    assert len(files(fleet, "database-*")) == dumps + 3
    fleet.typed("recovery-test", "--key", key)
    with psycopg.connect(fleet.urls["south"]) as connection:
        assert connection.execute("SELECT count(*) FROM clients WHERE name LIKE 'v2:%'").fetchone() == (ROWS,)
