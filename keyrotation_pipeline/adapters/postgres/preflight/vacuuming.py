"""Whether vacuums beside the re-encryption read each index once."""

from collections.abc import Iterator

from keyrotation_pipeline.adapters.postgres.engine.vacuum import (
    dead_rows_bytes,
    in_hot_order,
    remembers_six_bytes_a_row,
)
from keyrotation_pipeline.adapters.postgres.preflight.subject import Subject, warning
from keyrotation_pipeline.model.tables import Problem

_MEMORY = "SELECT pg_size_bytes(current_setting('maintenance_work_mem'))"


def vacuums_read_indexes_once(subject: Subject) -> Iterator[Problem]:
    """Up to PostgreSQL 16 a vacuum that cannot remember all dead rows at once reads every index again for the rest."""
    connection = subject.connection
    if not remembers_six_bytes_a_row(connection):
        return
    ((memory,),) = connection.execute(_MEMORY).fetchall()
    for relation in subject.heaps:
        need = dead_rows_bytes(connection, relation)
        if need > int(str(memory)) and not in_hot_order(connection, [relation]):
            yield warning(
                f"a vacuum of {relation.label} may have {need / 2**20:,.0f} MiB of dead rows to remember, and "
                f"maintenance_work_mem is {int(str(memory)) / 2**20:,.0f} MiB, so that each index is read several "
                "times; vacuums of ours take more while they run (256 MiB at most), and for the server's own set "
                "autovacuum_work_mem to as much"
            )
