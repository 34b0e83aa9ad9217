"""What surrounds the encrypted tables: room on the disk, WAL, standbys; and how fast this database is rewritten."""

from dataclasses import dataclass

# Measured on tables of 300 thousand and 3 million rows, with the vacuums of the engine.
GROWTH, WAL_PER_BYTE = 0.1, 3.0


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system of the server's data directory, seen from this host."""

    directory: str
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Wal:
    """Where written-ahead log goes.

    Args:
        max_bytes: `max_wal_size`, about which checkpoints keep it.
        kept_by: what keeps more of it: archiving that fails, slots that nobody reads; one phrase each.
    """

    max_bytes: int
    kept_by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Standby:
    """A standby or subscriber that is connected now, and how late it replays; None: hidden, or nothing is under way."""

    name: str
    late_seconds: float | None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What was seen around the tables.

    Args:
        table_bytes: heaps and TOAST of all declared tables.
        disk: None: not to be seen from this host.
        prints_rows: the server's log shows the whole row where one is refused.
    """

    table_bytes: int
    disk: Disk | None
    wal: Wal
    standbys: tuple[Standby, ...]
    prints_rows: bool

    @property
    def growth_bytes(self) -> int:
        """By how much the tables grow at least."""
        return int(GROWTH * self.table_bytes)

    @property
    def wal_bytes(self) -> int:
        """How much WAL is written in all."""
        return int(WAL_PER_BYTE * self.table_bytes)

    @property
    def needed_bytes(self) -> int:
        """Growth, and as much WAL as is kept at a time."""
        return self.growth_bytes + (self.wal_bytes if self.wal.kept_by else min(self.wal_bytes, self.wal.max_bytes))


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast one worker re-encrypts a table, by a sample that was written in a transaction and rolled back.

    Args:
        sampled_rows: how many there were; 0: the table is empty.
        failed_values: values in them that did not decrypt, and were left as they are.
        rows_per_second: within the configured limits.
    """

    table: str
    sampled_rows: int
    rows_per_second: float
    failed_values: int = 0
