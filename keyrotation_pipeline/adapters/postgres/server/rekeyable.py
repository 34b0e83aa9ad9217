"""A dump in a scratch server, made ready for another key, read whole, and dumped again."""

import hashlib
import hmac
import os
from functools import partial
from pathlib import Path

from psycopg import sql

from keyrotation_pipeline.adapters.postgres.engine.server_errors import without_content
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.adapters.postgres.server.dump import PostgresDump
from keyrotation_pipeline.errors import KeyRotationError, MalformedCiphertextError
from keyrotation_pipeline.fieldcrypto.cipher import decrypt
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline.ports.backups import DumpSource, ReadRows

# Rows are read so many at a time: a row may hold megabytes.
_ROWS = 32
_MODULUS = 1 << 256
# Generated columns follow from the others.
_OTHERS = """
SELECT attname FROM pg_attribute
WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '' AND attname <> ALL (%s)
ORDER BY attnum
"""


class ScratchDump:
    """`RekeyableDump`.

    Args:
        url: of the role that owns what was restored.
        connection: of the same.
        binaries: directory of the pg_dump to use; None finds one.
    """

    def __init__(self, url: str, connection: Connection, binaries: Path | None) -> None:
        self._url = url
        self._connection = connection
        self._binaries = binaries
        self._secret = os.urandom(32)

    @property
    def source(self) -> DumpSource:
        """See `RekeyableDump.source`."""
        return PostgresDump(self._url, partial(connect, self._url), self._binaries)

    def prepare(self) -> None:
        """See `RekeyableDump.prepare`."""
        # Alembic and SQLAlchemy take long to import, and a recovery test does not need them.
        from keyrotation_pipeline.adapters.postgres.ledger.migrate import migrate  # noqa: PLC0415

        migrate(self._url)

    @without_content
    def read(self, table: EncryptedTable, ring: KeyRing) -> ReadRows:
        """See `RekeyableDump.read`."""
        name = sql.Identifier(table.name.schema, table.name.table)
        label = name.as_string(self._connection)
        others = [str(row[0]) for row in self._connection.execute(_OTHERS, (label, list(table.columns)))]
        query = sql.SQL("SELECT ROW({})::text, {} FROM {}").format(
            sql.SQL(", ").join(map(sql.Identifier, others)),
            sql.SQL(", ").join(map(sql.Identifier, table.columns)),
            name,
        )
        rows = values = failures = total = 0
        with self._connection.transaction(), self._connection.cursor("rows") as cursor:
            cursor.itersize = _ROWS
            for rest, *stored in cursor.execute(query):
                opened = [_opened(ring, value) for value in stored]
                rows += 1
                values += sum(kind == "decrypted" for kind, _ in opened)
                failures += sum(kind == "failed" for kind, _ in opened)
                total = (total + self._number(str(rest), opened)) % _MODULUS
        return ReadRows(rows, values, failures, f"{total:064x}")

    def _number(self, rest: str, opened: list[tuple[str, str]]) -> int:
        """A number for one row, by a secret that ends with us; lengths keep the columns apart."""
        code = hmac.new(self._secret, digestmod=hashlib.sha256)
        for kind, text in (("rest", rest), *opened):
            content = text.encode(errors="surrogatepass")
            code.update(f"{kind} {len(content)} ".encode() + content)
        return int.from_bytes(code.digest())


def _opened(ring: KeyRing, stored: object) -> tuple[str, str]:
    if stored is None:
        return "null", ""
    try:
        return "decrypted", decrypt(ring, str(stored))
    except MalformedCiphertextError:
        return "as it is", str(stored)
    except KeyRotationError:
        return "failed", ""
