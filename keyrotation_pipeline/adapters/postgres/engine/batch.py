"""One batch: rows as they were read, and the new values that will replace theirs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keyrotation_pipeline.adapters.postgres.engine.arrays import TextArray, TidArray, XidArray
from keyrotation_pipeline.fieldcrypto.batch import Failure, Held, Rewriter, Value
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.native import native_codec

# Where a row, as it was read, has its position, its version and its first value.
_POSITION, _VERSION, _FIRST = 2, 3, 4
_PASSED = ((_POSITION, TidArray.element_oid), (_VERSION, XidArray.element_oid))


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows as one statement read them.

    Args:
        filenode: of the relation, in that same statement.
        size_bytes: of all values in the pages that were read. If it is over the limit, there are no rows.
        rows: each with filenode, size, `ctid`, `xmin`, and the value of each declared column.
    """

    filenode: int | None
    size_bytes: int
    rows: Sequence[tuple[Any, ...]]

    @classmethod
    def of(cls, rows: Sequence[tuple[Any, ...]]) -> "Batch":
        """Make a batch of the rows that `read_pages` or `read_rows` gave."""
        if not rows:
            return cls(None, 0, ())
        filenode, size_bytes, position, *_ = rows[0]
        return cls(filenode, size_bytes, () if position is None else rows)

    @property
    def positions(self) -> list[bytes]:
        """`ctid` of each row."""
        return [row[_POSITION] for row in self.rows]

    @property
    def versions(self) -> list[bytes]:
        """`xmin` of each row."""
        return [row[_VERSION] for row in self.rows]

    @property
    def columns(self) -> list[tuple[Value, ...]]:
        """The values of each declared column."""
        return list(zip(*self.rows, strict=True))[_FIRST:]


@dataclass(frozen=True, slots=True)
class NewValues:
    """The outcome of encrypting a batch.

    Args:
        parameters: of the write.
        rows: that they name.
        whole: whether each of their values is new, none NULL.
    """

    parameters: dict[str, Any]
    rows: int
    failures: list[Failure]
    whole: bool


class Codec:
    """Re-encrypts and checks batches: the native codec those that hold only good values, Python all others.

    Args:
        ring: holds `target` and every version that is to be read.
        native: whether the native codec is used, where it was built.
    """

    def __init__(self, ring: KeyRing, target: KeyVersion, *, native: bool = True) -> None:
        self._python = Rewriter(ring, target)
        self._native = native_codec(ring, target) if native else None

    def rewrite(self, batch: Batch) -> NewValues:
        """Re-encrypt a batch; if some values failed, rows without a new value are left out of the parameters."""
        if self._native and batch.rows:
            columns = len(batch.rows[0]) - _FIRST
            if packed := self._native.rewrite(batch.rows, _FIRST, columns, _PASSED):
                positions, versions, *values = packed.arrays
                parameters: dict[str, Any] = {f"value_{n}": TextArray.of_packed(each) for n, each in enumerate(values)}
                parameters["positions"], parameters["versions"] = (
                    TidArray.of_packed(positions),
                    XidArray.of_packed(versions),
                )
                whole = packed.changed == len(batch.rows) * columns
                return NewValues(parameters | {"filenode": batch.filenode}, len(batch.rows), [], whole)
        return self._by_python(batch)

    def check(self, batch: Batch) -> tuple[list[Held], list[Failure]]:
        """Decrypt every value, keeping nothing: what each column holds, and which values do not decrypt."""
        if not batch.rows:
            return [], []
        if self._native:
            held = self._native.check(batch.rows, _FIRST, len(batch.rows[0]) - _FIRST)
            if held is not None:
                return held, []
        return self._python.check(batch.columns)

    def _by_python(self, batch: Batch) -> NewValues:
        rewritten = self._python.rewrite(batch.columns)
        positions, versions, columns = batch.positions, batch.versions, rewritten.columns
        if rewritten.failures:
            kept = [row for row, values in enumerate(zip(*columns, strict=True)) if any(values)]
            positions, versions = [positions[row] for row in kept], [versions[row] for row in kept]
            columns = [[column[row] for row in kept] for column in columns]
        parameters: dict[str, Any] = {f"value_{number}": TextArray(values) for number, values in enumerate(columns)}
        parameters |= {"positions": TidArray(positions), "versions": XidArray(versions), "filenode": batch.filenode}
        whole = all(None not in values for values in columns)
        return NewValues(parameters, len(positions), rewritten.failures, whole)
