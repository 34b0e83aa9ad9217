"""Defines what surrounds the declared tables: the database, its server, disks and replicas, and findings about them.

What no search reads and what no check sees is listed, too, as officers sign it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from keyrotation_pipeline.model.audit import FormerEvents
from keyrotation_pipeline.model.earlier_summaries import EARLIER
from keyrotation_pipeline.model.visible_text import plain_name, visible


@dataclass(frozen=True, slots=True)
class DatabaseIdentity:
    """The connected database.

    Args:
        address: ``name@host``, without a password. The host is informational: a failover changes it.
        system_identifier: of the cluster.
        superuser: our role, if it is a superuser, which officers should know before they sign.
        schema: of the home's records, unless it is the default one; a database may have several homes.
    """

    address: str
    system_identifier: str
    superuser: str | None = None
    schema: str | None = None

    def __str__(self) -> str:
        return f"{self.address}{self._which}"

    @property
    def name(self) -> str:
        """What is shown to people: the address, and the schema where it is not the default one."""
        return f"{self.address}{self._schema}"

    def signed(self, header: str) -> str:
        """The database in a signed text with this header: only what stays the same, however it is reached."""
        if self.superuser is None:
            return self.place
        power = ", so that code in it has all power" if header in EARLIER else ""
        return f"{self.place}, as superuser {self.superuser}{power}"

    @property
    def place(self) -> str:
        """The database without its host, which stays the same however it is reached."""
        return f"{self.address.rpartition('@')[0]}{self._which}"

    @property
    def _which(self) -> str:
        return f", system identifier {self.system_identifier}{self._schema}"

    @property
    def _schema(self) -> str:
        return "" if self.schema is None else f", schema {self.schema}"


@dataclass(frozen=True, slots=True)
class DatabaseServer:
    """Where the database runs at the moment, which a failover changes, and a copy of it does not share.

    Args:
        host: the server's own address and port; of one on this machine its data directory, if that is visible.
        timeline: of its WAL.
    """

    host: str
    timeline: int

    def __str__(self) -> str:
        return f"{self.host} (timeline {self.timeline})"

    @property
    def as_signed(self) -> "DatabaseServer":
        """The same, as a part of a signed line can hold it."""
        return replace(self, host=visible(self.host).replace(";", ","))


@dataclass(frozen=True, slots=True)
class MemberFound:
    """A member of a fleet as it is now.

    Args:
        server: where it runs, as a signed line can hold it.
        former: what its copy of the audit holds beyond the audit; None: nothing.
    """

    server: DatabaseServer
    former: FormerEvents | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """A finding of the pre-flight: `fatal` ones stop the rotation, others warn. One sentence that says what to do.

    Args:
        check: the check that found it, named by the truth wanted.
    """

    message: str
    fatal: bool
    check: str = "database_is_ready"


@dataclass(frozen=True, slots=True)
class CheckNames:
    """The checks of a pre-flight: of the server, and of each declared table that can be read."""

    server: tuple[str, ...]
    tables: tuple[str, ...]


DISK_IS_LARGE_ENOUGH = "disk_is_large_enough"
TABLES_ARE_READABLE = "tables_are_readable"


# Measured on tables of 300 thousand and 3 million rows, with the vacuums of the engine.
GROWTH, WAL_PER_BYTE = 0.1, 3.0


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system of the server's data directory, seen from this host."""

    directory: str
    free_bytes: int


@dataclass(frozen=True, slots=True)
class UnseenDisk:
    """Nothing is known about the server's disk.

    Args:
        why: a phrase.
        do: what to type or to do instead.
    """

    why: str
    do: str = "check it there"


@dataclass(frozen=True, slots=True)
class Wal:
    """The write-ahead log.

    Args:
        max_bytes: `max_wal_size`, its approximate size by checkpoints.
        kept_by: what retains more of it: failing archiving, unread slots; one phrase each.
        ready_bytes: what `min_wal_size` keeps, or more where our role may list files and they exist.
        file_bytes: of one file.
    """

    max_bytes: int
    kept_by: tuple[str, ...]
    ready_bytes: int
    file_bytes: int = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Standby:
    """A standby or subscriber that is connected now, and how late it replays; None: hidden, or nothing is under way."""

    name: str
    late_seconds: float | None


@dataclass(frozen=True, slots=True)
class Environment:
    """What the tables depend on around them.

    Args:
        table_bytes: heaps and TOAST of all declared tables.
        prints_rows: the server's log shows the whole row where one is refused.
    """

    table_bytes: int
    disk: Disk | UnseenDisk
    wal: Wal
    standbys: tuple[Standby, ...]
    prints_rows: bool

    @property
    def growth_bytes(self) -> int:
        """The minimum growth of the tables."""
        return int(GROWTH * self.table_bytes)

    @property
    def wal_bytes(self) -> int:
        """The total WAL that is written."""
        return int(WAL_PER_BYTE * self.table_bytes)

    @property
    def reused_bytes(self) -> int:
        """The WAL that checkpoints let go only while more is written: no more files than these are needed."""
        return min(self.wal_bytes, self.wal.max_bytes)

    @property
    def new_wal_files(self) -> int:
        """How many WAL files are created, each of which stops every commit for a while; later WAL reuses them."""
        return max(0, self.reused_bytes - self.wal.ready_bytes) // self.wal.file_bytes

    @property
    def needed_bytes(self) -> int:
        """Growth, plus the WAL that is retained at a time."""
        return self.growth_bytes + (self.wal_bytes if self.wal.kept_by else self.reused_bytes)


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast one worker re-encrypts a table, by a sample that was written in a transaction and rolled back.

    Args:
        sampled_rows: how many there were; 0: the table is empty.
        failed_values: values in them that did not decrypt, and were left unchanged.
        rows_per_second: within the configured limits.
    """

    table: str
    sampled_rows: int
    rows_per_second: float
    failed_values: int = 0


NOT_SEARCHED, NOT_SEEN, DECLARED_GONE = "Not searched", "Not seen", "Replicas declared gone"
LINES = (NOT_SEARCHED, NOT_SEEN, DECLARED_GONE)
# Begins the lines of a fleet's members, before the name of each.
IN_MEMBER = f"{NOT_SEARCHED} in "
SILENT = "everything, since it did not answer or could not be used"


@dataclass(frozen=True, slots=True)
class Unsearched:
    """A kind of place that no search reads.

    Args:
        what: in words.
        names: its instances in this database now; none: it is in every database, or not visible from here.
        fleeting: the names are transient, so officers sign the kind without them.
        member: of a fleet, the one that it is in; "": the home's own database, or any.
    """

    what: str
    names: tuple[str, ...] = ()
    fleeting: bool = False
    member: str = ""

    def __str__(self) -> str:
        return f"in {self.member}: {self._named}" if self.member else self._named

    @property
    def _named(self) -> str:
        return f"{self.what} ({', '.join(map(plain_name, self.names))})" if self.names else self.what

    def signed(self) -> str:
        """The kind in the signed text."""
        return self.what if self.fleeting else self._named


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

    def lines(self, signed: Mapping[str, str] | None = None) -> tuple[tuple[str, str], ...]:
        """Names and values of the lines that officers sign.

        Args:
            signed: the fields of the text that is rebuilt. What it says of a member that did not answer then, or does
                not answer now, stays: signatures must not become void because a member goes down or comes back.
        """
        by_member = dict[str, list[str]]()
        for each in self.unsearched:
            by_member.setdefault(each.member, []).append(each.signed())
        lines = {f"{IN_MEMBER}{name}": "; ".join(found) for name, found in sorted(by_member.items()) if name}
        if signed is not None:
            before = {name: value for name, value in signed.items() if name.startswith(IN_MEMBER)}
            kept = {name for name in {*lines, *before} if SILENT in {lines.get(name), before.get(name)}}
            now = {name: value for name, value in lines.items() if name not in kept}
            lines = dict(sorted({**now, **{name: before[name] for name in kept & before.keys()}}.items()))
        return (
            (NOT_SEARCHED, "; ".join(by_member.get("", ()))),
            *lines.items(),
            (NOT_SEEN, "; ".join(self.unseen)),
            (DECLARED_GONE, ", ".join(map(plain_name, sorted(self.gone))) or "none"),
        )


def lines_as_signed(fields: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The same lines, from the fields of a signed text."""
    return tuple((name, value) for name, value in fields.items() if name in LINES or name.startswith(IN_MEMBER))


def gone_as_signed(fields: Mapping[str, str], gone: tuple[str, ...]) -> tuple[str, ...]:
    """The replicas declared gone that the officers signed as gone."""
    signed = fields.get(DECLARED_GONE, "").split(", ")
    return tuple(name for name in gone if plain_name(name) in signed)
