"""Prepares a scratch server so that an unprivileged role can restore a dump there."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.adapters.postgres.server.embedded import APPLICATION_DATABASE, EmbeddedServer
from keyrotation_pipeline.adapters.postgres.server.programs import Programs
from keyrotation_pipeline.adapters.postgres.server.restore import ArchiveEntry, beginning
from keyrotation_pipeline.errors import HomeError, IncompleteRestoreError
from keyrotation_pipeline.model.backups import DatabaseCopy
from keyrotation_pipeline.ports.backups import RecoveryKey
from keyrotation_pipeline.ports.clock import attempts

# From contrib: types, indexes, triggers and statistics; none opens a file, a connection or another session.
BY_SUPERUSER = frozenset({
    "amcheck", "autoinc", "bloom", "earthdistance", "insert_username", "moddatetime", "pg_buffercache",
    "pg_freespacemap", "pg_prewarm", "pg_stat_statements", "pg_visibility", "pgrowlocks", "pgstattuple", "refint",
    "sslinfo",
})  # fmt: skip
# These reach other servers or files, and hold no rows.
REACHING_OUT = frozenset({"dblink", "file_fdw", "postgres_fdw"})
# Others hold no row either, and an unprivileged role cannot create them. Names of kinds end at a blank.
_LEFT_OUT = (
    "EVENT TRIGGER - ", "PUBLICATION ", "SUBSCRIPTION ", "FOREIGN DATA WRAPPER - ", "SERVER - ", "USER MAPPING - ",
    "FOREIGN TABLE ",
)  # fmt: skip
_COMMENTED = ("EXTENSION", "EVENT TRIGGER", "PUBLICATION", "SUBSCRIPTION", "FOREIGN DATA WRAPPER", "SERVER")
_EXTENSION = "EXTENSION - "
_IDENTIFIER = r'(?:"((?:[^"]|"")+)"|([a-z_][a-z0-9_$]*))'
_CREATE = re.compile(rf"^CREATE EXTENSION IF NOT EXISTS {_IDENTIFIER} WITH SCHEMA {_IDENTIFIER};$", re.MULTILINE)
# As pg_dump writes policies; `public` is not a role.
_POLICY = re.compile(
    rf"^CREATE POLICY {_IDENTIFIER} ON {_IDENTIFIER}(?:\.{_IDENTIFIER})?(?: AS RESTRICTIVE)?(?: FOR [A-Z]+)?"
    rf" TO ({_IDENTIFIER}(?:, {_IDENTIFIER})*)(?: USING \(| WITH CHECK \(|;)",
    re.MULTILINE,
)
_ROLES = 7  # the group of `_POLICY` with the roles, after two groups for each preceding name
_BUILT_IN = frozenset({"public", "pg_catalog"})


@dataclass(frozen=True, slots=True)
class Extension:
    """An extension that a dump creates, and its schema."""

    name: str
    schema: str


@dataclass(frozen=True, slots=True)
class Prerequisites:
    """What the superuser creates: extensions, and roles without any right."""

    extensions: tuple[Extension, ...] = ()
    roles: tuple[str, ...] = ()

    @property
    def schemas(self) -> frozenset[str]:
        """The schemas of the extensions, except those that every database has."""
        return frozenset(each.schema for each in self.extensions) - _BUILT_IN


def needed(listed: Sequence[ArchiveEntry]) -> frozenset[str]:
    """Returns names of the extensions to restore."""
    return frozenset(filter(None, map(_extension, listed))) - REACHING_OUT


def prerequisites(
    programs: Programs, name: str, dump: Path, key: RecoveryKey, listed: Sequence[ArchiveEntry], allowed: frozenset[str]
) -> Prerequisites:
    """Returns what a superuser has to create; extensions each in the schema that the dump's text names.

    Args:
        allowed: names of extensions that a superuser may create.

    Raises:
        DamagedBackupError, WrongRecipientError: as `restoring.entries`.
    """
    if not needed(listed) & allowed and not any(each.text.startswith("POLICY ") for each in listed):
        return Prerequisites()
    return named_in(beginning(programs, name, dump, key, "--schema-only", "--file=-"), allowed)


def named_in(text: str, allowed: frozenset[str]) -> Prerequisites:
    """Returns what the SQL of a dump names."""
    found = {_name(*line[:2]): _name(*line[2:]) for line in reversed(_CREATE.findall(text))}
    roles = {
        _name(*role)
        for policy in _POLICY.finditer(text)
        for role in re.findall(_IDENTIFIER, policy[_ROLES])
        if role != ("", "public")
    }
    return Prerequisites(
        tuple(Extension(each, found[each]) for each in sorted(allowed.intersection(found))), tuple(sorted(roles))
    )


def require_available(
    connection: Connection, dump: DatabaseCopy, listed: Sequence[ArchiveEntry], server: str, allowed: frozenset[str]
) -> None:
    """Refuses a server that lacks an extension, or needs a superuser to create one, which restored SQL must not have.

    Raises:
        IncompleteRestoreError: names the extension, and what to install.
    """
    offered = {str(extension): powerless for extension, powerless in connection.execute(_OFFERED)}
    name, major = dump.file.name, dump.server_major
    if missing := sorted(needed(listed) - set(offered)):
        raise IncompleteRestoreError(
            f"{name} needs the extension {', '.join(missing)}, which {server} does not have; install the package "
            f"postgresql-{major} (it has PostgreSQL's own extensions; others have packages of their own), or name the "
            "programs of a server that has them in [backup] postgres_binaries"
        )
    if refused := sorted(each for each in needed(listed) - allowed if not offered[each]):
        raise IncompleteRestoreError(
            f"{name} needs the extension {', '.join(refused)}, which only a superuser can create, and a recovery test "
            "restores as an unprivileged role; if the dump's own SQL may use it, name it in [recovery] "
            "superuser_extensions"
        )


def create(connection: Connection, wanted: Prerequisites, owner: str) -> None:
    """Creates roles, and extensions with their schemas for `owner`, in an empty database."""
    there = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles")}
    for role in wanted.roles:
        if role not in there and not role.startswith("pg_"):
            connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(role)))
    for schema in sorted(wanted.schemas):
        statement = sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}")
        connection.execute(statement.format(sql.Identifier(schema), sql.Identifier(owner)))
    for each in wanted.extensions:
        statement = sql.SQL("CREATE EXTENSION IF NOT EXISTS {} SCHEMA {} CASCADE")
        connection.execute(statement.format(sql.Identifier(each.name), sql.Identifier(each.schema)))


def is_left_out(entry: ArchiveEntry, created: Prerequisites) -> bool:
    """Returns whether an entry is left out of a scratch server: it exists already, or needs rights and holds no row."""
    if (extension := _extension(entry)) is not None:
        return extension in REACHING_OUT
    return entry.text.startswith((*_LEFT_OUT, *_comments(), *(f"SCHEMA - {schema} " for schema in created.schemas)))


def _comments() -> Iterator[str]:
    yield from (f"COMMENT - {kind} " for kind in _COMMENTED)


def _extension(entry: ArchiveEntry) -> str | None:
    # The owner, the last part, is empty.
    text = entry.text
    return text.removeprefix(_EXTENSION).rpartition(" ")[0] if text.startswith(_EXTENSION) else None


def _name(quoted: str, plain: str) -> str:
    return quoted.replace('""', '"') if quoted else plain


_OFFERED = """
SELECT v.name, bool_or(v.trusted OR NOT v.superuser) FROM pg_available_extension_versions v
JOIN pg_available_extensions e ON e.name = v.name AND e.default_version = v.version GROUP BY v.name
"""


RESTORER = "restorer"
# It owns its database, and so what it restores there. It sees all rows, since policies are restored too.
_ROLE = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION BYPASSRLS"
# The only line: every other login is refused. It needs no password, in a directory that nobody else can enter.
_ACCESS = f"local {APPLICATION_DATABASE} {RESTORER} trust\n"
_CLOSE_SECONDS, _LOOK_SECONDS = 30, 0.02


def hand_over(server: EmbeddedServer, connection: Connection, wanted: Prerequisites) -> str:
    """Gives the application's database of a new server to the restorer, and locks the superuser out.

    Args:
        connection: the superuser's, to that empty database.
        wanted: what the restorer could not create.

    Returns:
        URL of the restorer.

    Raises:
        HomeError: the superuser can still log in.
    """
    role, database = sql.Identifier(RESTORER), sql.Identifier(APPLICATION_DATABASE)
    connection.execute(sql.SQL("CREATE ROLE {} " + _ROLE).format(role))
    connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(database, role))
    connection.execute(sql.SQL("ALTER SCHEMA public OWNER TO {}").format(role))
    create(connection, wanted, RESTORER)
    server.write_access(_ACCESS)
    connection.execute("SELECT pg_reload_conf()")
    _require_closed(server)
    return make_conninfo(server.url(APPLICATION_DATABASE), user=RESTORER)


def _require_closed(server: EmbeddedServer) -> None:
    """Waits until the server refuses the superuser: it reloads its configuration a moment after the signal."""
    for _ in attempts(SystemClock(), pause_seconds=_LOOK_SECONDS, patience_seconds=_CLOSE_SECONDS):
        try:
            psycopg.connect(server.url(APPLICATION_DATABASE), connect_timeout=5).close()
        except psycopg.OperationalError as refusal:
            if "pg_hba.conf" in str(refusal):
                return
    raise HomeError("the scratch server does not lock its superuser out; see its log, and run this again")
