"""Opens connections to the application's database; their refusals as sentences, quoting, and encodings."""

import codecs
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import Any, TypeVar, cast

import psycopg
from psycopg import ProgrammingError
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.types.json import Jsonb

from keyrotation_pipeline.errors import DatabaseUnavailableError, PreflightError
from keyrotation_pipeline.model.audit import CLOCKS_DIFFER_BY
from keyrotation_pipeline.ports.clock import Clock

_HOW = "write postgresql://user@host/name"
_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]{0,30})://")
# Longer than a PostgreSQL name can be, but shorter than a connection string.
_NAME = r'"(?P<name>[^"\n]{1,128})"'

# In this order: with several hosts, the text has a reason for each. A server that speaks a language other than English
# gets the last sentence.
_MESSAGES = (
    (rf"password authentication failed for user {_NAME}",
     'the server refuses the password of "{name}"; correct it in {setting}'),
    (r"no password supplied",
     "the server asks for a password and none was given; add it to {setting}"),
    (rf"permission denied for database {_NAME}",
     'the role may not use this database; as its owner, GRANT CONNECT ON DATABASE "{name}" TO that role'),
    (r"no pg_hba\.conf entry for .*",
     "the server allows no login as this role, to this database, from this host; add a line to its pg_hba.conf"),
    (rf"database {_NAME} does not exist",
     'the server has no database "{name}"; create it, or correct the name in {setting}'),
    (rf"database {_NAME} is not currently accepting connections",
     'the server accepts no connections to it; as its owner, ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'),
    (rf"role {_NAME} does not exist",
     'the server has no role "{name}"; create it (deploy/sql/{role}), or correct {setting}'),
    (rf"role {_NAME} is not permitted to log in",
     'the role "{name}" may not log in; ALTER ROLE "{name}" LOGIN'),
    (r"failed to resolve host|could not translate host name",
     "its host's name is not known here; correct the host in {setting}"),
    (r"the database system is (?P<name>starting up|shutting down|in recovery mode|not yet accepting connections)",
     "the server is {name}; wait a moment, then run this again"),
    (r"server closed the connection unexpectedly|Connection reset by peer",
     "the server ended the connection; check that it runs, then run this again"),
    (r"too many clients already|remaining connection slots|too many connections for",
     "the server has no connection left; end some, or raise its max_connections"),
    (r"due to (?P<name>[a-z -]+) timeout",
     "the {name} timeout of role or database ends the session before it is set up; raise it"),
    (r"Connection refused|No such file or directory|[Tt]imed? ?out|[Tt]imeout|No route to host|Network is unreachable",
     "no server answers there; start it, or correct host and port in {setting}"),
)  # fmt: skip


URL_SETTING = "[database] url"
READ_ONLY = (
    f"is read-only; give the primary's address as {URL_SETTING}, or set default_transaction_read_only to off for "
    "the database and the role that rotates"
)


def refusal_of(
    error: psycopg.Error, url: str, setting: str = URL_SETTING, role: str = "pipeline-role.sql"
) -> DatabaseUnavailableError:
    """Returns the sentence for a refused connection; it names host and database, never the password.

    Args:
        setting: where the URL comes from.
        role: the file of `deploy/sql` that makes the role which connects.
    """
    said = str(error)
    for pattern, message in _MESSAGES:
        if (found := re.search(pattern, said)) is not None:
            why = message.format(setting=setting, role=role, **found.groupdict())
            break
    else:
        lines = said.strip().splitlines() or [type(error).__name__]
        fatal = next((line for line in lines if "FATAL" in line), lines[0])
        why = f"{fatal.strip()}; {_what_to_correct(error, setting)}"
    return DatabaseUnavailableError(f"cannot connect to {display_name(url)}: {_without_password(why, url)}")


def _what_to_correct(error: psycopg.Error, setting: str) -> str:
    """Returns what libpq knows without words: the server may speak any language, and libpq gets no SQLSTATE."""
    if error.pgconn is not None and error.pgconn.used_password:
        return f"it refused after it got the password; correct user, password or database in {setting}"
    return f"fix that, or correct {setting}"


@contextmanager
def unless_read_only(url: str) -> Iterator[None]:
    """Says in a sentence that whoever administers the database has made it read-only; the rest raises as it does.

    Raises:
        PreflightError: the database is read-only.
    """
    try:
        yield
    except psycopg.errors.ReadOnlySqlTransaction:
        raise PreflightError(f"{display_name(url)} {READ_ONLY}") from None


def display_name(url: str, setting: str = URL_SETTING) -> str:
    """Returns ``name@host`` of a connection string, without user and password.

    Args:
        setting: see `refusal_of`.

    Raises:
        DatabaseUnavailableError: it is not a PostgreSQL connection string.
    """
    try:
        parts = conninfo_to_dict(url)
    except ProgrammingError:
        raise DatabaseUnavailableError(_not_a_url(url, setting)) from None
    host = str(parts.get("host") or parts.get("hostaddr") or "localhost")
    port = parts.get("port")
    if host.startswith("/"):  # a Unix socket
        host, port = "localhost", None
    return f"{parts.get('dbname') or parts.get('user') or 'postgres'}@{host}{f':{port}' if port else ''}"


def _not_a_url(url: str, setting: str) -> str:
    """Returns an error that shows only the scheme: libpq's own text repeats the string, with its password."""
    scheme = _SCHEME.match(url)
    if scheme is None:
        return f"{setting} is not a PostgreSQL connection string; {_HOW}"
    if scheme[1].lower() not in {"postgresql", "postgres"}:
        return f"{setting} begins with {scheme[1]}://, which is not PostgreSQL's own scheme; {_HOW}"
    return (
        f"{setting} has a part that PostgreSQL does not know: a misspelt parameter after ?, or a character of the "
        f"password not written as %XX; {_HOW}?name=value"
    )


def _without_password(text: str, url: str) -> str:
    password = conninfo_to_dict(url).get("password")
    return text.replace(str(password), "***") if password else text


APPLICATION_NAME = "keyrotation"

# A role or database may set any of these differently; everything that we rely on is set here.
# row_security off: under FORCE ROW LEVEL SECURITY a count is silently short; off turns that into an error.
# keyrotation.engine: triggers with the clause that the pre-flight prints do not fire for our writes.
# Encoding, styles, quoting and search path decide how values, times and definitions are written: a fence, for example,
# counts only if its definition reads as we wrote it.
_PINNED = {
    "row_security": "off",
    "idle_in_transaction_session_timeout": "60s",
    "lock_timeout": "1s",
    "statement_timeout": "0",
    "default_transaction_isolation": "read committed",
    "client_min_messages": "warning",
    "keyrotation.engine": "on",
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "quote_all_identifiers": "off",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "transform_null_equals": "off",
    "search_path": "pg_catalog",
    # A host that vanishes holds its locks and its snapshot no longer than this, and so does, over TCP, a process that
    # is frozen while the server waits to send. The defaults are hours, or as long as the process is frozen.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "30s",
}
# The same on our side, for a server that vanishes (milliseconds); the connection string takes precedence.
NETWORK = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 30_000}
# Not every version has these: a session of ours may be idle, or in a transaction, as long as a long step takes. And a
# commit of ours is on disk when it returns; settings stronger than "on" are not changed.
_PINNED_WHERE_KNOWN = """
SELECT pg_catalog.set_config(name, CASE name WHEN 'synchronous_commit' THEN 'on' ELSE '0' END, false)
FROM pg_catalog.pg_settings
WHERE name IN ('idle_session_timeout', 'transaction_timeout') OR name = 'synchronous_commit' AND setting = 'off'
"""
SESSION_SETTINGS = "; ".join(f"SET {name} = '{value}'" for name, value in _PINNED.items()) + ";" + _PINNED_WHERE_KNOWN

Connection = psycopg.Connection[tuple[object, ...]]
# How a server ends a session, by settings of role and database that hold until ours do; no OperationalError.
_TIMED_OUT = (psycopg.errors.IdleInTransactionSessionTimeout, psycopg.errors.TransactionTimeout)


_Answer = TypeVar("_Answer")


class LimitedConnection(psycopg.Connection[tuple[object, ...]]):
    """A connection whose answers are waited for until a limit, if one is set.

    A server that is frozen ends no statement, and neither TCP nor a Unix socket shows that.
    """

    _limit: tuple[float, float] | None = None

    @contextmanager
    def limited(self, seconds: float) -> Iterator[None]:
        """Waits for all answers inside no longer than this in all, and closes the connection then.

        Raises:
            DatabaseUnavailableError: it took longer.
        """
        self._limit = seconds, time.monotonic() + seconds
        try:
            yield
        finally:
            self._limit = None

    def wait(self, gen: PQGen[_Answer], *arguments: Any, **options: Any) -> _Answer:  # noqa: ANN401  as there
        """See `psycopg.Connection.wait`."""
        if self._limit is None:
            return super().wait(gen, *arguments, **options)
        seconds, until = self._limit
        try:
            return super().wait(_waiting_until(until, gen), *arguments, **options)
        except _LateError:
            self.close()
            raise DatabaseUnavailableError(
                f"it has not answered within {seconds:.0f} seconds; find out what its server does, then run this again"
            ) from None


class _LateError(Exception):
    """The limit has passed."""


def _waiting_until(limit: float, waiting: PQGen[_Answer]) -> PQGen[_Answer]:
    """Continues what a connection waits for, which is asked several times a second, until a time."""
    try:
        wanted = next(waiting)
        while True:
            ready = yield wanted
            if time.monotonic() > limit:
                raise _LateError
            wanted = waiting.send(ready)
    except StopIteration as done:
        return cast("_Answer", done.value)


def connect(url: str) -> LimitedConnection:
    """Opens a connection in autocommit mode.

    Args:
        url: libpq connection string or URL; it must reach the server itself, not a pooler.

    Raises:
        PreflightError: a pooler answers. No setting was changed: a pooler would pass it to the application.
        DatabaseUnavailableError: no server answers, or it refuses; names host and database, never the password.
    """
    with opening(url) as connection:
        return connection


@contextmanager
def opening(url: str) -> Iterator[LimitedConnection]:
    """Opens as `connect` does; queries inside use the transaction that sets the session up. Closes on error."""
    display_name(url)  # refuses anything that is not a connection string
    try:
        with ExitStack() as unless_kept:
            there = make_conninfo(url, **(NETWORK | conninfo_to_dict(url)))
            connection = LimitedConnection.connect(
                there, autocommit=True, application_name=APPLICATION_NAME, connect_timeout=10
            )
            unless_kept.callback(connection.close)
            with connection.transaction():
                _require_direct(connection, url)
                connection.execute(SESSION_SETTINGS.encode())
                yield connection
            unless_kept.pop_all()
    except psycopg.errors.ProtocolViolation:  # how a statement pooler refuses a transaction
        raise _pooled(url) from None
    except (psycopg.OperationalError, *_TIMED_OUT) as error:
        raise refusal_of(error, url) from None


def is_direct(connection: Connection) -> bool:
    """Returns whether the process that answered the login is the one that executes statements.

    A pooler answers the login itself, with its own process id (PostgreSQL protocol, BackendKeyData). The search
    path is still the one of role and database, so the function is schema-qualified.
    """
    return connection.execute("SELECT pg_catalog.pg_backend_pid()").fetchone() == (connection.info.backend_pid,)


def _require_direct(connection: Connection, url: str) -> None:
    if not is_direct(connection):
        raise _pooled(url)


def _pooled(url: str) -> PreflightError:
    return PreflightError(
        f"the connection to {display_name(url)} goes through a pooler, where session settings and locks may not "
        "hold; give the server's own address as [database] url"
    )


def require_same_time(connection: Connection, clock: Clock) -> None:
    """Refuses a host whose clock differs from the server's, since events of several hosts are ordered by time.

    Raises:
        PreflightError: says by how much they differ.
    """
    before = clock.now()
    there = cast("datetime", connection.execute("SELECT clock_timestamp()").fetchall()[0][0])
    away = max(before - there, there - clock.now())
    if away > CLOCKS_DIFFER_BY:
        raise PreflightError(
            f"the clock of this host and that of {display_name(connection.info.dsn)} differ by "
            f"{away.total_seconds():,.0f} seconds; set the wrong one right (NTP), then run this again"
        )


_QUOTED = "SELECT name, quote_ident(name) FROM unnest(%s::text[]) AS given (name)"


def quoted_names(connection: Connection, names: Sequence[str]) -> dict[str, str]:
    """Returns each name as the server quotes it, and so prints it in definitions."""
    return {str(name): str(quoted) for name, quoted in connection.execute(_QUOTED, (list(names),)).fetchall()}


def quoted(connection: Connection, *parts: str) -> str:
    """Returns a name for a statement that somebody types, such as ``billing."Notes"``; unquoted where possible."""
    names = quoted_names(connection, parts)
    return ".".join(names[part] for part in parts)


# These can store every text: UTF8 by definition, SQL_ASCII since it stores bytes unchecked.
_HOLD_ALL = frozenset({"UTF8", "SQL_ASCII"})
_SINGLE_BYTE = re.compile(r"(?:LATIN|ISO_8859_|WIN)[0-9]+")
_ESCAPED = re.compile(r"\\u\{([0-9a-f]{1,6})\}")


def codec_of(connection: Connection) -> str | None:
    """Returns the codec of what the database can store; None: it can store every text.

    For multi-byte encodings only ASCII is relied on, since Python's tables differ from PostgreSQL's.
    """
    name = connection.info.parameter_status("server_encoding") or "UTF8"
    if name in _HOLD_ALL:
        return None
    if _SINGLE_BYTE.fullmatch(name):
        try:
            return codecs.lookup(name.replace("WIN", "cp")).name
        except LookupError:
            pass
    return "ascii"


def storable(value: Any, codec: str | None) -> Any:  # noqa: ANN401  any parameter
    """Converts a parameter to one that the database can store; returns anything but text unchanged."""
    if codec is None:
        return value
    match value:
        case str():
            return "".join(_stored(character, codec) for character in re.split(r"(\\(?=u\{)|[^\x00-\x7f])", value))
        case Jsonb():
            return Jsonb(storable(value.obj, codec))
        case Mapping():
            return {storable(name, codec): storable(each, codec) for name, each in value.items()}
        case list() | tuple():
            return [storable(each, codec) for each in value]
        case _:
            return value


def readable(value: Any, codec: str | None) -> Any:  # noqa: ANN401  any column
    """Converts back what `storable` converted."""
    if codec is None:
        return value
    match value:
        case str():
            return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), value)
        case Mapping():
            return {readable(name, codec): readable(each, codec) for name, each in value.items()}
        case list():
            return [readable(each, codec) for each in value]
        case _:
            return value


def _stored(part: str, codec: str) -> str:
    """Converts a part of a text: plain ASCII, or one character that may have to be escaped."""
    if part == "\\":
        return r"\u{5c}"
    try:
        part.encode(codec)
    except UnicodeEncodeError:
        return f"\\u{{{ord(part):x}}}"
    return part
