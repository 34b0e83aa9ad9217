"""Creates and checks the home, our own directory, runs the embedded server in it, and finds what is there."""

import atexit
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path

from keyrotation_pipeline import settings
from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.home_files import FileHeartbeats
from keyrotation_pipeline.adapters.own_schema import with_schema
from keyrotation_pipeline.adapters.postgres.inventory.discovery import candidates, discover
from keyrotation_pipeline.adapters.postgres.ledger.known_ids import incident_ids, request_ids
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect, display_name, unless_read_only
from keyrotation_pipeline.adapters.postgres.server.embedded import EmbeddedServer
from keyrotation_pipeline.assembly.scan import scan_connected
from keyrotation_pipeline.errors import HomeError
from keyrotation_pipeline.fieldcrypto.formats.registry import SPECS
from keyrotation_pipeline.model.progress import Progress, Report
from keyrotation_pipeline.model.tables import EncryptedTable, FoundColumn
from keyrotation_pipeline.regular_files import read_text
from keyrotation_pipeline.scan.advice import is_column
from keyrotation_pipeline.scan.report import NATIVE, Finding
from keyrotation_pipeline.settings import Settings
from keyrotation_pipeline.settings.loading import postgres_options

INSTALLED = "installed"
# A column of which less is encrypted is left to people: something else writes there, too.
_MOSTLY = 0.5
SIGNING_KEY = "backup-signing-key.pem"
# The directory of the home's own server.
EMBEDDED = "postgres"


@contextmanager
def database_url(settings: Settings) -> Iterator[str]:
    """Yields the URL of the application's database; runs the embedded server meanwhile, if that is the database.

    Raises:
        HomeError: there is no home for the embedded server yet, or it cannot run.
        DatabaseUnavailableError: the URL is no PostgreSQL connection string.
        PreflightError: the database is read-only.
    """
    declared = settings.database
    with server_url(settings.home, declared.url.get_secret_value() if declared.url else None) as url:
        whole = _with_schema(url, settings)
        with unless_read_only(whole):
            yield whole


def _with_schema(url: str, declared: Settings) -> str:
    display_name(url)  # refuses what is no connection string, in a sentence without it
    return with_schema(url, declared.database.schema_name, postgres_options())


@contextmanager
def server_url(home: Path, url: str | None) -> Iterator[str]:
    """Yields `url`, or without one that of the home's embedded server.

    Raises:
        HomeError: see `database_url`.
    """
    if url is not None:
        yield url
        return
    require_home(home)
    with EmbeddedServer(home / EMBEDDED) as server:
        yield server.url()


def keep_embedded_server(declared: Settings) -> None:
    """Keeps the embedded server, if that is the database, running until this process ends.

    For a process that opens the pipeline every few seconds: else the server would start and stop each time.

    Raises:
        HomeError: see `database_url`.
    """
    if declared.database.url is None:
        require_home(declared.home)
        _kept_server(declared.home / "postgres")


@cache
def _kept_server(directory: Path) -> EmbeddedServer:
    server = EmbeddedServer(directory)
    atexit.register(server.__enter__().__exit__, None, None, None)
    return server


def create_home(home: Path) -> None:
    """Creates the home, mode 0700, and records when; makes an existing one private again.

    Raises:
        HomeError: the operating system refuses.
    """
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        home.chmod(0o700)
        if not (home / INSTALLED).exists():
            (home / INSTALLED).write_text(f"{SystemClock().now().isoformat()}\n")
    except OSError as error:
        raise HomeError(
            f"{home} cannot be used ({error.strerror}); fix that, or name another in KEYROTATION_HOME"
        ) from None


def installed_at(home: Path) -> datetime:
    """Returns when the home was created; now if there is none."""
    with suppress(OSError, ValueError):
        noted = datetime.fromisoformat(read_text(home / INSTALLED).strip())
        if noted.tzinfo is not None:
            return noted
    return SystemClock().now()


def require_home(home: Path) -> None:
    """Refuses to continue without a home.

    Raises:
        HomeError: there is none, or it may not be entered.
    """
    try:
        present = home.is_dir()
    except PermissionError:
        raise HomeError(f"{home} belongs to another user; run as that user") from None
    if not present:
        raise HomeError(
            f"there is no home {home} yet; run `keyrotation init` or `keyrotation demo`, or restore a backup: "
            "`keyrotation recover`"
        )


def ui_address(home: Path) -> str | None:
    """Returns the address where `up` serves Dagster's UI, without the token; None: not known to this home."""
    try:
        return read_text(home / "dagster" / "address").partition("?")[0].strip() or None
    except OSError:
        return None


def heartbeat_store(settings: Settings) -> FileHeartbeats:
    """Returns the store of the last heartbeats of Dagster's sensors; needs no database."""
    return FileHeartbeats(settings.home / "heartbeats")


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in a database without a configuration.

    Args:
        name: without user and password.
        tables: tables with columns that hold values of `format`, as declarations.
        rest: places that hold values of ours and cannot be declared.
        others: places with encrypted values in other formats; none where these were not looked for.
        format: ours, unless only values of another one were found that can be rotated.
    """

    name: str
    tables: Sequence[EncryptedTable]
    rest: Sequence[FoundColumn]
    others: Sequence[Finding] = ()
    format: str = NATIVE


def search_database(home: Path, url: str | None, report: Report, *, scan: bool = False) -> Found:
    """Searches every column of a database (the home's embedded one without `url`); of large relations only a sample.

    Args:
        scan: look for other formats, too, as is done where there are no values of our own.

    Raises:
        HomeError, DatabaseUnavailableError: it cannot be reached.
    """
    with server_url(home, url) as found, closing(connect(found)) as connection:

        def announce(label: str) -> None:
            report(Progress(None, label, 0, 0, note="searched for encrypted values"))

        tables, rest = candidates(connection, discover(connection, (), announce=announce, sampled=True))
        is_scanned = scan or not tables  # whose values are not ours has them in another format
        others = [each for each in scan_connected(connection, report).findings if _is_other(each)] if is_scanned else []
        name = display_name(found)
        for of in () if tables else (each.name for each in SPECS.values() if each.template):
            if declared := _columns_of(of, connection, others):
                undeclared = [each for each in others if each not in declared]
                return Found(name, candidates(connection, list(declared.values()))[0], rest, undeclared, of)
        return Found(name, tables, rest, others)


def _columns_of(name: str, connection: Connection, findings: Sequence[Finding]) -> dict[Finding, FoundColumn]:
    """Returns the columns that hold mostly values of a format and can be declared."""
    columns = {}
    for finding in findings:
        is_declarable = finding.format == name and not finding.wrapped and is_column(finding.place)
        if is_declarable and finding.share > _MOSTLY:
            row = connection.execute("SELECT array_to_string(parse_ident(%s), '.')", (finding.place.table,)).fetchone()
            column = FoundColumn(str(row and row[0]), finding.place.column, finding.values, 0, ())
            if candidates(connection, [column])[0]:
                columns[finding] = column
    return columns


def _is_other(finding: Finding) -> bool:
    return finding.format != NATIVE and finding.tier != "possible"


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
        named = declared.database.url
        # An embedded server only if it already runs, such as for `up`: pressing Tab must not start one.
        url = EmbeddedServer(declared.home / EMBEDDED).url() if named is None else named.get_secret_value()
        return ids(_with_schema(url, declared), beginning)
    except Exception:  # noqa: BLE001  whatever it is, pressing Tab is no place for errors
        return []
