"""How the text that officers sign names the versions that they hold to be compromised, and how it is read again."""

import re
from collections.abc import Sequence

from keyrotation_pipeline.fieldcrypto.grammar import VERSION_PATTERN, KeyVersion

_HELD = re.compile(
    rf"^Authorises: hold ({VERSION_PATTERN}(?:, {VERSION_PATTERN})*) compromised, never to be the primary again; ",
    re.MULTILINE | re.ASCII,
)


def held_in_words(versions: Sequence[KeyVersion]) -> str:
    """How the line `Authorises` begins; empty where none is held compromised."""
    return f"hold {', '.join(map(str, versions))} compromised, never to be the primary again; " if versions else ""


def held_in(text: bytes) -> frozenset[KeyVersion]:
    """The versions that a signed text holds to be compromised."""
    found = _HELD.search(text.decode(errors="replace"))
    return frozenset(map(KeyVersion.parse, found[1].split(", "))) if found else frozenset()
