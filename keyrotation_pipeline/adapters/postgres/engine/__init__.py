"""The engine: every encrypted value of a table brought to the target key version, harmlessly.

Rows are read without locks, re-encrypted here, and written by one guarded statement that never waits (`statements`).
A walk goes once over a slice of pages (`walk`), reading ahead while it encrypts (`pages`); what is too large to read at
once, or has to be waited for, goes row by row (`rows`). `watch` keeps progress and yields to others, `decrypt` proves
the outcome, `refusals` turns the server's errors into sentences that hold no content.
"""

from keyrotation_pipeline.adapters.postgres.engine.decrypt import decrypt_all
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.engine.walk import rewrite_shard, sweep

__all__ = ["Limits", "decrypt_all", "rewrite_shard", "sweep"]
