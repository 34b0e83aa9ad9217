"""What every `Ticks` does, and what the files in the home do in addition."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keyrotation_pipeline.adapters.home_files import FileHeartbeats
from keyrotation_pipeline.model.status import Heartbeat
from keyrotation_pipeline.ports.heartbeats import Heartbeats
from keyrotation_pipeline_tests.fakes import FakeHeartbeats

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
LATER = NOON + timedelta(minutes=5)


@pytest.fixture(params=["fake", "files"])
def heartbeats(request: pytest.FixtureRequest, tmp_path: Path) -> Heartbeats:
    """Each implementation, empty."""
    return FakeHeartbeats() if request.param == "fake" else FileHeartbeats(tmp_path / "heartbeats")


def test_where_nothing_looked_there_is_nothing(heartbeats: Heartbeats) -> None:
    assert heartbeats.last() == ()


def test_the_last_look_of_each_sensor_is_kept(heartbeats: Heartbeats) -> None:
    heartbeats.record("b", NOON, [])
    heartbeats.record("a", NOON, [])
    heartbeats.record("b", LATER, [])

    assert heartbeats.last() == (Heartbeat("a", NOON, {}), Heartbeat("b", LATER, {}))


def test_what_is_switched_off_is_known_since_it_was_first_seen(heartbeats: Heartbeats) -> None:
    heartbeats.record("a", NOON, ["daily_key_backup"])
    heartbeats.record("a", LATER, ["daily_key_backup", "rotation_conductor"])
    assert heartbeats.last()[0].stopped == {"daily_key_backup": NOON, "rotation_conductor": LATER}

    heartbeats.record("a", LATER, [])
    assert heartbeats.last()[0].stopped == {}


def test_what_is_expected_counts_from_when_it_was_first_expected_or_switched_on_again(heartbeats: Heartbeats) -> None:
    heartbeats.record("a", NOON, expected=["daily_key_backup"])
    heartbeats.record("a", LATER, expected=["daily_key_backup"])
    assert heartbeats.last() == (Heartbeat("a", LATER, {}), Heartbeat("daily_key_backup", NOON, {}))

    heartbeats.record("a", LATER, ["daily_key_backup"])
    heartbeats.record("a", LATER + timedelta(days=9), expected=["daily_key_backup"])
    assert heartbeats.last()[1] == Heartbeat("daily_key_backup", LATER + timedelta(days=9), {})


def test_what_dagster_no_longer_has_is_forgotten(heartbeats: Heartbeats) -> None:
    heartbeats.record("nightly_rehearsal", NOON)
    heartbeats.record("a", LATER, gone=["nightly_rehearsal", "never_seen"])
    assert heartbeats.last() == (Heartbeat("a", LATER, {}),)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"at": 1, "stopped": {}}', '{"at": "2026", "stopped": []}', "\0"])
def test_a_damaged_file_counts_as_none_and_is_written_again(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    heartbeats = FileHeartbeats(tmp_path)
    assert heartbeats.last() == ()

    heartbeats.record("a", NOON, [])
    assert heartbeats.last() == (Heartbeat("a", NOON, {}),)


def test_a_look_is_forgotten_where_dagster_was_stopped(tmp_path: Path) -> None:
    heartbeats = FileHeartbeats(tmp_path)
    heartbeats.record("a", NOON)
    for _ in range(2):
        heartbeats.forget("a")
        assert heartbeats.last() == ()


def test_no_home_is_made_for_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FileHeartbeats(tmp_path / "home" / "heartbeats").record("a", NOON, [])
