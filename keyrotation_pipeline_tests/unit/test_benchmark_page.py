"""The page and the chart of the benchmarks: made of whatever was measured."""

from xml.etree import ElementTree as ET

from benchmarks import chart, page


def spread(median: float) -> dict[str, float]:
    return {"median": median, "min": median / 2, "max": median * 2}


def run(contender: str, workers: int, rate: float) -> dict[str, object]:
    return {
        "contender": contender,
        "workers": workers,
        "rows_per_second": spread(rate),
        "of_the_plain_update": spread(0.5),
        "cpu_seconds_per_million_rows": spread(10.0),
        "wal_bytes_per_row": spread(1000.0),
        "growth": spread(1.17),
        "worker_peak_mb": 80.0,
        "runs": [{}, {}],
    }


RESULTS = [run("plain UPDATE", 1, 100_000), run("engine", 1, 100_000), run("engine", 2, 200_000)]
FIGURES = {"speed": {"on": "2026-11-26", "machine": "two cores", "results": RESULTS}}


def test_what_to_plan_with_is_straight_proportion() -> None:
    # 10^9 rows at 100 000 a second, 10 CPU-µs and 1 000 bytes each.
    written = page.of(FIGURES)
    assert "| 1 | 100,000 | 2.00 s | 17 min, 0.3 CPU-h, 100 GB | 167 min, 2.8 CPU-h, 1,000 GB | 1.17 |" in written
    assert "| 2 | 100,000 | 2.00 s | 8 min" in written, "a worker's share of the rate"


def test_a_part_that_was_not_measured_is_not_shown() -> None:
    assert "Python codec" not in page.of(FIGURES)
    assert page.of({}) == ""


def test_the_chart_is_xml_whose_longest_bar_is_the_fastest() -> None:
    tree = ET.fromstring(chart.of(RESULTS))  # noqa: S314  our own
    bars = [each for each in tree.iter("{http://www.w3.org/2000/svg}rect") if each.get("stroke")]
    widths = [int(str(bar.get("width"))) for bar in bars]
    assert widths[2] == max(widths) == 2 * widths[1]
    assert [bar.get("fill") for bar in bars] == ["none", "#333", "#333"], "told apart without colour"
