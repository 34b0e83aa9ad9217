"""What a shell offers for an id: quickly, in silence, and without starting anything."""

from collections.abc import Callable
from pathlib import Path

from keyrotation_pipeline import settings
from keyrotation_pipeline.adapters.postgres.ledger.known_ids import incident_ids, request_ids
from keyrotation_pipeline.adapters.postgres.server.embedded import EmbeddedServer

Offered = list[tuple[str, str]]


def offered_requests(config: Path | None, beginning: str) -> Offered:
    """Ids of requests, each with what it is; none where anything is amiss."""
    return _offered(request_ids, config, beginning)


def offered_incidents(config: Path | None, beginning: str) -> Offered:
    """Ids of incidents; none where anything is amiss."""
    return _offered(incident_ids, config, beginning)


def _offered(ids: Callable[[str, str], Offered], config: Path | None, beginning: str) -> Offered:
    try:
        declared = settings.load(config)
        if declared.database.url is not None:
            return ids(declared.database.url.get_secret_value(), beginning)
        # As it runs now, for `up` perhaps: the key of a shell starts no server.
        return ids(EmbeddedServer(declared.home / "postgres").url(), beginning)
    except Exception:  # noqa: BLE001  whatever it is, a word between two keys is no place to tell of it
        return []
