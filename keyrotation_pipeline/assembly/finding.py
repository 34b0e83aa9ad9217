"""Searches a database before anything is set up, for tables with values of ours."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from keyrotation_pipeline.adapters.postgres.inventory.discovery import candidates, discover
from keyrotation_pipeline.adapters.postgres.server.connection import connect, display_name
from keyrotation_pipeline.assembly.home import server_url
from keyrotation_pipeline.model.progress import Progress, Report
from keyrotation_pipeline.model.tables import EncryptedTable, FoundColumn


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in a database without a configuration.

    Args:
        name: without user and password.
        tables: tables with columns that hold values of ours, as declarations.
        rest: places that hold such values and cannot be declared.
    """

    name: str
    tables: Sequence[EncryptedTable]
    rest: Sequence[FoundColumn]


def search_database(home: Path, url: str | None, report: Report) -> Found:
    """Searches every column of a database (the home's embedded one without `url`); of large relations only a sample.

    Raises:
        HomeError, DatabaseUnavailableError: it cannot be reached.
    """
    with server_url(home, url) as found, closing(connect(found)) as connection:

        def announce(label: str) -> None:
            report(Progress(None, label, 0, 0, note="searched for encrypted values"))

        tables, rest = candidates(connection, discover(connection, (), announce=announce, sampled=True))
        return Found(display_name(found), tables, rest)
