"""Restores a dump into a new database, in the one way that there is: by a role without power, then with its owners.

The new database is on the application's own server, next to the old one, or in a scratch server. It is created like
the dumped one and closed to everybody else. pg_restore, and all that reads what it has restored, run as the restoring
role. Then our own role gives it owners, privileges and settings, compares its catalogue with the dump's, and opens it
as the source was. A recovery test does all of this in a server of its own.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import LiteralString

from psycopg import sql
from psycopg.conninfo import make_conninfo

from keyrotation_pipeline.adapters.own_schema import with_schema
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.engine.postgres_rewriting import PostgresRewriting
from keyrotation_pipeline.adapters.postgres.inventory import contents
from keyrotation_pipeline.adapters.postgres.inventory.postgres_inventory import PostgresInventory
from keyrotation_pipeline.adapters.postgres.server.archive import Archive, shown
from keyrotation_pipeline.adapters.postgres.server.catalogue_check import differences, sequences_behind
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect, display_name
from keyrotation_pipeline.adapters.postgres.server.database_definition import differing_versions, read_definition
from keyrotation_pipeline.adapters.postgres.server.handover import Handover
from keyrotation_pipeline.adapters.postgres.server.programs import Programs
from keyrotation_pipeline.adapters.postgres.server.restore import LONGEST_RESTORE_SECONDS, restore, within_deadline
from keyrotation_pipeline.adapters.postgres.server.restore_plan import (
    BY_SUPERUSER,
    RestorePlan,
    missing,
    phrases,
    plan,
    rules_of,
)
from keyrotation_pipeline.adapters.postgres.server.restoring_role import (
    RestoringRole,
    borrow,
    create_for,
    drop,
    drop_privileged,
    drop_roles,
    give_back,
    give_back_public,
    is_superuser,
    prepare,
    require_power,
)
from keyrotation_pipeline.adapters.postgres.server.undumped import changed_owners
from keyrotation_pipeline.errors import IncompleteRestoreError, LostRowsError, RequestError
from keyrotation_pipeline.model.backups import DatabaseCopy
from keyrotation_pipeline.ports.backups import HandedOver, RecoveryKey, RekeyableDump, RestoredDump

_ENCODING = re.compile(r"^SET client_encoding = '\w+';$", re.MULTILINE)
_FOR_SUPERUSER = """\
-- What restoring {} leaves to a superuser, since it may run code with power. Read it first; then, in the new database:
--   psql -X -v ON_ERROR_STOP=1 -f THIS_FILE
SET client_encoding = 'UTF8';"""


@dataclass(frozen=True)
class Target:
    """Where a dump is restored.

    Args:
        admin: URL of our own role, to any database of the server.
        description: the server in one plain phrase.
        binaries: directory of pg_restore and pg_dump; None finds some.
        by_superuser: extensions that our role creates, if it is a superuser.
        longest_seconds: limit for the restore, and for each statement over what was restored.
        attributes: additional ones of the restoring role.
        is_scratch: nothing of the server remains; the restoring role keeps access to what it has restored.
        lock: is called before any SQL of the dump runs.
        rekeyable: what re-encrypts a restored dump, of the restoring role's URL and connection.
    """

    admin: str = field(repr=False)
    description: str
    binaries: Path | None
    by_superuser: frozenset[str]
    longest_seconds: float
    limits: Limits
    warning: str | None = None
    attributes: LiteralString = ""
    is_scratch: bool = False
    lock: Callable[[], None] = field(default=lambda: None, repr=False)
    rekeyable: Callable[[str, Connection], RekeyableDump] | None = None


@contextmanager
def restored_copy(
    target: Target, database: str, dump: DatabaseCopy, file: Path, key: RecoveryKey
) -> Iterator[RestoredDump]:
    """Restores a dump into the new database `database`; yields it as its restoring role reads it.

    An unfinished copy is dropped when the context ends with an error, unless it is worth a look: then nobody but
    superusers can connect to it.

    Raises:
        RequestError, PreflightError, IncompleteRestoreError, RestoreTimeoutError, RestoredQueryTimeoutError,
        DamagedBackupError, WrongRecipientError: see `NewDatabases.restored`.
    """
    # The version that wrote the dump, since an older pg_restore could not read it.
    archive = Archive(Programs.of_server(target.binaries, dump.server_major), dump, file, key)
    role = RestoringRole.of(database)
    with ExitStack() as stack:
        admin = stack.enter_context(closing(connect(target.admin)))
        require_power(admin, dump.definition)
        listed = archive.entries()
        text = archive.sql(listed, "--create", "--no-security-labels")
        allowed = target.by_superuser if is_superuser(admin) else frozenset[str]()
        planned = plan(listed, text, rules_of(admin, allowed), dump, target.description)
        created = create_for(admin, role, dump.definition, target.attributes)
        try:
            yield from _restored(stack, target, archive, role, planned, text)
        except LostRowsError:
            admin.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(sql.Identifier(role.name)))
            raise
        except BaseException:
            _discard(target, admin, role, created)
            raise
        _discard(target, admin, role, created)


def _discard(target: Target, admin: Connection, role: RestoringRole, created: Sequence[str]) -> None:
    """Drops a copy that was not handed over, and the roles that were created for it."""
    if not target.is_scratch and drop(admin, role):
        drop_roles(admin, created)


def _restored(
    stack: ExitStack, target: Target, archive: Archive, role: RestoringRole, planned: RestorePlan, text: str
) -> Iterator[RestoredDump]:
    """Restores, and yields what was restored."""
    url, dump = role.url(target.admin), archive.dump
    # Before any SQL of the dump has run, and before the server is locked.
    inside = stack.enter_context(closing(connect(make_conninfo(target.admin, dbname=role.database))))
    owner_of_public = prepare(inside, planned, role)
    identifier = _identifier_of(inside) if target.is_scratch else None
    target.lock()
    failures = restore(archive, url, planned.restored, longest_seconds=target.longest_seconds)
    stop = partial(_stop, inside, role)
    # We read it as the same role: the dump's code never runs with more rights than it was restored with.
    with within_deadline(url, archive.name, target.longest_seconds, stop), closing(connect(url)) as connection:
        rewriting = PostgresRewriting(connection, partial(connect, url), target.limits)
        found = read_definition(connection)
        warnings = [*filter(None, [target.warning]), *differing_versions(dump.definition, found)]
        copy = _Copy(target, archive, role, planned, text, inside, failures, owner_of_public)
        yield RestoredDump(
            PostgresInventory(connection),
            rewriting,
            contents.count(connection),
            (*failures, *sequences_behind(connection, text, planned.left_out_keys)),
            tuple(phrases(planned.left_out)),
            missing(dump.content, planned.left_out),
            target.description,
            "; ".join(warnings) or None,
            target.rekeyable(url, connection) if target.rekeyable else None,
            url,
            copy.hand_over,
            identifier,
        )


def _identifier_of(connection: Connection) -> str:
    [(identifier,)] = connection.execute("SELECT system_identifier::text FROM pg_control_system()").fetchall()
    return str(identifier)


def _stop(inside: Connection, role: RestoringRole) -> None:
    """Ends what runs as the restoring role, and lets it begin nothing more."""
    inside.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(sql.Identifier(role.name)))
    inside.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", (role.name,))


@dataclass(frozen=True)
class _Copy:
    """What was restored, and how to finish it."""

    target: Target
    archive: Archive
    role: RestoringRole
    planned: RestorePlan
    text: str = field(repr=False)
    inside: Connection
    failures: Sequence[str]
    owner_of_public: str

    def hand_over(self, note: Callable[[HandedOver], None] = lambda _done: None) -> HandedOver:
        """See `RestoredDump.hand_over`."""
        admin, role, roles = self.inside, self.role, self.archive.dump.definition.roles
        # Autovacuum may look at what was restored just now.
        admin.execute("SET lock_timeout = '60s'")
        borrowed = () if is_superuser(admin) else borrow(admin, roles)
        try:
            give_back_public(admin, self.owner_of_public)
            handover = Handover(admin, role, self.text, self.planned.left_out_keys)
            handover.of_objects()
            if self.target.is_scratch:
                # An owner may have no right on what it owns.
                for each in (*roles, "pg_read_all_data"):
                    admin.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(each), sql.Identifier(role.name)))
            wrong = (*handover.failures, *self._differences(handover))
            opened = not wrong and not self.failures
            with admin.transaction():
                has_owner = handover.of_database(opened=opened) is not None
                left_out = (*phrases(self.planned.left_out), *handover.phrases())
                for_superuser = self._for_superuser(handover, opened=opened and has_owner)
                done = HandedOver(wrong, left_out, for_superuser, self._undumped())
                if not self.target.is_scratch:
                    drop_privileged(admin, role)
                note(done)
        finally:
            give_back(admin, borrowed)
        return done

    def _undumped(self) -> tuple[str, ...]:
        recorded = self.archive.dump.undumped
        return () if recorded is None else (*map(shown, recorded.lost), *changed_owners(self.inside, recorded))

    def _for_superuser(self, handover: Handover, *, opened: bool) -> str:
        left_out = self.archive.sql(self.planned.left_out) if self.planned.left_out else ""
        # The text was decoded, and is written in UTF-8, whatever the encoding of the database.
        left_out = _ENCODING.sub("SET client_encoding = 'UTF8';", left_out, count=1)
        to_open = "" if opened else f"-- Nobody but its owner can connect before this.\n{handover.sql_to_open()}"
        parts = [*filter(None, (left_out, handover.sql_for_superuser(), to_open))]
        name = self.archive.name
        return "\n\n".join([_FOR_SUPERUSER.format(name), *parts, ""]) if parts else ""

    def _differences(self, handover: Handover) -> tuple[str, ...]:
        target, major = self.target, self.inside.info.server_version // 10_000
        url = self.role.url(target.admin) if target.is_scratch else target.admin
        return differences(
            Programs.of_server(target.binaries, major),
            self.text,
            make_conninfo(url, dbname=self.role.database),
            self.planned.left_out_keys,
            handover.refused,
            encoding=self.inside.info.parameter_status("server_encoding") or "UTF8",
            is_same=major == self.archive.dump.server_major,
        )


_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,62}", re.ASCII)


class RestoreToNewDatabase:
    """`NewDatabases` of the server that `url` names.

    Args:
        url: of any database there, as a superuser or a role with CREATEDB and CREATEROLE.
        binaries: directory of the pg_restore and pg_dump to use; None finds some.
        longest_seconds: how long a dump's own SQL may take.
        schema: returns that of the home whose dumps these are, once it is known; else the one that `url` names.
    """

    def __init__(
        self,
        url: str,
        binaries: Path | None,
        longest_seconds: float = LONGEST_RESTORE_SECONDS,
        schema: Callable[[], str] | None = None,
    ) -> None:
        self._url = url
        self._schema = schema
        self._binaries = binaries
        self._longest_seconds = longest_seconds

    @contextmanager
    def restored(self, database: str, dump: DatabaseCopy, file: Path, key: RecoveryKey) -> Iterator[RestoredDump]:
        """See `NewDatabases.restored`."""
        if not _NAME.fullmatch(database):
            raise RequestError(
                f"{database!r} is not a valid name for the new database; use letters, digits, _ and -, 63 at most"
            )
        self._require_not_older(dump)
        target = Target(
            admin=self._url if self._schema is None else with_schema(self._url, self._schema()),
            description=display_name(self._url),
            binaries=self._binaries,
            by_superuser=BY_SUPERUSER,
            longest_seconds=self._longest_seconds,
            # A second thread decrypts while the server reads for the first.
            limits=Limits(threads_per_worker=2),
        )
        with restored_copy(target, database, dump, file, key) as restored:
            yield restored

    def _require_not_older(self, dump: DatabaseCopy) -> None:
        with closing(connect(self._url)) as connection:
            major = connection.info.server_version // 10_000
        if major < dump.server_major:
            raise IncompleteRestoreError(
                f"{dump.file.name} is of PostgreSQL {dump.server_major}, and {display_name(self._url)} is a server of "
                f"{major}; restore into one of {dump.server_major} or later"
            )
