"""Completes ids in a shell: fast, silently, and without starting anything."""

from collections.abc import Callable
from pathlib import Path

from keyrotation_pipeline import settings
from keyrotation_pipeline.adapters.postgres.ledger.known_ids import incident_ids, request_ids
from keyrotation_pipeline.adapters.postgres.server.embedded import EmbeddedServer

Offered = list[tuple[str, str]]


def offered_requests(config: Path | None, beginning: str) -> Offered:
    """Lists ids of requests with a description; none if anything fails."""
    return _offered(request_ids, config, beginning)


def offered_incidents(config: Path | None, beginning: str) -> Offered:
    """Lists ids of incidents; none if anything fails."""
    return _offered(incident_ids, config, beginning)


def _offered(ids: Callable[[str, str], Offered], config: Path | None, beginning: str) -> Offered:
    try:
        declared = settings.load(config)
        if declared.database.url is not None:
            return ids(declared.database.url.get_secret_value(), beginning)
        # Only if it already runs, such as for `up`: pressing Tab must not start a server.
        return ids(EmbeddedServer(declared.home / "postgres").url(), beginning)
    except Exception:  # noqa: BLE001  whatever it is, pressing Tab is no place for errors
        return []
