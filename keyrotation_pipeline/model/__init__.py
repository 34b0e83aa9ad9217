"""Pure values: what the pipeline knows and says, with no way to do anything."""
