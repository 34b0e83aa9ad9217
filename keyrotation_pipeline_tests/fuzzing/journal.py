"""What the application wrote: each write of a row has a mark, which stands in the row, and the mark that it replaced.

So what a row holds at the end says which write was the last one, and all of them in order. A write that was
acknowledged and is not among them was lost; one that was rolled back and is among them should not be there.
"""

import itertools
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

RowKey = tuple[str, int]  # table, id


class Outcome(Enum):
    """Of the transaction."""

    PENDING = "pending"
    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"
    UNKNOWN = "unknown"  # the connection was lost at the commit


@dataclass
class Write:
    """One write of one row, with everything that the row then holds.

    Args:
        values: the texts of the encrypted values, by slot.
        others: all else, by column.
        key: the name of the key that encrypted what this write set.
        deleted: whether the row is gone after it.
    """

    mark: str
    row: RowKey
    previous: str | None
    values: Mapping[str, str | None]
    others: Mapping[str, Any]
    key: str = ""
    deleted: bool = False
    outcome: Outcome = Outcome.PENDING


@dataclass
class Journal:
    """All writes of a round."""

    seed: str
    writes: dict[str, Write] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(
        self,
        row: RowKey,
        previous: Write | None,
        values: Mapping[str, str | None],
        others: Mapping[str, Any],
        key: str,
        *,
        deleted: bool = False,
    ) -> Write:
        """Notes a write before it is sent."""
        with self._lock:
            mark = f"{self.seed}-{next(self._numbers)}"
            write = Write(
                mark, row, None if previous is None else previous.mark, dict(values), dict(others), key, deleted
            )
            self.writes[mark] = write
            return write

    def end(self, writes: list[Write], outcome: Outcome) -> None:
        with self._lock:
            for write in writes:
                write.outcome = outcome
                self.counts[f"writes {outcome.value}"] += 1

    def found(self, what: str) -> None:
        """Notes what must not happen."""
        with self._lock:
            self.findings.append(what)

    def count(self, what: str, number: int = 1) -> None:
        with self._lock:
            self.counts[what] += number

    def of_rows(self) -> dict[RowKey, list[Write]]:
        rows: dict[RowKey, list[Write]] = {}
        for write in self.writes.values():
            rows.setdefault(write.row, []).append(write)
        return rows

    def history(self, mark: str) -> list[Write]:
        """The write of a mark, and all before it, the newest first."""
        found = [self.writes[mark]]
        while (previous := found[-1].previous) is not None:
            found.append(self.writes[previous])
        return found

    def judge(self, marks: Mapping[RowKey, str]) -> None:
        """Compares all writes with the marks that the rows hold at the end."""
        for row, writes in self.of_rows().items():
            last = marks.get(row)
            self._judge_row(row, writes, self._deletion(writes) if last is None else self.history(last))

    def _deletion(self, writes: list[Write]) -> list[Write]:
        """The history of a row that is not there."""
        possible = [write for write in writes if write.deleted and write.outcome is not Outcome.ROLLED_BACK]
        if not possible:
            return []  # never inserted, or lost
        return max((self.history(write.mark) for write in possible), key=len)

    def _judge_row(self, row: RowKey, writes: list[Write], history: list[Write]) -> None:
        last = {write.mark for write in history}
        for write in writes:
            if write.outcome is Outcome.COMMITTED and write.mark not in last:
                self.findings.append(f"{row}: the acknowledged write {write.mark} is lost")
            if write.outcome is Outcome.ROLLED_BACK and write.mark in last:
                self.findings.append(f"{row}: the write {write.mark}, which was rolled back, is there")
