"""Draws the pictures of the docs as SVG: `uv run python -m keyrotation_pipeline_tests.pictures` writes docs/images.

Each is text and boxes, loads nothing, follows the scheme of whoever looks (light or dark), and has a ground of its own.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

DOCS = Path(__file__).parents[1] / "docs"
IMAGES = DOCS / "images"
STYLE = """
svg { color-scheme: light dark; } .ground { fill: #fff; } text { fill: #1b1f24; font: 14px system-ui, sans-serif; }
.quiet { fill: #57606a; font-size: 13px; } .code { font: 13px ui-monospace, monospace; } .head { font-weight: 700; }
.box { fill: #f6f8fa; stroke: #57606a; } .who { fill: #ddf4ff; stroke: #0550ae; }
.good { fill: #dafbe1; stroke: #116329; } .bad { fill: #ffebe9; stroke: #a40e26; } .lane { fill: #f6f8fa; }
.line { fill: none; stroke: #57606a; } .tip { fill: #57606a; }
@media (prefers-color-scheme: dark) { .ground { fill: #0d1117; } text { fill: #e6edf3; } .quiet { fill: #9ea7b1; }
.box { fill: #161b22; stroke: #9ea7b1; } .who { fill: #0c2d6b; stroke: #79c0ff; }
.good { fill: #0f3d1f; stroke: #56d364; } .bad { fill: #4c1014; stroke: #ff9a93; }
.line { stroke: #9ea7b1; } .tip { fill: #9ea7b1; } .lane { fill: #161b22; }
}
"""
# Of the widest letters that occur; a test compares each text with its box.
LETTER = {
    "": 7.0,
    "code": 7.9,
}
LINE = 18


class Drawing:
    """One picture, as lines of SVG."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"',
            f' width="{width}" height="{height}"><title>{escape(title)}</title><style>{STYLE}</style>',
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8"',
            ' orient="auto"><path class="tip" d="M0 0 8 4 0 8z"/></marker></defs>',
            f'<rect class="ground" width="{width}" height="{height}"/>',
        ]

    def text(self, x: float, y: float, said: str, kind: str = "", anchor: str = "start") -> None:
        """One line; `y` is of its base line."""
        at = "" if anchor == "start" else f' text-anchor="{anchor}"'
        self.parts.append(f'<text x="{x:g}" y="{y:g}" class="{kind}"{at}>{escape(said)}</text>')

    def box(self, x: float, y: float, width: float, height: float, lines: Sequence[str], kind: str = "box") -> None:
        """A box with lines in its middle; one that begins with a backtick is code."""
        self.parts.append(f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6"/>')
        top = y + height / 2 - LINE * (len(lines) - 1) / 2 + 5
        for number, line in enumerate(lines):
            is_code = line.startswith("`")
            if len(line) * LETTER["code" if is_code else ""] > width:
                raise ValueError(f"{line!r} does not fit into its box")
            self.text(x + width / 2, top + number * LINE, line.replace("`", ""), "code" if is_code else "", "middle")

    def arrow(self, *points: tuple[float, float], tip: bool = True) -> None:
        """A line through the points."""
        marker = ' marker-end="url(#tip)"' if tip else ""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.parts.append(f'<polyline class="line" points="{path}"{marker}/>')

    def lane(self, x: float, y: float, width: float, height: float) -> None:
        """A column in which boxes stand."""
        self.parts.append(f'<rect class="lane" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"/>')

    def svg(self) -> str:
        """The whole."""
        return "\n".join([*self.parts, "</svg>", ""])


LANES = ("Officers", "Pipeline", "Applications", "Database")
DRAWN_STEPS = (
    ("request", 0, ("two officers sign", "what may be done"), "v1 active"),
    ("key_version", 1, ("makes v2, stores it,", "backs it up"), "v2 pre-activation"),
    ("dual_key_rollout", 2, ("each instance is", "seen to read v2"), ""),
    ("primary_key_rollout", 2, ("only then do they", "write under v2"), "v2 active, v1 deactivated"),
    ("rows", 1, ("re-encrypts every row,", "beside the writers"), ""),
    ("zero_old_rows_proof", 3, ("counts 0, decrypts all,", "refuses v1 from now on"), ""),
    ("retired_key", 1, ("counts again, takes v1", "from the key store"), ""),
    ("archived_key", 2, ("each instance is seen", "to be without v1"), "v1 archived"),
    ("audit, report", 1, ("records the evidence", "for an auditor"), ""),
)


def walk() -> str:
    """The nine steps of a walk, with who acts when."""
    left, wide, step = 176, 192, 62
    bottom = 46 + step * len(DRAWN_STEPS)
    width = left + wide * len(LANES) + 196
    made = Drawing(width, bottom + 12, "A rotation from v1 to v2: who acts when, and the states of both keys")
    for number, name in enumerate(LANES):
        if not number % 2:
            made.lane(left + number * wide, 0, wide, bottom + 12)
        made.text(left + wide * (number + 0.5), 26, name, "head", "middle")
    made.text(12, 26, "Step", "head")
    made.text(left + wide * len(LANES) + 14, 26, "Key states", "head")
    for number, (name, lane, lines, state) in enumerate(DRAWN_STEPS):
        top = 42 + number * step
        x = left + lane * wide + 6
        made.text(12, top + 29, name, "code")
        made.box(x, top, wide - 12, 46, lines, "who" if lane in {0, 2} else "box")
        made.text(left + wide * len(LANES) + 14, top + 29, state)
        if number + 1 < len(DRAWN_STEPS):
            middle, after = x + (wide - 12) / 2, left + (DRAWN_STEPS[number + 1][1] + 0.5) * wide
            down = (top + 46, top + 54, top + step)
            made.arrow((middle, down[0]), (middle, down[1]), (after, down[1]), (after, down[2]))
    return made.svg()


_LOSSES = (
    (("One key is lost or damaged",), ("a backup, recovery key",), ("`restore-key v3`",)),
    (("Home and key store are lost",), ("a backup, recovery key,", "two officers"),
     ("`init`, `restore-key`,", "`reconcile`")),
    (("The database was put back", "to an earlier state"), ("two officers",), ("`reconcile`",)),
    (("The database is lost",), ("a backup, recovery key,", "two officers"), ("`recover --into NAME`,", "`reconcile`")),
    (("Everything is lost",), ("backups, recovery key, the", "signer's fingerprint, officers"),
     ("`recover --signer …`,", "`reconcile`")),
)  # fmt: skip


def losses() -> str:
    """What was lost, what it takes, and what to type; each way ends with the same proof."""
    step, top = 74, 44
    made = Drawing(
        916, top + step * len(_LOSSES) + 8, "What was lost, what it takes, what to type, and how each way ends"
    )
    for x, name in ((12, "What was lost"), (258, "What it takes"), (500, "What to type"), (736, "Then")):
        made.text(x, 26, name, "head")
    for number, (lost, needs, types) in enumerate(_LOSSES):
        y = top + number * step
        made.box(12, y, 222, 56, lost, "bad")
        made.arrow((234, y + 28), (258, y + 28))
        made.box(258, y, 218, 56, needs, "who")
        made.arrow((476, y + 28), (500, y + 28))
        made.box(500, y, 200, 56, types)
        made.arrow((700, y + 28), (736, y + 28))
    bottom = step * len(_LOSSES) - (step - 56)
    made.box(
        736,
        top,
        168,
        bottom,
        ("`verify`", "every value decrypts", "", "`backup`", "", "`status`", "needs no attention"),
        "good",
    )
    return made.svg()


_FENCES = (
    ("A marker names the key", "v1:…  native, Rails, Tink", ("CHECK of the table", "refuses the marker"),
     "in SQL, by its text"),
    ("A MAC shows the key", "gAAAA…  Fernet", ("triggers try the MAC", "of each retired key"), "in SQL, by the MAC"),
    ("Only decrypting shows it", "AES-GCM, Lockbox, Laravel", ("the old login loses the", "right to write it"),
     "by decrypting"),
)  # fmt: skip


def fences() -> str:
    """What refuses a value under a retired key, by what tells its key."""
    wide = 292
    made = Drawing(wide * 3 + 12, 262, "What refuses a value under a retired key, for each way of telling its key")
    for number, (told, example, refuses, counted) in enumerate(_FENCES):
        x = 12 + number * wide
        middle = x + (wide - 24) / 2
        made.text(middle, 26, told, "head", "middle")
        made.text(middle, 46, example, "quiet", "middle")
        made.box(x, 60, wide - 24, 36, ("an instance writes under v1",), "who")
        made.arrow((middle, 96), (middle, 122))
        made.box(x, 122, wide - 24, 52, refuses)
        made.arrow((middle, 174), (middle, 196))
        made.box(x, 196, wide - 24, 32, ("refused; nothing is written",), "bad")
        made.text(middle, 250, f"old values are counted {counted}", "quiet", "middle")
    return made.svg()


def walk_states(arrows: Sequence[tuple[str, str, str]]) -> str:
    """The phases of a walk, downwards, and what ends it early, to the side.

    Args:
        arrows: from, to, by whom; `protocol.gallery` finds them. One leads on from each phase.

    Raises:
        ValueError: they are of another form.
    """
    onwards = {was: now for was, now, _ in arrows if now != "cancelled"}
    early = {was: label for was, now, label in arrows if now == "cancelled"}
    phases = list(_following(onwards, "[*]"))
    if len(onwards) + len(early) != len(arrows) or {*onwards.values()} != {*phases} or not early.keys() <= {*phases}:
        raise ValueError("a walk has further ways; draw them too")
    step = 54
    made = Drawing(700, 20 + step * len(phases), "How a walk moves from phase to phase, and what ends it early")
    right, last = 560, 12 + step * (len(phases) - 2) + 16
    for number, phase in enumerate(phases):
        y = 12 + number * step
        made.box(12, y, 220, 32, (f"`{phase}`",), "good" if phase == "finished" else "box")
        if number:
            made.arrow((122, y - step + 32), (122, y))
        if label := early.get(phase):
            made.arrow((232, y + 16), (right, y + 16), tip=False)
            made.text(244, y + 11, label, "quiet")
    made.arrow((right, 28), (right, last), tip=False)
    made.arrow((right, 12 + step * (len(phases) - 1) / 2), (right + 24, 12 + step * (len(phases) - 1) / 2))
    made.box(right + 24, 12 + step * (len(phases) - 1) / 2 - 16, 104, 32, ("`cancelled`",), "bad")
    return made.svg()


def _following(onwards: dict[str, str], start: str) -> Iterator[str]:
    while (start := onwards.get(start, "")) != "":
        yield start


PICTURES: dict[str, Callable[[], str]] = {
    "walk.svg": walk,
    "losses.svg": losses,
    "fences.svg": fences,
}


if __name__ == "__main__":
    for name, drawn in PICTURES.items():
        (IMAGES / name).write_text(drawn())
