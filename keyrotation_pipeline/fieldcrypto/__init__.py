"""Pure cryptography of one field: key material, key ring, value format. Shipped to applications; does no I/O."""
