"""The careful path, for pages too large to read at once and for rows that others hold: lists rows first."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from psycopg import errors

from keyrotation_pipeline.adapters.postgres.engine.batch import Batch, NewValues, TraversalContext
from keyrotation_pipeline.adapters.postgres.engine.statement_pipeline import TextArray, TidArray
from keyrotation_pipeline.adapters.postgres.engine.statements import position
from keyrotation_pipeline.errors import PreflightError
from keyrotation_pipeline.model.progress import Rewritten


def write_listed_rows(context: TraversalContext, first: int, end: int) -> Iterator[Rewritten]:
    """Rewrites the pages from `first` to before `end` in batches of limited bytes; yields what each commits."""
    for positions in by_size(listed(context, first, end), context.limits.batch_bytes):
        yield _write(context, positions)


def write_contended_rows(context: TraversalContext, first: int, end: int) -> Iterator[Rewritten]:
    """Rewrites each row of the pages in its own transaction; waits up to a second for its lock; retries if it changed.

    SKIP LOCKED would never get a row that others write all the time. Here we queue for its lock, and write if its
    encrypted values are still those that were read, whatever else has changed in the row. It is read by its key, too,
    since it may move all the time. A row without a key cannot be followed to its new position; it is listed and read
    again at once, several times.
    """
    busy: set[bytes] = set()
    for _ in range(context.limits.straggler_attempts):
        skipped = 0
        for key in [row.key for row in listed(context, first, end) if row.key not in busy]:
            try:
                one = _write_row(context, key)
            except (errors.LockNotAvailable, errors.DeadlockDetected):
                busy.add(key)
                continue
            yield replace(one, skipped=0)
            skipped += one.skipped
        if not skipped:
            break
    yield Rewritten(skipped=skipped + len(busy))


def _write(context: TraversalContext, positions: Sequence[bytes]) -> Rewritten:
    batch = context.batch(context.run(context.statements.read_rows, {"positions": TidArray(positions)}))
    # A row that moved or was deleted since it was listed counts as skipped; the next sweep finds it if it exists.
    gone = len(positions) - len(batch.rows)
    if not batch.rows:
        return Rewritten(skipped=gone)
    new, quarantined = _encrypted(context, batch)
    new.parameters.update(prune_first=position(0), prune_end=position(0))  # nothing is pruned
    done = _written(context, context.statements.write, new, quarantined)
    return done + Rewritten(skipped=gone)


def _write_row(context: TraversalContext, key: bytes) -> Rewritten:
    read = context.run(context.statements.read_row, {"keys": TextArray([key])})
    if not read:
        return Rewritten(skipped=1)
    batch = context.batch(read)
    new, quarantined = _encrypted(context, batch)
    new.parameters["keys"] = TextArray([key])
    new.parameters.update({f"old_{n}": batch.array(n)(values) for n, values in enumerate(batch.columns)})
    return _written(context, context.statements.write_row, new, quarantined)


def _encrypted(context: TraversalContext, batch: Batch) -> tuple[NewValues, int]:
    new = context.codec.encrypt(batch)
    return new, context.quarantine(batch, new.failures, context.housekeeping) if new.failures else 0


def _written(context: TraversalContext, write: bytes, new: NewValues, quarantined: int) -> Rewritten:
    rows, values, *_ = context.run(write, new.parameters)[0] if new.rows else (0, 0)
    return Rewritten(rows, values, new.rows - rows, quarantined)


class ListedRow(NamedTuple):
    """A row to rewrite: where it is, the size of its values, and its key."""

    position: bytes
    size_bytes: int
    key: bytes


def listed(context: TraversalContext, first: int, end: int) -> list[ListedRow]:
    """Returns each row to rewrite in the pages from `first` to before `end`.

    Raises:
        PreflightError: one is so large that the server might refuse to read or write it at once.
    """
    span = {"first": position(first), "end": position(end)}
    rows = [ListedRow(row, size, key) for _, size, row, key in context.run(context.statements.list_rows, span)]
    largest, limit = max((row.size_bytes for row in rows), default=0), context.limits.largest_row_bytes
    if largest > limit:
        raise PreflightError(
            f"a row of {context.relation.label} holds {largest / 2**20:.1f} MiB in encrypted columns, more than "
            f"{limit // 2**20} MiB; move such values elsewhere, then run `keyrotation rotate` again"
        )
    return rows


def by_size(rows: Sequence[ListedRow], limit_bytes: int) -> Iterator[list[bytes]]:
    """Cuts listed rows into batches of at most `limit_bytes`, or of one row; yields their positions."""
    chosen: list[bytes] = []
    total = 0
    for row in rows:
        if chosen and total + row.size_bytes > limit_bytes:
            yield chosen
            chosen, total = [], 0
        chosen.append(row.position)
        total += row.size_bytes
    if chosen:
        yield chosen
