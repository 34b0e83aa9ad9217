"""Key stores: the only adapters that hold key material."""
