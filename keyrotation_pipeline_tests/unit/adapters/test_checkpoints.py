"""The file of a checkpoint in the home."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.home_files import FileCheckpoints
from keyrotation_pipeline.audit.history import Checkpoint

MADE = Checkpoint(bytes(range(32)), (1,), datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("hours_ago", "expected"),
    [pytest.param(0, MADE, id="new"), pytest.param(25, None, id="old"), pytest.param(-1, None, id="of the future")],
)
def test_a_checkpoint_is_kept_for_a_day(tmp_path: Path, hours_ago: int, expected: Checkpoint | None) -> None:
    kept, path = FileCheckpoints(tmp_path / "checkpoint", SystemClock()), tmp_path / "checkpoint"
    assert kept.load() is None
    kept.keep(MADE)
    at = (datetime.now(UTC) - timedelta(hours=hours_ago)).timestamp()
    os.utime(path, (at - 1, at - 1))
    assert kept.load() == expected
    assert list(tmp_path.iterdir()) == [path]


def test_a_damaged_file_is_none_and_a_home_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_bytes(b"x")
    assert FileCheckpoints(tmp_path / "checkpoint", SystemClock()).load() is None
    FileCheckpoints(tmp_path / "gone" / "checkpoint", SystemClock()).keep(MADE)
