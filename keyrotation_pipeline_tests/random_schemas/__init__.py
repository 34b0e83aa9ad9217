"""Databases of random content, the same for the same seed, and a comparison of two by their catalogs."""
