"""Where backups are kept, and the keys and dumps in them."""
