"""Copies of a key that a destruction leaves, in the words that officers sign."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.backups import is_key_file

# Of non-current versions in the signed text, which is one line for people to read.
MOST_NAMED = 40
_VERSION_ID = re.compile(r"[A-Za-z0-9._-]{1,100}", re.ASCII)


@dataclass(frozen=True, slots=True)
class HeldCopy:
    """An encrypted copy of the key outside the local directory.

    Args:
        locked_until: None: anybody may remove it.
        superseded: id of its version, where it is not the current one of its name.
    """

    name: str
    place: str
    locked_until: datetime | None
    superseded: str | None = None

    def __str__(self) -> str:
        version = "" if self.superseded is None else f" (non-current version {self.superseded})"
        return f"{self.name}{version} in {self.place}, {self.lock}"

    @property
    def lock(self) -> str:
        """Until when nobody can remove it."""
        return "not locked" if self.locked_until is None else f"locked until {_minutes(self.locked_until)}"


def told_of(version: KeyVersion, held: tuple[HeldCopy, ...]) -> str:
    """What stays, as officers sign it: how many copies where, each that is no longer current by itself, the locks."""
    if not held:
        return "no copy is kept elsewhere"
    parts = []
    for place in dict.fromkeys(copy.place for copy in held):
        here = [copy for copy in held if copy.place == place]
        current, old = ([copy for copy in here if (copy.superseded is None) is latest] for latest in (True, False))
        parts.append(f"{len(current)} in {place} ({_last_lock(current)})")
        if old:
            named = "; ".join(_named(version, copy) for copy in old[:MOST_NAMED])
            more = f"; and {len(old) - MOST_NAMED} more" if len(old) > MOST_NAMED else ""
            parts.append(
                f"{len(old)} non-current version(s) there, which anybody who may read versions can read "
                f"({_last_lock(old)}): {named}{more}"
            )
    return f"copies that stay: {', '.join(parts)}"


def told_of_replaced(pairs: Sequence[tuple[str, str]]) -> str:
    """Which dumps nobody can read any more, and what has their rows; empty: none.

    Args:
        pairs: ``<dump> in <place>``, and the manifest of the set that replaces it.
    """
    if not pairs:
        return ""
    named = "; ".join(f"{dump} ({manifest} replaces it)" for dump, manifest in pairs[:MOST_NAMED])
    more = f"; and {len(pairs) - MOST_NAMED} more" if len(pairs) > MOST_NAMED else ""
    return f"; database backups that cannot be read whole any more: {named}{more}"


def _named(version: KeyVersion, copy: HeldCopy) -> str:
    """A copy in a text that is signed: what others put into the bucket may have any name, which is not repeated."""
    name = copy.name if is_key_file(copy.name, version) else "an object of another name"
    number = copy.superseded if _VERSION_ID.fullmatch(copy.superseded or "") else "?"
    return f"{name} version {number} {copy.lock}"


def _last_lock(copies: Sequence[HeldCopy]) -> str:
    locks = [copy.locked_until for copy in copies if copy.locked_until is not None]
    return f"the last lock until {_minutes(max(locks))}" if locks else "not locked"


def _minutes(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
