"""Text on the console is readable in light, in dark and on paper: WCAG 2.2, success criterion 1.4.3."""

import re
from itertools import product
from pathlib import Path

import pytest

CSS = (Path(__file__).parents[3] / "keyrotation_pipeline" / "templates" / "console" / "console.css").read_text()
LEAST_CONTRAST = 4.5
TEXT, GROUND = ("ink", "quiet", "calm", "working", "waiting", "failed"), ("page", "card")


def colours() -> list[dict[str, str]]:
    """Of the light scheme, then of the dark one, then on paper."""
    blocks = re.findall(r":root \{([^}]*)\}", CSS)
    return [dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6})", block)) for block in blocks]


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) > 4 else "".join(2 * each for each in colour[1:])
    shares = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", colours(), ids=["light", "dark", "paper"])
def test_every_text_stands_out_from_what_is_behind_it(scheme: dict[str, str]) -> None:
    for text, ground in product(TEXT, GROUND):
        darker, lighter = sorted([luminance(scheme[text]), luminance(scheme[ground])])
        assert (lighter + 0.05) / (darker + 0.05) >= LEAST_CONTRAST, (text, ground)
