"""The careful path: rows listed by size first, where pages are too large to read, or rows are held by others."""

from collections.abc import Iterator, Sequence

from psycopg import errors

from keyrotation_pipeline.adapters.postgres.engine.arrays import TextArray, TidArray
from keyrotation_pipeline.adapters.postgres.engine.batch import Batch, NewValues, rewrite
from keyrotation_pipeline.adapters.postgres.engine.session import Session
from keyrotation_pipeline.adapters.postgres.engine.statements import position
from keyrotation_pipeline.model.progress import Rewritten


def rewrite_listed(session: Session, first: int, end: int) -> Rewritten:
    """Rewrite the pages `first` to before `end` in batches bounded by bytes, one statement a transaction."""
    done = Rewritten()
    for positions in by_size(listed(session, first, end), session.limits.batch_bytes):
        done += _rewrite(session, positions)
    return done


def rewrite_stragglers(session: Session, first: int, end: int) -> Rewritten:
    """Rewrite the pages' rows one a transaction, waiting up to a second for each, and again if others were faster.

    A row that is written without pause starves under SKIP LOCKED. Here we wait in the queue of its lock, and write if
    its encrypted values are those that were read, whatever else of it has changed. A row without primary key cannot be
    followed to where it has moved: it is read again at once, and again.
    """
    done = Rewritten()
    busy: set[bytes] = set()
    for _ in range(session.limits.straggler_attempts):
        attempt = Rewritten()
        for row in [row for row, _ in listed(session, first, end) if row not in busy]:
            try:
                attempt += _rewrite_waiting(session, row)
            except (errors.LockNotAvailable, errors.DeadlockDetected):
                busy.add(row)
        done += Rewritten(attempt.rows, attempt.values, 0, attempt.quarantined)
        if not attempt.skipped:
            break
    return done + Rewritten(skipped=attempt.skipped + len(busy))


def _rewrite(session: Session, positions: Sequence[bytes]) -> Rewritten:
    batch = Batch.of(session.run(session.statements.read_rows, {"positions": TidArray(positions)}))
    # What moved or was deleted since it was listed counts as skipped: the next look finds it if it is still there.
    gone = len(positions) - len(batch.positions)
    if not batch.positions:
        return Rewritten(skipped=gone)
    new, quarantined = _encrypted(session, batch)
    done = _written(session, session.statements.write, new, quarantined)
    return done + Rewritten(skipped=gone)


def _rewrite_waiting(session: Session, row: bytes) -> Rewritten:
    read = session.run(session.statements.read_row, {"positions": TidArray([row])})
    if not read:
        return Rewritten(skipped=1)
    batch = Batch.of([each[:-1] for each in read])
    new, quarantined = _encrypted(session, batch)
    new.parameters["keys"] = TextArray([read[0][-1]])
    new.parameters.update({f"old_{number}": TextArray(values) for number, values in enumerate(batch.columns)})
    return _written(session, session.statements.write_row, new, quarantined)


def _encrypted(session: Session, batch: Batch) -> tuple[NewValues, int]:
    new = rewrite(batch, session.rewriter)
    return new, session.quarantine(batch, new.failures, session.housekeeping) if new.failures else 0


def _written(session: Session, write: bytes, new: NewValues, quarantined: int) -> Rewritten:
    rows, values, *_ = session.run(write, new.parameters)[0] if new.rows else (0, 0)
    return Rewritten(rows, values, new.rows - rows, quarantined)


def listed(session: Session, first: int, end: int) -> list[tuple[bytes, int]]:
    """Position and bytes of each row to be rewritten in the pages `first` to before `end`."""
    span = {"first": position(first), "end": position(end)}
    return [(row, size) for _, size, row in session.run(session.statements.list_rows, span)]


def by_size(rows: Sequence[tuple[bytes, int]], limit_bytes: int) -> Iterator[list[bytes]]:
    """Cut listed rows into batches of no more than `limit_bytes`, or of one row."""
    chosen: list[bytes] = []
    total = 0
    for row, size in rows:
        if chosen and total + size > limit_bytes:
            yield chosen
            chosen, total = [], 0
        chosen.append(row)
        total += size
    if chosen:
        yield chosen
