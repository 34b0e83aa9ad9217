"""Servers and their programs: connections, the embedded PostgreSQL, dumps, scratch servers."""
