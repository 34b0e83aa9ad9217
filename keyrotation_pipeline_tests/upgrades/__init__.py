"""Homes of every released version, in the middle of a walk, which this version finishes."""
