"""The measured table: five encrypted columns of a clinic's clients, a uuid key, on an embedded server of its own."""

import base64
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from cryptography.fernet import Fernet
from psycopg import sql

from benchmarks.processes import postmaster_of
from keyrotation_pipeline.adapters.keystores.file import FileKeyStore
from keyrotation_pipeline.adapters.postgres.inventory.format_sql import sql_of
from keyrotation_pipeline.adapters.postgres.ledger.migrate import migrate
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.adapters.postgres.server.embedded import EmbeddedServer
from keyrotation_pipeline.fieldcrypto.cipher import encrypt
from keyrotation_pipeline.fieldcrypto.codecs.format import layout_of
from keyrotation_pipeline.fieldcrypto.codecs.marked import MarkedValue
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.aes_gcm import AES_GCM
from keyrotation_pipeline.fieldcrypto.formats.cloak_47ng import CLOAK_47NG
from keyrotation_pipeline.fieldcrypto.formats.cloak_47ng.codec import CloakEnvelope
from keyrotation_pipeline.fieldcrypto.formats.fernet import FERNET
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline.fieldcrypto.formats.rails_ar_encryption import RAILS
from keyrotation_pipeline.fieldcrypto.formats.rails_ar_encryption.codec import RailsEnvelope
from keyrotation_pipeline.fieldcrypto.formats.registry import FORMATS
from keyrotation_pipeline.fieldcrypto.formats.sources import NEVER_ENCRYPTED
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.tables import EncryptedTable, Place, TableName

CLIENTS = EncryptedTable(TableName("public", "clients"), ("first_name", "last_name", "email", "phone", "history"))
V1, V2 = KeyVersion(1), KeyVersion(2)
COLUMNS = ", ".join(CLIENTS.columns)

# Ciphertexts are made for so many rows and repeated beyond: what a row costs does not depend on what is in it.
DISTINCT_ROWS = 20_000

FIRST = ("Anna", "Benjamin", "Charlotte", "Dov", "Eleanor", "Finn", "Gabriela", "Hiro", "Ines", "Jonathan")
LAST = ("Achterberg", "Brandt", "Cohen", "Diallo", "Eriksson", "Fernández", "Goldberg", "Haddad", "Ito", "Jansen")


@dataclass(frozen=True, slots=True)
class Clinic:
    """Where the contenders run.

    Args:
        keys: directory of the key store, which holds v1 and v2 (the primary).
        postmaster: process id of the server.
    """

    url: str
    keys: Path
    ring: KeyRing
    postmaster: int


@contextmanager
def clinic(formats: Sequence[str] = (NATIVE.name,)) -> Iterator[Clinic]:
    """A server with the rows that `fill` copies and a key store, in a home that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="keyrotation-benchmark-", ignore_cleanup_errors=True) as directory:
        home = Path(directory) / "home"
        with EmbeddedServer(home / "postgres") as server:
            migrate(server.url())
            store = FileKeyStore.create(home / "keys")
            for version in (V1, V2):
                stored = store.add(version, KeyMaterial.generate(), store.read().revision)
            store.set_primary(V2, stored.revision)
            place = Clinic(server.url(), home / "keys", store.read().ring(), postmaster_of(server.url()))
            with closing(connect(server.url())) as connection:
                for name in formats:
                    make_template(connection, place.ring, name)
            yield place


def make_template(connection: Connection, ring: KeyRing, values: str = NATIVE.name) -> None:
    """Encrypt, under v1, the rows that `fill` copies; of plaintext do not."""
    ring = KeyRing({V1: ring.material(V1)}, V1)
    seal = str if values == NEVER_ENCRYPTED else _sealer(ring, format_named(values))
    definitions = ", ".join(f"{column} text" for column in CLIENTS.columns)
    connection.execute(f"CREATE UNLOGGED TABLE public.{_template_of(values)} ({definitions})".encode())
    into = f"COPY public.{_template_of(values)} ({COLUMNS}) FROM STDIN".encode()
    with connection.cursor() as cursor, cursor.copy(into) as copy:
        for number in range(DISTINCT_ROWS):
            texts = _client(number)
            copy.write_row([seal(text) for text in texts])


def _sealer(ring: KeyRing, values: ValueFormat) -> Callable[[str], str]:
    """Returns what encrypts a text as the application does it."""
    if values == NATIVE:
        return partial(encrypt, ring)
    if values == FERNET:
        token = Fernet(base64.urlsafe_b64encode(raw_of(ring.material(V1))))
        return lambda text: token.encrypt(text.encode()).decode()
    if values.name in {RAILS.name, CLOAK_47NG.name}:
        envelope = CloakEnvelope() if values.name == CLOAK_47NG.name else RailsEnvelope("sha256", values.salt)
        key, nothing_kept = envelope.key(ring.material(V1)), MarkedValue(None, b"", b"", (b"", b""))
        return lambda text: key.sealed(text.encode(), nothing_kept).decode()
    layout, cipher = layout_of(values), ring.cipher(V1)

    def laid_out(text: str) -> str:
        nonce = os.urandom(layout.nonce_bytes)
        return layout.join(nonce, cipher.encrypt(nonce, text.encode(), None)).decode()

    return laid_out


def _template_of(name: str) -> str:
    return f"template_{name.replace('-', '_')}"


def format_named(name: str) -> ValueFormat:
    """Returns a format by its name; AES-GCM values in the commonest layout, keys of Rails with a salt.

    Plaintext becomes values of our own.
    """
    if name == NEVER_ENCRYPTED:
        return NATIVE
    options = {AES_GCM.name: {"layout": "b64(nonce12 ct tag16)"}, RAILS.name: {"salt": "the salt"}}
    return replace(FORMATS[name], **options.get(name, {}))


def table_of(values: str) -> EncryptedTable:
    """Returns the measured table with values of a format, or plaintext, in its columns."""
    source = NEVER_ENCRYPTED if values == NEVER_ENCRYPTED else ""
    places = [Place(column, source=source) for column in CLIENTS.columns]
    return replace(EncryptedTable.of(CLIENTS.name, places), format=format_named(values))


@dataclass(frozen=True, slots=True)
class Shape:
    """What a table holds besides the encrypted columns, and its indexes besides the primary key.

    Args:
        columns: a definition each, and the expression that fills it; `n` counts the copies of the template.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    indexes: tuple[str, ...] = ()


PLAIN = Shape()
SHAPES = {
    "clients": PLAIN,
    "indexed": Shape(
        {
            "region int": "n",
            "since timestamptz": "now() - n * interval '1 hour'",
            "reference text": "md5(random()::text)",
            "rank float8": "random()",
        },
        ("region", "since", "reference", "rank"),
    ),
    "wide": Shape({"notes text": "repeat('plain text ', 55)"}),
}


def fill(
    connection: Connection,
    rows: int,
    name: str = "clients",
    columns: Sequence[str] = CLIENTS.columns,
    partitions: int = 0,
    shape: Shape = PLAIN,
    values: str = NATIVE.name,
) -> None:
    """Make the table again: no dead rows, no bloat, statistics taken, everything written to disk.

    Args:
        partitions: by hash of the key; 0: a plain table.
        shape: what stands beside the encrypted columns.
        values: the name of their format.
    """
    some = ", ".join([*columns, "0", *shape.columns.values()])
    defined = ", ".join([*(f"{column} text" for column in columns), "visits int NOT NULL", *shape.columns])
    source = f"FROM public.{_template_of(values)}, generate_series(1, {-(-rows // DISTINCT_ROWS)}) AS n LIMIT"
    statements = [
        "SET lock_timeout = '30s'",  # an autovacuum gives way after a second
        f"DROP TABLE IF EXISTS public.{name}",
        f"CREATE TABLE public.{name} (id uuid NOT NULL, {defined})" + (" PARTITION BY HASH (id)" if partitions else ""),
        *(
            f"CREATE TABLE public.{name}_{number} PARTITION OF public.{name} "
            f"FOR VALUES WITH (MODULUS {partitions}, REMAINDER {number})"
            for number in range(partitions)
        ),
        f"INSERT INTO public.{name} SELECT gen_random_uuid(), {some} {source} {rows}",
        f"ALTER TABLE public.{name} ADD PRIMARY KEY (id)",
        *(f"CREATE INDEX ON public.{name} ({column})" for column in shape.indexes),
        f"VACUUM (ANALYZE) public.{name}",
        "CHECKPOINT",
    ]
    for statement in statements:
        connection.execute(statement.encode())


def wal_position(connection: Connection) -> int:
    """Bytes of WAL that were written so far."""
    (count,) = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchall()[0]
    return int(str(count))


def pages(connection: Connection) -> int:
    """Pages of the table now."""
    (count,) = connection.execute("SELECT pg_relation_size('public.clients') / 8192").fetchall()[0]
    return int(str(count))


def rows_left(connection: Connection, target: KeyVersion, values: str = NATIVE.name) -> int:
    """Rows with a column that is not under `target`; none are counted where SQL cannot tell."""
    if format_named(values).identified_by is IdentifiedBy.DECRYPT:
        return 0
    texts = [sql.SQL('({}::text COLLATE "C")').format(sql.Identifier(column)) for column in CLIENTS.columns]
    left = [sql_of(format_named(values)).to_be_rewritten(text, target) for text in texts]
    query = sql.SQL("SELECT count(*) FROM public.clients WHERE {}").format(sql.SQL(" OR ").join(left))
    (count,) = connection.execute(query).fetchall()[0]
    return int(str(count))


def opened(url: str) -> Connection:
    """Our own kind of connection."""
    return connect(url)


def _client(number: int) -> tuple[str, str, str, str, str]:
    first, last = FIRST[number % len(FIRST)], LAST[number // len(FIRST) % len(LAST)]
    phone = f"+31 6 {number:08d}"
    history = f"{os.urandom(8).hex()}: no known allergies; lower back pain, {number % 12 + 1} sessions so far"
    return first, last, f"{first}.{last}.{number}@example.org".lower(), phone, history
