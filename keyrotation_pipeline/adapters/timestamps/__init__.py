"""Time-stamping authorities."""
