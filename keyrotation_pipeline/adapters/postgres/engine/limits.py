"""How hard the engine may work."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on the engine's speed, memory and patience.

    Args:
        max_rows_per_second: rows that one shard may rewrite in a second; 0 is no cap.
        max_replica_lag_seconds: pause while a standby replays later than this; 0 does not look.
        statement_seconds: what one write statement should take; pages a batch follow from it.
        max_pages: pages read at once, however fast.
        batch_bytes: stored bytes read at once; a single larger row is still read, alone.
        lock_patience_seconds: how long a table locked by others (`VACUUM FULL`, `ALTER TABLE`) is tried again.
        straggler_attempts: how often one page range is tried again for rows that others keep writing.
        vacuum_pages: relations (or slices between two vacuums) smaller than this are not vacuumed.
    """

    max_rows_per_second: int = 0
    max_replica_lag_seconds: float = 5.0
    statement_seconds: float = 0.005
    max_pages: int = 128
    batch_bytes: int = 4 * 1024 * 1024
    lock_patience_seconds: float = 60.0
    straggler_attempts: int = 20
    vacuum_pages: int = 1000
