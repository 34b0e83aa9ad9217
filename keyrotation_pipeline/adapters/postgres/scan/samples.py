"""Turns what was read of a table into the values of each place: columns, elements of arrays, leaves of documents."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from keyrotation_pipeline.adapters.postgres.scan.catalog import Column, Table
from keyrotation_pipeline.adapters.postgres.scan.rows import Cells
from keyrotation_pipeline.adapters.postgres.scan.types import Kind, Reader
from keyrotation_pipeline.scan.documents import (
    Leaves,
    Path,
    leaves_of,
    looks_like_json,
    texts_in_xml,
    values_in_hstore,
)
from keyrotation_pipeline.scan.places import Place

Value = str | bytes
_JSON_BEGINS = (b"{", b"[")
_SPLIT = {Kind.JSON: leaves_of, Kind.XML: texts_in_xml, Kind.HSTORE: values_in_hstore}


def places_of(table: Table, read: Iterable[Cells]) -> tuple[Mapping[Place, Sequence[Value]], Sequence[str]]:
    """Returns the values of each place of a table, and the columns whose documents have too many places."""
    by_reader: defaultdict[tuple[str, int], list[Value]] = defaultdict(list)
    for cells in read:
        values = iter(cells.values)
        for column in cells.columns:
            for number, reader in enumerate(column.readers):
                by_reader[column.name, number] += _scalars(reader, next(values))
    found: dict[Place, Sequence[Value]] = {}
    cut: dict[str, None] = {}
    for column in table.columns:
        for number, reader in enumerate(column.readers):
            held = by_reader[column.name, number]
            leaves = _leaves(reader, held)
            if reader.kind not in _SPLIT:
                found[_place(table, column, reader, ())] = held
            for path, texts in leaves.by_path.items():
                found.setdefault(_place(table, column, reader, path), texts)
            if not leaves.complete:
                cut[column.name] = None
    return found, list(cut)


def _place(table: Table, column: Column, reader: Reader, path: Path) -> Place:
    return Place(table.label, column.name, (*reader.path, *path) or None, reader.elements, column.type, column.base)


def _scalars(reader: Reader, cells: Sequence[Any]) -> Iterator[Value]:
    """Yields values; text of a database without an encoding comes as bytes."""
    values = (each for cell in cells for each in cell if each is not None) if reader.elements else cells
    for value in values:
        if reader.kind is not Kind.BYTES and isinstance(value, bytes):
            yield value.decode("utf-8", "surrogateescape")
        else:
            yield value


def _leaves(reader: Reader, values: Sequence[Value]) -> Leaves:
    """Returns what is inside documents: also inside JSON that is stored as text or bytes."""
    if (split := _SPLIT.get(reader.kind)) is not None:
        return split([str(value) for value in values])
    return leaves_of([text for value in values if (text := _json_text(value)) is not None])


def _json_text(value: Value) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace") if value.startswith(_JSON_BEGINS) else None
    return value if looks_like_json(value) else None
