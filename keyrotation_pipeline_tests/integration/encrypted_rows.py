"""Tables of encrypted values for the engine's tests, filled and read back without the engine's own code."""

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from psycopg import sql

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.engine.postgres_rewriting import PostgresRewriting
from keyrotation_pipeline.adapters.postgres.engine.shard import reencrypt_shard
from keyrotation_pipeline.adapters.postgres.engine.traversal import sweep
from keyrotation_pipeline.adapters.postgres.inventory.postgres_inventory import PostgresInventory
from keyrotation_pipeline.adapters.postgres.ledger.postgres_ledger import PostgresLedger
from keyrotation_pipeline.adapters.postgres.preflight.postgres_environment import PostgresEnvironment
from keyrotation_pipeline.adapters.postgres.retirement.postgres_retirement import PostgresEvidence, PostgresFencing
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import raw_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.progress import Progress, Rewritten
from keyrotation_pipeline.model.requests import RequestStatus, RotationType
from keyrotation_pipeline.model.tables import EncryptedTable, Shard, TableName

REQUEST = "a" * 32
V2 = KeyVersion(2)


def ring_of(*numbers: int, primary: int = 2) -> KeyRing:
    return KeyRing({KeyVersion(number): KeyMaterial.generate() for number in numbers}, KeyVersion(primary))


def sealed(ring: KeyRing, version: int, plaintext: str) -> str:
    nonce = os.urandom(12)
    body = AESGCM(raw_of(ring.material(KeyVersion(version)))).encrypt(nonce, plaintext.encode(), None)
    return f"v{version}:{base64.b64encode(nonce).decode()}:{base64.b64encode(body).decode()}"


def opened(ring: KeyRing, stored: str | None) -> tuple[str, str] | None:
    """Version and plaintext of a stored value; NULL and '' as they are."""
    if not stored:
        return None if stored is None else ("", "")
    version, nonce, body = stored.split(":")
    raw = AESGCM(raw_of(ring.material(KeyVersion.parse(version)))).decrypt(
        base64.b64decode(nonce), base64.b64decode(body), None
    )
    return version, raw.decode()


class PostgresPorts:
    """All five ports on one database."""

    def __init__(self, url: str, connection: Connection) -> None:
        self.connection = connection
        self.inventory = PostgresInventory(connection)
        self.rewriting = PostgresRewriting(connection, lambda: connect(url), Limits())
        self.fencing = PostgresFencing(connection)
        self.evidence = PostgresEvidence(connection)
        self.environment = PostgresEnvironment(url, connection)


@dataclass
class Engine:
    """The engine on one database, as `PostgresRewriting` calls it."""

    url: str
    ring: KeyRing
    limits: Limits = field(default_factory=Limits)
    target: KeyVersion = V2

    def __post_init__(self) -> None:
        self.progress: list[Progress] = []

    def shard(self, table: EncryptedTable, index: int = 0, of: int = 1) -> Rewritten:
        shard = Shard(table, index, of)
        return reencrypt_shard(
            lambda: connect(self.url), REQUEST, shard, self.ring, self.target, self.progress.append, self.limits
        )

    def sweep(self, table: EncryptedTable, *, wait: bool = False) -> Rewritten:
        return sweep(lambda: connect(self.url), REQUEST, table, self.ring, self.target, self.limits, wait=wait)


def running(connection: Connection, kind: str) -> None:
    """Open and start a rotation, of which the engine reads the type and the status."""
    incident = "INC-2026-001" if kind == RotationType.EMERGENCY else None
    ledger = _ledger(connection)
    # Not by every process that a test starts, which these imports would take longer than its work.
    from keyrotation_pipeline_tests.contract.ledger_suite import ROSTER, open_signed, rotation  # noqa: PLC0415

    ledger.pin_roster(ROSTER)
    open_signed(ledger, rotation(id=REQUEST, type=RotationType(kind), incident=incident))
    become(connection, "running")


def become(connection: Connection, status: str) -> None:
    """Change the status of that rotation."""
    _ledger(connection).set_status(REQUEST, RequestStatus(status))


def _ledger(connection: Connection) -> PostgresLedger:
    identity = f"clinic@{connection.info.dbname}, system identifier 7"
    from keyrotation_pipeline_tests.fakes.chain import good_at_start  # noqa: PLC0415

    return PostgresLedger(connection, SystemClock(), "tester", identity, good_at_start)


def table_of(name: str, *columns: str, schema: str = "public") -> EncryptedTable:
    return EncryptedTable(TableName(schema, name), columns)


def read_back(
    connection: Connection, ring: KeyRing, table: EncryptedTable, key: str
) -> dict[object, tuple[object, ...]]:
    """Every row of the table (children and partitions too) by its key: version and plaintext of each column."""
    columns = [sql.Identifier(name) for name in (key, *table.columns)]
    query = sql.SQL("SELECT {} FROM {}").format(
        sql.SQL(", ").join(columns), sql.Identifier(table.name.schema, table.name.table)
    )
    return {row[0]: tuple(opened(ring, value) for value in row[1:]) for row in connection.execute(query).fetchall()}  # type: ignore[arg-type]


def under_v2(*plaintexts: str | None) -> tuple[tuple[str, str] | None, ...]:
    return tuple(None if text is None else ("", "") if not text else ("v2", text) for text in plaintexts)


def insert(connection: Connection, table: str, rows: Sequence[Sequence[object]]) -> None:
    """Insert rows of text into a table by its SQL name."""
    places = sql.SQL(", ").join([sql.Placeholder()] * len(rows[0]))
    with connection.cursor() as cursor:
        cursor.executemany(sql.SQL("INSERT INTO {} VALUES ({})").format(sql.SQL(table), places), rows)
