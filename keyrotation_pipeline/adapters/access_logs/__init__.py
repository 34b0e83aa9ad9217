"""Access logs, by source."""
