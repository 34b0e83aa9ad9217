"""Stores values that the engine left unchanged: by table, relation, row key and column, never by content."""

import re
from collections import defaultdict
from collections.abc import Collection, Sequence

from psycopg import sql

from keyrotation_pipeline.adapters.own_schema import own
from keyrotation_pipeline.adapters.postgres.inventory import places
from keyrotation_pipeline.adapters.postgres.inventory.format_sql import FormatSql, create_tables_for, sql_of
from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation, heaps
from keyrotation_pipeline.adapters.postgres.inventory.row_key import row_key
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.reads import CLOSED, NOT_A_VALUE, Defect, DefectKind
from keyrotation_pipeline.model.tables import EncryptedTable, Place, QuarantinedValue

_SUBSCRIPTS = re.compile(r"(?:\[-?[0-9]{1,10}\])+")

_ADD = own("""
INSERT INTO keyrotation.quarantine (table_name, relation, row_key, column_name, kind, key_version, found_at)
VALUES (%s, %s, %s, %s, %s, %s, clock_timestamp())
ON CONFLICT (relation, row_key, column_name)
DO UPDATE SET kind = excluded.kind, key_version = excluded.key_version, found_at = excluded.found_at
""")

_LOAD = own("""
SELECT relation, column_name, kind, key_version, row_key FROM keyrotation.quarantine
WHERE table_name = %s ORDER BY relation, column_name, found_at DESC, row_key
""")

# The table knows only one kind of value that does not say by which key it is to be read, one that is none of ours, and
# one whose text is not to be stored.
_STORED_AS = {
    DefectKind.SEVERAL_KEYS: DefectKind.UNKNOWN_KEY,
    DefectKind.CLOSED: DefectKind.NOT_A_VALUE,
    DefectKind.NO_OLD_FORM: DefectKind.ENCRYPTED_TWICE,
}

_DROP = own("DELETE FROM keyrotation.quarantine WHERE relation = %s AND row_key = %s AND column_name = %s")


def add(
    connection: Connection, table: EncryptedTable, relation: Relation, values: Sequence[tuple[str, str, Defect]]
) -> None:
    """Records values by (row key, column, defect); one that is already recorded gets the new defect."""
    entries = [
        (
            str(table.name),
            relation.label,
            key,
            column,
            _STORED_AS.get(defect.kind, defect.kind).value,
            defect.version and defect.version.code,
        )
        for key, column, defect in values
    ]
    with connection.cursor() as cursor:
        cursor.executemany(_ADD, entries)


def forget(connection: Connection, table: EncryptedTable, before: str) -> None:
    """Deletes the entries of a table that are older than `before`: a full decrypt has found all others again."""
    connection.execute(
        own("DELETE FROM keyrotation.quarantine WHERE table_name = %s AND found_at < %s::timestamptz"),
        (str(table.name), before),
    )


def keys_of(connection: Connection, relation: Relation) -> tuple[str, ...]:
    """Returns the row keys of one relation that have entries."""
    rows = connection.execute(
        own("SELECT DISTINCT row_key FROM keyrotation.quarantine WHERE relation = %s ORDER BY row_key"),
        (relation.label,),
    ).fetchall()
    return tuple(str(key) for (key,) in rows)


def keep_only(connection: Connection, relation: Relation, key: str, columns: Collection[str]) -> None:
    """Deletes the entries of one row except those of `columns`: all its other values decrypt."""
    connection.execute(
        own("DELETE FROM keyrotation.quarantine WHERE relation = %s AND row_key = %s AND column_name <> ALL (%s)"),
        (relation.label, key, list(columns)),
    )


def load(connection: Connection, tables: Sequence[EncryptedTable]) -> tuple[QuarantinedValue, ...]:
    """Returns the values that are still as they were found; deletes entries of values that were fixed or deleted.

    A value counts as fixed if that is visible without a key: its row is gone, or it is NULL, empty, or under another
    key version than the entry says. A row without a primary key moves and cannot be found again: as many entries are
    kept as its column has values of that kind.
    """
    return tuple(value for table in tables for value in _still_bad(connection, table))


def _still_bad(connection: Connection, table: EncryptedTable) -> list[QuarantinedValue]:
    entries = connection.execute(_LOAD, (str(table.name),)).fetchall()
    if not entries:
        return []
    create_tables_for(connection, table.format)
    groups: dict[tuple[str, str, Defect], list[str]] = defaultdict(list)
    for label, column, kind, version, key in entries:
        defect = Defect(DefectKind(str(kind)), None if version is None else KeyVersion.of_code(int(str(version))))
        groups[str(label), str(column), defect].append(str(key))
    relations = {relation.label: relation for relation in heaps(connection, table)}
    kept = []
    for (label, column, defect), keys in groups.items():
        bad = _bad_keys(connection, sql_of(table.format), relations.get(label), column, defect, keys)
        said = _as_found(table.place(column), defect)
        kept += [QuarantinedValue(table.name, key, column, said) for key in keys if key in bad]
        for key in keys:
            if key not in bad:
                connection.execute(_DROP, (label, key, column))
    return kept


def _as_found(place: Place, defect: Defect) -> Defect:
    """Returns the defect that was stored as another one."""
    if defect == NOT_A_VALUE and place.source_key:
        return CLOSED
    if defect.kind is DefectKind.ENCRYPTED_TWICE and place.given_back:
        return Defect(DefectKind.NO_OLD_FORM, defect.version)
    return defect


def _bad_keys(
    connection: Connection,
    values: FormatSql,
    relation: Relation | None,
    column: str,
    defect: Defect,
    keys: list[str],
) -> set[str]:
    """Returns those keys whose value still has the defect, as far as that is visible without a key."""
    value = None if relation is None else _value(relation, column)
    if relation is None or value is None:
        return set()
    if defect.version:
        bad = values.under(value, [defect.version])
    else:
        bad = values.unencrypted(value) if defect == NOT_A_VALUE else values.has_prefix(value)
    # Literals instead of parameters, since names may contain percent signs.
    key = row_key(connection, relation)
    if not key.columns:
        count = sql.SQL("SELECT count(*) FROM ONLY {} WHERE {}").format(relation.identifier, bad)
        (row,) = connection.execute(count).fetchall()
        return set(keys[: int(str(row[0]))])
    one = sql.SQL("SELECT EXISTS (SELECT FROM ONLY {} AS held WHERE {} AND {})")
    return {
        each
        for each in keys
        if connection.execute(one.format(relation.identifier, key.matches("held", sql.Literal(each)), bad)).fetchone()
        == (True,)
    }


def _value(relation: Relation, name: str) -> sql.Composable | None:
    """Returns the text of the value that an entry names; None: there is no such place any more."""
    single = [column for column in relation.columns if not column.place.elements]
    if (found := next((column for column in single if column.place.name == name), None)) is not None:
        return places.text(found)
    for column in relation.columns:
        head = column.place.element("")
        if column.place.elements and name.startswith(head) and _SUBSCRIPTS.fullmatch(name[len(head) :]):
            element = sql.SQL("{}{}").format(places.stored(column), sql.SQL(name[len(head) :]))
            return sql.SQL('({}::text COLLATE "C")').format(element)
    return None
