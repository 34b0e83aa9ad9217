"""Ways in which applications get the keys, one per file."""
