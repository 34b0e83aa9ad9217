"""Ways to tell people, one a file; none is asked twice within one delivery, and each gives up after ten seconds."""

TIMEOUT_SECONDS = 10
