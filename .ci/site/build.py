"""Builds the site of docs/: `uv run python .ci/site/build.py DIRECTORY`. A broken link or anchor fails it.

The pages are plain Markdown, for GitHub and for `keyrotation docs`; what a site needs besides is done to a copy. What
is built loads nothing from elsewhere, and works, search included, from a web server or a disk.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
TOP = HERE.parents[1]
# Next to docs/, and linked from its pages: in the site they are inside.
OUTSIDE = ("deploy", "benchmarks/README.md")
# What the theme would load from another host for pages that are opened from a disk.
SHIM, OWN_SHIM = "https://unpkg.com/iframe-worker/shim", "assets/iframe-worker.js"


def build(into: Path) -> None:
    """Build the site in a directory of its own, which must not exist."""
    with tempfile.TemporaryDirectory() as name:
        source = Path(name)
        shutil.copytree(TOP / "docs", source / "docs")
        shutil.copytree(TOP / "deploy", source / "docs" / "deploy")
        (source / "docs" / "benchmarks").mkdir()
        shutil.copy(TOP / "benchmarks" / "README.md", source / "docs" / "benchmarks")
        for page in source.rglob("*.md"):
            page.write_text(_adapted(page.relative_to(source / "docs"), page.read_text()))
        shutil.copy(HERE / "site.css", source / "docs")
        shutil.copy(HERE / "mkdocs.yml", source)
        zensical = Path(sys.executable).with_name("zensical")
        built = subprocess.run(
            [zensical, "build", "--strict", "--clean"], cwd=source, check=False, capture_output=True, text=True
        )
        if built.returncode:
            sys.exit(f"{built.stdout}{built.stderr}")
        shutil.copytree(source / "site", into)
    shutil.copy(HERE / "iframe-worker.js", into / OWN_SHIM)
    for page in into.rglob("*.html"):
        up = "../" * (len(page.relative_to(into).parts) - 1)
        page.write_text(page.read_text().replace(SHIM, f"{up}{OWN_SHIM}"))


def _adapted(page: Path, text: str) -> str:
    """The page with links that stay in the site, and blocks without the names that tests use."""
    up = "../" * (len(page.parts) - 1)
    text = re.sub(rf"\]\({re.escape(up)}\.\./({'|'.join(OUTSIDE)})", rf"]({up}\1", text)
    if page.parts[0] == "benchmarks":
        text = text.replace("](../docs/", "](../")
    return re.sub(r"(?m)^```(\w+) .*$", r"```\1", text)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
