"""Formats in which applications store encrypted values that are not re-encrypted here, a function each."""
