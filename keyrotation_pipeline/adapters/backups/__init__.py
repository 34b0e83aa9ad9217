"""Places of backups, and the keys and dumps in them."""
