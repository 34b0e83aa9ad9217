"""A few stored values of every column under one key version, from all over a table."""

from psycopg import sql

from keyrotation_pipeline.adapters.postgres.inventory.grammar_sql import as_text, under
from keyrotation_pipeline.adapters.postgres.inventory.scans import countable, heap_scan
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.columns import EncryptedTable

# One scan per column; the order needs memory for `values` entries only.
_SAMPLE = "SELECT {value} FROM ONLY {relation} WHERE {wanted} ORDER BY random() LIMIT {wanted_values}"


def sample(
    connection: Connection, table: EncryptedTable, version: KeyVersion, values: int
) -> dict[str, tuple[str, ...]]:
    """Up to `values` stored values of each declared column under `version`; a column without any is left out.

    Raises:
        PreflightError, BlockedError: as a count does.
    """
    found: dict[str, list[str]] = {}
    for relation in countable(connection, table):
        for column in table.columns:
            wanted = values - len(found.get(column, ()))
            query = sql.SQL(_SAMPLE).format(
                value=as_text(column),
                relation=relation.identifier,
                wanted=under(column, [version]),
                wanted_values=sql.Literal(wanted),
            )
            with heap_scan(connection, relation.label, relation.oid):
                rows = connection.execute(query).fetchall()
            if rows:
                found.setdefault(column, []).extend(str(value) for (value,) in rows)
    return {column: tuple(stored) for column, stored in found.items()}
