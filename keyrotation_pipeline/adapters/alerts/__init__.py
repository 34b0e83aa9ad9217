"""Alert channels, one per file; none sends an alert twice for one delivery.

Each waits ten seconds for an answer, and `in_time` twenty for the whole delivery.
"""

from collections.abc import Callable

from keyrotation_pipeline.adapters.deadline import within
from keyrotation_pipeline.errors import AlertError

TIMEOUT_SECONDS = 10
# With the 25 seconds of `incidents.alerts`, less than the minute after which Dagster ends a tick.
LONGEST_SECONDS = 20.0


def in_time(send: Callable[[], None], channel: str) -> None:
    """Sends an alert, unless that takes too long: a server that answers byte by byte must not hold up other channels.

    Raises:
        AlertError: it takes too long; if the server accepts it afterwards, the alert comes twice.
    """
    late = AlertError(f"{channel} does not answer within {LONGEST_SECONDS:.0f} seconds; check [alerts] and the server")
    within(LONGEST_SECONDS, send, late)
