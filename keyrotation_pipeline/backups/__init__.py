"""Backups of keys and database: made, verified, restored, rehearsed, rekeyed; retention and key destruction."""
