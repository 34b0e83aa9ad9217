"""The procedure, a file a step, each importing only earlier steps; `walk` strings them together."""
