"""What the encrypted columns hold: their relations, counts of values, the search elsewhere, and the quarantine."""
