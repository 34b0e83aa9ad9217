"""How far the rows of one table are, over all its shards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keyrotation_pipeline.model.audit import read
from keyrotation_pipeline.model.progress import Rewritten, ShardProgress
from keyrotation_pipeline.model.requests import Step, Walk
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline.ports.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class TableProgress:
    """One table in a walk.

    Args:
        share: of its pages, 0 to 1.
        rows: rewritten so far; less than the table has, where the application wrote the new version itself.
        rows_per_second: of the shards that run, together; of all so far where none runs; None: nothing to go by.
        eta_seconds: None where that is not known, and at the end.
    """

    table: str
    shards_done: int
    shards: int
    share: float
    rows: int
    rows_per_second: float | None
    eta_seconds: int | None

    def __str__(self) -> str:
        return f"{self.shards_done} of {self.shards} shards, {self.share:.0%}"


def tables_progress(pipeline: Pipeline, walk: Walk, tables: Sequence[EncryptedTable]) -> tuple[TableProgress, ...]:
    """Look at the recorded shards and at those under way, once for all tables."""
    walked: dict[str, dict[int, ShardProgress]] = {}
    for each in pipeline.ledger.shard_progress(walk.id):
        walked.setdefault(each.table, {})[each.shard] = each
    totals = {count.table: count.rows for count in pipeline.ledger.counts(tables)}
    return tuple(
        _progress(walk, str(table.name), pipeline.shards, walked.get(str(table.name), {}), totals.get(table))
        for table in tables
    )


def _progress(
    walk: Walk, name: str, shards: int, walked: Mapping[int, ShardProgress], total: int | None
) -> TableProgress:
    finished = {index: record for index in range(shards) if (record := walk.done(Step.ROWS, name, index))}
    done = [read(Rewritten, record.facts) for record in finished.values()]
    running = [each for index, each in walked.items() if index not in finished and each.total_pages]
    share = (len(done) + sum(each.done_pages / each.total_pages for each in running)) / shards
    rows = sum(each.rows for each in done) + sum(each.rows for each in running)
    pace = _pace(done, running)
    left = None if total is None or not pace or share >= 1 else round((1 - share) * total / pace)
    return TableProgress(name, len(done), shards, share, rows, pace, left)


def _pace(done: list[Rewritten], running: list[ShardProgress]) -> float | None:
    if now := sum(each.rows_per_second for each in running):
        return round(now, 1)
    seconds = sum(each.seconds for each in done)
    return round(sum(each.rows for each in done) / seconds, 1) if seconds > 0 else None
