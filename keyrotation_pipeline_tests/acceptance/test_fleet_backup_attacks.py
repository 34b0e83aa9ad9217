"""Whoever reaches the backups of a fleet, or takes one of its databases for another: one sentence, and no harm."""

import json
import subprocess
from pathlib import Path

import psycopg
import pytest

from keyrotation_pipeline_tests.acceptance.test_fleet import NOWHERE, Fleet, fleet, second
from keyrotation_pipeline_tests.acceptance.test_fleet_backups import files, lose, recovered, recovery_key
from keyrotation_pipeline_tests.servers import Server

__all__ = ["fleet", "second"]
pytestmark = pytest.mark.extended


def dumps(fleet: Fleet) -> tuple[Path, Path, Path]:
    """Those of the home's own database, of north and of south."""
    (north,), (south,) = files(fleet, "database-north-*"), files(fleet, "database-south-*")
    (own,) = set(files(fleet, "database-*")) - {north, south}
    return own, north, south


def test_a_dump_in_the_place_of_another_is_restored_as_neither(fleet: Fleet, server: Server, second: Server) -> None:
    fleet.typed("backup")
    own, north, south = dumps(fleet)
    recover = ("recover", "--from", ".keyrotation/backups", "--key", recovery_key(fleet))
    of_own, of_south = ("--into", "other", "--server", server.url()), ("--database", "south", "--into", "other")
    for one, another, given in ((north, south, of_south), (own, south, of_south), (own, south, of_own)):
        there = (one.read_bytes(), another.read_bytes())
        one.write_bytes(there[1])
        another.write_bytes(there[0])
        assert (own if given == of_own else south).name in fleet.refused(*recover, *given)
        one.write_bytes(there[0])
        another.write_bytes(there[1])
    refused = fleet.refused("restore-database", "--key", recovery_key(fleet), "--from", south.name)
    assert "is of database south of the fleet; bring that back with `keyrotation recover --database south" in refused
    for each in (server, second):
        with psycopg.connect(each.url(), autocommit=True) as admin:
            assert admin.execute("SELECT count(*) FROM pg_database WHERE datname = 'other'").fetchone() == (0,)


def test_nothing_is_recovered_over_a_database_that_is_there(fleet: Fleet, server: Server) -> None:
    fleet.typed("backup")
    recover = ("recover", "--from", ".keyrotation/backups", "--key", recovery_key(fleet), "--database", "south")
    assert "there is a database south already; name another with --into" in fleet.refused(*recover, "--into", "south")
    north = fleet.urls["north"].partition("?")[0].rpartition("/")[2]
    refused = fleet.refused(*recover, "--into", north, "--server", server.url())
    assert f"there is a database {north} already" in refused
    assert fleet.read() == fleet.expected


def test_a_member_is_brought_back_while_the_homes_own_database_is_down(fleet: Fleet, second: Server) -> None:
    """Nothing else is done meanwhile."""
    fleet.typed("backup")
    lose(second, "south")
    own, fleet.urls[""] = fleet.urls[""], NOWHERE
    for command in ("backup", "status"):
        assert fleet.refused(command).startswith("cannot connect to clinic@127.0.0.1:1: no server answers there; ")
    assert recovered(fleet, "south")["rows"] == {"south:clients": 60}
    fleet.urls[""] = own
    fleet.typed("verify")
    fleet.typed("backup")
    assert fleet.read() == fleet.expected


def test_a_member_that_somebody_restored_alone_keeps_the_key_until_its_rows_are_rotated(
    fleet: Fleet, server: Server, second: Server
) -> None:
    """From its own dump of before the rotation, and then from the dump of another member."""
    dump = _dumped(second, fleet.urls["south"], fleet.folder.path / "south.dump")
    request = fleet.requested("request", "--reason", "yearly")
    fleet.typed("rotate", request, "--through", "zero_old_rows_proof")
    _restored(second, dump)
    assert "table south:clients, column name: 60 values still under v1" in fleet.refused("rotate", request)
    assert fleet.live() == {"v1", "v2"}
    fleet.typed("rotate", request)
    assert (fleet.live(), fleet.read()) == ({"v2"}, fleet.expected)
    _restored(second, _dumped(server, fleet.urls["north"], fleet.folder.path / "north.dump"))
    is_north = "database south: it is the member north of this home"
    for command in ("verify", "backup"):
        assert is_north in fleet.refused(command)
    attention = json.loads(fleet.typed("status", "--json"))["attention"]
    assert any("database south refuses was not seen: it is the member north of this home" in each for each in attention)


def _dumped(server: Server, url: str, file: Path) -> Path:
    subprocess.run(
        [str(server.binaries / "pg_dump"), "--format=custom", f"--file={file}", f"--dbname={url}"], check=True
    )
    return file


def _restored(server: Server, dump: Path) -> None:
    """As the database south, which is made anew."""
    lose(server, "south")
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE south")
    load = [str(server.binaries / "pg_restore"), "--no-owner", "--exit-on-error", f"--dbname={server.url('south')}"]
    subprocess.run([*load, str(dump)], check=True)
