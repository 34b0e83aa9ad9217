"""How applications come by the keys, one way a file."""
