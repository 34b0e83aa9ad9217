"""Sources of incident flags besides our own table."""
