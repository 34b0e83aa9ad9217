"""The server around the tables, and what is to be known of it before a rotation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from keyrotation_pipeline.adapters.own_schema import DEFAULT, schema_of
from keyrotation_pipeline.adapters.postgres import preflight
from keyrotation_pipeline.adapters.postgres.inventory.catalog_search import search_exclusions
from keyrotation_pipeline.adapters.postgres.preflight import server
from keyrotation_pipeline.adapters.postgres.retirement.replicas import NONE_DECLARED, Replicas, write_down
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, display_name
from keyrotation_pipeline.adapters.postgres.server.whereabouts import server_of
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.environment import (
    BlindSpots,
    CheckNames,
    DatabaseIdentity,
    DatabaseServer,
    Environment,
    MemberFound,
    Problem,
    Unsearched,
)
from keyrotation_pipeline.model.tables import EncryptedTable

_IDENTITY = """
SELECT (SELECT system_identifier::text FROM pg_control_system()),
       (SELECT rolname FROM pg_roles WHERE rolname = current_user AND rolsuper)
"""
_UNDECLARED = Unsearched("columns that are not declared, where nothing tells a value from other text")
_OF_OTHERS = Unsearched("the home's own database, which has no [[tables]], for values of another library")


@dataclass(frozen=True)
class PostgresEnvironment:
    """`DatabaseSurroundings` over PostgreSQL 14 to 18.

    Args:
        replicas: what the configuration says of standbys and subscribers.
        value_format: of the declared tables' values.
        embedded: the directory of the home's own server; None: it is another one.
        has_tables: whether some are declared in it; if not, values of our own format alone are searched for.
    """

    url: str = field(repr=False)  # it may hold a password
    connection: Connection
    replicas: Replicas = NONE_DECLARED
    value_format: ValueFormat = NATIVE
    embedded: Path | None = None
    has_tables: bool = True

    def identity(self) -> DatabaseIdentity:
        """Which database this is."""
        row = self.connection.execute(_IDENTITY).fetchone()
        identifier, superuser = row or ("unknown", None)
        name, schema = display_name(self.url), schema_of(self.connection)
        role = None if superuser is None else str(superuser)
        return DatabaseIdentity(name, str(identifier), role, None if schema == DEFAULT else schema)

    def server(self) -> DatabaseServer:
        """See `DatabaseSurroundings.server`."""
        return server_of(self.connection, self.embedded)

    def members(self, *, reconciling: bool = False) -> Mapping[str, MemberFound]:  # noqa: ARG002
        """See `DatabaseSurroundings.members`: it is one database."""
        return {}

    def preflight(self, tables: Sequence[EncryptedTable], target: KeyVersion) -> tuple[Problem, ...]:
        """See `DatabaseSurroundings.preflight`."""
        write_down(self.connection)
        return preflight.preflight(self.connection, tables, target)

    def check_names(self) -> CheckNames:
        """See `DatabaseSurroundings.check_names`."""
        return preflight.names()

    def measure(self, tables: Sequence[EncryptedTable]) -> Environment:
        """See `DatabaseSurroundings.measure`."""
        return server.environment(self.connection, tables)

    def blind_spots(self) -> BlindSpots:
        """See `DatabaseSurroundings.blind_spots`."""
        unsearched = search_exclusions(self.connection)
        if not self.value_format.identified_by.is_searchable:
            unsearched = (_UNDECLARED, *unsearched)
        elif not self.has_tables and self.value_format.name != NATIVE.name:
            unsearched = (_OF_OTHERS, *unsearched)
        return BlindSpots(unsearched, gone=self.replicas.gone)

    def own_blind_spots(self) -> BlindSpots:
        """See `DatabaseEnvironment.own_blind_spots`: it is one database."""
        return self.blind_spots()
