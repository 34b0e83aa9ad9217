"""What the columns hold: relations, counts, searches, quarantine."""
