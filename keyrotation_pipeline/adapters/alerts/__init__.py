"""Alert channels, one per file; none is called twice for one delivery, and each times out after ten seconds."""

TIMEOUT_SECONDS = 10
