"""`keyrotation docs`: the pages and the deployment files of exactly this version, without a network."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from keyrotation_pipeline.cli import output
from keyrotation_pipeline.errors import ConfigurationError, RequestError

_PACKAGE = Path(__file__).parents[1]
FOLDERS = ("docs", "deploy")


def shipped() -> Path:
    """The directory that holds `FOLDERS`: in a wheel a part of the package, in a clone the clone."""
    installed = _PACKAGE / "share"
    return installed if installed.is_dir() else _PACKAGE.parent


def docs(
    page: Annotated[
        str | None, typer.Argument(metavar="[PAGE]", help="The page to show, such as operations.", show_default=False)
    ] = None,
    *,
    copy: Annotated[
        Path | None,
        typer.Option("--copy", metavar="DIR", help="Copy every page and the deployment files into this new directory."),
    ] = None,
) -> None:
    """Show the pages of this version, or copy them with deploy/.

    deploy/ has the files for Kubernetes, AWS, Helm, Prometheus and SQL.
    """
    if copy is not None:
        _copy(copy)
        output.line(f"copied {' and '.join(FOLDERS)} into {copy}")
    elif page is not None:
        _show(_page(page))
    else:
        output.line(output.Table(("Page", "What it is"), _listed()))
        output.line("")
        output.line("`keyrotation docs PAGE` shows one; `--copy DIR` copies all, with the deployment files")


def _pages() -> dict[str, Path]:
    return {path.stem: path for path in sorted((shipped() / "docs").glob("*.md"))}


def _listed() -> Iterator[tuple[str, str]]:
    for name, path in _pages().items():
        with path.open(encoding="utf-8") as lines:
            yield name, next(lines).lstrip("# ").rstrip()


def _page(name: str) -> Path:
    pages = _pages()
    if name not in pages:
        raise RequestError(f"there is no page {name}; choose one of {', '.join(pages)}")
    return pages[name]


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
