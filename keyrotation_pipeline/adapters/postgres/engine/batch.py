"""One batch: rows as they were read, and the new values that will replace theirs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keyrotation_pipeline.adapters.postgres.engine.arrays import TextArray, TidArray, XidArray
from keyrotation_pipeline.fieldcrypto.batch import Failure, Rewriter, Value


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows as one statement read them, column by column.

    Args:
        filenode: of the relation, in that same statement.
        size_bytes: of all values in the pages that were read. If it is over the limit, there are no rows.
        positions: `ctid` of each row.
        versions: `xmin` of each row.
        columns: the values of each declared column.
    """

    filenode: int | None
    size_bytes: int
    positions: Sequence[bytes]
    versions: Sequence[bytes]
    columns: Sequence[Sequence[Value]]

    @classmethod
    def of(cls, rows: Sequence[tuple[Any, ...]]) -> "Batch":
        """Make a batch of the rows that `read_pages` or `read_rows` gave."""
        if not rows:
            return cls(None, 0, (), (), ())
        filenodes, sizes, positions, versions, *columns = zip(*rows, strict=True)
        if positions[0] is None:
            return cls(filenodes[0], sizes[0], (), (), ())
        return cls(filenodes[0], sizes[0], positions, versions, columns)


@dataclass(frozen=True, slots=True)
class NewValues:
    """The outcome of encrypting a batch: parameters of the write, the number of their rows, and the failures."""

    parameters: dict[str, Any]
    rows: int
    failures: list[Failure]


def rewrite(batch: Batch, rewriter: Rewriter) -> NewValues:
    """Re-encrypt a batch; rows without a new value are left out of the parameters."""
    rewritten = rewriter.rewrite(batch.columns)
    positions, versions, columns = batch.positions, batch.versions, rewritten.columns
    if rewritten.failures:
        kept = [row for row, values in enumerate(zip(*columns, strict=True)) if any(values)]
        positions, versions = [positions[row] for row in kept], [versions[row] for row in kept]
        columns = [[column[row] for row in kept] for column in columns]
    parameters: dict[str, Any] = {f"value_{number}": TextArray(values) for number, values in enumerate(columns)}
    parameters |= {"positions": TidArray(positions), "versions": XidArray(versions), "filenode": batch.filenode}
    return NewValues(parameters, len(positions), rewritten.failures)
