"""The server's own count of written rows, over partitions and inheritance too."""

import pytest

from keyrotation_pipeline.adapters.postgres.inventory.counts import written_rows
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.model.tables import EncryptedTable, TableName

PLAIN = "CREATE TABLE public.t (id int, secret text)"
PARTITIONED = """
CREATE TABLE public.t (id int, secret text) PARTITION BY RANGE (id);
CREATE TABLE public.t1 PARTITION OF public.t FOR VALUES FROM (0) TO (3);
CREATE TABLE public.t2 PARTITION OF public.t FOR VALUES FROM (3) TO (100)
"""


@pytest.mark.parametrize("schema", [PLAIN, PARTITIONED], ids=["plain", "partitioned"])
def test_inserts_and_updates_are_counted(connection: Connection, database_url: str, schema: str) -> None:
    connection.execute(schema)
    connection.execute("INSERT INTO public.t SELECT i, 'x' FROM generate_series(1, 5) i")
    connection.execute("UPDATE public.t SET secret = 'y' WHERE id <= 2")
    connection.execute("SELECT pg_stat_force_next_flush()")
    table = EncryptedTable(TableName("public", "t"), ("secret",))
    with connect(database_url) as reader:
        assert written_rows(reader, [table]) == {"t": 7}
