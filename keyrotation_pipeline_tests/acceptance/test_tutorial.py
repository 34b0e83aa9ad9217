"""The tutorial, typed from top to bottom, and what it says that one should see."""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyrotation_pipeline_tests.acceptance.command import KEYROTATION, environment
from keyrotation_pipeline_tests.pages import TOP

PAGE = (TOP / "docs" / "tutorial.md").read_text()
# A minute; that each command is one of ours and has its options is tested always.
pytestmark = pytest.mark.extended


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for the sockets of gpg's agents, which are in it."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)
        for home in Path(name).glob(".keyrotation/officers/*.gnupg"):
            subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)


def test_the_tutorial_as_it_is_typed(folder: Path) -> None:
    lines = "".join(re.findall(r"(?s)```sh tutorial\n(.*?)```", PAGE))
    seen = re.findall(r"`([^`]+)`", "".join(re.findall(r"(?s)\n\n(?:You see|[^`]*meanwhile:) (.*?)\n\n", PAGE)))
    assert len(seen) > 8
    typed = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", lines],
        cwd=folder,
        env=environment(PATH=f"{Path(KEYROTATION).parent}:{os.environ['PATH']}"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=600,
    )
    assert typed.returncode == 0, typed.stdout
    printed = re.sub(" +", " ", typed.stdout)
    for each in seen:
        assert each in printed, each
    assert (folder / "report.html").stat().st_size > 1000
