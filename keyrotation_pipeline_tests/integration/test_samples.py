"""What the sample of a table reads: so much of all of it, however many partitions it has."""

import pytest

from keyrotation_pipeline.adapters.postgres.inventory import samples
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline_tests.integration.encrypted_rows import ring_of, sealed, table_of

PARTITIONS, PAGES = 8, 100


@pytest.mark.parametrize("partitions", [1, PARTITIONS])
def test_partitions_share_one_sample(connection: Connection, monkeypatch: pytest.MonkeyPatch, partitions: int) -> None:
    monkeypatch.setattr(samples, "TABLE_SAMPLE_BYTES", 80 * 8192)
    ring = ring_of(1, 2)
    connection.execute("CREATE TABLE public.notes (id int, a text, wide text) PARTITION BY HASH (id)")
    for place in range(partitions):
        # A row fills a page.
        connection.execute(
            f"CREATE TABLE public.notes_{place} PARTITION OF public.notes "
            f"FOR VALUES WITH (MODULUS {partitions}, REMAINDER {place})".encode()
        )
    connection.execute("ALTER TABLE public.notes ALTER wide SET STORAGE PLAIN")
    connection.execute(
        "INSERT INTO public.notes SELECT n, %s, repeat('x', 6000) FROM generate_series(1, %s) AS n",
        (sealed(ring, 1, "some text"), PARTITIONS * PAGES),
    )
    (trial,) = samples.decrypt_sample(connection, table_of("notes", "a"), ring, 1000, {}).columns
    assert 40 < trial.tried == trial.opened < 160
