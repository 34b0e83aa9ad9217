"""Values that somebody planted in a member of a fleet, found by its own dump from before the incident."""

import json

import pytest

from keyrotation_pipeline_tests.acceptance.test_fleet import NOWHERE, ROWS, Fleet, fleet, second
from keyrotation_pipeline_tests.acceptance.test_fleet_backups import files, recovery_key

__all__ = ["fleet", "second"]
pytestmark = pytest.mark.extended


def test_what_was_planted_in_a_member_is_named_by_database_row_and_column(fleet: Fleet) -> None:
    fleet.typed("backup")
    because = ("--type", "key_exposed", "--description", "in a log", "--discovered-at", "now")
    incident = fleet.typed("incident", "open", *because).split()[0]
    compare = ("incident", "compare", incident, "--key", recovery_key(fleet), "--json")
    found = json.loads(fleet.typed(*compare))
    assert {each["table"]: (each["rows"], each["changed"]) for each in found["tables"]} == dict.fromkeys(
        ("clients", "north:clients", "south:clients"), (ROWS, 0)
    )
    assert (found["differences"], found["not_compared"]) == ([], [])
    fleet.expected["south", 7] = "planted"
    fleet.write("south", 7)
    found = json.loads(fleet.typed(*compare, NORTH=NOWHERE))
    (planted,) = found["differences"]
    assert (planted["table"], planted["key"], planted["column"], planted["kind"]) == (
        "south:clients", '["7"]', "name", "changed",
    )  # fmt: skip
    (missing,) = found["not_compared"]
    assert missing.startswith("north:clients: database north: cannot connect to clinic@127.0.0.1:1: ")
    files(fleet, "database-north-*")[0].write_bytes(b"damaged")
    found = json.loads(fleet.typed(*compare))
    assert [each.partition(":")[0] for each in found["not_compared"]] == ["north"]
    assert [each["table"] for each in found["tables"]] == ["clients", "south:clients"]
