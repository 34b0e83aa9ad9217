"""`keyrotation docs`: the pages and the deployment files of exactly this version, without a network."""

import difflib
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli.options import Json
from keyrotation_pipeline.errors import ConfigurationError, RequestError

_PACKAGE = Path(__file__).parents[1]
FOLDERS = ("docs", "deploy")
# Folders of pages, and the heading of each in the listing; decisions are read in the clone, or in a copy.
SECTIONS = {
    ".": "Start, and explanation",
    "on-call": "On call",
    "guides": "Guides",
    "clusters": "AWS and Kubernetes",
    "security": "Security",
    "reference": "Reference",
}


def shipped() -> Path:
    """The directory that holds `FOLDERS`: in a wheel a part of the package, in a clone the clone."""
    installed = _PACKAGE / "share"
    return installed if installed.is_dir() else _PACKAGE.parent


def offered_pages(incomplete: str) -> list[tuple[str, str]]:
    """For the completion of a shell."""
    return [(page.name, page.title) for page in pages().values() if page.name.startswith(incomplete)]


def docs(
    page: Annotated[
        str | None,
        typer.Argument(
            metavar="[PAGE]",
            help="The page to show, such as on-call.",
            show_default=False,
            autocompletion=offered_pages,
        ),
    ] = None,
    *,
    copy: Annotated[
        Path | None,
        typer.Option("--copy", metavar="DIR", help="Copy every page and the deployment files into this new directory."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the pages of this version, or copy them with deploy/.

    deploy/ has the files for Kubernetes, AWS, Helm, Prometheus and SQL.
    """
    if copy is not None:
        _copy(copy)
        message = f"copied {' and '.join(FOLDERS)} into {copy}"
        output.show(None, {"copied": list(FOLDERS), "into": str(copy)}, [message], as_json=as_json)
    elif page is None:
        listed = {"pages": [each.as_json() for each in pages().values()]}
        output.show(None, listed, _listed(), as_json=as_json)
    elif as_json:
        found = _page(page)
        output.document({**found.as_json(), "text": found.path.read_text(encoding="utf-8")})
    else:
        _show(_page(page).path)


@dataclass(frozen=True, slots=True)
class Page:
    """A page: its file, its name on the command line, the heading that it is listed under, and its title."""

    path: Path
    name: str
    section: str
    title: str

    def as_json(self) -> dict[str, str]:
        """All but its text."""
        return {"name": self.name, "section": self.section, "title": self.title}


def pages() -> dict[str, Page]:
    """Every page by its name, in the order of the listing."""
    found = [
        Page(path, path.stem, section, _title(path))
        for folder, section in SECTIONS.items()
        for path in sorted((shipped() / "docs" / folder).glob("*.md"))
    ]
    return {page.name: page for page in found}


def _title(path: Path) -> str:
    with path.open(encoding="utf-8") as lines:
        return next(lines).lstrip("# ").rstrip()


def _listed() -> Iterator[output.Line]:
    for section in SECTIONS.values():
        listed = [(page.name, page.title) for page in pages().values() if page.section == section]
        yield output.Table((section, ""), listed)
        yield ""
    yield "`keyrotation docs PAGE` shows one; `--copy DIR` copies all, with the deployment files"


def _page(name: str) -> Page:
    known = pages()
    if name not in known:
        like = difflib.get_close_matches(name, known, n=3) or [each for each in known if name in each][:3]
        meant = f"; did you mean {' or '.join(like)}?" if like else ";"
        raise RequestError(f"there is no page {name}{meant} `keyrotation docs` lists all")
    return known[name]


def _show(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if not sys.stdout.isatty():
        output.content(text)
        return
    from rich.markdown import Markdown  # noqa: PLC0415  nothing else renders Markdown

    console = output.console()
    with console.pager(styles=True):
        console.print(Markdown(text))


def _copy(into: Path) -> None:
    if into.exists():
        raise ConfigurationError(f"{into} exists; name a directory that does not exist yet")
    for folder in FOLDERS:
        shutil.copytree(shipped() / folder, into / folder)
