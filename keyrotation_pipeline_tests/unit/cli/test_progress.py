"""What a terminal and a log show of long steps."""

from datetime import UTC, datetime
from io import StringIO

import pytest
from rich.console import Console

from keyrotation_pipeline.cli.progress import OnLines, OnTerminal, Overall, bars_on
from keyrotation_pipeline.model.progress import Progress
from keyrotation_pipeline.model.requests import Step

AT = datetime(2026, 11, 25, 3, 0, 7, tzinfo=UTC)


class Seconds:
    """A clock that a test turns on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def pages(subject: str, done: int, total: int = 100, note: str = "") -> Progress:
    return Progress(Step.ROWS, subject, done, total, "pages", note)


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


@pytest.fixture
def overall(seconds: Seconds) -> Overall:
    """Two tables in two shards, one of which was finished by an earlier process."""
    return Overall({"clients": 20_000, "appointments": 40_000}, 2, {"clients shard 00"}, lambda: 40.0 * 60, seconds)


def test_all_rows_are_one_number_with_rate_and_the_rotations_time_left(overall: Overall, seconds: Seconds) -> None:
    assert str(overall) == "10,000 of 60,000 rows (17 %), about 40 min left"

    overall.see(pages("clients shard 01", 0))
    seconds.now += 10
    overall.see(pages("clients shard 01", 50))
    overall.see(pages("appointments shard 00", 25))
    assert str(overall) == "20,000 of 60,000 rows (33 %), 1,000 a second, about 40 min left"


def test_the_time_left_is_asked_for_every_few_seconds(seconds: Seconds) -> None:
    asked: list[float] = []

    def left() -> float:
        asked.append(seconds.now)
        return 10.0

    overall = Overall({"clients": 10}, 1, left=left, clock=seconds)
    for _ in range(100):
        assert str(overall).endswith(", about 10 s left")
        seconds.now += 0.1
    assert len(asked) == 2


def test_no_rate_is_shown_of_a_few_milliseconds(overall: Overall, seconds: Seconds) -> None:
    overall.see(pages("clients shard 01", 0))
    seconds.now += 0.04
    overall.see(pages("clients shard 01", 100))
    assert str(overall) == "20,000 of 60,000 rows (33 %), about 40 min left"

    seconds.now += 0.96
    assert str(overall) == "20,000 of 60,000 rows (33 %), 10,000 a second, about 40 min left"


def test_what_is_no_step_of_a_rotation_is_shown_by_its_subject_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """`verify` decrypts as the proof does, and is no step."""
    OnLines(lambda: AT)(Progress(None, "clients decrypted", 128, 512, "pages"))

    assert capsys.readouterr().err == "2026-11-25 03:00:07 clients decrypted: 128 of 512 pages\n"


def test_what_is_no_shard_is_passed_over(overall: Overall) -> None:
    overall.see(Progress(Step.ZERO_OLD_ROWS_PROOF, "clients", 3, 4))
    overall.see(pages("notes shard 00", 3))

    assert overall.rows == 10_000


def test_an_empty_database_has_no_percent(seconds: Seconds) -> None:
    empty = Overall({"clients": 0}, 1, clock=seconds)
    empty.see(pages("clients shard 00", 1, 1))

    assert str(empty) == "0 of 0 rows"


def test_a_log_gets_one_line_in_five_seconds_with_its_time(
    overall: Overall, seconds: Seconds, capsys: pytest.CaptureFixture[str]
) -> None:
    reported = OnLines(lambda: AT, overall, seconds)
    for step in range(100):
        reported(pages("clients shard 01", step, note=f"{step} rows"))
        seconds.now += 0.125

    first, *_, last = written = capsys.readouterr().err.splitlines()
    assert len(written) == 3
    assert first == (
        "2026-11-25 03:00:07 10,000 of 60,000 rows (17 %), about 40 min left; "
        "rows clients shard 01: 0 of 100 pages (0 rows)"
    )
    assert last.startswith(
        "2026-11-25 03:00:07 18,000 of 60,000 rows (30 %), 800 a second, about 40 min left; rows clients shard"
    )


def test_what_waits_is_shown_at_once_and_once(seconds: Seconds, capsys: pytest.CaptureFixture[str]) -> None:
    reported = OnLines(lambda: AT, None, seconds)
    reported(Progress(Step.ZERO_OLD_ROWS_PROOF, "clients", 0, 0, note="sweep 1"))
    for _ in range(3):
        reported(Progress(Step.ZERO_OLD_ROWS_PROOF, "clients", 0, 0, note="waiting for the last rows"))

    assert capsys.readouterr().err.splitlines() == [
        "2026-11-25 03:00:07 zero_old_rows_proof clients: sweep 1",
        "2026-11-25 03:00:07 zero_old_rows_proof clients: waiting for the last rows",
    ]


def test_a_log_of_a_wait_for_people_repeats_its_line_every_five_minutes(
    seconds: Seconds, capsys: pytest.CaptureFixture[str]
) -> None:
    reported = OnLines(lambda: AT, None, seconds)
    for _ in range(100):
        reported(Progress(Step.DUAL_KEY_ROLLOUT, "read v2", 0, 0, note="no application instance reports itself"))
        seconds.now += 6.0
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_terminal_shows_one_bar_above_the_shards(overall: Overall, seconds: Seconds) -> None:
    screen = StringIO()
    bars = bars_on(Console(file=screen, force_terminal=True, width=140, color_system=None), timed=False)
    with bars:
        reported = OnTerminal(bars, overall)
        reported(pages("clients shard 01", 0))
        seconds.now += 10
        reported(pages("clients shard 01", 50))
        bars.refresh()
    shown = screen.getvalue()

    assert shown.index("all rows") < shown.index("clients shard 01")
    assert "15,000 of 60,000 rows (25 %), 500 a second, about 40 min left" in shown


def test_a_terminal_shows_the_end_of_a_step_before_the_next_one(overall: Overall) -> None:
    screen = StringIO()
    bars = bars_on(Console(file=screen, force_terminal=True, width=140, color_system=None), timed=False)
    with bars:
        reported = OnTerminal(bars, overall)
        reported(pages("clients shard 01", 42))
        bars.refresh()
        reported(pages("clients shard 01", 100, note="1,000 rows"))
        reported(Progress(Step.ZERO_OLD_ROWS_PROOF, "clients", 0, 4))
    shown = screen.getvalue()

    assert "1,000 rows" in shown
