"""Access logs, by where they come from."""
