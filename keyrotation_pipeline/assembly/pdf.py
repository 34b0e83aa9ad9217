"""Prints a page of HTML as PDF, by a program that is installed: Chromium, or WeasyPrint."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.regular_files import read_bytes

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_WEASYPRINT = "weasyprint"
_PATIENCE_SECONDS = 120.0


def pdf_program() -> str:
    """Returns the path of the program that prints.

    Raises:
        KeyRotationError: none is here.
    """
    program = next(filter(None, map(shutil.which, (*_BROWSERS, _WEASYPRINT))), None)
    if program is None:
        raise KeyRotationError(
            "a PDF is printed by Chromium or WeasyPrint, and neither is installed here; run `apt-get install "
            "chromium`, or print the HTML of `keyrotation report` from a browser"
        )
    return program


def to_pdf(page: bytes, program: str) -> bytes:
    """Returns the page as PDF, in the size that it names.

    Args:
        page: HTML of our own, which has no script and loads nothing.
        program: as `pdf_program` has found it.

    Raises:
        KeyRotationError: it fails.
    """
    with tempfile.TemporaryDirectory(prefix="keyrotation-pdf-") as name:  # which its owner alone can enter
        folder = Path(name)
        source, target = folder / "report.html", folder / "report.pdf"
        source.write_bytes(page)
        is_weasyprint = Path(program).name == _WEASYPRINT
        printing = [str(source), str(target)] if is_weasyprint else _by_browser(folder, source, target)
        # Nothing of this process's environment: it may hold passwords.
        environment = {"PATH": os.defpath, "HOME": name, "LC_ALL": "C.UTF-8"}
        try:
            subprocess.run(  # noqa: S603
                [program, *printing],
                env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=_PATIENCE_SECONDS,
            )  # fmt: skip
            return read_bytes(target)
        except (OSError, subprocess.SubprocessError):
            raise KeyRotationError(
                f"{program} printed no PDF; write the report as HTML, and see what `{Path(program).name}` says to it"
            ) from None


def _by_browser(folder: Path, source: Path, target: Path) -> list[str]:
    # Chromium's own sandbox does not work for root; the page has no script, and every value in it is escaped.
    for_root = ["--no-sandbox"] if os.geteuid() == 0 else []
    return [
        "--headless", *for_root, "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={folder / 'profile'}",
        "--no-pdf-header-footer", f"--print-to-pdf={target}", source.as_uri(),
    ]  # fmt: skip
