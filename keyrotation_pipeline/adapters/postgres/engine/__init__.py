"""The engine: every encrypted value of a table brought to the target key version, harmlessly.

Rows are read without locks, re-encrypted here, and written by one guarded statement that never waits (`statements`).
A table is gone through once, page range by page range (`traversal`, `page_ranges`), in an order that keeps it small
(`hot_order`), in batches that keep nobody waiting (`batch_size`), and the next rows are read while these are encrypted
(`pages`, `exchange`). Rows that are too large for that, or that somebody holds, are rewritten row by row (`rows`).
A thread works on a shard (`low_priority`), or several processes (`shard`, `worker_pool`, `worker`). `supervisor` saves
progress and pauses for others (`throttle`), `lock_retry` waits for locked tables, `vacuum` keeps tables small,
`swept_ranges` finds what was skipped, `decrypt` proves the outcome, `rolling` reads a part of everything each day, and
`server_errors` turns the server's errors into sentences that hold no content.

A name is imported when it is used: most commands look at a database, and rewrite nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keyrotation_pipeline.adapters.postgres.engine.decrypt import decrypt_all, decrypt_spans
    from keyrotation_pipeline.adapters.postgres.engine.limits import Limits, WorkerSettings
    from keyrotation_pipeline.adapters.postgres.engine.shard import is_one_shard, rewrite_shard
    from keyrotation_pipeline.adapters.postgres.engine.traversal import sweep

_PLACE_OF = {
    "Limits": "limits",
    "WorkerSettings": "limits",
    "decrypt_all": "decrypt",
    "decrypt_spans": "decrypt",
    "is_one_shard": "shard",
    "rewrite_shard": "shard",
    "sweep": "traversal",
}

__all__ = ["Limits", "WorkerSettings", "decrypt_all", "decrypt_spans", "is_one_shard", "rewrite_shard", "sweep"]


def __getattr__(name: str) -> object:
    if name not in _PLACE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACE_OF[name]}"), name)
