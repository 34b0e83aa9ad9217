"""The engine: every encrypted value of a table brought to the target key version, harmlessly.

Rows are read without locks, re-encrypted here, and written by one guarded statement that never waits (`statements`).
A walk goes once over a slice of pages (`walk`), in an order that keeps it small (`course`), as much at a time as harms
nobody (`pace`), reading ahead while it encrypts (`pages`, `exchange`); what is too large to read at once, or has to be
waited for, goes row by row (`rows`). A shard's slices are walked by one process, or by several
(`shard`, `crew`, `worker`). `watch` keeps progress and yields to others (`reasons`), `vacuum` keeps tables small,
`decrypt` proves the outcome, `refusals` turns the server's errors into sentences that hold no content.
"""

from keyrotation_pipeline.adapters.postgres.engine.decrypt import decrypt_all
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.engine.shard import rewrite_shard
from keyrotation_pipeline.adapters.postgres.engine.traversal import sweep
from keyrotation_pipeline.adapters.postgres.engine.worker_pool import Hiring

__all__ = ["Hiring", "Limits", "decrypt_all", "rewrite_shard", "sweep"]
