"""The audit: what was recorded, whether the record is whole, and whether it fits the world outside."""
