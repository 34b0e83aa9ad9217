"""Checks of what the declared tables and columns are."""

from collections.abc import Iterator

from keyrotation_pipeline.adapters.postgres.preflight.subject import Subject, fatal, warning
from keyrotation_pipeline.model.tables import Problem

SUPPORTED_TYPES = frozenset({"text", "varchar", "citext"})

_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}

# A column in a partition key, plain or within an expression, shows as an internal dependency on the table.
_IN_PARTITION_KEY = """
SELECT a.attname FROM pg_attribute a JOIN pg_depend d
  ON d.classid = 'pg_class'::regclass AND d.objid = a.attrelid AND d.objsubid = a.attnum
 AND d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid = 0 AND d.deptype = 'i'
WHERE a.attrelid = %s::bigint::oid AND a.attname = ANY(%s)
"""

_IN_FOREIGN_KEY = """
SELECT DISTINCT a.attname, c.conname, c.conrelid::regclass::text
FROM pg_constraint c JOIN pg_attribute a
  ON (a.attrelid = c.conrelid AND a.attnum = ANY(c.conkey)) OR (a.attrelid = c.confrelid AND a.attnum = ANY(c.confkey))
WHERE c.contype = 'f' AND c.conparentid = 0 AND a.attrelid = %s::bigint::oid AND a.attname = ANY(%s)
ORDER BY 1, 2
"""

# A column within an expression or predicate shows as a dependency of the index.
_INDEXED = """
SELECT DISTINCT c.relname, am.amname
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am am ON am.oid = c.relam
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attname = ANY(%(columns)s)
WHERE i.indrelid = %(oid)s::bigint::oid AND NOT c.relispartition
  AND (a.attnum = ANY(i.indkey) OR EXISTS (
      SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
      AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid AND d.refobjsubid = a.attnum))
ORDER BY 1
"""


def rows_are_in_heaps(subject: Subject) -> Iterator[Problem]:
    """Every relation of the tree is an ordinary table of access method heap, or a partitioned parent."""
    for relation in subject.relations:
        if relation.kind in _KINDS:
            place = "" if relation.label == str(subject.table.name) else f" in the tree of {subject.table.name}"
            advice = "detach it" if place else "declare the table beneath it instead"
            yield fatal(
                f"{relation.label} is {_KINDS[relation.kind]}{place}, whose rows cannot be rewritten here; {advice}"
            )
        elif relation.detaching:
            yield fatal(
                f"partition {relation.label} is being detached from {subject.table.name}, which is not finished; wait "
                "until that ends, or run ALTER TABLE … DETACH PARTITION … FINALIZE"
            )
        elif relation.temporary:
            yield fatal(
                f"{relation.label} in the tree of {subject.table.name} is a temporary table, whose rows only its own "
                "session can read; drop it"
            )
        elif not (relation.is_heap or relation.holds_no_rows or relation.kind == "r"):
            yield fatal(f"{relation.label} is not a table; correct [[tables]] in keyrotation.toml")
        elif not (relation.is_heap or relation.holds_no_rows):
            yield fatal(
                f"table {relation.label} has the access method {relation.access_method}, and only heap is known to "
                f"keep rows where the engine expects them; ALTER TABLE {subject.quoted(*relation.parts)} SET ACCESS "
                "METHOD heap (PostgreSQL 15 and later), or copy it to a new table"
            )


def types_hold_text(subject: Subject) -> Iterator[Problem]:
    """Declared columns are text, varchar, citext or domains over them."""
    for relation in subject.relations:
        for column in relation.columns:
            if column.base_type not in SUPPORTED_TYPES:
                yield fatal(
                    f"column {relation.label}.{column.name} is of type {column.type_sql}, and only text, varchar, "
                    "citext and domains over them can be rotated; change its type, or take it out of keyrotation.toml"
                )


def none_is_generated(subject: Subject) -> Iterator[Problem]:
    """A generated column follows from others; those have to be declared instead."""
    for relation in subject.relations:
        for column in relation.columns:
            if column.generated:
                yield fatal(
                    f"column {relation.label}.{column.name} is generated, so it cannot be written; declare the column "
                    "that it is generated from instead"
                )


def none_is_in_a_partition_key(subject: Subject) -> Iterator[Problem]:
    """Re-encryption would move rows between partitions."""
    for relation in subject.relations:
        if relation.kind != "p":
            continue
        for (column,) in subject.connection.execute(_IN_PARTITION_KEY, (relation.oid, subject.columns)):
            yield fatal(
                f"column {relation.label}.{column} is in the partition key, so every new ciphertext would move its "
                "row; partition by another column"
            )


def none_is_in_a_foreign_key(subject: Subject) -> Iterator[Problem]:
    """Each encryption gives another ciphertext, so it cannot match on the other side."""
    for relation in subject.relations:
        found = subject.connection.execute(_IN_FOREIGN_KEY, (relation.oid, subject.columns))
        for column, constraint, owner in found:
            yield fatal(
                f"column {relation.label}.{column} is in the foreign key {constraint} of {owner}, which every new "
                f"ciphertext would break; ALTER TABLE {owner} DROP CONSTRAINT {subject.quoted(str(constraint))}"
            )


def indexes_are_known(subject: Subject) -> Iterator[Problem]:
    """An index on ciphertext finds nothing, and costs time for every row."""
    for relation in subject.relations:
        parameters = {"oid": relation.oid, "columns": subject.columns}
        for index, method in subject.connection.execute(_INDEXED, parameters):
            cost = "about 20 times the work a row" if method in {"gin", "gist"} else "no HOT update and more WAL"
            yield warning(
                f"index {index} of {relation.label} covers an encrypted column, which costs the rotation {cost}; "
                f"drop it unless it is needed"
            )
