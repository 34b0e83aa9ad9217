"""Prints a page of HTML as PDF, by a program that is installed: Chromium, or WeasyPrint."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from keyrotation_pipeline.adapters.child_processes import end_group
from keyrotation_pipeline.adapters.process import die_with_parent
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
            "a PDF needs Chromium or WeasyPrint; run `apt-get install chromium`, or print the HTML of "
            "`keyrotation report` from a browser"
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
            _run([program, *printing], environment)
            return read_bytes(target)
        except (OSError, subprocess.SubprocessError):
            raise KeyRotationError(
                f"{program} printed no PDF; write the report as HTML, and run `{Path(program).name}` on that to see why"
            ) from None


def _run(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Runs a program; nothing that it has started outlives a failure, and writes to a folder that is removed.

    Raises:
        OSError, subprocess.SubprocessError: it cannot be started, takes too long or fails.
    """
    with subprocess.Popen(  # noqa: S603  a program that was found, and arguments of our own
        die_with_parent(command),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        try:
            process.communicate(timeout=_PATIENCE_SECONDS)
        except BaseException:
            end_group(process)
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def _by_browser(folder: Path, source: Path, target: Path) -> list[str]:
    # Chromium's own sandbox does not work for root; the page has no script, and every value in it is escaped.
    for_root = ["--no-sandbox"] if os.geteuid() == 0 else []
    return [
        "--headless", *for_root, "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={folder / 'profile'}",
        "--no-pdf-header-footer", f"--print-to-pdf={target}", source.as_uri(),
    ]  # fmt: skip
