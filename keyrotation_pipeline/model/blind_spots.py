"""Lists what no search reads and what no check sees, as officers sign it."""

from collections.abc import Mapping
from dataclasses import dataclass

from keyrotation_pipeline.model.visible_text import plain_name

NOT_SEARCHED, NOT_SEEN, DECLARED_GONE = "Not searched", "Not seen", "Replicas declared gone"
LINES = (NOT_SEARCHED, NOT_SEEN, DECLARED_GONE)


@dataclass(frozen=True, slots=True)
class Unsearched:
    """A kind of place that no search reads.

    Args:
        what: in words.
        names: its instances in this database now; none: it is in every database, or not visible from here.
        fleeting: the names are transient, so officers sign the kind without them.
    """

    what: str
    names: tuple[str, ...] = ()
    fleeting: bool = False

    def __str__(self) -> str:
        return f"{self.what} ({', '.join(map(plain_name, self.names))})" if self.names else self.what

    def signed(self) -> str:
        """The kind in the signed text."""
        return self.what if self.fleeting else str(self)


# In every database.
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
    """Everything that is not checked in one database.

    Args:
        unsearched: by the search for undeclared values.
        unseen: by the search for replicas.
        gone: replicas that the configuration says no longer exist; this is not checked.
    """

    unsearched: tuple[Unsearched, ...]
    unseen: tuple[str, ...] = NEVER_SEEN
    gone: tuple[str, ...] = ()

    def lines(self) -> tuple[tuple[str, str], ...]:
        """Names and values of the lines that officers sign."""
        return (
            (NOT_SEARCHED, "; ".join(each.signed() for each in self.unsearched)),
            (NOT_SEEN, "; ".join(self.unseen)),
            (DECLARED_GONE, ", ".join(map(plain_name, sorted(self.gone))) or "none"),
        )


def lines_as_signed(fields: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The same lines, from the fields of a signed text."""
    return tuple((name, fields[name]) for name in LINES if name in fields)


def gone_as_signed(fields: Mapping[str, str], gone: tuple[str, ...]) -> tuple[str, ...]:
    """The replicas declared gone that the officers signed as gone."""
    signed = fields.get(DECLARED_GONE, "").split(", ")
    return tuple(name for name in gone if plain_name(name) in signed)
