"""The adapters, each behind a port; one file per vendor."""
