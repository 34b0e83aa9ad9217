"""Where it is written who read keys."""
