"""Requests: opened, signed, paused, superseded; and the decision what comes next."""
