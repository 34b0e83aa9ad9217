"""Lists of rows re-encrypted and decrypted."""

# ruff: noqa: ARG002 - a fake has the whole signature of its port.
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from keyrotation_pipeline.errors import BlockedError, PreflightError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.environment import Speed
from keyrotation_pipeline.model.page_reading import PageSpan
from keyrotation_pipeline.model.progress import Report, Rewritten
from keyrotation_pipeline.model.proof import DecryptedCount
from keyrotation_pipeline.model.tables import EncryptedTable, Shard
from keyrotation_pipeline_tests.fakes.database import (
    Cells,
    FakeDatabase,
    RefusedByFenceError,
    is_unencrypted,
    version_of,
)


@dataclass
class FakeRewriting:
    """`TableRewriting` over lists of rows."""

    database: FakeDatabase

    def speed(self, tables: Sequence[EncryptedTable], ring: KeyRing, target: KeyVersion) -> tuple[Speed, ...]:
        return tuple(Speed(str(table.name), 10, 100.0) for table in tables)

    def reencrypt_shard(
        self, request: str, shard: Shard, ring: KeyRing, target: KeyVersion, report: Report
    ) -> Rewritten:
        name = str(shard.table.name)
        self.database.begun[request, name] = self.database.begun.get((request, name), shard.of == 1) and shard.of == 1
        total = len(self.database.rows[name])
        share = range(total * shard.index // shard.of, total * (shard.index + 1) // shard.of)
        return self._rewrite(shard.table, target, share, f"shard {shard.index} of {shard.of}, {shard.table.name}")

    def is_one_shard(self, request: str, table: EncryptedTable) -> bool:
        return self.database.begun.get((request, str(table.name)), str(table.name) in self.database.small)

    def sweep(self, request: str, table: EncryptedTable, ring: KeyRing, target: KeyVersion, *, wait: bool) -> Rewritten:
        every = range(len(self.database.rows[str(table.name)]))
        return self._rewrite(table, target, every, f"sweep {table.name}{' waiting' if wait else ''}")

    def _rewrite(self, table: EncryptedTable, target: KeyVersion, share: range, entry: str) -> Rewritten:
        for problem in self.database.problems:
            if problem.fatal:
                raise PreflightError(problem.message)
        self.database.journal.note(entry)
        name = str(table.name)
        done, skipped, quarantined = dict[int, dict[str, str | None]](), set[int](), 0
        for number, column, value in self.database.cells(table):
            if number not in share or value in {None, ""} or version_of(value) == target:
                continue
            if self.database.is_held(name, number):
                skipped.add(number)
            elif (name, number, column) in self.database.unreadable or is_unencrypted(value):
                quarantined += 1
            else:
                done.setdefault(number, {})[column] = target.prefix + str(value).partition(":")[2]
        for number, cells in done.items():
            self._update(name, number, cells)
        return Rewritten(len(done), sum(map(len, done.values())), len(skipped), quarantined)

    def _update(self, name: str, number: int, cells: Cells) -> None:
        self.database.journal.note(f"row {name} {number}")
        try:
            self.database.update(name, number, cells)
        except RefusedByFenceError:
            raise BlockedError(f"the database refused a statement of the engine (table {name}); run it again") from None

    def clear_indexes(self, request: str, table: EncryptedTable, target: KeyVersion, report: Report) -> int:
        self.database.journal.note(f"search indexes {table.name}")
        return 0

    def decrypt_all(self, table: EncryptedTable, ring: KeyRing, report: Report, request: str = "") -> DecryptedCount:
        name = str(table.name)
        self.database.decrypted.append(name)
        self._read(table)
        cells = list(self.database.cells(table))
        values, empty = sum(bool(value) for _, _, value in cells), sum(value == "" for _, _, value in cells)
        bad = {(number, column) for number, column, value in cells if is_unencrypted(value)}
        bad |= {(number, column) for table_name, number, column in self.database.unreadable if table_name == name}
        by_column = {
            column: Counter(
                version
                for number, each, value in cells
                if each == column and (number, column) not in bad and (version := version_of(value))
            )
            for column in table.columns
        }
        return DecryptedCount(
            name, len(self.database.rows[name]), values, len(bad), by_column, empty, self.database.clock.now()
        )

    def decrypt_spans(
        self,
        table: EncryptedTable,
        spans: Sequence[PageSpan],
        ring: KeyRing,
        report: Report,
        should_continue: Callable[[], bool],
    ) -> int:
        if not should_continue():
            return 0
        self._read(table)
        return sum(bool(value) for _, _, value in self.database.cells(table))

    def _read(self, table: EncryptedTable) -> None:
        name = str(table.name)
        span = self.database.noted.get(name) or self.database.noted_span(table)
        self.database.noted[name] = replace(span, since=self.database.clock.now(), read=True)
