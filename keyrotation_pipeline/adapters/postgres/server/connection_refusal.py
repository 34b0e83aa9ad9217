"""Why no connection was made, and what to do, in one sentence: libpq and the server say the first half only."""

import re

from psycopg import OperationalError, ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from keyrotation_pipeline.errors import DatabaseUnavailableError

_HOW = "write postgresql://user@host/name"
_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]{0,30})://")
# Longer than a name of PostgreSQL's can be, and never a whole connection string.
_NAME = r'"(?P<name>[^"\n]{1,128})"'

# In this order: where several hosts are tried, the text has a reason for each. A server that speaks another language
# than English gets the last sentence.
_SENTENCES = (
    (rf"password authentication failed for user {_NAME}",
     'the server refuses the password of "{name}"; correct it in [database] url'),
    (r"no password supplied",
     "the server asks for a password and none was given; add it to [database] url"),
    (rf"permission denied for database {_NAME}",
     'the role may not use this database; as its owner, GRANT CONNECT ON DATABASE "{name}" TO that role'),
    (r"no pg_hba\.conf entry for .*",
     "the server lets nobody in as this role, to this database, from this host; add a line to its pg_hba.conf"),
    (rf"database {_NAME} does not exist",
     'the server has no database "{name}"; create it, or correct the name in [database] url'),
    (rf"role {_NAME} does not exist",
     'the server has no role "{name}"; create it (deploy/sql/pipeline-role.sql), or correct [database] url'),
    (rf"role {_NAME} is not permitted to log in",
     'the role "{name}" may not log in; ALTER ROLE "{name}" LOGIN'),
    (r"failed to resolve host|could not translate host name",
     "its host's name is not known here; correct the host in [database] url"),
    (r"the database system is (?P<name>starting up|shutting down|in recovery mode|not yet accepting connections)",
     "the server is {name}; wait a moment, then run this again"),
    (r"too many clients already|remaining connection slots|too many connections for",
     "the server has no connection left; end some, or raise its max_connections"),
    (r"Connection refused|No such file or directory|[Tt]imed? ?out|[Tt]imeout|No route to host|Network is unreachable",
     "no server answers there; start it, or correct host and port in [database] url"),
)  # fmt: skip


def refusal_of(error: OperationalError, url: str) -> DatabaseUnavailableError:
    """The sentence for a connection that was refused; it names host and database, never the password."""
    said = str(error)
    for pattern, sentence in _SENTENCES:
        if (found := re.search(pattern, said)) is not None:
            why = sentence.format(**found.groupdict())
            break
    else:
        lines = said.strip().splitlines() or [type(error).__name__]
        fatal = next((line for line in lines if "FATAL" in line), lines[0])
        why = f"{fatal.strip()}; {_what_to_correct(error)}"
    return DatabaseUnavailableError(f"cannot connect to {display_name(url)}: {_without_password(why, url)}")


def _what_to_correct(error: OperationalError) -> str:
    """As far as libpq knows without words, since the server may speak any language, and gives it no SQLSTATE."""
    if error.pgconn is not None and error.pgconn.used_password:
        return "it said so when it had the password; correct user, password or database in [database] url"
    return "mend that, or correct [database] url"


def display_name(url: str) -> str:
    """``name@host`` of a connection string, without user and password.

    Raises:
        DatabaseUnavailableError: it is no connection string of PostgreSQL.
    """
    try:
        parts = conninfo_to_dict(url)
    except ProgrammingError:
        raise DatabaseUnavailableError(_not_a_url(url)) from None
    host = str(parts.get("host") or parts.get("hostaddr") or "localhost")
    port = parts.get("port")
    if host.startswith("/"):  # a Unix socket
        host, port = "localhost", None
    return f"{parts.get('dbname') or parts.get('user') or 'postgres'}@{host}{f':{port}' if port else ''}"


def _not_a_url(url: str) -> str:
    """Shows the scheme alone: libpq's own text repeats the string, with its password."""
    scheme = _SCHEME.match(url)
    if scheme is None:
        return f"[database] url is not a PostgreSQL connection string; {_HOW}"
    if scheme[1].lower() not in {"postgresql", "postgres"}:
        return f"[database] url begins with {scheme[1]}://, which is not PostgreSQL's own scheme; {_HOW}"
    return (
        "[database] url has a part that PostgreSQL does not know (a misspelt parameter after ?, or a sign in the "
        f"password that has to be written as %XX); {_HOW}?name=value"
    )


def _without_password(text: str, url: str) -> str:
    password = conninfo_to_dict(url).get("password")
    return text.replace(str(password), "***") if password else text
