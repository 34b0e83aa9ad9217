"""Incidents: what must happen after a flag, from the clock to the breach decision."""
