"""Reads the lines of a text for signing, for the sentences above them.

Texts of every header are read by these, also stored ones, which must give the same sentences for ever.
"""

import json
import re
from collections.abc import Mapping, Sequence

Fields = Mapping[str, str]
HELD = re.compile(
    r"hold (?P<versions>v[0-9]+x?(?:, v[0-9]+x?)*) compromised, never to be the primary again; ", re.ASCII
)
ENDED = re.compile(
    r"(?P<how>take over|end) [a-z_]+ (?P<request>[0-9a-f]+)(?: where it stands| and undo it): ", re.ASCII
)
_PERSON = re.compile(r'(?:"(?:[^"\\]|\\.)*" )?\([^()"]*\)')
# In the line Format; a name with a comma or semicolon is quoted, with its commas escaped.
INDEX = re.compile(r"search index of .+ in .+ and .+: .+")
ROW = re.compile(
    r"[^,;]+: values under v[0-9]+x and later open only in their row, by [^,;]+"
    r"(?P<undone>, and new values are bound to no row)?"
)


# Begins the lines of a fleet's members, before the name of each.
PLACE = "Place "
# At the end of such a line, instead of a number of values.
NOT_COUNTED = "not counted: it did not answer or could not be used"
PLAINTEXT_STAYS = "Plaintext stays"
STAYS = (
    "outside the live rows, until when is not known: in planner statistics until ANALYZE, in files until VACUUM FULL, "
    "in the WAL and its archive, and in backups and copies of before"
)
# Of the lines Plaintext and Other libraries, before the columns.
ENCRYPTED, LEFT = "encrypted, and refused afterwards, in", "stays in"
# Whether a restored backup was compared with values that nothing authenticates, and at its end where none was.
COMPARED_BACKUP, NO_BACKUP = "Compared with a backup", "no backup was compared"
# Of a walk that gives columns their old form back: how many values each of them had when it was requested.
DECRYPTS = "Decrypts"


def decrypts_in(line: str, place: str) -> str | None:
    """What a line `Decrypts` says of one place; None: nothing."""
    found = re.search(rf"(?:^|; )([0-9,]+ values? in {re.escape(place)})(?:; |$)", line)
    return None if found is None else found[1]


def quoted(text: str) -> str:
    """What somebody else has chosen, in quotes that it cannot end."""
    return json.dumps(text, ensure_ascii=False)


def key_of(line: str) -> str:
    """``v1 <fingerprint>`` in words."""
    version, _, fingerprint = line.partition(" ")
    return f"{version} (fingerprint {fingerprint})" if fingerprint else version


def version_of(line: str) -> str:
    """The version in such a line."""
    return line.partition(" ")[0]


def time_of(line: str) -> str:
    """``2026-05-01T12:00:00Z`` for people."""
    return line.replace("T", " ").replace("Z", " UTC")


def authorised(fields: Fields) -> str:
    """The line `Authorises` without what is said of compromised versions."""
    return HELD.sub("", fields.get("Authorises", ""), count=1)


def is_held_by_server(fields: Fields) -> bool:
    """Whether a server holds the keys, and no application has one."""
    return fields.get("Rollout", "").startswith("server:")


def people_in(roster: str) -> tuple[list[str], list[str]]:
    """Officers and recipients in a roster's line, each with name and keys."""
    # Names are quoted, so that what stands in one is never taken for the end of the officers.
    people = list(_PERSON.finditer(roster))
    ends = (place for place, each in enumerate(people, 1) if roster.startswith("; recipients ", each.end()))
    number, found = next(ends, len(people)), [each[0] for each in people]
    return found[:number], found[number:]


def gone_and_new(before: Sequence[str], after: Sequence[str]) -> tuple[str, str]:
    """Those who are not in the other list any more, and those who were not, in words."""
    gone, new = ([each for each in here if each not in there] for here, there in ((before, after), (after, before)))
    return ", ".join(gone) or "nobody", ", ".join(new) or "nobody new"
