"""The databases of a fleet on PostgreSQL: connections to members, and what the evidence of each rests on."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import cast

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from keyrotation_pipeline.adapters.postgres.evidence import evidence_of
from keyrotation_pipeline.adapters.postgres.inventory.scans import readable_tree
from keyrotation_pipeline.adapters.postgres.ledger.mirror import Mirror
from keyrotation_pipeline.adapters.postgres.preflight.postgres_environment import PostgresEnvironment
from keyrotation_pipeline.adapters.postgres.retirement.proof import lock_tables
from keyrotation_pipeline.adapters.postgres.retirement.replicas import NONE_DECLARED, Replicas
from keyrotation_pipeline.adapters.postgres.retirement.search import RelationStates
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, LimitedConnection, connect
from keyrotation_pipeline.adapters.postgres.server.whereabouts import server_of
from keyrotation_pipeline.errors import PreflightError
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline.model.environment import DatabaseServer, MemberFound
from keyrotation_pipeline.model.proof import MemberState
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline.ports.database import DatabasePorts

# A promotion changes the name of the next WAL file at once, and the control file at the next checkpoint.
_NOW = "SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int, pg_current_wal_insert_lsn()::text"
_REACHED = "SELECT NOT pg_is_in_recovery() AND pg_current_wal_insert_lsn() >= %s::pg_lsn"
_FENCES = """
SELECT concat_ws('.', nullif(n.nspname, 'public'), c.relname),
       concat_ws(' ', 'relation', c.oid, 'file', pg_relation_filepath(c.oid), 'fence', {fence})
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY (%s::bigint[]::oid[])
"""


def environment_of(
    url: str, connection: Connection, replicas: Replicas = NONE_DECLARED, value_format: ValueFormat = NATIVE
) -> PostgresEnvironment:
    """The server around a member, whose name is what the server says."""
    return PostgresEnvironment(named_url(url, connection), connection, replicas, value_format)


def named_url(url: str, connection: Connection) -> str:
    """The connection string of a member, with the database that a connection by it has led to.

    A service file or PGDATABASE may name another database tomorrow, without a word in the connection string.
    """
    ((name,),) = connection.execute("SELECT current_database()::text").fetchall()
    return make_conninfo(url, dbname=str(name))


def connect_at(place: str, url: str) -> Connection:
    """Opens a further connection to a member.

    Args:
        place: where the member is.

    Raises:
        PreflightError: this connection leads elsewhere, as through a balancer; nothing was read or written there.
        DatabaseUnavailableError: as `connect`.
    """
    connection = connect(url)
    try:
        _require_at(place, environment_of(url, connection).identity().place)
    except BaseException:
        connection.close()
        raise
    return connection


def _require_at(place: str, there: str) -> None:
    if there != place:
        raise PreflightError(
            f"a further connection led to {there} instead of {place}; something between shares connections out: "
            "give the server's own address as url in [[databases]]"
        )


def state_of(connection: Connection, place: str, tables: Sequence[EncryptedTable], relations: str = "") -> MemberState:
    """Everything that the evidence of these tables rests on, as it is now.

    Args:
        relations: as they were read in the same transaction; "": they are read now.
    """
    fences = dict[str, str]()
    for table in tables:
        oids, evidence = [each.oid for each in readable_tree(connection, table)], evidence_of(connection, table)
        query = sql.SQL(_FENCES).format(fence=sql.SQL("({})").format(evidence.refusal.IDENTITY))
        found = cast("list[tuple[str, str]]", connection.execute(query, (oids,)).fetchall())
        fences.update({name: f"{identity} {evidence.refused_by()}".rstrip() for name, identity in found})
    ((timeline, _),) = connection.execute(_NOW).fetchall()
    return MemberState(
        place=place,
        timeline=cast("int", timeline),
        fences=fences,
        relations=relations or RelationStates.now(connection, tables).digest,
    )


@dataclass(frozen=True)
class PostgresOwnTables:
    """`OwnTables` on PostgreSQL.

    Args:
        connection: the control connection of the home, in the ledger's transaction.
    """

    connection: Connection
    environment: PostgresEnvironment

    def unlocked_after(self) -> AbstractContextManager[psycopg.Transaction]:
        """See `OwnTables.unlocked_after`: going back to a savepoint ends the locks that were taken after it."""
        return self.connection.transaction(force_rollback=True)

    def lock(self, tables: Sequence[EncryptedTable]) -> None:
        """See `OwnTables.lock`."""
        lock_tables(self.connection, tables)

    def state(self, tables: Sequence[EncryptedTable], relations: str = "") -> MemberState:
        """See `OwnTables.state`."""
        return state_of(self.connection, self.environment.identity().place, tables, relations)


@dataclass(frozen=True)
class PostgresMember:
    """`Member` on PostgreSQL.

    Args:
        connection: its control connection.
        unmoved: refuses where it runs, by PreflightError.
    """

    connection: LimitedConnection
    ports: DatabasePorts
    mirror: Mirror
    unmoved: Callable[[DatabaseServer], None]

    def bring_up_to_date(self) -> None:
        """See `Member.bring_up_to_date`."""
        self.mirror.bring_up_to_date()

    def found(self) -> MemberFound:
        """See `Member.found`."""
        return MemberFound(server_of(self.connection).as_signed, self.mirror.former())

    def require_copy(self) -> None:
        """See `Member.require_copy`."""
        self.mirror.require_copy()

    def require_unmoved(self) -> None:
        """See `Member.require_unmoved`."""
        self.unmoved(server_of(self.connection).as_signed)

    @property
    def is_open(self) -> bool:
        """See `Member.is_open`."""
        return not self.connection.closed

    def transaction(self) -> AbstractContextManager[psycopg.Transaction]:
        """See `Member.transaction`."""
        return self.connection.transaction()

    def limited(self, seconds: float) -> AbstractContextManager[None]:
        """See `Member.limited`."""
        return self.connection.limited(seconds)

    def state(self, tables: Sequence[EncryptedTable], relations: str = "") -> MemberState:
        """See `Member.state`."""
        return state_of(self.connection, self.ports.environment.identity().place, tables, relations)

    def wal_position(self) -> str:
        """See `Member.wal_position`."""
        ((_, lsn),) = self.connection.execute(_NOW).fetchall()
        return str(lsn)

    def has_reached(self, lsn: str) -> bool:
        """See `Member.has_reached`."""
        return self.connection.execute(_REACHED, (lsn,)).fetchone() == (True,)

    def close(self) -> None:
        """See `Member.close`."""
        self.connection.close()
