"""What an application could not decrypt is counted by version and minute, and nothing of it is kept."""

import time

import pytest

from keyrotation_pipeline.fieldcrypto.reads import MINUTES_KEPT, VERSIONS_KEPT, FailedReads

START = 1_800_000_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [float(START)]
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


def test_failures_are_counted_by_version_and_minute(clock: list[float]) -> None:
    reads = FailedReads()
    for seconds, stored in (
        (0, "v1:abc"),
        (59, "v1:"),
        (60, "v1:Zoe is ill"),
        (61, "v2:x"),
        (62, "Zoe is ill"),
    ):
        clock[0] = START + seconds
        reads.note(stored)
    assert [(each.version, each.values, each.last_at - START, dict(each.by_minute)) for each in reads.by_version()] == [
        ("none", 1, 62, {START + 60: 1}),
        ("v1", 3, 60, {START: 2, START + 60: 1}),
        ("v2", 1, 61, {START + 60: 1}),
    ]
    assert "Zoe" not in repr(reads.by_version())


def test_whoever_can_store_values_does_not_fill_the_memory(clock: list[float]) -> None:
    reads = FailedReads()
    for number in range(1, 200):
        clock[0] = START + 60 * number
        reads.note(f"v{number}:x")
        reads.note("v1:x")
    counted = reads.by_version()
    assert len(counted) <= VERSIONS_KEPT + 1
    assert sum(each.values for each in counted) == 2 * 199
    assert max(len(each.by_minute) for each in counted) == MINUTES_KEPT
    assert START + 60 * 199 in next(each.by_minute for each in counted if each.version == "v1")
