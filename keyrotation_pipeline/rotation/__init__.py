"""The procedure: one file per step, each importing only earlier steps; `runner` runs them one by one."""
