"""Where plaintext is known outside the live rows of several databases, and of which each sentence is."""

from dataclasses import replace
from datetime import UTC, datetime

from keyrotation_pipeline.model.plaintext_outside_rows import (
    MOST_RARE,
    CopiesSought,
    EncryptedColumn,
    PlaintextOutsideRows,
    UnchangedFiles,
    lines_of,
    rare,
)

SINCE = datetime(2026, 12, 1, tzinfo=UTC)
OWN = PlaintextOutsideRows((EncryptedColumn("cases", "note", SINCE),), rewritten_at="0/5", checkpoint="0/6")
NORTH = replace(OWN, columns=(EncryptedColumn("north:cases", "note", SINCE),), member="north")


def test_of_one_database_no_name_is_said() -> None:
    assert list(lines_of([OWN])) == list(OWN.lines())


def test_what_is_the_same_in_several_databases_is_said_once() -> None:
    lines = list(lines_of([OWN, replace(NORTH, slots=("copy",))]))
    assert [where for where, _, _ in lines if where.endswith("planner statistics")] == [
        "the home's own database, north: planner statistics"
    ]
    assert [(where, known) for where, known, _ in lines if where.endswith("the WAL")] == [
        ("the home's own database: the WAL", "before 0/6"),
        ("north: the WAL", "before 0/6, and kept for replication slot copy"),
    ]


def test_what_people_can_do_names_the_database() -> None:
    files = (UnchangedFiles("public.cases", {"1": "0/1"}, 8192),)
    assert "run in database north VACUUM FULL public.cases, then" in next(replace(NORTH, files=files).to_do())
    assert "run VACUUM FULL public.cases, then" in next(replace(OWN, files=files).to_do())


def test_a_column_of_a_member_is_looked_for_in_its_database() -> None:
    (table,) = NORTH.tables
    assert (table.name.database, table.begun) == ("north", ("note",))
    assert NORTH.without([table]) == PlaintextOutsideRows((), member="north")


def test_that_no_copy_was_found_is_said_to_prove_nothing() -> None:
    assert CopiesSought(900, 1).line() == (
        "none found of 900 rare values in samples of 1 column, which proves nothing", "not known",
    )  # fmt: skip
    (line,) = (each for each in OWN.lines() if each[0].startswith("copies"))
    assert line[1].startswith("not looked for")


def test_copies_are_something_to_do_until_they_are_removed() -> None:
    sought = CopiesSought(900, 40, ("public.outbox.sent",), 2)
    assert sought.line() == (
        "in public.outbox.sent: found of 900 rare values in samples of 40 columns; 2 places not read",
        "until they are removed there, or encrypted",
    )
    (said,) = replace(NORTH, copies=sought).to_do()
    assert "some of the same values stand in public.outbox.sent of database north; remove copies there" in said
    assert list(replace(NORTH, copies=CopiesSought(900, 40)).to_do()) == []


def test_another_sample_with_the_same_result_is_no_change() -> None:
    assert replace(OWN, copies=CopiesSought(900, 40, ("a.b.c",))) == replace(
        OWN, copies=CopiesSought(7, 41, ("a.b.c",))
    )
    assert replace(OWN, copies=CopiesSought(900, 40)) != OWN


def test_of_which_column_copies_were_is_not_known_once_one_holds_plaintext_again() -> None:
    both = replace(
        NORTH,
        columns=(*NORTH.columns, EncryptedColumn("north:cases", "name", SINCE)),
        copies=CopiesSought(9, 4, ("a",)),
    )
    (table,) = NORTH.tables
    assert both.without([table]).copies is None
    assert both.without([]) == both


def test_without_copies_a_record_is_as_it_was_before_they_were_looked_for() -> None:
    assert "copies" not in OWN.as_json()
    sought = replace(OWN, copies=CopiesSought(9, 4, ("a.b.c",), 1))
    assert sought.as_json()["copies"] == {"values": 9, "columns": 4, "found": ["a.b.c"], "not_read": 1}


def test_rare_are_long_values_that_occur_once() -> None:
    assert rare([b"some text", b"short", b"the same text", b"the same text"]) == (b"some text",)
    assert len(rare(b"value %08d" % n for n in range(MOST_RARE + 5))) == MOST_RARE
