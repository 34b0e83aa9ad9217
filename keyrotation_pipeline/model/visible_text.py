"""Characters that are invisible, or that reorder others: refused in texts for signing, escaped on a terminal."""

import json
import re

# Blank letters and symbols, and marks that only change how others are drawn (variation selectors): Unicode counts them
# as printable. By category it does not count controls, formats (bidi, zero width, tags), separators other than the
# space, surrogates, private use and unassigned characters.
_BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U0001d159\U000e0100-\U000e01ef]"
)


def is_hidden(text: str) -> bool:
    """Whether any character of a text is invisible, or can reorder or overwrite what stands around it."""
    return not text.isprintable() or _BLANK.search(text) is not None


def visible(text: str, *, keep: str = "") -> str:
    r"""A text with each hidden character as an escape: ``\x9b``, ``\u202e``.

    Args:
        keep: characters that stay as they are, such as a line break.
    """
    if not is_hidden(text):
        return text
    return "".join(
        each if each in keep or not is_hidden(each) else each.encode("unicode_escape").decode() for each in text
    )


def plain_name(name: str) -> str:
    """Returns a name that cannot be misread: quoted if it has characters that could hide or end it."""
    odd = name != name.strip() or is_hidden(name) or not set(name).isdisjoint(',;()"')
    return json.dumps(name).replace(",", "\\u002c") if odd else name
