"""Preflight checks of the column by which values are bound to their row."""

from collections.abc import Iterator

from keyrotation_pipeline.adapters.postgres.preflight.table import Subject, fatal, warning
from keyrotation_pipeline.model.surroundings import Problem

# Of a partitioned table the index has the columns of the partition key, too, so no single row is unique by one column;
# and an index of a table reaches none of its children.
_KEY = """
SELECT a.attnotnull, a.attgenerated <> '',
       a.attidentity <> '' OR coalesce(pg_get_expr(d.adbin, d.adrelid) LIKE 'nextval(%%', false),
       EXISTS (
           SELECT FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indisunique AND i.indisvalid
           AND i.indpred IS NULL AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum
       ) AND NOT EXISTS (
           SELECT FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid
           WHERE h.inhparent = a.attrelid AND NOT c.relispartition
       ),
       (
           SELECT min(c.conname) FROM pg_constraint c WHERE c.contype = 'f' AND c.conrelid = a.attrelid
           AND a.attnum = ANY (c.conkey) AND c.confupdtype IN ('c', 'n', 'd')
       ),
       EXISTS (SELECT FROM pg_collation c WHERE c.oid = a.attcollation AND NOT c.collisdeterministic)
FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = %s::bigint::oid AND a.attname = %s
"""


def rows_have_a_key(subject: Subject) -> Iterator[Problem]:
    """Requires the column that values are bound to their row by to name rows, and warns where it may not for good."""
    key = subject.table.format.row
    for relation in subject.relations if key else ():
        found = subject.connection.execute(_KEY, (relation.oid, key))
        for not_null, generated, counted, unique, follows, other_texts in found:
            name = f"{relation.label}.{key}"
            if not not_null:
                yield fatal(
                    f"column {name}, which row of [[tables]] names, may be NULL, and no value can be bound to that; "
                    f"ALTER TABLE {subject.quoted(*relation.parts)} ALTER COLUMN {subject.quoted(key)} SET NOT NULL, "
                    "or name another key"
                )
            if generated:
                yield fatal(
                    f"column {name}, which row of [[tables]] names, is generated from other columns and changes with "
                    "them, so that values bound to it could not be read any more; name a key that never changes"
                )
            if other_texts:
                yield fatal(
                    f"column {name}, which row of [[tables]] names, has a collation by which different texts are "
                    "equal, so that an application may name a row by another text than its values are bound to; name "
                    "another key"
                )
            if not unique:
                yield warning(
                    f"column {name}, which row of [[tables]] names, has no unique index of its own over all rows of "
                    "the table: values of rows with one key can be exchanged unnoticed"
                )
            if counted:
                yield warning(
                    f"column {name}, which row of [[tables]] names, is counted by the server, and EncryptedType "
                    "refuses INSERTs that do not give it; have the application make the key"
                )
            if follows is not None:
                yield warning(
                    f"column {name}, which row of [[tables]] names, changes with the foreign key {follows}, and values "
                    "bound to it could not be read any more; make it ON UPDATE NO ACTION"
                )
