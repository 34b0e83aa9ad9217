"""One file a vendor, each behind a port."""
