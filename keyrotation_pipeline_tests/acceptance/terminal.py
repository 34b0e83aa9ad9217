"""A command on a terminal of so many columns, and a picture of what it shows.

Pictures are made where `KEYROTATION_TEST_PICTURES` is set; otherwise the tree stays as it is.
"""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from pathlib import Path

from rich.console import Console
from rich.text import Text

from keyrotation_pipeline_tests.acceptance.command import KEYROTATION, environment

PICTURES = Path(__file__).parents[2] / "docs" / "images"
# Without Rich's own frame, whose fonts another host would deliver.
_SVG = """<svg xmlns="http://www.w3.org/2000/svg" class="rich-terminal" viewBox="0 0 {width} {height}" role="img">
<style>
.{unique_id}-matrix {{ font-family: "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: {char_height}px;
line-height: {line_height}px; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>{lines}</defs>
<rect width="100%" height="100%" fill="#1e1e2e" rx="8"/>
<g transform="translate(9, 9)" clip-path="url(#{unique_id}-clip-terminal)">{backgrounds}
<g class="{unique_id}-matrix">{matrix}</g></g>
</svg>
"""


def shown(*arguments: str, cwd: Path, columns: int, **variables: str) -> str:
    """What one command, which must succeed, prints on a terminal; without its progress."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    variables |= {"TERM": "xterm-256color", "COLUMNS": str(columns)}
    process = subprocess.Popen(
        [KEYROTATION, *arguments], cwd=cwd, env=environment(**variables), stdin=theirs, stdout=theirs,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(theirs)
    printed = b""
    while part := _read(ours):
        printed += part
    os.close(ours)
    assert process.wait() == 0
    return printed.decode().replace("\r\n", "\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # how the end is told on Linux
        return b""


def plain(printed: str) -> str:
    """The same without colours."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", printed)


def picture(printed: str, name: str, columns: int) -> None:
    """Keep it as a picture, where pictures are asked for."""
    if os.environ.get("KEYROTATION_TEST_PICTURES"):
        with Path(os.devnull).open("w") as nowhere:
            console = Console(record=True, width=columns, file=nowhere, force_terminal=True)
            console.print(Text.from_ansi(printed.rstrip()))
        svg = console.export_svg(title="", code_format=_SVG, unique_id="scan")
        (PICTURES / f"{name}.svg").write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n")
