"""Scan without keys: what the sampled values of a table's columns say about who encrypted them. Pure; does no I/O."""
