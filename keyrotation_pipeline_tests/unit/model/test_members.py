"""A home of one database says what it always said; the members of a fleet are named beside it."""

import pytest

from keyrotation_pipeline.model.approval import hosts_in
from keyrotation_pipeline.model.key_events import KeyRetired
from keyrotation_pipeline.model.members import (
    member_line,
    members_among,
    members_in,
    place_lines,
    same_database,
    values_in,
)
from keyrotation_pipeline.model.proof import MemberPosition, MemberState, Proven, SnapshotPosition
from keyrotation_pipeline.model.records import as_json, read
from keyrotation_pipeline.model.tables import TableName
from keyrotation_pipeline_tests.fakes import START, V1, V2

RETIRED = KeyRetired(V1, ("clients",), 0, 9, "0/1", START, (V1,), (V1,), V2, "backup")
NORTH = "clinic, system identifier 7, schema keys"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param(TableName("public", "clients"), "clients", id="public"),
        pytest.param(TableName("billing", "Notes"), "billing.Notes", id="schema"),
        pytest.param(TableName("public", "clients", "north"), "north:clients", id="member"),
        pytest.param(TableName("billing", "Notes", "north"), "north:billing.Notes", id="member and schema"),
    ],
)
def test_a_name_is_read_back(name: TableName, text: str) -> None:
    assert (str(name), TableName.parse(text)) == (text, name)


def test_records_of_one_database_have_no_members() -> None:
    assert as_json(Proven(SnapshotPosition(7, "0/7"), (V1,), {}, 1))["moment"] == {"xid": 7, "lsn": "0/7"}
    assert "members" not in as_json(RETIRED)


def test_records_of_a_fleet_are_read_back() -> None:
    position = SnapshotPosition(7, "0/7", {"north": MemberPosition(9, "0/9")})
    assert read(SnapshotPosition, as_json(position)) == position
    assert position.of("north") == SnapshotPosition(9, "0/9")
    assert position.of("south") is None


def test_a_member_has_a_line_of_its_own_and_is_a_host() -> None:
    hosts = ("alerts.webhook_url https://a.example", member_line("north", NORTH))
    assert members_among(hosts) == {"north": NORTH}
    fields = {"Hosts": hosts[0], **dict(place_lines(hosts, {"north": "9 values when last counted"}))}
    assert fields["Place north"] == f"{NORTH}; 9 values when last counted"
    assert (members_in(fields), values_in(fields)) == ({"north": NORTH}, {"north": "9 values when last counted"})
    assert hosts_in(fields) == hosts
    assert place_lines(hosts[:1], {}) == []


@pytest.mark.parametrize(
    ("now", "differs"),
    [
        pytest.param(MemberState("p", 1, {"a": "1"}, "r"), [], id="the same"),
        pytest.param(MemberState("q", 1, {"a": "1"}, "r"), ["it is q instead of p"], id="another server"),
        pytest.param(MemberState("p", 2, {"a": "1"}, "r"), ["it is on timeline 2 instead of 1"], id="promoted"),
        pytest.param(MemberState("p", 1, {"a": "2"}, "r"), ["the fence or the file of a is another one"], id="fence"),
        pytest.param(MemberState("p", 1, {}, "r"), ["the fence or the file of a is another one"], id="no fence"),
        pytest.param(
            MemberState("p", 1, {"a": "1"}, "s"), ["a relation was created, changed or dropped"], id="new relation"
        ),
    ],
)
def test_what_changed_since_the_evidence_is_named(now: MemberState, differs: list[str]) -> None:
    assert list(MemberState("p", 1, {"a": "1"}, "r").differences(now)) == differs


OWN, EAST = "own, system identifier 7", "east, system identifier 8"


@pytest.mark.parametrize(
    ("places", "signed", "said"),
    [
        pytest.param({"east": EAST, "north": NORTH}, {}, None, id="each another one"),
        pytest.param({"own": OWN}, {}, f"[[databases]] own is {OWN}, and so is [database]; ", id="the home's own"),
        pytest.param(
            {"east": EAST, "e": EAST}, {"east": EAST}, f"e is {EAST}, and so is [[databases]] east; ", id="twin"
        ),
        pytest.param(
            {"e": EAST, "east": EAST}, {"east": EAST}, f"e is {EAST}, and so is [[databases]] east; ", id="twin before"
        ),
        pytest.param({"east": EAST, "e": EAST}, {"east": EAST, "e": EAST}, None, id="signed before"),
        pytest.param({"east_*": "east_*, system identifier 7", "own": EAST}, {}, None, id="a rule is no database"),
    ],
)
def test_a_database_by_a_second_name_is_named(places: dict[str, str], signed: dict[str, str], said: str | None) -> None:
    sentence = same_database(OWN, [member_line(name, place) for name, place in places.items()], signed)
    assert (said or "") in (sentence or "")
    assert (sentence is None) == (said is None)
