"""The ETA of real rotations in a demo home, routine and emergency, against what they then took."""

import re
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

TOP = Path(__file__).parents[2]
# benchmarks/README.md has what it is on a machine with nothing else to do; here others may begin or end meanwhile.
LEAST, MOST = 0.4, 2.5


@pytest.mark.extended
def test_what_is_predicted_of_a_rotation_is_about_what_it_takes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.eta", str(tmp_path), "--rows", "5000"]
    done = subprocess.run(command, check=True, cwd=TOP, capture_output=True, text=True, timeout=1200)
    reported = done.stdout.splitlines()
    profiles = [line.split(",")[0] for line in reported if re.match(r"(routine|emergency), ", line)]
    ratios = [float(ratio) for ratio in re.findall(r"s = (\d+\.\d+)", done.stdout)]

    assert profiles == ["emergency", "routine"]
    assert len(ratios) >= 2 * 3, "nothing is predicted before it has begun"
    assert LEAST <= median(ratios) <= MOST, done.stdout
    assert "WENT BACK" not in done.stdout
