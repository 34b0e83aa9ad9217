"""Disasters, each under an application that writes until it happens, and the way out typed from docs/on-call/."""
