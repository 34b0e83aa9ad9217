"""Code of the value formats that are re-encrypted: a module each, and `format`, which finds it."""
