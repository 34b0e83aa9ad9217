"""Preflight checks of declared tables and columns, also of the column by which values are bound to their row."""

from collections.abc import Iterator
from dataclasses import dataclass

from psycopg import sql

from keyrotation_pipeline.adapters.postgres.engine.vacuum import (
    dead_rows_bytes,
    in_hot_order,
    remembers_six_bytes_a_row,
)
from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation, unsuitable
from keyrotation_pipeline.adapters.postgres.inventory.scans import heap_scan
from keyrotation_pipeline.adapters.postgres.ledger.schema import counted_by_others
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, quoted
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.environment import Problem
from keyrotation_pipeline.model.tables import EncryptedTable


@dataclass(frozen=True, slots=True)
class Subject:
    """One declared table with every relation of its tree, and the version to re-encrypt to."""

    connection: Connection
    table: EncryptedTable
    relations: tuple[Relation, ...]
    target: KeyVersion

    @property
    def heaps(self) -> tuple[Relation, ...]:
        """The relations that hold rows and are updated one by one."""
        return tuple(relation for relation in self.relations if relation.kind == "r")

    @property
    def columns(self) -> list[str]:
        """The declared columns, as a query parameter."""
        return list(self.table.stored_columns)

    @property
    def written_columns(self) -> list[str]:
        """Those, and the columns of search indexes, as a query parameter."""
        return [*self.columns, *self.table.index_columns]

    def quoted(self, *parts: str) -> str:
        """Returns a name as it is typed in a statement."""
        return quoted(self.connection, *parts)


def fatal(message: str) -> Problem:
    """Makes a problem that stops the rotation."""
    return Problem(message, fatal=True)


def warning(message: str) -> Problem:
    """Makes a problem that should be known in advance."""
    return Problem(message, fatal=False)


_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}

# A column in a partition key, also within an expression, has an internal dependency on the table.
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

# A column within an expression or predicate is a dependency of the index.
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
    """Requires every relation of the tree to be an ordinary heap table, or a partitioned parent."""
    for relation in subject.relations:
        if relation.kind in _KINDS:
            place = "" if relation.label == str(subject.table.name) else f" in the tree of {subject.table.name}"
            advice = "detach it" if place else "declare the underlying table instead"
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
                f"table {relation.label} has the access method {relation.access_method}, which cannot be re-encrypted; "
                f"ALTER TABLE {subject.quoted(*relation.parts)} SET ACCESS METHOD heap, or copy it to a new table"
            )


def types_hold_text(subject: Subject) -> Iterator[Problem]:
    """Requires the type of each declared column to be one that its place is read from and written to."""
    for relation in subject.relations:
        for column in relation.columns:
            if not column.holds_values:
                yield fatal(unsuitable(relation, column))
                continue
            for each in column.stored:
                if each.base_type == "bpchar":
                    yield fatal(
                        f"column {relation.label}.{each.name} is of type {each.type_sql}, which pads values; make it "
                        "text or varchar, or remove it from keyrotation.toml"
                    )


def none_is_generated(subject: Subject) -> Iterator[Problem]:
    """Refuses generated columns; the columns that they are generated from must be declared instead."""
    for relation in subject.relations:
        for column in (each for place in relation.columns for each in place.stored):
            if column.generated:
                yield fatal(
                    f"column {relation.label}.{column.name} is generated, so it cannot be written; declare the column "
                    "that it is generated from instead"
                )


def columns_are_of_one_home(subject: Subject) -> Iterator[Problem]:
    """Warns of columns whose values another home of our role has counted: each would give them keys of its own."""
    name = str(subject.table.name)
    with heap_scan(subject.connection, "the count of another home"):
        others = list(counted_by_others(subject.connection, name))
    for schema, day, places in others:
        if both := [place for place in subject.table.columns if place in places]:
            forget = sql.SQL("DELETE FROM {} WHERE table_name = {}").format(
                sql.SQL(subject.quoted(schema, "table_counts")), sql.Literal(name)
            )
            yield warning(
                f"the home in schema {schema} declares {', '.join(both)} of table {name}, too (counted on {day}), "
                "and has its own keys; remove them from [[tables]] of one. If that is done there: "
                f"{forget.as_string(subject.connection)}"
            )


def none_is_in_a_partition_key(subject: Subject) -> Iterator[Problem]:
    """Refuses columns of a partition key: re-encryption would move rows between partitions."""
    for relation in subject.relations:
        if relation.kind != "p":
            continue
        for (column,) in subject.connection.execute(_IN_PARTITION_KEY, (relation.oid, subject.written_columns)):
            yield fatal(
                f"column {relation.label}.{column} is in the partition key, so every new ciphertext would move its "
                "row; partition by another column"
            )


def none_is_in_a_foreign_key(subject: Subject) -> Iterator[Problem]:
    """Refuses columns of a foreign key: every encryption gives another ciphertext, so it cannot match."""
    for relation in subject.relations:
        found = subject.connection.execute(_IN_FOREIGN_KEY, (relation.oid, subject.written_columns))
        for column, constraint, owner in found:
            yield fatal(
                f"column {relation.label}.{column} is in the foreign key {constraint} of {owner}, which every new "
                f"ciphertext would break; ALTER TABLE {owner} DROP CONSTRAINT {subject.quoted(str(constraint))}"
            )


def indexes_are_known(subject: Subject) -> Iterator[Problem]:
    """Warns of indexes on ciphertext, which find nothing and cost time for every row."""
    for relation in subject.relations:
        parameters = {"oid": relation.oid, "columns": subject.columns}
        for index, method in subject.connection.execute(_INDEXED, parameters):
            cost = "about 20 times the work a row" if method in {"gin", "gist"} else "no HOT update and more WAL"
            yield warning(
                f"index {index} of {relation.label} covers an encrypted column, which costs the rotation {cost}; "
                f"drop it unless it is needed"
            )


_UNIQUE = """
SELECT DISTINCT c.relname
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attname = ANY(%(columns)s) AND a.attnum = ANY(i.indkey)
WHERE i.indrelid = %(oid)s::bigint::oid AND i.indisunique AND NOT c.relispartition
ORDER BY 1
"""


def unique_indexes_see_one_key_at_a_time(subject: Subject) -> Iterator[Problem]:
    """Warns of unique indexes on deterministic values: equal texts under two keys are different to them."""
    if not subject.table.format.deterministic:
        return
    for relation in subject.relations:
        parameters = {"oid": relation.oid, "columns": subject.columns}
        for (index,) in subject.connection.execute(_UNIQUE, parameters).fetchall():
            yield warning(
                f"unique index {index} of {relation.label} cannot stop a text that is there under another key; have "
                f"the application look for both first (`keyrotation docs {subject.table.format.spec.guide}`)"
            )


# Partitions are published individually, or through their root.
_WITHOUT_UPDATES = """
SELECT DISTINCT p.pubname FROM pg_publication p JOIN pg_publication_tables t ON t.pubname = p.pubname
JOIN pg_namespace n ON n.nspname = t.schemaname JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
WHERE NOT p.pubupdate AND c.oid = ANY (%s::oid[])
ORDER BY p.pubname
"""


def updates_are_published(subject: Subject) -> Iterator[Problem]:
    """Refuses a publication without updates: its subscribers would keep the old values for good."""
    relations = [relation.oid for relation in subject.relations]
    for (name,) in subject.connection.execute(_WITHOUT_UPDATES, (relations,)).fetchall():
        yield fatal(
            f"publication {name} does not publish updates of table {subject.table.name}: subscribers keep old "
            f"values; ALTER PUBLICATION {subject.quoted(str(name))} SET (publish = 'insert, update, delete, "
            "truncate'), or remove the table from it"
        )


_SUBSCRIBED = """
SELECT DISTINCT s.subname::text FROM pg_subscription s JOIN pg_subscription_rel r ON r.srsubid = s.oid
WHERE r.srrelid = ANY (%s::oid[]) ORDER BY 1
"""


def rows_do_not_come_by_subscription(subject: Subject) -> Iterator[Problem]:
    """Refuses tables filled by a subscription: the publisher's values would undo the rotation or fail at the fence."""
    relations = [relation.oid for relation in subject.relations]
    for (name,) in subject.connection.execute(_SUBSCRIBED, (relations,)).fetchall():
        yield fatal(
            f"table {subject.table.name} receives rows by subscription {name}, which would bring old values back; "
            "rotate at the publisher, or DROP SUBSCRIPTION first"
        )


_CITUS = "SELECT to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL"
_DISTRIBUTED = "SELECT EXISTS (SELECT FROM pg_catalog.pg_dist_partition WHERE logicalrelid::oid = ANY (%s::oid[]))"


def rows_are_on_this_server(subject: Subject) -> Iterator[Problem]:
    """Refuses a table that Citus distributes: here it is an empty heap, so finding nothing would prove nothing."""
    connection = subject.connection
    if connection.execute(_CITUS).fetchone() != (True,):
        return
    oids = [relation.oid for relation in subject.relations]
    if connection.execute(_DISTRIBUTED, (oids,)).fetchone() == (True,):
        yield fatal(
            f"table {subject.table.name} is distributed by Citus, so its rows are on other servers and cannot be "
            "re-encrypted here (`keyrotation docs scaling`)"
        )


_MEMORY = "SELECT pg_size_bytes(current_setting('maintenance_work_mem'))"


def vacuums_read_indexes_once(subject: Subject) -> Iterator[Problem]:
    """Warns of vacuums up to PostgreSQL 16 that cannot remember all dead rows at once and scan indexes repeatedly."""
    connection = subject.connection
    if not remembers_six_bytes_a_row(connection):
        return
    ((memory,),) = connection.execute(_MEMORY).fetchall()
    for relation in subject.heaps:
        need = dead_rows_bytes(connection, relation)
        if need > int(str(memory)) and not in_hot_order(connection, [relation]):
            yield warning(
                f"a vacuum of {relation.label} may have {need / 2**20:,.0f} MiB of dead rows to remember. With "
                f"maintenance_work_mem at {int(str(memory)) / 2**20:,.0f} MiB it reads each index several "
                "times; set autovacuum_work_mem to as much. Our own vacuums use up to 256 MiB"
            )


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
                    f"column {name}, which row of [[tables]] names, may be NULL; ALTER TABLE "
                    f"{subject.quoted(*relation.parts)} ALTER COLUMN {subject.quoted(key)} SET NOT NULL, or name "
                    "another key"
                )
            if generated:
                yield fatal(
                    f"column {name}, which row of [[tables]] names, is generated and changes with other columns; name "
                    "a key that never changes"
                )
            if other_texts:
                yield fatal(
                    f"column {name}, which row of [[tables]] names, has a collation by which different texts are "
                    "equal; name another key"
                )
            if not unique:
                yield warning(
                    f"column {name}, which row of [[tables]] names, is not unique over the whole table, so values of "
                    "rows with one key can be exchanged unnoticed"
                )
            if counted:
                yield warning(
                    f"column {name}, which row of [[tables]] names, is counted by the server; have the application "
                    "make the key, as EncryptedType requires"
                )
            if follows is not None:
                yield warning(
                    f"column {name}, which row of [[tables]] names, changes with the foreign key {follows}, which "
                    "makes values bound to it unreadable; make it ON UPDATE NO ACTION"
                )
