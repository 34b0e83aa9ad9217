"""Where plaintext of columns that a rotation has encrypted is outside the live rows, as far as that is known."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Annotated, ClassVar, Self

from keyrotation_pipeline.model.audit import EventKind, Fact, counted, utc_minute
from keyrotation_pipeline.model.records import UNLESS_EMPTY
from keyrotation_pipeline.model.tables import EncryptedTable, Place, TableName

NOT_KNOWN = "not known"
# Nothing looks there, or can.
NOT_SEEN = "subscribers, logs, exports, caches, and copies in other places"
# A text that is found again is hardly the same by chance if it is that long and was met once.
RARE_BYTES, MOST_RARE = 9, 1000

_NOT_SEEN_OF_FILES = "free blocks of a disk, and tables that were moved twice between two looks,"


@dataclass(frozen=True, slots=True)
class EncryptedColumn:
    """A column that held plaintext.

    Args:
        since: when it was proven that no live row holds any.
    """

    table: str
    column: str
    since: datetime

    @property
    def name(self) -> str:
        """``cases.note``."""
        return f"{self.table}.{self.column}"


@dataclass(frozen=True, slots=True)
class UnchangedFiles:
    """Files of one relation, of its TOAST table and its indexes, that have not been rewritten since they held it.

    Args:
        relation: as it is typed in a statement.
        files: by oid the tablespace and the file node, ``0/16384``.
        size_bytes: of all its files, when they were first seen.
    """

    relation: str
    files: Mapping[str, str]
    size_bytes: int

    @property
    def command(self) -> str:
        """What a person types to rewrite them."""
        return f"VACUUM FULL {self.relation}"

    def left(self, now: Mapping[str, str]) -> Self | None:
        """Those of the files that are still there; None: there are none.

        A file with another node in the same tablespace was rewritten; one in another tablespace was copied as it was.
        Two such moves between two looks look like a rewriting.
        """
        kept = {oid: now[oid] for oid, then in self.files.items() if oid in now and not _is_rewritten(then, now[oid])}
        return replace(self, files=kept) if kept else None


def _is_rewritten(then: str, now: str) -> bool:
    return then != now and then.partition("/")[0] == now.partition("/")[0]


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """What one look at the server found.

    Args:
        statistics: columns of which planner statistics hold plaintext, although ANALYZE has run.
        not_judged: statistics that cannot be judged, as they are of expressions or hidden.
        files: of the tables.
        catalogs: those that the server keeps statistics in.
        nodes: tablespace and file node of these files, and of those that were asked for, by oid.
        position: of the WAL.
        checkpoint: where the last checkpoint began.
        slots: by name, the position from which a replication slot keeps the WAL.
        is_archived: whether the server archives its WAL.
    """

    statistics: tuple[str, ...]
    not_judged: tuple[str, ...]
    files: tuple[UnchangedFiles, ...]
    catalogs: tuple[UnchangedFiles, ...]
    nodes: Mapping[str, str]
    position: str
    checkpoint: str
    slots: Mapping[str, str]
    is_archived: bool


@dataclass(frozen=True, slots=True)
class CopiesSought:
    """What a look for encrypted values in the other columns of their database found; none found proves nothing.

    Args:
        values: rare ones that were decrypted, in memory, and looked for; a sample, which differs each time.
        columns: that were looked into, of each at most a sample.
        found: those of them where any of the values stands, alone or within another text.
        not_read: tables and columns, or parts of them, that could not be looked into.
    """

    values: int = field(compare=False)
    columns: int = field(compare=False)
    found: tuple[str, ...] = ()
    not_read: int = field(default=0, compare=False)

    def line(self) -> tuple[str, str]:
        """What is known of copies, and until when they are there."""
        looked = f"{counted(self.values, 'rare value')} in samples of {counted(self.columns, 'column')}"
        rest = f"; {counted(self.not_read, 'place')} not read" if self.not_read else ""
        if not self.found:
            return f"none found of {looked}, which proves nothing{rest}", NOT_KNOWN
        return f"in {', '.join(self.found)}: found of {looked}{rest}", "until they are removed there, or encrypted"


def rare(values: Iterable[bytes]) -> tuple[bytes, ...]:
    """Those of a sample of plaintexts that are long enough and occur once, as many as are looked for."""
    return tuple(each for each, times in Counter(values).items() if times == 1 and len(each) >= RARE_BYTES)[:MOST_RARE]


@dataclass(frozen=True, slots=True)
class PlaintextOutsideRows(Fact):
    """Where plaintext of encrypted columns of one database is known outside the live rows.

    Args:
        columns: without any, nothing is known: a rollback has applications write plaintext again.
        statistics, not_judged: see `ServerFiles`.
        files: not rewritten yet.
        rewritten_at: from this position on the WAL has none of these files; None: they are not rewritten yet.
        checkpoint: where the first checkpoint after that began; None: there was none yet.
        slots: replication slots that keep earlier WAL.
        is_archived: whether the server archives its WAL.
        member: the member of a fleet that it is of; "": the home's own database.
        copies: None: none were looked for, or no value is rare enough.
    """

    kind: ClassVar = EventKind.PLAINTEXT_OUTSIDE_ROWS
    columns: tuple[EncryptedColumn, ...]
    statistics: tuple[str, ...] = ()
    not_judged: tuple[str, ...] = ()
    files: tuple[UnchangedFiles, ...] = ()
    rewritten_at: str | None = None
    checkpoint: str | None = None
    slots: tuple[str, ...] = ()
    is_archived: bool = False
    member: Annotated[str, UNLESS_EMPTY] = ""
    copies: Annotated[CopiesSought | None, UNLESS_EMPTY] = None

    @property
    def names(self) -> str:
        """The columns."""
        return ", ".join(each.name for each in self.columns)

    @property
    def tables(self) -> tuple[EncryptedTable, ...]:
        """The columns as places."""
        found: dict[str, list[Place]] = {}
        for each in self.columns:
            found.setdefault(each.table, []).append(Place(each.column, source="plaintext"))
        return tuple(EncryptedTable.of(TableName.parse(table), places) for table, places in found.items())

    @property
    def oids(self) -> tuple[int, ...]:
        """The relations whose files are looked at again."""
        return tuple(int(oid) for each in self.files for oid in each.files)

    def without(self, tables: Sequence[EncryptedTable]) -> Self:
        """The same without columns of these tables that applications write plaintext into."""
        begun = {(str(table.name), column) for table in tables for column in table.begun}
        columns = tuple(each for each in self.columns if (each.table, each.column) not in begun)
        if columns == self.columns:
            return self
        # Copies of which column were found is not known.
        return replace(self, columns=columns, copies=None) if columns else type(self)((), member=self.member)

    def columns_with(self, new: Sequence[EncryptedColumn]) -> tuple[EncryptedColumn, ...]:
        """The columns with some that were encrypted later, perhaps again: each name once."""
        names = {each.name for each in new}
        return (*(each for each in self.columns if each.name not in names), *new)

    def seen(self, now: ServerFiles, new: Sequence[EncryptedColumn] = (), copies: CopiesSought | None = None) -> Self:
        """What is known after a further look.

        Args:
            new: columns that a rotation has just encrypted, perhaps again, so that all files of their tables count
                from now on.
            copies: None: they were not looked for this time.
        """
        files = {each.relation: left for each in self.files if (left := each.left(now.nodes)) is not None}
        # What was taken out of the statistics stays in pages of the catalogue.
        catalogs = now.catalogs if new or self.statistics or now.statistics else ()
        for each in (*(now.files if new else ()), *catalogs):
            known = files.get(each.relation)
            files[each.relation] = each if known is None else replace(known, files={**known.files, **each.files})
        after = self._with(now, self.columns_with(new), tuple(files.values()))
        return after if copies is None else replace(after, copies=copies)

    def _with(self, now: ServerFiles, columns: tuple[EncryptedColumn, ...], files: tuple[UnchangedFiles, ...]) -> Self:
        rewritten_at = None if files or now.statistics else self.rewritten_at or now.position
        checkpoint = self.checkpoint if rewritten_at == self.rewritten_at else None
        if rewritten_at is not None and checkpoint is None and _at(now.checkpoint) >= _at(rewritten_at):
            checkpoint = now.checkpoint
        needed = _at(checkpoint or rewritten_at) if rewritten_at is not None else None
        slots = sorted(name for name, kept_from in now.slots.items() if needed is None or _at(kept_from) < needed)
        return replace(
            self,
            columns=columns,
            statistics=now.statistics,
            not_judged=now.not_judged,
            files=files,
            rewritten_at=rewritten_at,
            checkpoint=checkpoint,
            slots=tuple(slots),
            is_archived=now.is_archived,
        )

    def lines(self) -> Iterator[tuple[str, str, str]]:
        """A row for each place: where, what is known of it, and until when it holds plaintext."""
        if not self.columns:
            return
        yield self._of_statistics()
        for each in self.files:
            yield (
                f"pages of {each.relation}, its TOAST and its indexes",
                "not rewritten since: rows that were replaced stay in the file, also after VACUUM",
                f"until `{each.command}`, which locks everybody out meanwhile and takes {each.size_bytes:,} bytes",
            )
        if not self.files:
            yield "pages of the tables", "in other files since", f"none known; {_NOT_SEEN_OF_FILES} are not seen"
        yield self._of_wal()
        archive = "the server archives its WAL; " if self.is_archived else ""
        yield "archives of the WAL, base backups, standbys", f"{archive}those of before hold it", NOT_KNOWN
        none = f"not looked for: no value of {RARE_BYTES} bytes or more was met once alone", NOT_KNOWN
        yield "copies in other columns of the database", *(self.copies.line() if self.copies else none)
        yield NOT_SEEN, "not seen", NOT_KNOWN

    def _of_statistics(self) -> tuple[str, str, str]:
        found = f"ANALYZE left it in those of {', '.join(self.statistics)}" if self.statistics else "none after ANALYZE"
        until = "until ANALYZE with a statistics target above 0" if self.statistics else "none known"
        unjudged = f"; not judged: {', '.join(self.not_judged)}" if self.not_judged else ""
        return "planner statistics", f"{found}{unjudged}", until

    def _of_wal(self) -> tuple[str, str, str]:
        if self.rewritten_at is None:
            return "the WAL", "a change of a page can write what was replaced in it again", "until the files above are"
        kept = f", and kept for replication slot {' and '.join(self.slots)}" if self.slots else ""
        before = f"before {self.checkpoint or self.rewritten_at}"
        first = "" if self.checkpoint else "a checkpoint, and "
        return "the WAL", f"{before}{kept}", f"until {first}its files are overwritten"

    def to_do(self) -> Iterator[str]:
        """What people can do about it, a sentence each."""
        if self.columns:
            yield from self._to_rewrite()
            yield from self._to_remove()

    def _to_rewrite(self) -> Iterator[str]:
        commands = [each.command for each in self.files]
        if self.statistics:
            commands.insert(0, f"ANALYZE for the statistics of {', '.join(self.statistics)}")
        if commands:
            since = utc_minute(max(each.since for each in self.columns))
            where = f" in database {self.member}" if self.member else ""
            yield (
                f"{self.names}: encrypted in the live rows since {since}, but files of the server still hold "
                f"plaintext; when tables may be locked run{where} {', '.join(commands)}, then `keyrotation inventory`"
            )

    def _to_remove(self) -> Iterator[str]:
        if self.copies is not None and self.copies.found:
            where = f" of database {self.member}" if self.member else ""
            yield (
                f"{self.names}: encrypted, but some of the same values stand in {', '.join(self.copies.found)}{where}; "
                'remove copies there, or declare the column with `from = "plaintext"`, then run `keyrotation inventory`'
            )


def lines_of(found: Sequence[PlaintextOutsideRows]) -> Iterator[tuple[str, str, str]]:
    """The rows of several databases; what is the same in several stands in one, after their names."""
    databases = defaultdict[tuple[str, str, str], list[str]](list)
    for each in found:
        for line in each.lines():
            databases[line].append(each.member or "the home's own database")
    of_fleet = any(each.member for each in found)
    for (where, known, until), names in databases.items():
        yield f"{', '.join(names)}: {where}" if of_fleet else where, known, until


def _at(position: str | None) -> int:
    """A position of the WAL as a number."""
    high, _, low = (position or "0/0").partition("/")
    return (int(high, 16) << 32) + int(low, 16)
