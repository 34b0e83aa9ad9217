"""Measurements that anyone can repeat; see README.md. Each command runs on an embedded server of its own."""
