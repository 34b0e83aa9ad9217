"""Looks for plaintext of encrypted columns in the other columns of the database, by samples and in memory."""

from collections.abc import Iterator, Mapping, Sequence

from keyrotation_pipeline.adapters.postgres.inventory.samples import any_values
from keyrotation_pipeline.adapters.postgres.scan.database import Value, scan
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.codecs.format import format_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.reads import Defect
from keyrotation_pipeline.model.plaintext_outside_rows import MOST_RARE, CopiesSought, rare
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline.scan.report import Finding, Place

# Of each column. Of a copy with a million rows five of the values are met.
_VALUES = 5 * MOST_RARE


def search(
    connection: Connection, encrypted: Sequence[tuple[EncryptedTable, str]], ring: KeyRing
) -> CopiesSought | None:
    """See `TableInventory.plaintext_copies`."""
    if not (values := rare(_plaintexts(connection, encrypted, ring))):
        return None
    # As text of a database without an encoding is read, too.
    texts = [each.decode(errors="surrogateescape") for each in values]
    found = set[str]()

    def look(places: Mapping[Place, Sequence[Value]]) -> Sequence[Finding]:
        for place, cells in places.items():
            held = "\0".join(each for each in cells if isinstance(each, str))
            held_bytes = b"\0".join(each for each in cells if isinstance(each, bytes))
            if any(each in held for each in texts) or any(each in held_bytes for each in values):
                found.add(f"{place.table}.{place.column}")
        return ()

    scanned = scan(connection, most_values=_VALUES, classify=look)
    return CopiesSought(len(values), scanned.columns, tuple(sorted(found)), len(scanned.not_looked_at))


def _plaintexts(
    connection: Connection, encrypted: Sequence[tuple[EncryptedTable, str]], ring: KeyRing
) -> Iterator[bytes]:
    for table in dict.fromkeys(table for table, _ in encrypted):
        code, values = format_of(table.format), any_values(connection, table, _VALUES)
        for column in (column for each, column in encrypted if each == table):
            for stored in values[column]:
                if not isinstance(text := code.plaintext(ring, stored, table.label(column)), Defect):
                    yield text
