"""Characters that are invisible, or that reorder others: refused in texts for signing, escaped on a terminal."""

import json
import re
import unicodedata

# Blank letters and symbols, and marks that only change how others are drawn (variation selectors): Unicode counts them
# as printable. By category it does not count controls, formats (bidi, zero width, tags), separators other than the
# space, surrogates, private use and unassigned characters.
_BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U0001d159\U000e0100-\U000e01ef]"
)


_MIXED = 2
_HAN = frozenset({"LATIN", "CJK", "IDEOGRAPHIC"})
_TOGETHER = (_HAN | {"HIRAGANA", "KATAKANA"}, _HAN | {"BOPOMOFO"}, _HAN | {"HANGUL"})


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


def is_of_one_script(name: str) -> bool:
    """Whether the letters of a name are of one script, as in UTS 39 ("highly restrictive").

    Latin may stand next to the scripts of Chinese, Japanese or Korean. A script is told by the first word of a
    letter's name in Unicode, which for those that look like each other (Latin, Cyrillic, Greek) is that of the script.
    """
    letters = (each for each in unicodedata.normalize("NFKC", name) if unicodedata.category(each).startswith("L"))
    found = {re.split("[ -]", unicodedata.name(each, ""))[0] for each in letters} - {"MODIFIER"}  # of any script
    return len(found) < _MIXED or any(found <= together for together in _TOGETHER)


def signed_name(name: str) -> str:
    r"""Returns a name of somebody else's as a list in a signed text has it: as JSON where it could be misread.

    That is where it has characters that could hide or end it, or where a part between dots has letters of several
    scripts (``"clients.n\u0430me"``).
    """
    return plain_name(name) if all(map(is_of_one_script, name.split("."))) else json.dumps(name).replace(",", "\\u002c")


def plain_name(name: str) -> str:
    """Returns a name that cannot be misread: quoted if it has characters that could hide or end it."""
    odd = name != name.strip() or is_hidden(name) or not set(name).isdisjoint(',;()"')
    return json.dumps(name).replace(",", "\\u002c") if odd else name


def signed_names(listed: str) -> list[str]:
    """Returns the names of a list in a signed text as they are; see `signed_name`."""
    return [_unquoted(each) for each in listed.split(", ")]


def _unquoted(name: str) -> str:
    try:
        found = json.loads(name) if name.startswith('"') else name
    except ValueError:  # nobody's name: whoever wrote the text may have written anything
        return name
    return str(found)
