"""What the sample of a table reads: so much of all of it, however many partitions it has."""

from dataclasses import replace

import pytest

from keyrotation_pipeline.adapters.postgres.inventory import samples
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.aes_gcm import AES_GCM
from keyrotation_pipeline.fieldcrypto.formats.fernet import FERNET
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline_tests.integration.encrypted_rows import insert, ring_of, sealed, table_of
from keyrotation_pipeline_tests.integration.stored_places import seal

AES_GCM_B64 = replace(AES_GCM, layout="b64(nonce12 ct tag16)")

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


@pytest.mark.parametrize("values", [NATIVE, FERNET, AES_GCM_B64], ids=lambda each: each.name)
def test_values_that_hold_another_value_are_counted_among_those_that_open(
    connection: Connection, values: ValueFormat
) -> None:
    ring = ring_of(1, 2)
    table = replace(table_of("notes", "a"), format=values)
    connection.execute("CREATE TABLE public.notes (id int PRIMARY KEY, a text)")
    texts = ["v2: final version", *["once"] * 4]
    rows = [(row, seal(values, ring, 1, text)) for row, text in enumerate(texts)]
    rows += [(row, seal(values, ring, 1, seal(values, ring, 2, "x"))) for row in (7, 8)]
    insert(connection, "public.notes", rows)
    found = samples.decrypt_sample(connection, table, ring, 200, {})
    assert (found.tried, found.failed, sum(each.twice for each in found.columns)) == (7, 0, 2)
    assert {row for each in found.columns for row in each.twice_rows} == {'["7"]', '["8"]'}
