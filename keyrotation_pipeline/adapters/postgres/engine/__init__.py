"""The engine: re-encrypts every value of a table to the target key version without disturbing the application.

Rows are read without locks, re-encrypted here, and written by one guarded statement that never waits (`statements`).
The engine walks a table once, page range by page range (`traversal`, `ranges`), in an order that limits its growth
(`batch`), in batches that make nobody wait (`batch_size`), and reads the next rows while it encrypts these
(`pages`, `statement_pipeline`). Rows that are too large for that, or locked by others, are rewritten row by row
(`rows`). A shard is processed by a background thread or by several processes (`shard`, `worker`). `supervisor` saves
progress, pauses for others (`limits`) and waits for locked tables, `vacuum` limits the tables' growth, `ranges` also
finds what was skipped, `decrypt` verifies the result, and `server_errors` converts the server's errors to sentences
without content.
"""
