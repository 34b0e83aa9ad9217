"""What the pages name is there: files of the code, and the decisions in their index."""

import re
from pathlib import Path

import pytest

from keyrotation_pipeline_tests.acceptance.test_runbook import sections

TOP = Path(__file__).parents[2]
PAGES = sorted(path.relative_to(TOP) for path in (*TOP.glob("*.md"), *TOP.glob("docs/**/*.md")))
FILES = [path.relative_to(TOP).as_posix() for path in (*TOP.glob("*.py"), *TOP.glob("*/**/*.py"))]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_python_file_that_a_page_names_is_there(page: Path) -> None:
    named = set(re.findall(r"`((?:\w+/)*\w+\.py)`", (TOP / page).read_text()))
    missing = {name for name in named if not any(f"/{each}".endswith(f"/{name}") for each in FILES)}
    assert not missing


def test_every_test_that_the_threat_model_names_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", (TOP / "docs/security.md").read_text()))
    written = "".join(path.read_text() for path in TOP.glob("keyrotation_pipeline_tests/**/*.py"))
    assert len(named) > 50
    assert {name for name in named if f"def {name}(" not in written} == set()


def test_each_claim_of_the_threat_model_names_a_test() -> None:
    page = (TOP / "docs/security.md").read_text()
    tables = re.findall(r"(?m)^\| can try to \| .*\n\|---.*\n((?:\|.*\n)+)", page)
    claims = [line for table in tables for line in table.splitlines()]
    assert len(claims) > 50
    shown = r"`(?:test_\w+|(?:\w+/)+\w+\.py)`[^|]*\|$"
    assert [claim for claim in claims if not re.search(shown, claim)] == []


def test_the_index_of_decisions_lists_each_by_its_title() -> None:
    listed = dict(re.findall(r"\]\((\d{4}-.+?\.md)\) \| (.+?) \|", (TOP / "docs/adr/README.md").read_text()))
    titles = {
        path.name: re.sub(r"^# \d+\. ", "", path.read_text().splitlines()[0]) for path in TOP.glob("docs/adr/[0-9]*.md")
    }
    assert listed == titles


def test_every_block_of_the_runbook_is_typed_and_says_what_is_seen_then() -> None:
    assert [heading.partition(":")[0] for heading in sections() if heading] == [
        "Routine", "Emergency", "Rollback", "A key is lost", "Drill",
    ]  # fmt: skip
    assert all(block.seen for blocks in sections().values() for block in blocks)
