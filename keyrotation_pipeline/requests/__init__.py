"""Requests: opening, signing, pausing and taking them over; and the decision about the next step."""
