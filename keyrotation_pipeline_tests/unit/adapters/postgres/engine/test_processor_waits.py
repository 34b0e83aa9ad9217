"""When the processors of the server's machine count as busy."""

from pathlib import Path

import pytest

from keyrotation_pipeline.adapters.postgres.engine.processor_waits import ProcessorWaits


@pytest.fixture
def process(tmp_path: Path) -> Path:
    """What Linux says of process 7, which has done nothing yet."""
    made = tmp_path / "7"
    made.mkdir()
    (made / "comm").write_text("postgres\n")
    (made / "schedstat").write_text("0 0 0\n")
    return made


@pytest.mark.parametrize(
    ("samples", "share"),
    [
        pytest.param([(1.0, 0.1)] * 5, "", id="a processor for each"),
        pytest.param([(0.1, 0.9)] * 2, "", id="two samples are not enough"),
        pytest.param([(0.1, 0.9)] * 3, "90%", id="busy"),
        pytest.param([(0.5, 0.1), (0.1, 0.9), (0.5, 0.1)], "", id="one busy sample is none"),
        pytest.param([(0.1, 0.9)] * 3 + [(0.5, 0.1)] * 2, "", id="and comes back"),
        pytest.param([(0.001, 0.004)] * 3, "", id="who has little to do waits for nothing"),
    ],
)
def test_processors_are_busy_for_which_the_server_waits_most_of_its_time(
    samples: list[tuple[float, float]], share: str, process: Path
) -> None:
    waits = ProcessorWaits(7, process.parent)
    worked, waited = 0.0, 0.0
    for each in samples:
        worked, waited = worked + each[0], waited + each[1]
        (process / "schedstat").write_text(f"{worked * 1e9:.0f} {waited * 1e9:.0f} 1\n")
        waits.measure()
    assert waits.reason == (f"the server waits for a processor {share} of its time" if share else "")


@pytest.mark.parametrize("missing", ["comm", "schedstat"])
def test_a_server_elsewhere_is_never_busy(missing: str, process: Path) -> None:
    (process / missing).unlink()
    waits = ProcessorWaits(7, process.parent)
    for seconds in range(4):
        (process / "schedstat").write_text(f"1 {seconds}000000000 1\n")
        waits.measure()
    assert waits.reason == ""
