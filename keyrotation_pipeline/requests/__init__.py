"""Requests: opened, signed, paused, superseded; and the decision about what comes next."""
