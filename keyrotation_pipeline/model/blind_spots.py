"""What nobody looks at: places that no search reads, and replicas that cannot be seen from the primary.

The signed text, `inventory`, `status` and the end of a rotation all say it, so that none of them claims more than was
looked at.
"""

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

NOT_SEARCHED, NOT_SEEN, DECLARED_GONE = "Not searched", "Not seen", "Replicas declared gone"
LINES = (NOT_SEARCHED, NOT_SEEN, DECLARED_GONE)

_HIDDEN = frozenset({"Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn"})


@dataclass(frozen=True, slots=True)
class Unsearched:
    """A kind of place that no search reads.

    Args:
        what: in words.
        names: what there is of it in this database now; none: it is in every database, or cannot be seen from here.
        fleeting: the names come and go by themselves, so officers sign the kind without them.
    """

    what: str
    names: tuple[str, ...] = ()
    fleeting: bool = False

    def __str__(self) -> str:
        return f"{self.what} ({', '.join(map(_plain, self.names))})" if self.names else self.what

    def signed(self) -> str:
        """As the signed text has it."""
        return self.what if self.fleeting else str(self)


# In every database, whatever is in it.
NEVER_SEARCHED = (
    Unsearched("values that are compressed, further encrypted, divided among cells, or encoded (base64, hex, UTF-16)"),
    Unsearched("samples in the planner's statistics until the next ANALYZE"),
    Unsearched("temporary tables, and the pipeline's own tables"),
    Unsearched("dead row versions, WAL, temporary files and logs of the server"),
    Unsearched("whatever has left the database: backups, exports, caches, search indexes"),
)

NEVER_SEEN = (
    "standbys behind standbys, unless [database] standbys names them",
    "standbys and subscribers that do not connect between request and retirement, an old primary among them",
    "subscribers of other databases",
    "sessions of standbys without hot_standby_feedback, unless [database] standbys names these",
    "copies outside PostgreSQL",
)


@dataclass(frozen=True, slots=True)
class BlindSpots:
    """All that is not looked at in one database.

    Args:
        unsearched: by the search for undeclared values.
        unseen: by the look for replicas.
        gone: replicas that the configuration says exist no more; nobody checks that.
    """

    unsearched: tuple[Unsearched, ...]
    unseen: tuple[str, ...] = NEVER_SEEN
    gone: tuple[str, ...] = ()

    def lines(self) -> tuple[tuple[str, str], ...]:
        """Names and values of the lines that officers sign."""
        return (
            (NOT_SEARCHED, "; ".join(each.signed() for each in self.unsearched)),
            (NOT_SEEN, "; ".join(self.unseen)),
            (DECLARED_GONE, ", ".join(map(_plain, sorted(self.gone))) or "none"),
        )


def lines_as_signed(fields: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The same lines out of the fields of a signed text."""
    return tuple((name, fields[name]) for name in LINES if name in fields)


def gone_as_signed(fields: Mapping[str, str], gone: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the replicas declared gone that the officers signed as gone."""
    signed = fields.get(DECLARED_GONE, "").split(", ")
    return tuple(name for name in gone if _plain(name) in signed)


def _plain(name: str) -> str:
    """A name that cannot be read as something else: quoted where it holds what could hide or end it."""
    odd = name != name.strip() or any(c in ',;()"' or unicodedata.category(c) in _HIDDEN for c in name)
    return json.dumps(name).replace(",", "\\u002c") if odd else name
