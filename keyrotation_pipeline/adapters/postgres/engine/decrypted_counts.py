"""Counts what SQL cannot tell: how many values are under a key that still encrypts somewhere.

Its signing key must never be in the database, so the values come to the key.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any, cast

from psycopg import sql

from keyrotation_pipeline.adapters.postgres.engine.decrypt import decrypt_all
from keyrotation_pipeline.adapters.postgres.engine.limits import Limits
from keyrotation_pipeline.adapters.postgres.inventory import places, quarantine
from keyrotation_pipeline.adapters.postgres.inventory.counts import written_since
from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation
from keyrotation_pipeline.adapters.postgres.inventory.scans import countable, heap_scan
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import PreflightError
from keyrotation_pipeline.fieldcrypto.arrays import array_text, check_elements
from keyrotation_pipeline.fieldcrypto.batch import Failure, Held, ValueReencryptor
from keyrotation_pipeline.fieldcrypto.codecs.format import Format, column_reencryptors, format_of
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.tables import EncryptedTable, OldRows, TableCount

_ROWS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class CurrentKeys:
    """What counting by decrypting needs: the keys of now, and connections to read with.

    Args:
        ring: reads the key store; every key in it, archived ones too, so that values under these are counted as such.
    """

    connect: Callable[[], Connection] = field(repr=False)  # it may hold a password
    ring: Callable[[], KeyRing]
    limits: Limits

    def count(self, table: EncryptedTable) -> TableCount:
        """Counts every declared column of a table, but not its fence; values that do not decrypt go to the quarantine.

        Raises:
            As `decrypt_all`.
        """
        # Without its search indexes, whose texts are compared where something rests on it.
        decrypted = decrypt_all(self.connect, replace(table, indexes=()), self.ring(), lambda _: None, self.limits)
        with closing(self.connect()) as connection:
            return decrypted.of_table(table, unreadable=len(quarantine.load(connection, [table])))

    def rows_under(
        self, table: EncryptedTable, versions: Sequence[KeyVersion], seconds: float = float("inf")
    ) -> int | None:
        """Counts rows with a value under some versions; None if that takes longer.

        Raises:
            UnknownKeyVersionError: the key store does not hold one of them.
            PreflightError, BlockedError: as a count in SQL.
        """
        found = self._old_rows(self.ring(), table, versions, None, seconds)
        return None if found is None else found.rows

    def old_rows(self, table: EncryptedTable, versions: Sequence[KeyVersion], promotion_xid: int | None) -> OldRows:
        """Counts rows with a value under some versions, and those written since a promotion.

        A key that was destroyed opens nothing: a value under it counts as one that does not decrypt, not here.

        Raises:
            PreflightError, BlockedError: as a count in SQL.
        """
        ring = self.ring()
        held = [version for version in versions if version in ring.versions]
        return self._old_rows(ring, table, held, promotion_xid, float("inf")) or OldRows(0, 0)

    def _old_rows(
        self,
        ring: KeyRing,
        table: EncryptedTable,
        versions: Sequence[KeyVersion],
        promotion_xid: int | None,
        seconds: float,
    ) -> OldRows | None:
        if not versions:
            return OldRows(0, 0)
        until, rows, since = monotonic() + seconds, 0, 0
        code = format_of(table.format)
        keys = KeyRing({version: ring.material(version) for version in versions}, versions[0])
        native = code.native_codec(ring, ring.primary, table.labels)
        with closing(self.connect()) as connection:
            for relation in countable(connection, table):
                arrays = _arrays(relation)
                for marked in _read(connection, relation, more=written_since(promotion_xid)):
                    some = _as_bytes([row[:-1] for row in marked])
                    # Nearly all of them hold none: the compiled codec says so for all at once.
                    held = native.check(some, 0, len(table.columns), arrays) if native else None
                    if held is None or any(column[version] for column in held for version in versions):
                        old = [
                            row[-1]
                            for row, values in zip(marked, some, strict=True)
                            if _has_under(code, keys, _values(relation, table, values))
                        ]
                        rows, since = rows + len(old), since + sum(map(bool, old))
                    if monotonic() > until:
                        return None
        return OldRows(rows, since)


def held_in_snapshot(connection: Connection, table: EncryptedTable, ring: KeyRing) -> tuple[int, list[Held]]:
    """Returns the rows of a table, and what each column holds, in the connection's own snapshot.

    Values that do not decrypt are left out.

    Raises:
        PreflightError, BlockedError: as a count in SQL.
    """
    rows, held = 0, [Counter[KeyVersion | None]() for _ in table.columns]
    code = format_of(table.format)
    native = code.native_codec(ring, ring.primary, table.labels)
    columns = column_reencryptors(code, ring, ring.primary, table.labels)
    for relation in countable(connection, table):
        arrays = _arrays(relation)
        for some in _read(connection, relation):
            rows += len(some)
            values = _as_bytes(some)
            found = native.check(values, 0, len(table.columns), arrays) if native else None
            if found is None:  # one of them does not decrypt
                found, _ = check_elements(columns, list(zip(*values, strict=True)), arrays)
            for mine, more in zip(held, found, strict=True):
                mine.update(more)
    return rows, held


def required(keys: CurrentKeys | None, table: EncryptedTable) -> CurrentKeys:
    """Returns the keys.

    Raises:
        PreflightError: there are none, as where only a database and no key store was opened.
    """
    if keys is None:
        raise PreflightError(
            f"the values of table {table.name} name no key version, so they cannot be counted without the keys; "
            "run this where the key store is configured"
        )
    return keys


def check_rows(
    connection: Connection, relation: Relation, columns: Sequence[ValueReencryptor], where: sql.Composable
) -> Iterator[tuple[list[Held], list[Failure]]]:
    """Decrypts those rows of a relation that a WHERE chooses, some hundred at a time.

    Args:
        columns: what decrypts each column.

    Raises:
        PreflightError, BlockedError: as a count in SQL.
    """
    arrays = _arrays(relation)
    for some in _read(connection, relation, where):
        yield check_elements(columns, list(zip(*_as_bytes(some), strict=True)), arrays)


def _read(
    connection: Connection,
    relation: Relation,
    where: sql.Composable | None = None,
    more: sql.Composable | None = None,
) -> Iterator[list[tuple[Any, ...]]]:
    columns = [*(places.value(column) for column in relation.columns), *([] if more is None else [more])]
    query = sql.SQL("SELECT {} FROM ONLY {} {}").format(
        sql.SQL(", ").join(columns), relation.identifier, where or sql.SQL("")
    )
    with heap_scan(connection, relation.label, relation.oid), connection.cursor("keyrotation_rows") as cursor:
        cursor.execute(query)
        while some := cast("list[tuple[Any, ...]]", cursor.fetchmany(_ROWS_AT_ONCE)):
            yield some


def _arrays(relation: Relation) -> frozenset[int]:
    return frozenset(number for number, column in enumerate(relation.columns) if column.place.elements)


def _as_bytes(rows: Sequence[tuple[str | bytes | None, ...]]) -> list[tuple[bytes | None, ...]]:
    return [tuple(map(places.as_bytes, row)) for row in rows]


def _values(
    relation: Relation, table: EncryptedTable, row: Sequence[bytes | None]
) -> Iterator[tuple[bytes, str | None]]:
    """Yields every value of a row that is neither NULL nor empty, those in arrays too, with the label of its place."""
    for column, cell in zip(relation.columns, row, strict=True):
        label = table.label(column.place.name)
        if cell and column.place.elements:
            yield from ((each, label) for each in array_text(cell).elements if each)
        elif cell:
            yield cell, label


def _has_under(code: Format, keys: KeyRing, values: Iterable[tuple[bytes, str | None]]) -> bool:
    """Whether one of the values of a row, each with its label, opens with one of the keys."""
    found = (code.opened_by(keys, value, label) for value, label in values)
    return any(each is not None and each[1] is not None for each in found)
