"""Formats in which applications store encrypted values, a function each, by `registry`. Standard library only."""
