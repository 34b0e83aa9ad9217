"""Compares the values of one table in two databases: row by row in the order of a key, decrypted in memory."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, islice, zip_longest
from operator import itemgetter

from keyrotation_pipeline.errors import PreflightError
from keyrotation_pipeline.fieldcrypto.arrays import array_text
from keyrotation_pipeline.fieldcrypto.codecs.format import format_of
from keyrotation_pipeline.fieldcrypto.codecs.source import ClosedError
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.reads import NOT_A_VALUE, Defect
from keyrotation_pipeline.fieldcrypto.source_keys import opener_in
from keyrotation_pipeline.model.comparison import Difference, DifferenceKind
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline.ports.database import KeyedRow, TableInventory

# Without a unique index in the present table, any number of rows may share a key; so many are held in memory.
MOST_OF_ONE_KEY = 100
Values = tuple[bytes | None, ...]
Opener = Callable[[bytes], bytes]


class TableComparison:
    """The differences of one table, and how many present rows and values were compared.

    Args:
        then: the table as it was declared when the backup was made, whose values may be of an old form; None: as now.
    """

    def __init__(self, table: EncryptedTable, ring: KeyRing, then: EncryptedTable | None = None) -> None:
        self.rows = self.values = 0
        self._table = table
        self._absent: Values = (None,) * len(table.columns)
        self._plaintext = partial(format_of(table.format).plaintext, ring)
        self._arrays = [table.place(column).elements for column in table.columns]
        now = _openers(table, ring)
        self._former_now = [now.get(column) for column in table.columns]
        self._former = [(_openers(then or table, ring) | now).get(column) for column in table.columns]

    def differences(self, backup: TableInventory, present: TableInventory) -> Generator[Difference, None, None]:
        """Yields each value that differs, in the order of the keys; to be closed, since it holds a snapshot.

        Raises:
            PreflightError, BlockedError: the table cannot be read, or nothing identifies its rows.
        """
        pair = _pair(self._table, backup, present)
        is_same = pair.places == tuple(range(len(pair.places)))
        with closing(pair.before) as before, closing(pair.now) as now:
            for key, old, new in _merged(before, now):
                self.rows += len(new)
                self.values += sum(len(row) - row.count(None) - row.count(b"") for row in new)
                moved = old if is_same else [_in_place(row, pair.places) for row in old]
                for column, kind, defect in self._of_rows(moved, new):
                    yield Difference(str(self._table.name), key, self._table.columns[column], kind, defect)

    def _of_rows(
        self, before: Sequence[Values], now: Sequence[Values]
    ) -> Iterator[tuple[int, DifferenceKind, str | None]]:
        if len(before) == len(now) == 1:
            yield from self._of_row(before[0], now[0])
            return
        # Several rows with one key: those that have a twin are no difference.
        left, more = list(before), []
        for row in now:
            duplicate = next((each for each in left if not any(self._of_row(each, row))), None)
            more += [row] if duplicate is None else []
            if duplicate is not None:
                left.remove(duplicate)
        for old, new in zip_longest(left, more, fillvalue=self._absent):
            yield from self._of_row(old, new)

    def _of_row(self, before: Values, now: Values) -> Iterator[tuple[int, DifferenceKind, str | None]]:
        if before == now:
            return
        for column, (old, new) in enumerate(zip(before, now, strict=True)):
            if old == new or not (old or new):
                continue
            if not new:
                yield column, DifferenceKind.GONE, None
                continue
            opened = self._open(column, new, self._former_now[column])
            defect = str(opened) if isinstance(opened, Defect) else None
            if not old:
                yield column, DifferenceKind.NEW, defect
            elif defect is not None or self._open(column, old, self._former[column]) != opened:
                yield column, DifferenceKind.CHANGED, defect

    def _open(self, column: int, stored: bytes, former: Opener | None) -> object:
        """The plaintext, or that of each element; or what is wrong with a value."""
        if not self._arrays[column]:
            found = self._plaintext(stored, self._table.labels[column])
            if found == NOT_A_VALUE and former is not None:
                with suppress(ClosedError):
                    return former(stored)
            return found
        array = array_text(stored)
        label = self._table.labels[column]
        opened = [self._plaintext(each, label) if each else each for each in array.elements]
        return next((each for each in opened if isinstance(each, Defect)), (array.parts, opened))


def _openers(table: EncryptedTable, ring: KeyRing) -> dict[str, Opener]:
    """What opens values of an old form, by the places that hold such."""
    return {each.name: opener_in(ring, each.form, each.source_key) for each in table.places if each.source}


@dataclass(frozen=True, slots=True)
class _Pair:
    """The rows of one table in the backup and now; `places`: where each present column is in a row of the backup."""

    before: Generator[KeyedRow, None, None]
    now: Generator[KeyedRow, None, None]
    places: tuple[int | None, ...]


def _pair(table: EncryptedTable, backup: TableInventory, present: TableInventory) -> _Pair:
    """The rows of a table in both databases, by the key that they had in the backup.

    Raises:
        PreflightError: nothing identifies a row.
    """
    # Whoever owns the present table could drop its key, or make it another one.
    there = backup.columns(table.name)
    known = replace(
        table, columns=tuple(each for each in table.columns if there.issuperset(table.place(each).stored_columns))
    )
    key = (backup.row_key(known) if known.columns else ()) or present.row_key(table)
    if not key:
        raise PreflightError("no primary or other unique key identifies its rows; compare it by other means")
    before = backup.rows_by_key(known, key) if known.columns else _nothing()
    places = tuple(known.columns.index(column) if column in known.columns else None for column in table.columns)
    return _Pair(before, present.rows_by_key(table, key), places)


def _nothing() -> Generator[KeyedRow, None, None]:
    yield from ()


def _merged(
    before: Iterator[KeyedRow], now: Iterator[KeyedRow]
) -> Iterator[tuple[str, Sequence[Values], Sequence[Values]]]:
    """Each key with its rows in the backup and now; a key that has many of them more than once."""
    old_groups, new_groups = _by_key(before), _by_key(now)
    old, new = next(old_groups, None), next(new_groups, None)
    while old is not None or new is not None:
        if new is None or (old is not None and old[0] < new[0]):
            assert old is not None  # noqa: S101  the loop's condition
            yield old[0], old[1], ()
            old = next(old_groups, None)
        elif old is None or new[0] < old[0]:
            yield new[0], (), new[1]
            new = next(new_groups, None)
        else:
            yield new[0], old[1], new[1]
            old, new = next(old_groups, None), next(new_groups, None)


def _by_key(rows: Iterator[KeyedRow]) -> Iterator[tuple[str, Sequence[Values]]]:
    """The rows of each key, in several parts where somebody made many rows of one key: the second part has no twin."""
    for key, group in groupby(rows, itemgetter(0)):
        while values := [each for _, each in islice(group, MOST_OF_ONE_KEY)]:
            yield key, values


def _in_place(row: Values, places: Sequence[int | None]) -> Values:
    return tuple(None if place is None else row[place] for place in places)
