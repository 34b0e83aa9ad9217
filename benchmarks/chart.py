"""Rows a second as bars: a small SVG that is read in black and white, on light and on dark pages."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from benchmarks.reencryption import ENGINE

_WIDTH, _LINE, _NAME, _BARS = 640, 26, 190, 340


def of(results: Sequence[Mapping[str, Any]]) -> str:
    """The bars; those of the engine are filled, the others are outlines."""
    fastest = max(each["rows_per_second"]["median"] for each in results)
    height = _LINE * len(results) + 34
    title = "Rows re-encrypted or rewritten in a second"
    size = f'width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="sans-serif" font-size="13">',
        f"<title>{title}</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="8" y="18">{title}, by number of connections (1 000 000 rows of five values)</text>',
    ]
    for number, each in enumerate(results):
        rate, top = each["rows_per_second"]["median"], 30 + number * _LINE
        long, fill = max(2, round(_BARS * rate / fastest)), "#333" if each["contender"] == ENGINE else "none"
        name = escape(f"{each['contender']} × {each['workers']}")
        parts += [
            f'<text x="{_NAME - 8}" y="{top + 14}" text-anchor="end">{name}</text>',
            f'<rect x="{_NAME}" y="{top + 2}" width="{long}" height="16" fill="{fill}" stroke="#333"/>',
            f'<text x="{_NAME + long + 8}" y="{top + 14}">{rate:,.0f}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])
