"""Checks that a restored database is the one that was dumped: counts every row, decrypts values of every column."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from keyrotation_pipeline.errors import IncompleteRestoreError, LostRowsError, PreflightError, UndecryptableError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.model.backups import DatabaseContent, DatabaseCopy, RelationContent, TableContent
from keyrotation_pipeline.model.progress import Report
from keyrotation_pipeline.model.proof import DecryptedCount
from keyrotation_pipeline.model.tables import EncryptedTable, TableName
from keyrotation_pipeline.ports.backups import HandedOver, RestoredDump
from keyrotation_pipeline.ports.database import TableInventory

SAMPLE_VALUES = 20
MOST_SHOWN = 10
# How the server refuses something to a role without power.
_LACKS_POWER = re.compile(r"\((?:permission denied |must be (?:superuser|owner) )[^()]*\)$")


@dataclass(frozen=True, slots=True)
class DecryptedCopy:
    """What decrypting every value of a restored database found.

    Args:
        values: how many decrypted, by table, column and key version.
        undecryptable: a phrase per column and version with values that were dumped and do not decrypt.
        unencrypted: how many values are not encrypted, by table; none that has none.
    """

    values: Mapping[str, Mapping[str, Mapping[str, int]]]
    undecryptable: tuple[str, ...]
    unencrypted: Mapping[str, int]

    def by_table(self) -> dict[str, int]:
        """How many values decrypted, by table."""
        return {
            table: sum(number for versions in columns.values() for number in versions.values())
            for table, columns in self.values.items()
        }


def require_no_failure(restored: RestoredDump, dump: DatabaseCopy) -> None:
    """Refuse a restore in which pg_restore skipped anything that it was not meant to leave out.

    Raises:
        IncompleteRestoreError: names what, and the server.
    """
    if restored.failures:
        advice = (
            "what takes a superuser has to be restored manually by one: report it, since it should be left out"
            if all(_LACKS_POWER.search(each) for each in restored.failures)
            else (
                f"install what is missing (postgresql-{dump.server_major} has PostgreSQL's own extensions and ICU), "
                "or name a like server's programs in [backup] postgres_binaries"
            )
        )
        raise IncompleteRestoreError(
            f"{dump.file.name} does not restore completely into {restored.server}: {joined(restored.failures)}; "
            f"{advice}"
        )


def require_same(handed_over: HandedOver, restored: RestoredDump, dump: DatabaseCopy) -> None:
    """Refuse a restored database whose catalogue differs from the dump's in anything that was not left out.

    Raises:
        IncompleteRestoreError: names what.
    """
    if handed_over.differences:
        raise IncompleteRestoreError(
            f"what {dump.file.name} restores into {restored.server} differs from what was dumped: "
            f"{joined(handed_over.differences)}; install what the source has there, or report it"
        )


def require_complete(database: str, failures: Sequence[str], undecryptable: Sequence[str]) -> None:
    """Refuse a new database that lacks something, or in which not every value decrypts.

    Raises:
        IncompleteRestoreError: every row is there, but something else is not as dumped.
        UndecryptableError: it is as dumped, and others may connect to it.
    """
    some = f"{joined(undecryptable)} do not decrypt with these keys" if undecryptable else ""
    if failures:
        raise IncompleteRestoreError(
            f"{database} has every row, and {some or 'all values decrypt'}, but these are missing or differ: "
            f"{joined(failures)}; add them before others connect, or restore again"
        )
    if some:
        raise UndecryptableError(
            f"the new database {database} is complete, but {some}; run `keyrotation restore-key` for missing "
            "keys, then `keyrotation verify`; take damaged values from an older backup"
        )


def require_all_there(restored: RestoredDump, dump: DatabaseCopy) -> None:
    """Refuse a restored database that does not hold what was counted in the dump's own snapshot.

    Raises:
        LostRowsError: names relation, column and numbers.
    """
    for content in dump.tables:
        if not content.table.format.names_versions:
            continue  # its rows are counted below; its values are for a full decrypt
        with _there(content, dump):
            (count,) = restored.inventory.count([content.table])
        _require_rows(content, count.rows, dump)
        _require_values(content, count.by_column, dump)
        _require_old_forms(content, count.unencrypted_by_column, dump)
    _require_relations(dump.content, restored, dump)


def at_its_server(dump: DatabaseCopy, tables: Sequence[EncryptedTable]) -> DatabaseCopy:
    """The same dump, of whose keys the server is asked that is declared now: it may have moved since.

    Args:
        tables: as they are declared now.
    """
    address = tables[0].format.transit
    contents = (
        replace(each, table=replace(each.table, format=replace(each.table.format, transit=address)))
        if address and each.table.format.transit
        else each
        for each in dump.tables
    )
    return replace(dump, tables=tuple(contents))


def decrypt_all(restored: RestoredDump, dump: DatabaseCopy, ring: KeyRing, report: Report) -> DecryptedCopy:
    """Require the same by decrypting every value, in the one pass that also counts.

    A value that does not decrypt does not end it: whoever can write one value to a table could otherwise make every
    backup of it useless.

    Args:
        ring: values under a version that it lacks are undecryptable.

    Raises:
        LostRowsError: as `require_all_there`.
    """
    values: dict[str, dict[str, dict[str, int]]] = {}
    undecryptable: list[str] = []
    unencrypted: dict[str, int] = {}
    for content in dump.tables:
        with _there(content, dump):
            read = restored.rewriting.decrypt_all(content.table, ring, report)
        _require_rows(content, read.rows, dump)
        missing = dict(_missing(content, read))
        if (others := read.failures - sum(missing.values())) < 0:
            _require_values(content, read.by_column, dump)
        if others:
            unencrypted[str(content.table.name)] = others
        undecryptable += [
            f"{number:,} of {content.values[column][version]:,} values of {content.table.name}.{column} under {version}"
            for (column, version), number in missing.items()
        ]
        values[str(content.table.name)] = {
            column: {str(version): number for version, number in counted.items()}
            for column, counted in read.by_column.items()
            if counted
        }
    _require_relations(dump.content, restored, dump)
    return DecryptedCopy(values, tuple(undecryptable), unencrypted)


def _missing(content: TableContent, read: DecryptedCount) -> Iterator[tuple[tuple[str, KeyVersion], int]]:
    """How many of the dumped values did not decrypt, by column and version."""
    for column, values in content.values.items():
        for version, number in values.items():
            if (missing := number - read.by_column.get(column, {}).get(version, 0)) > 0:
                yield (column, version), missing


@contextmanager
def _there(content: TableContent, dump: DatabaseCopy) -> Iterator[None]:
    try:
        yield
    except PreflightError:
        raise LostRowsError(
            f"table {content.table.name} is not in what {dump.file.name} restores, but had {content.rows:,} rows; "
            "use an older backup, and check which statements pg_restore refuses"
        ) from None


def sampled_under(inventory: TableInventory, table: EncryptedTable, version: KeyVersion, ring: KeyRing) -> int:
    """Decrypt a sample of every column of one table under one version; returns how many values.

    Raises:
        UndecryptableError: a value does not decrypt; names table, column and version.
    """
    opened = 0
    for each in inventory.decrypt_sample(table, ring, SAMPLE_VALUES, dict.fromkeys(table.columns, (version,))).columns:
        if each.version != version:
            continue
        # Where nothing but decryption tells the version, what this key does not open may be under another one.
        if each.failed and table.format.names_versions:
            raise UndecryptableError(
                f"a value of {table.name}.{each.column} under {each.version} cannot be decrypted with the "
                f"recovered key {ring.material(each.version).fingerprint[:16]}; find the right key, or an older "
                "backup"
            )
        opened += each.opened
    return opened


def _require_rows(content: TableContent, rows: int, dump: DatabaseCopy) -> None:
    name = content.table.name
    if content.rows and not rows:
        raise LostRowsError(
            f"table {name} is empty in what {dump.file.name} restores, but had {content.rows:,} rows; "
            "use an older backup"
        )
    if rows != content.rows:
        raise LostRowsError(
            f"table {name} has {rows:,} rows in what {dump.file.name} restores, but had {content.rows:,}; "
            "use an older backup"
        )


def _require_old_forms(content: TableContent, counted: Mapping[str, int], dump: DatabaseCopy) -> None:
    for column, number in content.old_forms.items():
        if (found := counted.get(column, 0)) != number:
            raise LostRowsError(
                f"column {content.table.name}.{column} has {found:,} values of another library in what "
                f"{dump.file.name} restores, but had {number:,}; use an older backup"
            )


def _require_values(content: TableContent, counted: Mapping[str, Mapping[KeyVersion, int]], dump: DatabaseCopy) -> None:
    for column, values in content.values.items():
        for version, number in values.items():
            if (found := counted.get(column, {}).get(version, 0)) != number:
                raise LostRowsError(
                    f"column {content.table.name}.{column} has {found:,} values under {version} in what "
                    f"{dump.file.name} restores, but had {number:,}; use an older backup"
                )


def _require_relations(wanted: DatabaseContent, restored: RestoredDump, dump: DatabaseCopy) -> None:
    found = restored.content
    there: Mapping[TableName, RelationContent] = {each.name: each for each in found.relations}
    expected = [each for each in wanted.relations if each.name not in restored.missing]
    lost = [message for each in expected if (message := _lost(each, there.get(each.name)))]
    if wanted.large_objects != found.large_objects:
        lost.append(f"{found.large_objects:,} large objects of {wanted.large_objects:,}")
    if lost:
        raise LostRowsError(
            f"{dump.file.name} restores less than was dumped: {joined(lost)}; use an older backup, and check "
            "pg_restore's messages"
        )


def _lost(wanted: RelationContent, found: RelationContent | None) -> str | None:
    if found is None or found.kind != wanted.kind:
        return f"no {wanted.kind} {wanted.name}"
    if found.rows != wanted.rows:
        return f"{found.rows or 0:,} rows of {wanted.rows or 0:,} in {wanted.kind} {wanted.name}"
    return None


def joined(phrases: Sequence[str]) -> str:
    """The first few phrases, and how many more."""
    more = len(phrases) - MOST_SHOWN
    return "; ".join([*phrases[:MOST_SHOWN], *([f"and {more} more"] if more > 0 else [])])
