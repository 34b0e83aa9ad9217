"""How many rows were written to the encrypted tables, by the server's own statistics."""

from collections.abc import Mapping, Sequence

from keyrotation_pipeline.adapters.postgres.inventory import relations
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.model.tables import EncryptedTable


def written_rows(connection: Connection, tables: Sequence[EncryptedTable]) -> Mapping[str, int]:
    """Rows inserted and updated in each table since the server's statistics began, by the table's name.

    The statistics begin anew after `pg_stat_reset` and after a crash of the server, so over such an event the
    numbers are too low.
    """
    return {str(table.name): _written(connection, table) for table in tables}


def _written(connection: Connection, table: EncryptedTable) -> int:
    oids = [relation.oid for relation in relations.tree(connection, table)]
    row = connection.execute(
        "SELECT coalesce(sum(n_tup_ins + n_tup_upd), 0)::bigint FROM pg_stat_all_tables WHERE relid = ANY(%s::oid[])",
        (oids,),
    ).fetchone()
    return int(str(row[0])) if row else 0
