"""Preflight checks of columns that hold plaintext: what works with a text, and not with what it is encrypted to."""

from collections.abc import Iterator
from typing import LiteralString

from psycopg import sql

from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation
from keyrotation_pipeline.adapters.postgres.preflight.table import Subject, fatal, warning
from keyrotation_pipeline.adapters.postgres.retirement import fence
from keyrotation_pipeline.model.environment import Problem

_COLUMNS = sql.SQL("JOIN pg_attribute a ON a.attrelid = %(oid)s::bigint::oid AND a.attname = ANY (%(columns)s)")
# Whether an object depends on one of the columns.
_USES = sql.SQL("d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum")


def _catalog(query: LiteralString) -> sql.Composed:
    return sql.SQL(query).format(columns=_COLUMNS, uses=_USES)


_DEFAULTS = _catalog("""
SELECT a.attname::text, NULL FROM pg_attrdef d {columns} AND d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attgenerated = '' AND pg_get_expr(d.adbin, d.adrelid) !~ '^NULL(::|$)' ORDER BY 1
""")

# An index by expression or condition depends on a column.
_UNIQUE = _catalog("""
SELECT DISTINCT a.attname::text, c.relname::text
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid {columns}
WHERE i.indrelid = a.attrelid AND (i.indisunique OR i.indisexclusion) AND NOT c.relispartition
  AND (a.attnum = ANY (i.indkey) OR EXISTS (
      SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid AND {uses}))
ORDER BY 1, 2
""")

_UNIQUE_COLUMNS = _catalog("""
SELECT count(DISTINCT a.attname) FROM pg_index i {columns}
WHERE i.indrelid = a.attrelid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND a.attnum = ANY (i.indkey)
""")

_SEARCHED = _catalog("""
SELECT DISTINCT a.attname::text, c.relname::text
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am am ON am.oid = c.relam {columns}
WHERE i.indrelid = a.attrelid AND NOT (i.indisunique OR i.indisexclusion) AND NOT c.relispartition
  AND (am.amname NOT IN ('btree', 'hash') AND a.attnum = ANY (i.indkey) OR EXISTS (
      SELECT FROM pg_depend d
      WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid AND {uses} AND NOT a.attnum = ANY (i.indkey)))
ORDER BY 1, 2
""")

_GENERATED = _catalog("""
SELECT DISTINCT a.attname::text, g.attname::text
FROM pg_depend d {columns} AND {uses}
JOIN pg_attrdef f ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
JOIN pg_attribute g ON g.attrelid = f.adrelid AND g.attnum = f.adnum AND g.attgenerated <> ''
UNION
SELECT DISTINCT a.attname::text, g.attname::text
FROM pg_depend d {columns} AND {uses}
JOIN pg_attribute g ON d.classid = 'pg_class'::regclass AND d.objid = g.attrelid AND d.objsubid = g.attnum
 AND g.attgenerated <> ''
ORDER BY 1, 2
""")

# Of a function there are no dependencies: only the words of its text tell.
_READERS = _catalog("""
SELECT DISTINCT CASE v.relkind WHEN 'm' THEN 'materialized view ' ELSE 'view ' END || v.oid::regclass
FROM pg_depend d {columns} AND {uses}
JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
JOIN pg_class v ON v.oid = r.ev_class AND v.oid <> a.attrelid
UNION SELECT DISTINCT format('policy %%s', p.polname)
FROM pg_depend d {columns} AND {uses}
JOIN pg_policy p ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid
UNION SELECT DISTINCT format('function %%s', p.oid::regprocedure)
FROM pg_proc p JOIN pg_class c ON c.oid = %(oid)s::bigint::oid {columns}
WHERE p.pronamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
  AND p.prosrc ~* ('\\m' || regexp_replace(c.relname, '\\W', '.', 'g') || '\\M')
  AND p.prosrc ~* ('\\m' || regexp_replace(a.attname, '\\W', '.', 'g') || '\\M')
UNION SELECT DISTINCT format('extended statistics %%s', s.stxname)
FROM pg_statistic_ext s {columns} AND s.stxrelid = a.attrelid AND a.attnum = ANY (s.stxkeys)
UNION SELECT DISTINCT format('publication %%s', t.pubname)
FROM pg_publication_tables t JOIN pg_class c ON c.oid = %(oid)s::bigint::oid AND c.relname = t.tablename
JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = t.schemaname
UNION SELECT 'REPLICA IDENTITY FULL' FROM pg_class WHERE oid = %(oid)s::bigint::oid AND relreplident = 'f'
ORDER BY 1
""")


def plaintext_is_text_in_utf8(subject: Subject) -> Iterator[Problem]:
    """Refuses bytes where texts are to be, and the reverse, and databases without an encoding.

    An application would get other texts than it stored.
    """
    encoding = subject.connection.info.parameter_status("server_encoding")
    for relation in subject.relations:
        for column in (each for each in relation.columns if each.place.source):
            form = column.place.form
            if form is not None and form.spec.binary and not column.is_binary:
                yield fatal(
                    f"column {relation.label}.{column.name} is declared with values of {form.name}, which are bytes, "
                    "and is no bytea; correct from in [[tables]]"
                )
            elif column.is_binary and form is None:
                yield fatal(
                    f"column {relation.label}.{column.name} holds bytes, which the application would get back as "
                    "text; make it text, or leave it out of [[tables]]"
                )
            elif encoding == "SQL_ASCII":
                yield fatal(
                    f"column {relation.label}.{column.name} is in a database with the encoding SQL_ASCII, where "
                    "bytes are of no known encoding; move it to a database in UTF8"
                )
            elif column.place.given_back and encoding != "UTF8":
                yield fatal(
                    f"column {relation.label}.{column.name} is to be decrypted in a database with the encoding "
                    f"{encoding}, which may lack characters of its values; move it to a database in UTF8"
                )


def plaintext_columns_have_no_default(subject: Subject) -> Iterator[Problem]:
    """Refuses defaults, which the server would store in plaintext."""
    for relation, column, _ in _found(subject, _DEFAULTS):
        yield fatal(
            f"column {relation.label}.{column} has a DEFAULT, which would be stored in plaintext; have the "
            f"application give it, and ALTER TABLE {subject.quoted(*relation.parts)} ALTER COLUMN "
            f"{subject.quoted(column)} DROP DEFAULT"
        )


def plaintext_is_in_no_unique_index(subject: Subject) -> Iterator[Problem]:
    """Refuses UNIQUE and EXCLUDE, which see that no two values are equal, as no two encrypted ones are.

    Where both columns of a search index are unique, too, it only says that these take over.
    """
    for relation, column, index in _found(subject, _UNIQUE):
        if _is_unique_by_search(subject, relation, column):
            yield warning(
                f"column {relation.label}.{column}: once it is encrypted, unique index {index} sees plaintext "
                "alone; save rows with their search index first, else a duplicate stops the rotation"
            )
        else:
            yield fatal(
                f"index {index} of {relation.label} stops no duplicates once {column} is encrypted; drop it, or "
                "declare a search index with a unique index on both its columns"
            )


def plaintext_is_not_searched_by_its_content(subject: Subject) -> Iterator[Problem]:
    """Refuses indexes of words, trigrams and expressions, which keep plaintext or find nothing."""
    for relation, column, index in _found(subject, _SEARCHED):
        yield fatal(
            f"column {relation.label}.{column} is to be encrypted and is in index {index}, by its content or an "
            f"expression, which finds nothing in ciphertext; DROP INDEX {subject.quoted(relation.parts[0], index)} and "
            "what searches by it"
        )


def nothing_is_generated_from_plaintext(subject: Subject) -> Iterator[Problem]:
    """Refuses generated columns of it, which would be computed from ciphertext."""
    for relation, column, other in _found(subject, _GENERATED):
        yield fatal(
            f"column {relation.label}.{other} would be computed from the ciphertext of {column}; have the application "
            "fill it, and declare it if it holds the same text"
        )


def readers_of_plaintext_are_known(subject: Subject) -> Iterator[Problem]:
    """Warns of what reads the columns in the database, until the table refuses plaintext."""
    if not subject.table.begun or subject.table.gives_back or fence.fences(subject.connection, subject.table):
        return
    for relation in subject.relations:
        rows = subject.connection.execute(_READERS, _parameters(subject, relation)).fetchall()
        for (reader,) in rows:
            yield warning(
                f"{reader} reads {relation.label}, of which {', '.join(subject.table.begun)} will be encrypted: "
                "it gets ciphertext then, and may have kept plaintext; change it, and look for copies"
            )


def _is_unique_by_search(subject: Subject, relation: Relation, column: str) -> bool:
    columns = [name for index in subject.table.indexes if index.of == column for name in index.columns]
    if not columns:
        return False
    found = subject.connection.execute(_UNIQUE_COLUMNS, {"oid": relation.oid, "columns": columns}).fetchone()
    return found == (len(columns),)


def _found(subject: Subject, query: sql.Composed) -> Iterator[tuple[Relation, str, str]]:
    if not subject.table.begun or subject.table.gives_back:
        return
    for relation in subject.relations:
        for column, other in subject.connection.execute(query, _parameters(subject, relation)).fetchall():
            yield relation, str(column), str(other)


def _parameters(subject: Subject, relation: Relation) -> dict[str, object]:
    return {"oid": relation.oid, "columns": list(subject.table.begun)}
