"""Scans a database of which no home, key or configuration of ours need be known."""

from collections.abc import Callable, Sequence

from keyrotation_pipeline.adapters.postgres.scan.database import DEFAULT_VALUES, scan
from keyrotation_pipeline.adapters.postgres.scan.session import connected
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, display_name
from keyrotation_pipeline.model.progress import Progress, Report
from keyrotation_pipeline.scan.report import ScanReport

__all__ = ["DEFAULT_VALUES", "scan_connected", "scan_database"]


def scan_database(
    url: str, setting: str, report: Report, schemas: Sequence[str] = (), values: int = DEFAULT_VALUES
) -> ScanReport:
    """Reads a sample of every column of a database and classifies it; writes nothing.

    Args:
        setting: where the URL comes from, in messages.
        schemas: none: all of them.
        values: that are read of each column, about.

    Raises:
        DatabaseUnavailableError: no server answers, it refuses, or the connection was lost.
        ConfigurationError: a schema does not exist.
    """
    with connected(url, setting) as connection:
        return scan(connection, schemas, values, _to(report), display_name(url))


def scan_connected(connection: Connection, report: Report) -> ScanReport:
    """Does the same over a connection that is open; raises as `scan_database` does."""
    return scan(connection, announce=_to(report))


def _to(report: Report) -> Callable[[str, int, int], None]:
    return lambda table, done, total: report(Progress(None, "scan", done, total, "tables", table))
