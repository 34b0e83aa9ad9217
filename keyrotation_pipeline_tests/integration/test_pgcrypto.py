"""Columns that an application encrypts with pgcrypto in its SQL come into our own format, beside that application."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from psycopg.rows import args_row

from keyrotation_pipeline.adapters.postgres.inventory import quarantine
from keyrotation_pipeline.adapters.postgres.ledger.migrate import migrate
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.fieldcrypto.codecs.source import ClosedError, Source
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial, SourceKey
from keyrotation_pipeline.fieldcrypto.source_keys import LegacyKey
from keyrotation_pipeline.model.tables import EncryptedTable, Place, TableName
from keyrotation_pipeline_tests.integration.encrypted_rows import Engine, opened, ring_of, running, sealed
from keyrotation_pipeline_tests.servers import DEBIAN, discard, start_server

ON_DEBIAN = [
    pytest.mark.external_postgres,
    pytest.mark.skipif(not DEBIAN.exists(), reason="Debian's PostgreSQL is not installed"),
]
PASSPHRASE = "the application's passphrase"
NOTES = EncryptedTable.of(
    TableName("public", "notes"),
    [
        Place("token", source="pgcrypto-pgp", source_key="OLD_KEY"),
        Place("note", source="pgcrypto-armor", source_key="OLD_KEY"),
    ],
)
WRITE = (
    f"UPDATE public.notes SET token = public.pgp_sym_encrypt(%s, '{PASSPHRASE.replace(chr(39), chr(39) * 2)}'), "
    f"note = public.armor(public.pgp_sym_encrypt(%s, '{PASSPHRASE.replace(chr(39), chr(39) * 2)}')) WHERE id = %s"
)
STRANGE = ["v2: final version", "", "100 %", "Zürich 😀", "x" * 20_000, "a" * 16]
KEPT = json.loads((Path(__file__).parents[1] / "vectors" / "pgcrypto.json").read_text(encoding="utf-8"))
"""By what was said to `pgp_sym_encrypt`: values that PostgreSQL 15 made, in hex, with their texts."""


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    server = start_server(DEBIAN)
    try:
        yield server.url()
    finally:
        discard(server)


@pytest.fixture
def pgcrypto(server_url: str) -> Iterator[Connection]:
    """A database with the extension."""
    with connect(server_url) as connection:
        connection.execute("DROP SCHEMA IF EXISTS keyrotation CASCADE; DROP TABLE IF EXISTS public.notes")
        connection.execute("CREATE EXTENSION IF NOT EXISTS pgcrypto SCHEMA public")
        yield connection


def source_of(name: str) -> Source:
    return LegacyKey(name, PASSPHRASE).source


@pytest.mark.parametrize("options", KEPT)
def test_what_pgcrypto_made_opens_whatever_was_said_to_it(options: str) -> None:
    for text, stored in KEPT[options]:
        if options in {"disable-mdc=1", "cipher-algo=3des"}:
            with pytest.raises(ClosedError):
                source_of("pgcrypto-pgp").opened(bytes.fromhex(stored))
        else:
            assert source_of("pgcrypto-pgp").opened(bytes.fromhex(stored)) == text.encode()


@pytest.mark.parametrize("name", ["pgcrypto-pgp", "pgcrypto-armor"])
def test_no_byte_of_a_message_may_be_another(name: str) -> None:
    source = source_of(name)
    stored = source.sealed(b"Ada")
    for at in range(len(stored)):
        changed = stored[:at] + bytes([stored[at] ^ 1]) + stored[at + 1 :]
        with pytest.raises(ClosedError):
            source.opened(changed)
    for other in (b"", stored[:-1], stored + b"x", source_of(name).sealed(stored.hex().encode()) + stored):
        with pytest.raises(ClosedError):
            source.opened(other)
    with pytest.raises(ClosedError):
        LegacyKey(name, "another passphrase").source.opened(stored)


@pytest.mark.parametrize("server", [pytest.param("debian", marks=ON_DEBIAN)])
def test_pgcrypto_reads_what_we_write(pgcrypto: Connection, server: str) -> None:
    read = "SELECT public.pgp_sym_decrypt(%s::bytea, %s), public.pgp_sym_decrypt(public.dearmor(%s), %s)"
    for text in STRANGE:
        message, armored = (source_of(name).sealed(text.encode()) for name in ("pgcrypto-pgp", "pgcrypto-armor"))
        found = pgcrypto.execute(read, (message, PASSPHRASE, armored.decode(), PASSPHRASE)).fetchone()
        assert found == (text, text)


@pytest.mark.parametrize(
    "rows",
    [pytest.param(300, marks=ON_DEBIAN), pytest.param(200_000, marks=[*ON_DEBIAN, pytest.mark.extended])],
)
def test_what_an_application_writes_by_pgcrypto_meanwhile_is_kept_and_swept(
    pgcrypto: Connection, server_url: str, rows: int
) -> None:
    migrate(server_url)
    first = ring_of(1, 2)
    keys: dict[KeyVersion, KeyMaterial] = {version: first.material(version) for version in first.versions}
    ring = KeyRing({**keys, KeyVersion(3): SourceKey(PASSPHRASE.encode(), "OLD_KEY")}, first.primary)
    pgcrypto.execute("CREATE TABLE public.notes (id int PRIMARY KEY, token bytea, note text)")
    written = {n: (f"token {n}", STRANGE[n] if n < len(STRANGE) else f"note {n}") for n in range(rows)}
    with pgcrypto.cursor() as cursor:
        cursor.execute("INSERT INTO public.notes (id) SELECT * FROM generate_series(0, %s)", (rows - 1,))
        cursor.executemany(WRITE, [(*texts, n) for n, texts in written.items()])
    running(pgcrypto, "routine")
    stopped, changes = threading.Event(), 0

    def write() -> None:
        nonlocal changes
        chance = Random(7)
        with connect(server_url) as application:
            while not stopped.is_set():
                row, changes = chance.randrange(rows), changes + 1
                texts = f"written {changes}", f"v2: written {changes}"
                if changes % 2:
                    stored = sealed(ring, 2, texts[0]).encode(), sealed(ring, 2, texts[1]), row
                    application.execute("UPDATE public.notes SET token = %s, note = %s WHERE id = %s", stored)
                else:
                    application.execute(WRITE.encode(), (*texts, row))
                written[row] = texts

    writer = threading.Thread(target=write)
    writer.start()
    began = time.perf_counter()
    try:
        engine = Engine(server_url, ring)
        engine.shard(NOTES)
    finally:
        seconds = time.perf_counter() - began
        stopped.set()
        writer.join()
    while engine.sweep(NOTES, wait=True).rows:
        pass
    read = "SELECT id, encode(token, 'escape'), note FROM public.notes"
    rows_now: list[tuple[int, str, str]] = (
        pgcrypto.cursor(row_factory=args_row(lambda *row: row)).execute(read).fetchall()
    )
    found = {n: (opened(ring, token), opened(ring, note)) for n, token, note in rows_now}
    assert found == {n: tuple(("v2", text) for text in texts) for n, texts in written.items()}
    assert quarantine.load(pgcrypto, [NOTES]) == ()
    print(f"{rows:,} rows, {changes:,} writes meanwhile, {rows / seconds:,.0f} rows/s")  # noqa: T201
