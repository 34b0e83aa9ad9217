"""Incidents: handling a flag, from the deadlines to the breach decision."""
