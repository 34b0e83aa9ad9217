"""What the columns of all databases of a fleet hold."""

from collections import defaultdict
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

from keyrotation_pipeline.adapters.fleet.members import Members
from keyrotation_pipeline.errors import MemberUnavailableError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.key_trial import KeyTrial, PlaceProbe
from keyrotation_pipeline.model.page_reading import PageSpan
from keyrotation_pipeline.model.plaintext_outside_rows import CopiesSought
from keyrotation_pipeline.model.tables import (
    EncryptedTable,
    FoundColumn,
    QuarantinedValue,
    TableCount,
    TableName,
    of_member,
)
from keyrotation_pipeline.ports.database import KeyedRow
from keyrotation_pipeline.scan.report import Finding


@dataclass(frozen=True)
class FleetInventory:
    """`TableInventory` over several databases."""

    members: Members

    def count(self, tables: Sequence[EncryptedTable]) -> tuple[TableCount, ...]:
        """See `TableInventory.count`."""
        counts = dict[EncryptedTable, TableCount]()
        for name, own in self.members.grouped(tables):
            if own:
                with self.members.at(name) as at:
                    counts.update(zip(own, at.inventory.count(own), strict=True))
        return tuple(counts[table] for table in tables)

    def discover(self, tables: Sequence[EncryptedTable]) -> tuple[FoundColumn, ...]:
        """See `TableInventory.discover`."""
        found = list[FoundColumn]()
        for name, own in self.members.grouped(tables):
            with self.members.at(name) as at:
                found += _in_member(name, at.inventory.discover(own))
        return tuple(found)

    def other_formats(self) -> tuple[Finding, ...]:
        """See `TableInventory.other_formats`."""
        found = list[Finding]()
        for name in ("", *self.members.open):
            with self.members.at(name) as at:
                found += [
                    replace(each, place=replace(each.place, table=of_member(name, each.place.table)))
                    for each in at.inventory.other_formats()
                ]
        return tuple(found)

    def definitions_found(self) -> tuple[FoundColumn, ...]:
        """See `TableInventory.definitions_found`."""
        found = list[FoundColumn]()
        for name in self._answering():
            with self.members.at(name) as at:
                found += _in_member(name, at.inventory.definitions_found())
        return tuple(found)

    def undeclared_spans(self, tables: Sequence[EncryptedTable]) -> tuple[PageSpan, ...]:
        """See `TableInventory.undeclared_spans`; leaves out members that do not answer."""
        spans, answering = list[PageSpan](), set(self._answering())
        for name, own in self.members.grouped(tables):
            if name in answering:
                with self.members.at(name) as at:
                    found = at.inventory.undeclared_spans(own)
                spans += [replace(each, table=of_member(name, each.table)) for each in found]
        return tuple(spans)

    def search_spans(
        self, tables: Sequence[EncryptedTable], spans: Sequence[PageSpan], should_continue: Callable[[], bool]
    ) -> int:
        """See `TableInventory.search_spans`."""
        by_member, pages = defaultdict[str, list[PageSpan]](list), 0
        for each in spans:
            name, colon, table = each.table.partition(":")
            in_member = bool(colon) and name in self.members.open
            by_member[name if in_member else ""].append(replace(each, table=table) if in_member else each)
        for name, own in self.members.grouped(tables):
            if by_member[name]:
                with self.members.at(name) as at:
                    pages += at.inventory.search_spans(own, by_member[name], should_continue)
        return pages

    def unsearched_since(self) -> datetime | None:
        """See `TableInventory.unsearched_since`."""
        return self.members.lead.inventory.unsearched_since()

    def rows_seen(self, table: EncryptedTable, version: KeyVersion, seconds: float) -> int | None:
        """See `TableInventory.rows_seen`; None, too, where a member does not answer."""
        with suppress(MemberUnavailableError), self.members.of(table) as at:
            return at.inventory.rows_seen(table, version, seconds)
        return None

    def key_markers(self, tables: Sequence[EncryptedTable]) -> Mapping[KeyVersion, str]:
        """See `TableInventory.key_markers`; leaves out members that do not answer: each has the same."""
        markers, answering = dict[KeyVersion, str](), set(self._answering())
        for name, own in self.members.grouped(tables):
            if own and name in answering:
                with self.members.at(name) as at:
                    markers |= at.inventory.key_markers(own)
        return markers

    def written_rows(self, tables: Sequence[EncryptedTable]) -> Mapping[str, int]:
        """See `TableInventory.written_rows`."""
        written = dict[str, int]()
        for name, own in self.members.grouped(tables):
            if own:
                with self.members.at(name) as at:
                    written |= at.inventory.written_rows(own)
        return written

    def quarantine(self, tables: Sequence[EncryptedTable]) -> tuple[QuarantinedValue, ...]:
        """See `TableInventory.quarantine`."""
        found = list[QuarantinedValue]()
        for name, own in self.members.grouped(tables):
            if own:
                with self.members.at(name) as at:
                    found += at.inventory.quarantine(own)
        return tuple(found)

    def page_spans(self, tables: Sequence[EncryptedTable]) -> tuple[PageSpan, ...]:
        """See `TableInventory.page_spans`; leaves out members that do not answer."""
        spans, answering = list[PageSpan](), set(self._answering())
        for name, own in self.members.grouped(tables):
            if own and name in answering:
                with self.members.at(name) as at:
                    spans += at.inventory.page_spans(own)
        return tuple(spans)

    def unread_since(self, tables: Sequence[EncryptedTable]) -> Mapping[str, datetime]:
        """See `TableInventory.unread_since`; leaves out members that do not answer."""
        since = dict[str, datetime]()
        for name, own in self.members.grouped(tables):
            if own:
                with suppress(MemberUnavailableError), self.members.at(name) as at:
                    since |= at.inventory.unread_since(own)
        return since

    def decrypt_sample(
        self, table: EncryptedTable, ring: KeyRing, values: int, wanted: Mapping[str, Collection[KeyVersion]]
    ) -> KeyTrial:
        """See `TableInventory.decrypt_sample`."""
        with self.members.of(table) as at:
            return at.inventory.decrypt_sample(table, ring, values, wanted)

    def probe(self, table: EncryptedTable, ring: KeyRing, values: int) -> tuple[PlaceProbe, ...]:
        """See `TableInventory.probe`."""
        with self.members.of(table) as at:
            return at.inventory.probe(table, ring, values)

    def plaintext_copies(self, encrypted: Sequence[tuple[EncryptedTable, str]], ring: KeyRing) -> CopiesSought | None:
        """See `TableInventory.plaintext_copies`."""
        ((table, _), *_) = encrypted
        with self.members.of(table) as at:
            return at.inventory.plaintext_copies(encrypted, ring)

    def columns(self, name: TableName) -> frozenset[str]:
        """See `TableInventory.columns`; none, too, in what is no member any more, or does not answer."""
        if name.database and name.database not in self.members.open:
            return frozenset()
        with suppress(MemberUnavailableError), self.members.at(name.database) as at:
            return at.inventory.columns(name)
        return frozenset()

    def row_key(self, table: EncryptedTable) -> tuple[str, ...]:
        """See `TableInventory.row_key`."""
        with self.members.of(table) as at:
            return at.inventory.row_key(table)

    def rows_by_key(self, table: EncryptedTable, key: Sequence[str]) -> Generator[KeyedRow, None, None]:
        """See `TableInventory.rows_by_key`."""
        with self.members.of(table) as at:
            yield from at.inventory.rows_by_key(table, key)

    def _answering(self) -> Iterator[str]:
        yield ""
        for name in self.members.open:
            with suppress(MemberUnavailableError), self.members.at(name):
                yield name


def _in_member(name: str, found: Sequence[FoundColumn]) -> list[FoundColumn]:
    return [replace(each, relation=of_member(name, each.relation)) for each in found]
