"""What a scratch server must have before an unprivileged role restores a dump there."""

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

# Of contrib: types, indexes, triggers and statistics; none opens a file, a connection or another session.
BY_SUPERUSER = frozenset({
    "amcheck", "autoinc", "bloom", "earthdistance", "insert_username", "moddatetime", "pg_buffercache",
    "pg_freespacemap", "pg_prewarm", "pg_stat_statements", "pg_visibility", "pgrowlocks", "pgstattuple", "refint",
    "sslinfo",
})  # fmt: skip
# These reach other servers or files, and hold no rows.
REACHING_OUT = frozenset({"dblink", "file_fdw", "postgres_fdw"})
# Others hold no row either, and a role without power cannot create them. Names of kinds end at a blank.
_LEFT_OUT = (
    "EVENT TRIGGER - ", "PUBLICATION ", "SUBSCRIPTION ", "FOREIGN DATA WRAPPER - ", "SERVER - ", "USER MAPPING - ",
    "FOREIGN TABLE ",
)  # fmt: skip
_COMMENTED = ("EXTENSION", "EVENT TRIGGER", "PUBLICATION", "SUBSCRIPTION", "FOREIGN DATA WRAPPER", "SERVER")
_EXTENSION = "EXTENSION - "
_IDENTIFIER = r'(?:"((?:[^"]|"")+)"|([a-z_][a-z0-9_$]*))'
_CREATE = re.compile(rf"^CREATE EXTENSION IF NOT EXISTS {_IDENTIFIER} WITH SCHEMA {_IDENTIFIER};$", re.MULTILINE)
# As pg_dump writes policies; `public` is no role.
_POLICY = re.compile(
    rf"^CREATE POLICY {_IDENTIFIER} ON {_IDENTIFIER}(?:\.{_IDENTIFIER})?(?: AS RESTRICTIVE)?(?: FOR [A-Z]+)?"
    rf" TO ({_IDENTIFIER}(?:, {_IDENTIFIER})*)(?: USING \(| WITH CHECK \(|;)",
    re.MULTILINE,
)
_ROLES = 7  # the group of `_POLICY` that holds them, after two for each name before
_BUILT_IN = frozenset({"public", "pg_catalog"})


@dataclass(frozen=True, slots=True)
class Extension:
    """An extension that a dump creates, and the schema that it lies in."""

    name: str
    schema: str


@dataclass(frozen=True, slots=True)
class Beforehand:
    """What the superuser creates: extensions, and roles that can do nothing."""

    extensions: tuple[Extension, ...] = ()
    roles: tuple[str, ...] = ()

    @property
    def schemas(self) -> frozenset[str]:
        """Of the extensions, if they are not there in every database."""
        return frozenset(each.schema for each in self.extensions) - _BUILT_IN


def needed(listed: Sequence[ArchiveEntry]) -> frozenset[str]:
    """Names of the extensions that are to be restored."""
    return frozenset(filter(None, map(_extension, listed))) - REACHING_OUT


def beforehand(
    programs: Programs, name: str, dump: Path, key: RecoveryKey, listed: Sequence[ArchiveEntry], allowed: frozenset[str]
) -> Beforehand:
    """What a superuser has to create; extensions each in the schema that the dump's text names.

    Args:
        allowed: names of extensions that a superuser may create.

    Raises:
        DamagedBackupError, WrongRecipientError: as `restoring.entries`.
    """
    if not needed(listed) & allowed and not any(each.text.startswith("POLICY ") for each in listed):
        return Beforehand()
    return named_in(beginning(programs, name, dump, key, "--schema-only", "--file=-"), allowed)


def named_in(text: str, allowed: frozenset[str]) -> Beforehand:
    """What the SQL of a dump names."""
    found = {_name(*line[:2]): _name(*line[2:]) for line in reversed(_CREATE.findall(text))}
    roles = {
        _name(*role)
        for policy in _POLICY.finditer(text)
        for role in re.findall(_IDENTIFIER, policy[_ROLES])
        if role != ("", "public")
    }
    return Beforehand(
        tuple(Extension(each, found[each]) for each in sorted(allowed.intersection(found))), tuple(sorted(roles))
    )


def require_available(
    connection: Connection, dump: DatabaseCopy, listed: Sequence[ArchiveEntry], server: str, allowed: frozenset[str]
) -> None:
    """Refuse a server that lacks an extension, or could create one only with power that restored SQL must not have.

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
            "restores without power; if what it offers may be used by the dump's own SQL, name it in [recovery] "
            "superuser_extensions"
        )


def create(connection: Connection, wanted: Beforehand, owner: str) -> None:
    """Create roles, and extensions with their schemas for `owner`, in a database that is empty."""
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


def is_left_out(entry: ArchiveEntry, created: Beforehand) -> bool:
    """Whether an entry is not restored into a scratch server: it is there already, or needs power and holds no row."""
    if (extension := _extension(entry)) is not None:
        return extension in REACHING_OUT
    return entry.text.startswith((*_LEFT_OUT, *_comments(), *(f"SCHEMA - {schema} " for schema in created.schemas)))


def _comments() -> Iterator[str]:
    yield from (f"COMMENT - {kind} " for kind in _COMMENTED)


def _extension(entry: ArchiveEntry) -> str | None:
    # The owner, which comes last, is empty.
    text = entry.text
    return text.removeprefix(_EXTENSION).rpartition(" ")[0] if text.startswith(_EXTENSION) else None


def _name(quoted: str, plain: str) -> str:
    return quoted.replace('""', '"') if quoted else plain


_OFFERED = """
SELECT v.name, bool_or(v.trusted OR NOT v.superuser) FROM pg_available_extension_versions v
JOIN pg_available_extensions e ON e.name = v.name AND e.default_version = v.version GROUP BY v.name
"""


RESTORER = "restorer"
# It owns its database, and so what it restores there. It sees all rows, since policies are restored, too.
_ROLE = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION BYPASSRLS"
# The only line: every other login is refused. No password is asked for in a directory that nobody else can enter.
_ACCESS = f"local {APPLICATION_DATABASE} {RESTORER} trust\n"
_CLOSE_SECONDS, _LOOK_SECONDS = 30, 0.02


def hand_over(server: EmbeddedServer, connection: Connection, wanted: Beforehand) -> str:
    """Give the application's database of a new server to the restorer, and shut the superuser out.

    Args:
        connection: the superuser's, to that database, which is empty.
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
    """Wait until the server refuses the superuser: it reads its configuration a moment after it is told to."""
    for _ in attempts(SystemClock(), pause_seconds=_LOOK_SECONDS, patience_seconds=_CLOSE_SECONDS):
        try:
            psycopg.connect(server.url(APPLICATION_DATABASE), connect_timeout=5).close()
        except psycopg.OperationalError as refusal:
            if "pg_hba.conf" in str(refusal):
                return
    raise HomeError("the scratch server does not shut its superuser out; see its log, and run this again")
