"""The pages for whoever is on call, typed from top to bottom, and what they say that one should see."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from keyrotation_pipeline_tests.acceptance.nights import Night
from keyrotation_pipeline_tests.pages import TOP

# In the order of one night.
PAGES = ("on-call", *(f"on-call/{name}" for name in ("routine-rotation", "emergency", "rollback", "lost", "drill")))
NEXT_BLOCK = "--- next block ---"
# Half a minute; that each command is one of ours and has its options is tested always.
pytestmark = pytest.mark.extended


@dataclass(frozen=True)
class Block:
    """Lines to type, and what must be seen then."""

    lines: str
    seen: tuple[str, ...]


def blocks_of(page: str) -> list[Block]:
    """The blocks of a page before its first heading, where no block is not to be typed."""
    part = (TOP / "docs" / f"{page}.md").read_text().partition("\n## ")[0]
    found = list(_blocks(part))
    assert found, page
    assert 2 * len(found) == part.count("```"), "a block is not typed, or does not say what is seen"
    return found


def lines_of(page: str) -> str:
    """The lines of all these blocks."""
    return "".join(block.lines for block in blocks_of(page))


def _blocks(section: str) -> Iterator[Block]:
    """What should be seen stands in the first sentence below a block."""
    for lines, below in re.findall(r"(?s)```sh runbook\n(.*?)```\n\n(You see .*?)\. ", section):
        yield Block(lines, tuple(re.findall(r"`(.+?)`", below)))


def type_blocks(night: Night, blocks: Sequence[Block], **instead: str) -> None:
    """Type blocks in one shell, and look for what should be seen; `instead`: values of variables of the page."""
    lines = f"echo '{NEXT_BLOCK}'\n".join(block.lines for block in blocks)
    for name, value in instead.items():
        lines, times = re.subn(rf"^{name}=\S+", f"{name}={value}", lines, flags=re.MULTILINE)
        assert times == 1, name
    printed = night.shell(lines).split(NEXT_BLOCK)
    for block, text in zip(blocks, printed, strict=True):
        assert block.seen
        for each in block.seen:
            assert each in text, f"after\n{block.lines}\nthere is no {each!r} in\n{text}"


def test_the_runbook_as_it_is_typed(night: Night) -> None:
    """One night with everything: a routine rotation, an exposed key, a rollback, a lost key, a drill."""
    first, routine, emergency, rollback, lost_key, drill = map(blocks_of, PAGES)
    type_blocks(night, first)
    type_blocks(night, routine)
    type_blocks(night, emergency)
    to_roll_back = night.shell(
        'ID=$(keyrotation request --reason "again" 2>/dev/null)\n'
        + "".join(line for line in routine[1].lines.splitlines(keepends=True) if "gpg" in line)
        + "keyrotation rotate $ID --through rows\necho $ID"
    ).split()[-1]
    type_blocks(night, rollback, ROTATION=to_roll_back)
    (night.path / ".keyrotation" / "keys" / "v3.key").unlink()
    type_blocks(night, lost_key)
    type_blocks(night, drill)
