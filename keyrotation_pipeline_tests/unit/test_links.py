"""Every link of a page leads to a file and a heading that are there, as GitHub shows it and as the site has it."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

from keyrotation_pipeline_tests.pages import TOP

PAGES = sorted((*TOP.glob("*.md"), *TOP.glob("docs/**/*.md"), TOP / "benchmarks" / "README.md"))
ELSEWHERE = re.compile(r"[a-z]+:")


def prose(page: Path) -> str:
    """The page without what stands between fences or backquotes."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"(?ms)^```.*?^```$", "", page.read_text()))


@cache
def anchors(page: Path) -> frozenset[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"(?m)^#+ (.*)$", re.sub(r"(?ms)^```.*?^```$", "", page.read_text()))
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


def broken_links(page: Path) -> list[str]:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if ELSEWHERE.match(link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


def test_every_link_leads_somewhere() -> None:
    assert {page: links for page in PAGES if (links := broken_links(page))} == {}


def test_the_site_is_built_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    site = tmp_path / "site"
    built = subprocess.run(
        [sys.executable, TOP / ".ci" / "site" / "build.py", site], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    written = {path.relative_to(TOP / "docs").with_suffix(".html") for path in TOP.glob("docs/**/*.md")}
    made = {path.relative_to(site) for path in site.rglob("*.html")}
    assert {Path("adr/index.html") if path == Path("adr/README.html") else path for path in written} <= made
    loaded = re.compile(r"""<(?:script|img|link)\b[^>]*?(?:src|href)=["']?(https?://[^"' >]+)""")
    for page in sorted(made):
        assert loaded.findall((site / page).read_text()) == [], page
    for link in re.findall(r'href="([^"#]+)"', (site / "guides" / "backups.html").read_text()):
        assert ELSEWHERE.match(link) or (site / "guides" / link).exists(), link


def test_every_page_stands_in_the_navigation_of_the_site() -> None:
    listed = set(re.findall(r"(?m)^ +- (?:\w+: )?([\w/-]+\.md)$", (TOP / ".ci" / "site" / "mkdocs.yml").read_text()))
    pages = (path.relative_to(TOP / "docs") for path in TOP.glob("docs/**/*.md"))
    written = {path.as_posix() for path in pages if path.parts[0] != "adr"}
    # Decisions and the protocol are linked from the pages that rest on them.
    assert listed == written - {"protocol.md"} | {"benchmarks/README.md"}


def test_a_broken_link_would_be_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A page\n\n[gone](nothing.md) [there](#a-page) `[code](nowhere.md)`\n")
    assert broken_links(page) == ["nothing.md"]
