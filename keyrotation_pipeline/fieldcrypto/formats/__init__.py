"""Formats in which applications store encrypted values, a module each; `registry` lists them. Standard library only."""
