"""Where plaintext is known outside the live rows of several databases, and of which each sentence is."""

from dataclasses import replace
from datetime import UTC, datetime

from keyrotation_pipeline.model.plaintext_outside_rows import (
    EncryptedColumn,
    PlaintextOutsideRows,
    UnchangedFiles,
    lines_of,
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
    assert "run in database north VACUUM FULL public.cases, then" in str(replace(NORTH, files=files).to_do)
    assert "run VACUUM FULL public.cases, then" in str(replace(OWN, files=files).to_do)


def test_a_column_of_a_member_is_looked_for_in_its_database() -> None:
    (table,) = NORTH.tables
    assert (table.name.database, table.begun) == ("north", ("note",))
    assert NORTH.without([table]) == PlaintextOutsideRows((), member="north")
