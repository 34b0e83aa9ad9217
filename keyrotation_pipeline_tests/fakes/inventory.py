"""What lists of rows hold."""

# ruff: noqa: ARG002 - a fake has the whole signature of its port.
import re
from collections import Counter
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from keyrotation_pipeline.fieldcrypto.grammar import NEAR_MISS_PATTERN, KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.key_trial import ColumnTrial, KeyTrial, PlaceProbe
from keyrotation_pipeline.model.page_reading import PageSpan
from keyrotation_pipeline.model.plaintext_outside_rows import CopiesSought
from keyrotation_pipeline.model.tables import EncryptedTable, FoundColumn, QuarantinedValue, TableCount, TableName
from keyrotation_pipeline.ports.database import KeyedRow
from keyrotation_pipeline.scan.report import Finding, Place
from keyrotation_pipeline_tests.fakes.database import FakeDatabase, is_unencrypted, version_of

FERNET_TOKENS = Finding(
    Place("public.tokens", "token", None, elements=False, type="text"), "fernet", "certain", 1.0, 3, (), "mac",
    reads_two_keys=True, next="Not rotated yet.", notes=(),
)  # fmt: skip


def declared_tokens(table: str, column: str) -> Finding:
    """The same in a declared column."""
    return replace(FERNET_TOKENS, place=replace(FERNET_TOKENS.place, table=f"public.{table}", column=column))


@dataclass
class FakeInventory:
    """`TableInventory` over lists of rows."""

    database: FakeDatabase

    def count(self, tables: Sequence[EncryptedTable]) -> tuple[TableCount, ...]:
        return tuple(self._count(table) for table in tables)

    def _count(self, table: EncryptedTable) -> TableCount:
        database, cells = self.database, list(self.database.cells(table))
        by_column: dict[str, dict[KeyVersion, int]] = {column: {} for column in table.columns}
        totals: dict[KeyVersion, int] = {}
        for _, column, value in cells:
            version = version_of(value)
            if version is not None:
                by_column[column][version] = by_column[column].get(version, 0) + 1
                totals[version] = totals.get(version, 0) + 1
        unencrypted = Counter(column for _, column, value in cells if is_unencrypted(value))
        near_misses = sum(is_unencrypted(v) and bool(re.match(NEAR_MISS_PATTERN, v or "")) for _, _, v in cells)
        empty = sum(value == "" for _, _, value in cells)
        return TableCount(
            table, len(database.rows[str(table.name)]), totals, empty, unencrypted.total(), near_misses,
            len(database.quarantined([table])), database.fenced_against(table), database.clock.now(), by_column,
            dict(unencrypted),
        )  # fmt: skip

    def discover(self, tables: Sequence[EncryptedTable]) -> tuple[FoundColumn, ...]:
        self.search_spans(tables, self.undeclared_spans(tables), lambda: True)
        return self.database.findings

    def other_formats(self) -> tuple[Finding, ...]:
        return self.database.other_formats

    def plaintext_copies(self, encrypted: Sequence[tuple[EncryptedTable, str]], ring: KeyRing) -> CopiesSought | None:
        return CopiesSought(len(encrypted), len(ring.versions))

    def definitions_found(self) -> tuple[FoundColumn, ...]:
        return ()

    def undeclared_spans(self, tables: Sequence[EncryptedTable]) -> tuple[PageSpan, ...]:
        for name in ("notes", *(each.relation for each in self.database.findings)):
            now = self.database.clock.now()
            self.database.searched.setdefault(name, PageSpan(name, name, 0, 2048, 1, 8192, now, read=False))
        return tuple(self.database.searched.values())

    def search_spans(
        self, tables: Sequence[EncryptedTable], spans: Sequence[PageSpan], should_continue: Callable[[], bool]
    ) -> int:
        for span in (each for each in spans if should_continue()):
            found = {each.column: each.values for each in self.database.findings if each.relation == span.relation}
            self.database.searched[span.relation] = replace(
                span, since=self.database.clock.now(), read=True, found=found
            )
        return len(spans)

    def unsearched_since(self) -> datetime | None:
        return min((span.since for span in self.database.searched.values()), default=None)

    def rows_seen(self, table: EncryptedTable, version: KeyVersion, seconds: float) -> int | None:
        return None if str(table.name) in self.database.slow else self.database.rows_under(table, [version])

    def key_markers(self, tables: Sequence[EncryptedTable]) -> Mapping[KeyVersion, str]:
        return {}

    def written_rows(self, tables: Sequence[EncryptedTable]) -> Mapping[str, int]:
        return {str(table.name): self.database.writes for table in tables}

    def quarantine(self, tables: Sequence[EncryptedTable]) -> tuple[QuarantinedValue, ...]:
        return self.database.quarantined(tables)

    def page_spans(self, tables: Sequence[EncryptedTable]) -> tuple[PageSpan, ...]:
        return tuple(span for span in map(self.database.noted_span, tables) if span.pages)

    def unread_since(self, tables: Sequence[EncryptedTable]) -> Mapping[str, datetime]:
        named = {str(table.name) for table in tables}
        return {name: span.since for name, span in self.database.noted.items() if name in named and span.pages}

    def decrypt_sample(
        self, table: EncryptedTable, ring: KeyRing, values: int, wanted: Mapping[str, Collection[KeyVersion]]
    ) -> KeyTrial:
        tried: dict[tuple[str, KeyVersion], list[tuple[int, KeyVersion | None]]] = {}
        for number, column, value in self.database.cells(table):
            if (version := version_of(value)) is None:
                continue
            cells = tried.setdefault((column, version), [])
            if len(cells) < values:
                cells.append((number, self._opened_by(ring, version, (str(table.name), number, column))))
        columns = (_trial(str(table.name), *key, cells) for key, cells in sorted(tried.items()))
        return KeyTrial(ring.versions, tuple(columns))

    def probe(self, table: EncryptedTable, ring: KeyRing, values: int) -> tuple[PlaceProbe, ...]:
        trial = self.decrypt_sample(table, ring, values, {})
        places = {column: [each for each in trial.columns if each.column == column] for column in table.columns}
        return tuple(
            PlaceProbe(
                str(table.name), column, table.format.layout, sum(e.tried for e in each), sum(e.opened for e in each)
            )
            for column, each in places.items()
        )

    def _opened_by(self, ring: KeyRing, version: KeyVersion, cell: tuple[str, int, str]) -> KeyVersion | None:
        if cell in self.database.unreadable:
            return None
        if (fingerprint := self.database.sealed_under.get(version)) is None:
            return version if version in ring.versions else None
        return next((each for each in ring.versions if ring.material(each).fingerprint == fingerprint), None)

    def columns(self, name: TableName) -> frozenset[str]:
        rows = self.database.rows.get(str(name))
        return frozenset() if rows is None else frozenset({"id", *(column for row in rows for column in row)})

    def row_key(self, table: EncryptedTable) -> tuple[str, ...]:
        return ("id",)

    def rows_by_key(self, table: EncryptedTable, key: Sequence[str]) -> Generator[KeyedRow, None, None]:
        rows = enumerate(self.database.rows[str(table.name)], 1)
        yield from sorted(
            (f'["{number}"]', tuple(_bytes(row.get(each)) for each in table.columns)) for number, row in rows
        )


def _bytes(value: str | None) -> bytes | None:
    return None if value is None else value.encode()


def _trial(table: str, column: str, version: KeyVersion, cells: Sequence[tuple[int, KeyVersion | None]]) -> ColumnTrial:
    failed = [(number, opener) for number, opener in cells if opener != version]
    others = Counter(opener for _, opener in failed if opener is not None)
    rows = tuple(str(number) for number, _ in failed[:3])
    return ColumnTrial(table, column, version, len(cells), len(cells) - len(failed), dict(others), rows)
