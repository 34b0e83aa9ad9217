"""The engine: every encrypted value of a table brought to the target key version, harmlessly.

Rows are read without locks, re-encrypted here, and written by one guarded statement that never waits (`statements`).
A table is gone through once, page range by page range (`traversal`, `page_ranges`), in an order that keeps it small
(`hot_order`), in batches that keep nobody waiting (`batch_size`), and the next rows are read while these are encrypted
(`pages`, `exchange`). Rows that are too large for that, or that somebody holds, are rewritten row by row (`rows`).
A thread works on a shard (`low_priority`), or several processes (`shard`, `worker_pool`, `worker`). `supervisor` saves
progress and pauses for others (`throttle`), `lock_retry` waits for locked tables, `vacuum` keeps tables small,
`swept_ranges` finds what was skipped, `decrypt` proves the outcome, `rolling` reads a part of everything each day, and
`server_errors` turns the server's errors into sentences that hold no content.
"""
