"""The demo: a clinic with encrypted records, an application that never stops writing, and a rotation through it."""
