"""Decrypts a sample of every declared column, to check whether the given keys are the ones that wrote the values.

8 MiB of each table are read, spread over it and its partitions (of each a page at least); all of a smaller one. In
these, values of each column under each version are chosen at random. A version that is known to exist and was not met
is searched for to the table's end.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import cast

from psycopg import sql

from keyrotation_pipeline.adapters.postgres.inventory import key_markers, places, snapshots
from keyrotation_pipeline.adapters.postgres.inventory.format_sql import sql_of
from keyrotation_pipeline.adapters.postgres.inventory.relations import Column, Relation
from keyrotation_pipeline.adapters.postgres.inventory.row_key import RowKey, row_key
from keyrotation_pipeline.adapters.postgres.inventory.scans import countable, heap_scan, of_a_sample
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.blind_index import BlindIndexer, BlindIndexForm
from keyrotation_pipeline.fieldcrypto.codecs.format import Format, format_of
from keyrotation_pipeline.fieldcrypto.codecs.source import ClosedError
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.sources import SourceForm
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion, any_value_in
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import SourceKey
from keyrotation_pipeline.fieldcrypto.probe import fitting, fitting_derivation
from keyrotation_pipeline.fieldcrypto.reads import Defect, DefectKind
from keyrotation_pipeline.fieldcrypto.search_index import is_odd
from keyrotation_pipeline.fieldcrypto.source_keys import possible_others, source_of
from keyrotation_pipeline.model.key_trial import ColumnTrial, KeyTrial, PlaceProbe
from keyrotation_pipeline.model.tables import EncryptedTable, SearchIndex
from keyrotation_pipeline.model.visible_text import plain_name

# Per table; half a second of work, for which an emergency waits before its new key becomes the primary.
TABLE_SAMPLE_BYTES = 8 * 2**20
# The most to read at once for one column and version; a single larger value is read all the same.
_MOST_BYTES = 8 * 2**20
_MOST_SEARCHED = 100_000
# A server that holds the keys is asked for each value.
_PATIENCE = "SET LOCAL idle_in_transaction_session_timeout = '15min'"
_NAMED_ROWS = 3

_CHOOSE = """
SELECT place, number, position, size
FROM (
    SELECT *, row_number() OVER (PARTITION BY place, number ORDER BY random()) AS turn
    FROM (
        SELECT t.ctid AS position, cell.*
        FROM ONLY {relation} AS t {pages}, LATERAL ({cells}) AS cell (place, number, size)
    ) AS cells
    WHERE {wanted}
) AS shuffled
WHERE turn <= {values}
ORDER BY turn
"""
_READ = "SELECT {key}, {value} FROM ONLY {relation} AS t{each} WHERE t.ctid = ANY ({positions}::text[]::tid[])"

_ANY = """
SELECT each.text FROM ONLY {relation} AS t {pages}, LATERAL {each}
WHERE octet_length(each.text) > 0 LIMIT {values}
"""
_ANY_INDEXED = """
SELECT {value}, t.{odd}, t.{even} FROM ONLY {relation} AS t {pages}
WHERE num_nonnulls(t.{odd}, t.{even}) > 0 AND {value} IS NOT NULL LIMIT {values}
"""
# Each takes milliseconds.
_INDEXED = 10
# Values that are tried in each known layout.
_FITTED = 5

Trials = Mapping[tuple[str, KeyVersion], "_Tally"]


def decrypt_sample(
    connection: Connection,
    table: EncryptedTable,
    ring: KeyRing,
    values: int,
    wanted: Mapping[str, Collection[KeyVersion]],
) -> KeyTrial:
    """Decrypts up to `values` stored values of each column under each version of each relation, and stores none.

    Args:
        wanted: versions by column that are known to exist; those that the sample misses are searched for.

    Raises:
        PreflightError, BlockedError: as a count does.
    """
    trials: dict[tuple[str, KeyVersion], _Tally] = defaultdict(_Tally)
    relations = countable(connection, table)
    key_markers.create_for(connection, table.format)
    for relation in relations:
        with heap_scan(connection, relation.label, relation.oid):
            pages = of_a_sample(connection, relation.oid, TABLE_SAMPLE_BYTES, len(relations))
        _try(connection, table, relation, ring, values, trials, pages, sql.SQL("number IS NOT NULL"))
    missed = {version for column, each in wanted.items() for version in each if (column, version) not in trials}
    # A server is asked for one value after another, and its versions are named by number.
    if missed and not table.format.names_versions and not table.format.is_held_by_server:
        trials.clear()
        for relation in relations:  # nothing tells where they are
            some, everything = _MOST_SEARCHED, sql.SQL("number IS NOT NULL")
            _try(connection, table, relation, ring, some, trials, sql.SQL(""), everything)
    elif missed:
        # One pass, however many versions occur.
        of_missed = sql.SQL("number = ANY ({})").format(sql.Literal(sorted(version.code for version in missed)))
        for relation in relations:
            _try(connection, table, relation, ring, values, trials, sql.SQL(""), of_missed)
    columns = (tally.of(str(table.name), *key) for key, tally in sorted(trials.items()) if tally.tried)
    return KeyTrial(ring.versions, tuple(columns))


def probe(connection: Connection, table: EncryptedTable, ring: KeyRing, values: int) -> tuple[PlaceProbe, ...]:
    """Opens up to so many values of each place with the keys of a ring, and stores none.

    Raises:
        PreflightError, BlockedError: as a count does.
    """
    code = format_of(table.format)
    found = any_values(connection, table, values)
    # Of a table whose own values name their version, those of other libraries alone are in question.
    only_sources = table.format.names_versions and any(place.form for place in table.places)
    places = [
        _probed(table, name, code, ring, some)
        if (form := table.place(name).form) is None
        else _from_source(table, name, form, ring, some)
        for name, some in found.items()
        if table.place(name).form or not only_sources
    ]
    return (*places, *_indexes_probed(connection, table, code, ring))


def any_values(connection: Connection, table: EncryptedTable, values: int) -> Mapping[str, list[bytes]]:
    """Returns up to so many values of each place, whatever they are.

    Raises:
        PreflightError, BlockedError: as a count does.
    """
    found = {name: list[bytes]() for name in table.columns}
    relations = countable(connection, table)
    for relation in relations:
        for column in relation.columns:
            some = found[column.place.name]
            with heap_scan(connection, relation.label, relation.oid):
                query = sql.SQL(_ANY).format(
                    relation=relation.identifier,
                    pages=of_a_sample(connection, relation.oid, TABLE_SAMPLE_BYTES, len(relations)),
                    each=_each_value(column),
                    values=sql.Literal(values - len(some)),
                )
                some += [_bytes(value) for (value,) in connection.execute(query).fetchall()]
    return found


def _probed(table: EncryptedTable, name: str, code: Format, ring: KeyRing, values: Sequence[bytes]) -> PlaceProbe:
    tried = (code.opened_by(ring, value, table.label(name)) for value in values)
    opened = sum(each is not None and each[1] is not None for each in tried)
    some = [] if opened else values[:_FITTED]
    label = table.label(name)
    fits = fitting(table.format, ring, some, label) if some else None
    derived = fitting_derivation(table.format, ring, some, label) if some and not fits else None
    key_name = label or "" if table.format.has_keys_of_columns else ""
    option = table.format.spec.layout_option
    return PlaceProbe(str(table.name), name, table.format.layout, len(values), opened, fits, derived, key_name, option)


def _from_source(
    table: EncryptedTable, name: str, form: SourceForm, ring: KeyRing, values: Sequence[bytes]
) -> PlaceProbe:
    """Opens those of some values that are none of ours with the key of the library that wrote them."""
    place = table.place(name)
    old = [each for each in values if not any_value_in([each])]
    probe = PlaceProbe(str(table.name), name, str(form), len(old), 0, key_name=place.source_key)
    if (found := ring.sources.get(place.source_key)) is None:
        return replace(probe, is_imported=False)
    opened = _number_opened(form, found[1], old)
    others = () if opened else (each for each in possible_others(form) if _number_opened(each, found[1], old[:_FITTED]))
    return replace(probe, opened=opened, fits=next((str(each) for each in others), None))


def _number_opened(form: SourceForm, key: SourceKey, values: Sequence[bytes]) -> int:
    source, number = source_of(form, key), 0
    for value in values:
        with suppress(ClosedError):
            source.opened(value)
            number += 1
    return number


def _indexes_probed(connection: Connection, table: EncryptedTable, code: Format, ring: KeyRing) -> Iterator[PlaceProbe]:
    """Computes some search indexes again that name no key, so that nothing but this tells how they are made."""
    for index in table.indexes:
        if not isinstance(index.form, BlindIndexForm):
            continue
        indexer, tried, right = BlindIndexer(index.form, ring), 0, 0
        for value, odd, even in _indexed_values(connection, table, index):
            stored, label = _bytes(value), table.label(index.of)
            version = (code.opened_by(ring, stored, label) or (None, None))[1]
            text = code.plaintext(ring, stored, label)
            if version is None or isinstance(text, Defect):
                continue
            # What is in the other column may be left by a rotation that was cancelled.
            tried, own = tried + 1, odd if is_odd(version) else even
            right += own == indexer.under(version, text)
        yield PlaceProbe(
            str(table.name),
            f"{index.odd} and {index.even}",
            index.form.signed(plain_name),
            tried,
            right,
            index_of=index.of,
        )


def _indexed_values(
    connection: Connection, table: EncryptedTable, index: SearchIndex
) -> Iterator[tuple[object, str | None, str | None]]:
    left, relations = _INDEXED, countable(connection, table)
    for relation in relations:
        column = next(each for each in relation.columns if each.place.name == index.of)
        query = sql.SQL(_ANY_INDEXED).format(
            value=places.value(column),
            odd=sql.Identifier(index.odd),
            even=sql.Identifier(index.even),
            relation=relation.identifier,
            pages=of_a_sample(connection, relation.oid, TABLE_SAMPLE_BYTES, len(relations)),
            values=sql.Literal(left),
        )
        with heap_scan(connection, relation.label, relation.oid):
            found = cast("list[tuple[object, str | None, str | None]]", connection.execute(query).fetchall())
        left -= len(found)
        yield from found


class _Tally:
    """The results so far for the values of one column under one version."""

    def __init__(self) -> None:
        self.tried = self.opened = self.twice = 0
        self.others = Counter[KeyVersion]()
        self.rows: list[str] = []
        self.twice_rows: list[str] = []

    def add(self, version: KeyVersion, opener: KeyVersion | None, row: str, *, is_twice: bool) -> None:
        self.tried += 1
        if opener == version:
            self.opened += 1
            self.twice += is_twice
            self.twice_rows += [row] if is_twice else []
            return
        if opener is not None:
            self.others[opener] += 1
        if len(self.rows) < _NAMED_ROWS:
            self.rows.append(row)

    def of(self, table: str, column: str, version: KeyVersion) -> ColumnTrial:
        rows, twice_rows = tuple(self.rows), tuple(self.twice_rows[:_NAMED_ROWS])
        return ColumnTrial(
            table, column, version, self.tried, self.opened, dict(self.others), rows, self.twice, twice_rows
        )


def _try(
    connection: Connection,
    table: EncryptedTable,
    relation: Relation,
    ring: KeyRing,
    values: int,
    trials: Trials,
    pages: sql.Composable,
    wanted: sql.Composable,
) -> None:
    key, code = row_key(connection, relation), format_of(table.format)
    with heap_scan(connection, relation.label):
        # What is chosen is read by its position, which means nothing any more once the relation is rewritten.
        snapshots.lock(connection, relation)
        connection.execute(_PATIENCE)
        for place, positions in _chosen(connection, table.format, relation, values, pages, wanted).items():
            column = relation.columns[place].place.name
            for row, stored in _read(connection, relation, key, relation.columns[place], positions):
                # Every count reports values of another format.
                if (found := code.opened_by(ring, stored, label := table.label(column))) is not None:
                    version, opener = found
                    text = code.plaintext(ring, stored, label) if opener is not None else b""
                    is_twice = isinstance(text, Defect) and text.kind is DefectKind.ENCRYPTED_TWICE
                    trials[column, version].add(version, opener, row, is_twice=is_twice)


def _chosen(
    connection: Connection,
    value_format: ValueFormat,
    relation: Relation,
    values: int,
    pages: sql.Composable,
    wanted: sql.Composable,
) -> dict[int, list[str]]:
    """Returns positions by the column's number, for each version up to so many values and bytes."""
    named, all_columns = sql_of(value_format).number_named, list(enumerate(relation.columns))
    parts: list[sql.Composable] = [
        sql.SQL("SELECT {}, {}, octet_length(each.text) FROM {}").format(
            sql.Literal(place), named(sql.SQL("each.text")), places.each_value(column)
        )
        for place, column in all_columns
        if column.place.elements
    ]
    single = [
        sql.SQL("({}, {}, octet_length({}))").format(
            sql.Literal(place), named(places.text(column)), places.text(column)
        )
        for place, column in all_columns
        if not column.place.elements
    ]
    if single:
        parts.insert(0, sql.SQL("VALUES {}").format(sql.SQL(", ").join(single)))
    cells = sql.SQL(" UNION ALL ").join(parts)
    query = sql.SQL(_CHOOSE).format(
        relation=relation.identifier, pages=pages, cells=cells, wanted=wanted, values=sql.Literal(values)
    )
    with heap_scan(connection, relation.label, relation.oid):
        rows = cast("list[tuple[int, int, str, int]]", connection.execute(query).fetchall())
    found: dict[int, list[str]] = defaultdict(list)
    size_bytes = Counter[tuple[int, int]]()
    for place, number, position, size in rows:
        first, size_bytes[place, number] = not size_bytes[place, number], size_bytes[place, number] + size
        if first or size_bytes[place, number] <= _MOST_BYTES:
            found[place].append(position)
    return found


def _read(
    connection: Connection, relation: Relation, key: RowKey, column: Column, positions: list[str]
) -> Iterator[tuple[str, bytes]]:
    elements = column.place.elements
    query = sql.SQL(_READ).format(
        key=key.of("t"),
        value=sql.SQL("each.text") if elements else places.value(column),
        relation=relation.identifier,
        each=sql.SQL(", {}").format(places.each_value(column)) if elements else sql.SQL(""),
        positions=sql.Literal(positions),
    )
    with heap_scan(connection, relation.label, relation.oid):
        rows = connection.execute(query).fetchall()
    yield from ((str(row), _bytes(value)) for row, value in rows if value is not None)


def _each_value(column: Column) -> sql.Composed:
    if column.place.elements:
        return places.each_value(column)
    return sql.SQL("(SELECT {}) AS each (text)").format(places.value(column))


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
