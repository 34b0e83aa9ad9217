"""Where flags of incidents rise besides our own table."""
