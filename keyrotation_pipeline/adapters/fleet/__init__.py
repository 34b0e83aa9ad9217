"""Several databases under one key: each port of the database, asked of the one that a table is in."""
