"""The page "At 3 a.m." of docs/operations.md, typed from top to bottom, and what it says that one should see."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from keyrotation_pipeline_tests.acceptance.nights import Night
from keyrotation_pipeline_tests.pages import TOP

PAGE = TOP / "docs" / "operations.md"
NEXT_BLOCK = "--- next block ---"
# Half a minute; that each command is one of ours and has its options is tested always.
pytestmark = pytest.mark.extended


@dataclass(frozen=True)
class Block:
    """Lines to type, and what must be seen then."""

    lines: str
    seen: tuple[str, ...]


def sections() -> dict[str, list[Block]]:
    """The blocks under each heading of that part, in the order of the page; no block there is not to be typed."""
    (part,) = re.findall(r"(?ms)^## At 3 a\.m\.\n(.*?)^## ", PAGE.read_text())
    found = {each.partition("\n")[0]: list(_blocks(each)) for each in re.split(r"(?m)^### ", part)}
    assert 2 * sum(map(len, found.values())) == part.count("```"), "a block is not typed, or says not what is seen"
    return found


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
    page = sections()
    first, routine, emergency, rollback, lost_key, drill = page
    type_blocks(night, page[first])
    type_blocks(night, page[routine])
    type_blocks(night, page[emergency])
    to_roll_back = night.shell(
        'ID=$(keyrotation request --reason "again" 2>/dev/null)\n'
        + "".join(line for line in page[routine][1].lines.splitlines(keepends=True) if "gpg" in line)
        + "keyrotation rotate $ID --through rows\necho $ID"
    ).split()[-1]
    type_blocks(night, page[rollback], ROTATION=to_roll_back)
    (night.path / ".keyrotation" / "keys" / "v3.key").unlink()
    type_blocks(night, page[lost_key])
    type_blocks(night, page[drill])
