"""`keyrotation docs`."""

import json
import re
from pathlib import Path

import pytest

from keyrotation_pipeline.cli.docs import docs, pages, shipped
from keyrotation_pipeline.errors import ConfigurationError, RequestError
from keyrotation_pipeline_tests.pages import TOP

WRITTEN = [path for path in (TOP / "docs").rglob("*.md") if path.parent.name != "adr"]


def test_every_page_is_listed_with_its_title(capsys: pytest.CaptureFixture[str]) -> None:
    docs()
    listed = capsys.readouterr().out
    for page in WRITTEN:
        title = page.read_text().splitlines()[0].removeprefix("# ")
        assert any(re.fullmatch(rf"{page.stem} +{re.escape(title)} *", line) for line in listed.splitlines()), page


def test_every_page_has_a_name_of_its_own() -> None:
    assert sorted(page.path.relative_to(TOP / "docs") for page in pages().values()) == sorted(
        path.relative_to(TOP / "docs") for path in WRITTEN
    )


def test_the_pages_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    docs(as_json=True)
    listed = json.loads(capsys.readouterr().out)
    assert listed["schema"] == 1
    assert {"name": "rollback", "section": "On call", "title": "Rollback: the new key must not stay"} in listed["pages"]


def test_a_page_in_a_pipe_is_as_it_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    docs("rollback")
    written = (TOP / "docs" / "on-call" / "rollback.md").read_text()
    assert capsys.readouterr().out == written
    docs("rollback", as_json=True)
    assert json.loads(capsys.readouterr().out)["text"] == written


@pytest.mark.parametrize("page", ["nothing", "../README", "adr/README", "on-call/rollback", "images/asset-page.png"])
def test_what_is_no_page_is_refused(page: str) -> None:
    with pytest.raises(RequestError, match=r"there is no page .* `keyrotation docs` lists all"):
        docs(page)


@pytest.mark.parametrize(("typed", "meant"), [("fernt", "fernet"), ("rollbak", "rollback"), ("dagster-on", "dagster")])
def test_the_pages_of_like_names_are_suggested(typed: str, meant: str) -> None:
    with pytest.raises(RequestError, match=rf"there is no page {typed}; did you mean .*{meant}"):
        docs(typed)


def test_every_page_that_the_program_names_is_there() -> None:
    sources = [path.read_text() for path in (TOP / "keyrotation_pipeline").rglob("*.py")]
    named = {name for text in sources for name in re.findall(r"`keyrotation docs ([a-z][a-z-]+)`", text)}
    assert len(named) > 5
    assert named - set(pages()) == set()
    # A path would be of no use where there is no clone.
    assert [text for text in sources if re.search(r"docs/[a-z/-]+\.md", text)] == []


def test_pages_and_deployment_files_are_copied_to_where_nothing_is(tmp_path: Path) -> None:
    docs(copy=tmp_path / "pages")
    for folder in ("docs", "deploy"):
        there = {path.relative_to(shipped()) for path in (shipped() / folder).rglob("*") if path.is_file()}
        assert {path.relative_to(tmp_path / "pages") for path in (tmp_path / "pages" / folder).rglob("*.*")} >= {
            path for path in there if path.suffix
        }
    with pytest.raises(ConfigurationError, match="exists; name a directory that does not exist yet"):
        docs(copy=tmp_path / "pages")
