"""The procedure: one file per step, each importing only earlier steps; `performing` runs them one by one."""
