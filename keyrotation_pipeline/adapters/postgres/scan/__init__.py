"""Reads a sample of everything in a database that can hold text or bytes, without running code of the database."""
