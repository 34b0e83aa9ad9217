"""Values in bytes, in JSON documents and in arrays: rotated and rolled back beside an application that writes them."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from keyrotation_pipeline.adapters.postgres.inventory import quarantine
from keyrotation_pipeline.adapters.postgres.inventory.discovery import candidates, discover
from keyrotation_pipeline.adapters.postgres.ledger.migrate import migrate
from keyrotation_pipeline.adapters.postgres.preflight import preflight
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.tables import EncryptedTable, Place
from keyrotation_pipeline_tests.integration.encrypted_rows import ring_of, running
from keyrotation_pipeline_tests.integration.fernet_rows import V1, V2
from keyrotation_pipeline_tests.integration.stored_places import (
    COMPANIONS,
    FORMATS,
    SLOTS,
    STORED,
    Stored,
    open_value,
    seal,
)
from keyrotation_pipeline_tests.integration.test_fernet_rotation import Rotation, old_ring

ROWS = 120


class Writer:
    """Reads every row that it updates, and knows what must be in it; one thread changes what is around the values."""

    def __init__(self, url: str, values: ValueFormat, stored: Stored, ring: KeyRing) -> None:
        self._url, self._values, self._stored, self._ring = url, values, stored, ring
        self.version = 1
        self.expected = {row: [f"a{row}", f"b{row}"] for row in range(ROWS)}
        self.around = dict.fromkeys(range(ROWS), 0)
        self.wrong, self.writes = list[str](), 0
        self._stop = threading.Event()

    def create(self, connection: Connection) -> None:
        connection.execute(f"CREATE TABLE public.cases (id int PRIMARY KEY, {self._stored.columns}, n int DEFAULT 0)")
        for row in range(ROWS):
            connection.execute("INSERT INTO public.cases (id) VALUES (%s)", (row,))
            for slot, text in enumerate(self.expected[row]):
                self._put(connection, row, slot, text)

    def _put(self, connection: "psycopg.Connection", row: int, slot: int, text: str) -> None:
        value = seal(self._values, self._ring, self.version, text)
        connection.execute(f"UPDATE public.cases SET {self._stored.put[slot]} WHERE id = %s", (value, row))

    def read(self, connection: "psycopg.Connection", row: int) -> list[tuple[str, str] | None]:
        query = f"SELECT {', '.join(self._stored.get)} FROM public.cases WHERE id = %s"
        (found,) = connection.execute(query.encode(), (row,)).fetchall()
        return [open_value(self._values, self._ring, value) for value in found]

    @contextmanager
    def at_work(self) -> Iterator[None]:
        threads = [threading.Thread(target=each) for each in (self._write, self._change_around)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
            self._stop.clear()

    def _write(self) -> None:
        chance = random.Random(1)
        with psycopg.connect(self._url, autocommit=True) as connection:
            while not self._stop.wait(0.001):
                row, slot = chance.randrange(ROWS), chance.randrange(len(SLOTS))
                try:
                    found = [each and each[1] for each in self.read(connection, row)]
                    if found != self.expected[row]:
                        self.wrong.append(f"row {row} was read with another content")
                    text = f"{row} {chance.random()}"
                    self._put(connection, row, slot, text)
                    self.expected[row][slot] = text
                    self.writes += 1
                except (psycopg.Error, AssertionError) as error:
                    self.wrong.append(f"row {row}: {type(error).__name__} {error}")

    def _change_around(self) -> None:
        chance = random.Random(2)
        with psycopg.connect(self._url, autocommit=True) as connection:
            while not self._stop.wait(0.001):
                row = chance.randrange(ROWS)
                connection.execute(f"UPDATE public.cases SET {self._stored.neighbour} WHERE id = {row}".encode())
                self.around[row] += 1


DIAGONAL = [("native", "jsonb"), ("fernet", "jsonb"), ("native", "array")]
COMBINATIONS = [
    pytest.param(values, stored, marks=[] if (values, stored) in DIAGONAL else pytest.mark.extended)
    for values in FORMATS
    for stored in STORED
]


@pytest.mark.parametrize(("values", "stored"), COMBINATIONS)
def test_a_rotation_and_its_rollback_beside_a_live_writer(
    migrated: Connection, database_url: str, values: str, stored: str
) -> None:
    _is_rotated_and_rolled_back(migrated, database_url, FORMATS[values], STORED[stored])


CITEXT = Stored(
    'a "ext a".citext, b public.mail',
    (Place("a"), Place("b")),
    ("a = %s", "b = %s"),
    ("a::text", "b::text"),
)


@pytest.mark.external_postgres
@pytest.mark.parametrize("values", ["native", pytest.param("fernet", marks=pytest.mark.extended)])
def test_citext_and_a_domain_over_it_are_rotated_and_rolled_back(debian: Connection, values: str) -> None:
    """Of an extension: the type has no fixed number, and compares without regard to case."""
    migrate(debian.info.dsn)
    debian.execute('CREATE SCHEMA "ext a"; CREATE EXTENSION citext SCHEMA "ext a"')
    debian.execute("""CREATE DOMAIN public.mail AS "ext a".citext CHECK (VALUE::text <> 'none')""")
    table = CITEXT.table("cases", FORMATS[values])
    _is_rotated_and_rolled_back(debian, debian.info.dsn, FORMATS[values], CITEXT)
    assert [each.message for each in preflight(debian, [table], V2) if each.fatal] == []
    if values == "native":  # without its key, nothing tells another library's value from any text
        found, rest = candidates(debian, discover(debian, []))
        assert (found, rest) == ((EncryptedTable(table.name, ("a", "b")),), ())


@pytest.mark.extended
def test_values_are_rotated_whatever_their_rows_say_of_them_meanwhile(migrated: Connection, database_url: str) -> None:
    _is_rotated_and_rolled_back(migrated, database_url, *COMPANIONS["condition"])


def _is_rotated_and_rolled_back(
    migrated: Connection, database_url: str, value_format: ValueFormat, layout: Stored
) -> None:
    ring = ring_of(1, 2)
    table = layout.table("cases", value_format)
    writer = Writer(database_url, value_format, layout, ring)
    writer.create(migrated)
    running(migrated, "routine")
    rotation = Rotation(database_url, migrated, ring, table)
    with writer.at_work():
        writer.version = 2
        rotation.rewrite()
        assert rotation.old_rows() == 0
        moment = rotation.fence()
        decrypted = rotation.ports.rewriting.decrypt_all(table, ring, rotation.engine.progress.append)
        proof = rotation.proof(moment)
    names = [place.name for place in layout.places]
    assert (proof.version, proof.old_values, proof.values) == (V1, 0, 2 * ROWS)
    assert (decrypted.by_column, decrypted.failures) == ({name: {V2: ROWS} for name in names}, 0)
    assert quarantine.load(migrated, [table]) == ()
    _is_as_written(migrated, writer, layout, "v2")
    for put in layout.put:
        old = seal(value_format, ring, 1, "late")
        with pytest.raises(psycopg.errors.InvalidTextRepresentation, match="key version v1 is retired") as refused:
            migrated.execute(f"UPDATE public.cases SET {put} WHERE id = 1", (old,))
        assert old[-20:] not in str(refused.value)
        migrated.execute(f"UPDATE public.cases SET {put} WHERE id = 1", (seal(value_format, ring, 2, "new"),))
    writer.expected[1] = ["new", "new"]
    back = Rotation(database_url, migrated, old_ring(ring), table)
    with writer.at_work():
        back.ports.fencing.unfence(table, V1)
        writer.version = 1
        back.rewrite()
        proof = back.proof(back.fence())
    assert (proof.version, proof.old_values, proof.values) == (V2, 0, 2 * ROWS)
    _is_as_written(migrated, writer, layout, "v1")


def _is_as_written(connection: Connection, writer: Writer, layout: Stored, version: str) -> None:
    assert writer.wrong == []
    assert writer.writes > 10
    for row, texts in writer.expected.items():
        assert writer.read(connection, row) == [(version, text) for text in texts]
    around = connection.execute(f"SELECT id, {layout.neighbours} FROM public.cases".encode()).fetchall()
    assert dict(around) == writer.around  # type: ignore[arg-type]
