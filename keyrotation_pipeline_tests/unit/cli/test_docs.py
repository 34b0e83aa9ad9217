"""`keyrotation docs`."""

from pathlib import Path

import pytest

from keyrotation_pipeline.cli.docs import docs, shipped
from keyrotation_pipeline.errors import ConfigurationError, RequestError
from keyrotation_pipeline_tests.pages import TOP


def test_every_page_is_listed_with_its_title(capsys: pytest.CaptureFixture[str]) -> None:
    docs()
    listed = capsys.readouterr().out
    for page in (TOP / "docs").glob("*.md"):
        title = page.read_text().splitlines()[0].removeprefix("# ")
        assert any(line.startswith(page.stem) and line.rstrip().endswith(title) for line in listed.splitlines())


def test_a_page_in_a_pipe_is_as_it_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    docs("scaling")
    assert capsys.readouterr().out == (TOP / "docs" / "scaling.md").read_text()


@pytest.mark.parametrize("page", ["nothing", "../README", "adr/README", "images/asset-graph.png"])
def test_what_is_no_page_is_refused_with_those_there_are(page: str) -> None:
    with pytest.raises(RequestError, match=r"choose one of applications, architecture, .* security"):
        docs(page)


def test_pages_and_deployment_files_are_copied_to_where_nothing_is(tmp_path: Path) -> None:
    docs(copy=tmp_path / "pages")
    for folder in ("docs", "deploy"):
        there = {path.relative_to(shipped()) for path in (shipped() / folder).rglob("*") if path.is_file()}
        assert {path.relative_to(tmp_path / "pages") for path in (tmp_path / "pages" / folder).rglob("*.*")} >= {
            path for path in there if path.suffix
        }
    with pytest.raises(ConfigurationError, match="exists; name a directory that does not exist yet"):
        docs(copy=tmp_path / "pages")
