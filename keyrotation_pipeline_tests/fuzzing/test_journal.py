"""The journal finds what it is for."""

import pytest

from keyrotation_pipeline_tests.fuzzing.journal import Journal, Outcome

ROW = ("clients", 1)
C, R, U = Outcome.COMMITTED, Outcome.ROLLED_BACK, Outcome.UNKNOWN


@pytest.mark.parametrize(
    ("outcomes", "there", "found"),
    [
        pytest.param((C, C), 1, [], id="the last one is there"),
        pytest.param((C, C), 0, ["(clients, 1): the acknowledged write s-1 is lost"], id="the one before is there"),
        pytest.param((C, R), 0, [], id="one was rolled back"),
        pytest.param((C, R), 1, ["(clients, 1): the write s-1, which was rolled back, is there"], id="but is there"),
        pytest.param((C, U), 0, [], id="nobody knows, and it is not there"),
        pytest.param((C, U), 1, [], id="nobody knows, and it is there"),
        pytest.param((C,), None, ["(clients, 1): the acknowledged write s-0 is lost"], id="the row is gone"),
        pytest.param((U,), None, [], id="nobody knows, and the row is not there"),
    ],
)
def test_what_a_row_holds_at_the_end_is_compared_with_all_of_its_writes(
    outcomes: tuple[Outcome, ...], there: int | None, found: list[str]
) -> None:
    journal, last = Journal("s"), None
    for outcome in outcomes:
        last = journal.begin(ROW, last, {}, {}, "")
        journal.end([last], outcome)
    journal.judge({} if there is None else {ROW: f"s-{there}"})
    assert [each.replace("'", "") for each in journal.findings] == found


@pytest.mark.parametrize("outcome", [C, U])
def test_a_row_that_was_deleted_may_be_gone(outcome: Outcome) -> None:
    journal = Journal("s")
    first = journal.begin(ROW, None, {}, {}, "")
    last = journal.begin(ROW, first, {}, {}, "", deleted=True)
    journal.end([first], C)
    journal.end([last], outcome)
    journal.judge({})
    assert journal.findings == []
