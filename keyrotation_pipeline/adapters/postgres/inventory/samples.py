"""A sample of every declared column, decrypted: whether the keys at hand are those that the values were written under.

Of each table 8 MiB are read, from all over it; of a smaller one all. In these, values are chosen at random, of each
column under each version. A version that is known to be somewhere, and was not met, is looked for to the table's end.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import cast

from psycopg import sql

from keyrotation_pipeline.adapters.postgres.inventory.grammar_sql import as_text, number_in_prefix, under
from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation
from keyrotation_pipeline.adapters.postgres.inventory.row_key import RowKey, row_key
from keyrotation_pipeline.adapters.postgres.inventory.scans import countable, heap_scan, of_a_sample
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.trial import opened_by, parsed
from keyrotation_pipeline.model.columns import EncryptedTable
from keyrotation_pipeline.model.key_trial import ColumnTrial, KeyTrial

# Of a table; half a second of work, which an emergency waits for before its new key becomes the primary.
SAMPLE_BYTES = 8 * 2**20
# Read at once for one column and version; a single larger value is read all the same.
_MOST_BYTES = 8 * 2**20
_NAMED_ROWS = 3

_CHOOSE = """
SELECT place, number, position, size
FROM (
    SELECT *, row_number() OVER (PARTITION BY place, number ORDER BY random()) AS turn
    FROM (
        SELECT t.ctid AS position, cell.*
        FROM ONLY {relation} AS t {pages}, LATERAL (VALUES {cells}) AS cell (place, number, size)
    ) AS cells
    WHERE number IS NOT NULL
) AS shuffled
WHERE turn <= {values}
ORDER BY turn
"""
_FIND = "SELECT t.ctid, octet_length({value}) FROM ONLY {relation} AS t WHERE {wanted} LIMIT {values}"
_READ = "SELECT {key}, {value} FROM ONLY {relation} AS t WHERE t.ctid = ANY ({positions}::text[]::tid[])"

Positions = dict[tuple[str, KeyVersion], list[tuple[str, int]]]


def decrypt_sample(
    connection: Connection,
    table: EncryptedTable,
    ring: KeyRing,
    values: int,
    wanted: Mapping[str, Collection[KeyVersion]],
) -> KeyTrial:
    """Decrypt up to `values` stored values of each column under each version of each relation, keeping nothing.

    Args:
        wanted: versions by column of which there are values somewhere; those that the sample misses are looked for.

    Raises:
        PreflightError, BlockedError: as a count does.
    """
    trials: dict[tuple[str, KeyVersion], _Tally] = defaultdict(_Tally)
    relations = countable(connection, table)
    for relation in relations:
        _try(connection, relation, ring, _chosen(connection, relation, values, len(relations)), trials)
    missed = [
        (column, version) for column, each in wanted.items() for version in each if (column, version) not in trials
    ]
    for relation in relations if missed else ():
        _try(connection, relation, ring, _found(connection, relation, values, missed), trials)
    columns = (tally.of(str(table.name), *key) for key, tally in sorted(trials.items()) if tally.tried)
    return KeyTrial(ring.versions, tuple(columns))


class _Tally:
    """What the values of one column under one version have shown so far."""

    def __init__(self) -> None:
        self.tried = self.opened = 0
        self.others = Counter[KeyVersion]()
        self.rows: list[str] = []

    def add(self, version: KeyVersion, opener: KeyVersion | None, row: str) -> None:
        self.tried += 1
        if opener == version:
            self.opened += 1
            return
        if opener is not None:
            self.others[opener] += 1
        if len(self.rows) < _NAMED_ROWS:
            self.rows.append(row)

    def of(self, table: str, column: str, version: KeyVersion) -> ColumnTrial:
        return ColumnTrial(table, column, version, self.tried, self.opened, dict(self.others), tuple(self.rows))


def _try(
    connection: Connection,
    relation: Relation,
    ring: KeyRing,
    positions: Positions,
    trials: Mapping[tuple[str, KeyVersion], _Tally],
) -> None:
    key = row_key(connection, relation)
    for (column, version), chosen in positions.items():
        for row, stored in _read(connection, relation, key, column, _within_bounds(chosen)):
            value = parsed(stored)
            # Somebody may have written meanwhile, or it is not of the grammar, which every count tells.
            if value is not None and value.version == version:
                trials[column, version].add(version, opened_by(ring, value), row)


def _chosen(connection: Connection, relation: Relation, values: int, relations: int) -> Positions:
    cells = sql.SQL(", ").join(
        sql.SQL("({}, {}, octet_length({}))").format(
            sql.Literal(place), number_in_prefix(column.name), as_text(column.name)
        )
        for place, column in enumerate(relation.columns)
    )
    with heap_scan(connection, relation.label, relation.oid):
        query = sql.SQL(_CHOOSE).format(
            relation=relation.identifier,
            pages=of_a_sample(connection, relation.oid, SAMPLE_BYTES // relations),
            cells=cells,
            values=sql.Literal(values),
        )
        rows = cast("list[tuple[int, int, str, int]]", connection.execute(query).fetchall())
    found: Positions = defaultdict(list)
    for place, number, position, size in rows:
        found[relation.columns[place].name, KeyVersion(number)].append((position, size))
    return found


def _found(
    connection: Connection, relation: Relation, values: int, missed: Sequence[tuple[str, KeyVersion]]
) -> Positions:
    found: Positions = {}
    for column, version in missed:
        query = sql.SQL(_FIND).format(
            value=as_text(column),
            relation=relation.identifier,
            wanted=under(column, [version]),
            values=sql.Literal(values),
        )
        with heap_scan(connection, relation.label, relation.oid):
            found[column, version] = cast("list[tuple[str, int]]", connection.execute(query).fetchall())
    return found


def _within_bounds(chosen: Sequence[tuple[str, int]]) -> list[str]:
    positions: list[str] = []
    size_bytes = 0
    for position, size in chosen:
        size_bytes += size
        if positions and size_bytes > _MOST_BYTES:
            break
        positions.append(position)
    return positions


def _read(
    connection: Connection, relation: Relation, key: RowKey, column: str, positions: list[str]
) -> Iterator[tuple[str, str]]:
    if not positions:
        return
    query = sql.SQL(_READ).format(
        key=key.of("t"), value=as_text(column), relation=relation.identifier, positions=sql.Literal(positions)
    )
    with heap_scan(connection, relation.label, relation.oid):
        rows = connection.execute(query).fetchall()
    yield from ((str(row), str(value)) for row, value in rows if value is not None)
