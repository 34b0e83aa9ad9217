"""How often the primary may have encrypted."""

from keyrotation_pipeline.model.keys import KeyUsage
from keyrotation_pipeline.ports.pipeline import Pipeline


def usage_of_primary(pipeline: Pipeline) -> KeyUsage | None:
    """The bound for the primary: all writes that the server counted, and the rotation to it."""
    primary = pipeline.keys.read().primary
    if primary is None:
        return None
    columns = {str(table.name): len(table.columns) for table in pipeline.tables}
    written = pipeline.database.written_rows(pipeline.tables)
    rewritten = sum(
        walked.rows * columns.get(walked.table, 1)
        for rotation in pipeline.ledger.requests()
        if rotation.target == primary
        for walked in pipeline.ledger.shard_progress(rotation.id)
    )
    return KeyUsage(primary, sum(rows * columns[table] for table, rows in written.items()), rewritten)
