"""What the inventory says of values in other formats."""

from keyrotation_pipeline.adapters.postgres.inventory.postgres_inventory import PostgresInventory
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline_tests.vectors.foreign_values import FOREIGN


def values(name: str) -> list[str]:
    return [str(value) for entry in FOREIGN if entry.format == name for value in entry.values]


def test_certain_ciphertext_in_other_formats_is_found_over_our_own_connection(connection: Connection) -> None:
    connection.execute("CREATE TABLE public.t (own text, token text, sealed text, note text)")
    rows = zip(values("native"), values("jwe"), values("lockbox"), strict=False)
    for row in rows:
        connection.execute("INSERT INTO public.t VALUES (%s, %s, %s, 'a note')", row)
    before = connection.execute("SELECT name, setting FROM pg_settings ORDER BY 1").fetchall()
    found = PostgresInventory(connection).other_formats()
    assert [(each.place.column, each.format) for each in found] == [("token", "jwe")]
    assert connection.execute("SELECT name, setting FROM pg_settings ORDER BY 1").fetchall() == before
