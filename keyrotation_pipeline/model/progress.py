"""How far a long step is, and what it did."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from keyrotation_pipeline.model.request import Step


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a long step is. `step` None: nobody's but the command's own. `total` 0: not known yet."""

    step: Step | None
    subject: str
    done: int
    total: int
    unit: str = "rows"
    note: str = ""


Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What one walk or sweep did. `skipped` rows were moved or locked by others and are left to the next sweep."""

    rows: int = 0
    values: int = 0
    skipped: int = 0
    quarantined: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Rewritten") -> "Rewritten":
        return Rewritten(
            self.rows + other.rows,
            self.values + other.values,
            self.skipped + other.skipped,
            self.quarantined + other.quarantined,
            self.seconds + other.seconds,
        )


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a step does not go on at this moment.

    Args:
        place: what waits, as progress names it.
        since: aware.
    """

    place: str
    waiting_for: str
    since: datetime


@dataclass(frozen=True, slots=True)
class ShardProgress:
    """Where one shard's walk is: pages of its relations, rows rewritten."""

    table: str
    shard: int
    done_pages: int
    total_pages: int
    rows: int
    rows_per_second: float
