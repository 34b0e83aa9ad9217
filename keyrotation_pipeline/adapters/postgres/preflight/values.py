"""Checks that read the rows: would each value still be accepted with the prefix of the target version?

Values are changed and tested inside the server; none leaves it. Only tables with a limit or a constraint are scanned.
"""

from collections.abc import Iterator
from typing import cast

import psycopg
from psycopg import sql

from keyrotation_pipeline.adapters.postgres.inventory import grammar_sql, places
from keyrotation_pipeline.adapters.postgres.inventory.format_sql import sql_of
from keyrotation_pipeline.adapters.postgres.inventory.relations import Column, IndexedColumn, Relation
from keyrotation_pipeline.adapters.postgres.inventory.scans import heap_scan
from keyrotation_pipeline.adapters.postgres.preflight.table import Subject, fatal, warning
from keyrotation_pipeline.adapters.postgres.retirement import fence
from keyrotation_pipeline.fieldcrypto.formats.marking import LONGEST_JUDGED_BYTES
from keyrotation_pipeline.fieldcrypto.formats.native import SEARCH_INDEX
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.search_index import is_odd
from keyrotation_pipeline.model.audit import counted
from keyrotation_pipeline.model.environment import Problem

# PostgreSQL limits messages, arrays and expressions to 1 GB, and several copies of a row exist at once.
LARGEST_ROW_BYTES = LONGEST_JUDGED_BYTES

_TOASTED = """
SELECT pg_relation_size(reltoastrelid) > 0 FROM pg_class WHERE oid = %s::bigint::oid AND reltoastrelid <> 0
"""

_SHORTEST_PREFIX = len(KeyVersion(1).prefix)

_IS_DOMAIN = """
SELECT t.typtype = 'd' FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = %s::bigint::oid AND a.attname = %s
"""

_CHECKS = """
SELECT c.conname, pg_get_expr(c.conbin, c.conrelid) FROM pg_constraint c
WHERE c.conrelid = %s::bigint::oid AND c.contype = 'c' AND c.conname <> ALL (%s)
  AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.conrelid AND a.attnum = ANY(c.conkey)
              AND a.attname = ANY(%s))
ORDER BY c.conname
"""

_ALL_COLUMNS = """
SELECT attname FROM pg_attribute WHERE attrelid = %s::bigint::oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""


def rows_fit(subject: Subject) -> Iterator[Problem]:
    """Refuses rows too large to be read, checked and written at once."""
    for relation in subject.heaps:
        if subject.connection.execute(_TOASTED, (relation.oid,)).fetchone() != (True,):
            continue
        sizes = [
            sql.SQL("coalesce(octet_length({}), 0)::bigint").format(places.text(column)) for column in relation.columns
        ]
        query = sql.SQL("SELECT max({}) FROM ONLY {}").format(sql.SQL(" + ").join(sizes), relation.identifier)
        with heap_scan(subject.connection, relation.label, relation.oid):
            row = subject.connection.execute(query).fetchone()
        largest = cast("tuple[int | None]", row)[0] or 0
        if largest > LARGEST_ROW_BYTES:
            yield fatal(
                f"a row of {relation.label} holds {largest / 2**20:.1f} MiB in its encrypted columns, more than "
                f"the {LARGEST_ROW_BYTES // 2**20} MiB that can be re-encrypted at once; move such values "
                "elsewhere"
            )


def values_fit(subject: Subject) -> Iterator[Problem]:
    """Requires each varchar(n) to fit its longest value under the target.

    ``v10:`` is longer than ``v9:``, and a value that names its key than one that does not.
    """
    same_length = subject.table.format.names_versions and len(subject.target.prefix) == _SHORTEST_PREFIX
    for relation in subject.heaps:
        for column in relation.columns:
            if same_length and not column.place.source:
                continue
            if column.max_chars is None or column.iv or column.bound:  # such values keep their length
                continue
            needed = _longest(subject, relation, column)
            if needed > column.max_chars:
                yield fatal(
                    f"column {relation.label}.{column.name} holds {column.max_chars} characters, but its longest value "
                    f"needs {needed} under {subject.target}; widen it to {needed} or more, or make it text"
                )


def domains_accept_target(subject: Subject) -> Iterator[Problem]:
    """Requires the CHECKs of a domain to accept every present value under the target version."""
    for relation in subject.heaps:
        for (_, column), *others in places.by_column(relation.columns):
            if subject.connection.execute(_IS_DOMAIN, (relation.oid, column.name)).fetchone() != (True,):
                continue
            changed = _under_target(subject, [column, *(each for _, each in others)])
            query = sql.SQL("SELECT count({}) FROM ONLY {}").format(changed, relation.identifier)
            with heap_scan(subject.connection, relation.label, relation.oid):
                try:
                    subject.connection.execute(query)
                except psycopg.errors.CheckViolation:
                    yield fatal(
                        f"the domain {column.type_sql} of column {relation.label}.{column.name} refuses values under "
                        f"{subject.target}; change its CHECK with ALTER DOMAIN"
                    )


def checks_accept_target(subject: Subject) -> Iterator[Problem]:
    """Requires the table's CHECKs on encrypted columns to hold for every row under the target version.

    Those on search indexes also once the indexes under the key before are cleared.
    """
    fences = [fence.name(subject.connection), fence.name(subject.connection, SEARCH_INDEX)]
    for relation in subject.heaps:
        constraints = subject.connection.execute(_CHECKS, (relation.oid, fences, subject.written_columns)).fetchall()
        for name, expression in constraints:
            for cleared in (False, True) if relation.indexes else (False,):
                with heap_scan(subject.connection, relation.label, relation.oid):
                    found = list(_try_check(subject, relation, str(name), str(expression), cleared=cleared))
                yield from found
                if found:
                    break


def _try_check(subject: Subject, relation: Relation, name: str, expression: str, *, cleared: bool) -> Iterator[Problem]:
    query = sql.SQL("SELECT count(*) FROM (SELECT {} FROM ONLY {}) AS {} WHERE NOT ({})").format(
        _row_under_target(subject, relation, cleared=cleared),
        relation.identifier,
        sql.Identifier(relation.name),
        sql.SQL(expression),  # the server's own text of its constraint
    )
    try:
        row = subject.connection.execute(query).fetchone()
    except psycopg.errors.LockNotAvailable:
        raise
    except psycopg.Error:
        yield warning(
            f"the CHECK {name} of {relation.label} could not be tested with values under {subject.target}; "
            "check manually that it accepts them"
        )
        return
    if refused := cast("tuple[int]", row)[0]:
        yield fatal(
            f"the CHECK {name} of {relation.label} refuses {counted(refused, 'row')} under "
            f"{subject.target}{' without a search index under the key before' if cleared else ''}; change it, or "
            f"ALTER TABLE {subject.quoted(*relation.parts)} DROP CONSTRAINT {subject.quoted(name)}"
        )


def _row_under_target(subject: Subject, relation: Relation, *, cleared: bool) -> sql.Composed:
    changed = {
        same[0][1].name: _under_target(subject, [column for _, column in same])
        for same in places.by_column(relation.columns)
    }
    for index in relation.indexes:
        new, old = index.columns if is_odd(subject.target) else reversed(index.columns)
        changed[new.name] = _index_under_target(subject, relation, index, new)
        if cleared:
            changed[old.name] = sql.SQL("NULL::{}").format(sql.SQL(old.type_sql))
    names = [str(name) for (name,) in subject.connection.execute(_ALL_COLUMNS, (relation.oid,)).fetchall()]
    return sql.SQL(", ").join(
        sql.SQL("{} AS {}").format(changed[name], sql.Identifier(name)) if name in changed else sql.Identifier(name)
        for name in names
    )


def _index_under_target(subject: Subject, relation: Relation, index: IndexedColumn, column: Column) -> sql.Composed:
    """Returns a column of a search index with an index of some text under the target next to each value."""
    text = index.index.form.example(subject.target)
    return sql.SQL("CASE WHEN {} IS NULL THEN {} ELSE {}::{} END").format(
        places.text(relation.columns[index.number]), places.stored(column), sql.Literal(text), sql.SQL(column.type_sql)
    )


def _under_target(subject: Subject, in_column: list[Column]) -> sql.Composed:
    """Returns a column with every value in it changed to one under the target."""
    values, column = sql_of(subject.table.format), in_column[0]
    stored, type_sql = places.stored(column), sql.SQL(column.type_sql)  # quoted by format_type()

    def changed(text: sql.Composable) -> sql.Composed:
        return sql.SQL("CASE WHEN {} THEN {} END").format(
            values.has_prefix(text), values.under_another(text, subject.target)
        )

    if column.place.path:
        new = places.with_values(stored, [(each, changed(places.text(each))) for each in in_column])
        return sql.SQL("{}::{}").format(new, type_sql)
    if column.place.elements:
        return sql.SQL("ARRAY(SELECT coalesce({}, each.text) FROM {})::{}").format(
            changed(sql.SQL("each.text")), places.each_value(column), type_sql
        )
    if column.iv or column.bound:  # another key changes neither length nor alphabet
        return sql.SQL("{}").format(stored)
    text = places.text(column)
    new = values.under_another(text, subject.target)
    as_stored = sql.SQL("decode({}, 'escape')" if column.is_binary else "{}").format
    if column.place.source:
        held = stored if column.is_binary else text
        encrypted = grammar_sql.plaintext_under(held, subject.target, column.place.form)
        return sql.SQL("CASE WHEN {} THEN {}::{} WHEN {} <> '' THEN {}::{} ELSE {} END").format(
            places.is_plaintext(column), as_stored(encrypted), type_sql, text, as_stored(new), type_sql, stored
        )
    return sql.SQL("CASE WHEN {} THEN {}::{} ELSE {} END").format(
        values.has_prefix(text), as_stored(new), type_sql, stored
    )


def _longest(subject: Subject, relation: Relation, column: Column) -> int:
    values, elements = sql_of(subject.table.format), column.place.elements
    text = sql.SQL("each.text") if elements else places.text(column)
    longest = values.longest_under(text, subject.target)
    if column.place.source:
        encrypted = grammar_sql.longest_plaintext_under(text, subject.target, column.place.form)
        longest = sql.SQL("greatest({}, {})").format(longest, encrypted)
    query = sql.SQL("SELECT {} FROM ONLY {}{}").format(
        longest,
        relation.identifier,
        sql.SQL(" AS t, {}").format(places.each_value(column)) if elements else sql.SQL(""),
    )
    with heap_scan(subject.connection, relation.label, relation.oid):
        row = subject.connection.execute(query).fetchone()
    return cast("tuple[int | None]", row)[0] or 0
