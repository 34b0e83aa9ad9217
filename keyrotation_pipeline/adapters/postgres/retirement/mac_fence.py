"""Manages the fence of values whose key is identified by a MAC: triggers that refuse tokens of every retired key.

The signing keys are in a private table (`inventory.retired_signing_keys`), which neither the application nor the owner
of the tables can read: one function for each table reads it, with our role's rights, a fixed search path, and no part
of a value in its message. The triggers are

- AFTER triggers, so that they see what a BEFORE trigger has made of a row;
- conditional on a change of a declared column, so that other updates do not pay for them (`UPDATE OF` would miss what a
  BEFORE trigger changes);
- ENABLE ALWAYS, so that `session_replication_role` does not pass them by.

A trigger says nothing of the rows that are there already. It is created under a lock that waits for every writer, and a
count follows. The owner of a table can drop or disable a trigger, which is why a fence counts only if it reads back to
the letter.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, cast

from psycopg import sql

from keyrotation_pipeline.adapters.own_schema import own, schema_of, written
from keyrotation_pipeline.adapters.postgres.inventory import places, relations, retired_signing_keys
from keyrotation_pipeline.adapters.postgres.inventory.mac_sql import filled
from keyrotation_pipeline.adapters.postgres.inventory.old_values import count_old_values
from keyrotation_pipeline.adapters.postgres.retirement import locks
from keyrotation_pipeline.adapters.postgres.retirement.fence import old_values_left
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, quoted, quoted_names
from keyrotation_pipeline.errors import PreflightError, ProofError
from keyrotation_pipeline.fieldcrypto.formats.marking import mac_of
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.tables import EncryptedTable

ON_INSERT, ON_UPDATE = NAMES = ("keyrotation_retired_keys_insert", "keyrotation_retired_keys_update")

# By what transactions the triggers of each relation, their function and the signing keys were made.
MADE = own("""
SELECT t.tgrelid::bigint, array_agg(t.xmin::text::bigint) || array_agg(p.xmin::text::bigint)
       || (SELECT array_agg(h.xmin::text::bigint) FROM keyrotation.retired_signing_halves AS h)
FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
WHERE t.tgname IN ('keyrotation_retired_keys_insert', 'keyrotation_retired_keys_update')
  AND t.tgrelid = ANY (%s::bigint[]::oid[])
GROUP BY t.tgrelid
""")
IDENTITY = own("""
SELECT string_agg(concat_ws(' ', f.oid, f.xmin, p.oid, p.xmin), ',' ORDER BY f.oid)
FROM pg_trigger f JOIN pg_proc p ON p.oid = f.tgfoid
WHERE f.tgrelid = c.oid AND f.tgname IN ('keyrotation_retired_keys_insert', 'keyrotation_retired_keys_update')
""")

# Only values that the statement has written are looked at: OLD is NULL in an INSERT. Without pg_temp at the end of the
# search path, types are looked up first where the session can make its own. The owner of a table may rename a column or
# give it another type: the first must not stop every write of the application, the second must not run that type's code
# with our rights. Either way the fence then reads back as another one.
_BODY = """
DECLARE
    changed text[];
    written text;
    token bytea;
    refused integer;
BEGIN
    BEGIN
        changed := {changed};
    EXCEPTION WHEN {changed_table} THEN
        RETURN NULL;
    END;
    FOREACH written IN ARRAY changed LOOP
        CONTINUE WHEN written IS NULL OR NOT ({shape});
        token := {raw};
        SELECT half.version INTO refused FROM {signing_keys} AS half
        WHERE half.version IN ({versions}) AND sha256(half.outer_block
            || sha256(half.inner_block || substr(token, 1, octet_length(token) - {mac})))
            = substr(token, octet_length(token) - {mac} + 1) LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION USING ERRCODE = '22P02',
                MESSAGE = 'keyrotation: key version v' || refused || ' is retired';
        END IF;
    END LOOP;
    RETURN NULL;
END
"""
_CHANGED = "CASE WHEN pg_typeof(NEW.{name}) = {type}::regtype AND {new} IS DISTINCT FROM {old} THEN {new} END"
_ELEMENTS = (
    "CASE WHEN pg_typeof(NEW.{name}) = {type}::regtype AND {new} IS DISTINCT FROM {old} "
    "THEN ARRAY(SELECT unnest(NEW.{name})::text) END"
)
_SIGNING_KEYS = own("keyrotation.retired_signing_halves")
_TYPES = """
SELECT attname, atttypid::bigint FROM pg_attribute WHERE attrelid = %s::bigint::oid AND attname = ANY (%s)
"""
_VERSIONS = re.compile(r"WHERE half\.version IN \(([0-9, ]+)\)")

_CREATE = """
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS {body}
"""
_PRIVATE = "REVOKE ALL ON FUNCTION {function}() FROM PUBLIC"

_TRIGGERS = own("""
SELECT t.tgrelid::bigint, t.tgname, t.tgenabled = 'A', pg_get_triggerdef(t.oid), p.prosrc,
       p.prosecdef AND p.proconfig = ARRAY['search_path=pg_catalog, pg_temp'] AND l.lanname = 'plpgsql'
       AND p.proowner = (SELECT relowner FROM pg_class WHERE oid = to_regclass('keyrotation.retired_signing_halves'))
FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_language l ON l.oid = p.prolang
WHERE t.tgrelid = ANY (%s::bigint[]::oid[]) AND t.tgname = ANY (%s)
""")

_OF_OTHERS = own("""
SELECT p.prosrc FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = 'keyrotation' AND p.proname ~ '^refuse_retired_keys_' AND p.proname <> %s
""")


@dataclass(frozen=True, slots=True)
class _Trigger:
    always: bool
    definition: str
    body: str
    ours: bool


def names(connection: Connection) -> tuple[str, str]:
    """Returns the names of the triggers on INSERT and on UPDATE, which begin with the schema of the home."""
    schema = schema_of(connection)
    return written(ON_INSERT, schema), written(ON_UPDATE, schema)


def what(connection: Connection) -> str:
    """See `Fence.what`."""
    return f"trigger {' or '.join(names(connection))}"


def fence(connection: Connection, table: EncryptedTable, versions: Sequence[KeyVersion], *, wait: bool = True) -> bool:
    """Makes the table, its partitions and its children refuse exactly `versions`; see `fence.fence`.

    Raises:
        BlockedError, PreflightError: as there.
        ProofError: the table holds an old value, or the signing key of a version is not in the database.
    """
    wanted = tuple(sorted(set(versions)))
    tree = relations.ordinary_tree(connection, table)
    if fences(connection, table) == wanted:
        return True
    if absent := retired_signing_keys.missing(connection, wanted):
        raise ProofError(
            f"the database has no signing key of {', '.join(map(str, absent))} by which table {table.name} could "
            "refuse it; run this step again, which stores it"
        )
    if not _put(connection, table, tree, wanted, wait=wait):
        return False
    # Every transaction that wrote without the triggers has ended, so this count sees what they did not.
    if left := count_old_values(connection, table, wanted).old:
        _fence_absent_versions(connection, table, wanted, {version for _, version in left})
    if fences(connection, table) != wanted:
        raise ProofError(
            f"the fence of table {table.name} does not read back as written; check the triggers "
            f"{' and '.join(names(connection))} there and in partitions, then run this step again"
        )
    return True


def unfence(connection: Connection, table: EncryptedTable, version: KeyVersion) -> None:
    """Lets the table accept values under `version` again, and removes its signing key unless another table needs it.

    Neither removing the signing key nor replacing a function waits for anybody, so the application can write under the
    version at once.

    Raises:
        BlockedError: the lock for dropping the last triggers could not be taken; names its holder.
    """
    named = _versions_in(_body_of(connection, table))
    others = connection.execute(_OF_OTHERS, (_name(table),)).fetchall()
    # The signing key first: without it the triggers let the version in, whoever holds the lock for dropping them.
    if all(version not in _versions_in(str(body)) for (body,) in others):
        retired_signing_keys.withdraw(connection, version)
    if version not in named:
        return
    rest = tuple(each for each in named if each != version)
    tree = relations.tree(connection, table)
    if rest:
        connection.execute(_function(connection, table, rest))
    else:
        locks.change(connection, table, relations.root(tree, table), _removal(connection, table, tree))


def fences(connection: Connection, table: EncryptedTable) -> tuple[KeyVersion, ...]:
    """Returns the versions that the table's triggers refuse, in order; none unless they are intact on the whole tree.

    Intact means: on every relation, always enabled, exactly the condition and the function that `fence` writes, the
    signing keys present and readable by nobody else.
    """
    return relations.or_raise(all_fences(connection, (table,))[table])


def all_fences(
    connection: Connection, tables: Sequence[EncryptedTable]
) -> dict[EncryptedTable, tuple[KeyVersion, ...] | PreflightError]:
    """Returns the fences of many tables; for each its versions or an error."""
    trees = relations.trees(connection, tables)
    oids = {relation.oid for tree in trees.values() if not isinstance(tree, PreflightError) for relation in tree}
    rows = cast("list[Any]", connection.execute(_TRIGGERS, (sorted(oids), list(names(connection)))).fetchall())
    existing = {(oid, name): _Trigger(*rest) for oid, name, *rest in rows}
    return {
        table: tree if isinstance(tree, PreflightError) else _whole(connection, table, tree, existing)
        for table, tree in trees.items()
    }


def _whole(
    connection: Connection,
    table: EncryptedTable,
    tree: Sequence[relations.Relation],
    existing: Mapping[tuple[int, str], _Trigger],
) -> tuple[KeyVersion, ...]:
    bodies = {
        existing[each.oid, name].body for each in tree for name in names(connection) if (each.oid, name) in existing
    }
    versions = _versions_in(bodies.pop()) if len(bodies) == 1 else ()
    if (
        not versions
        or retired_signing_keys.missing(connection, versions)
        or retired_signing_keys.others_may_use(connection)
    ):
        return ()
    body = _body(connection, table, versions)
    for relation in tree:
        if not (relation.is_heap or relation.holds_no_rows) or not all(
            column.holds_values for column in relation.columns
        ):
            return ()
        for name in names(connection):
            expected = _Trigger(
                always=True, definition=_definition(connection, table, relation, name), body=body, ours=True
            )
            if existing.get((relation.oid, name)) != expected:
                return ()
    return versions


def _put(
    connection: Connection,
    table: EncryptedTable,
    tree: Sequence[relations.Relation],
    versions: Sequence[KeyVersion],
    *,
    wait: bool = True,
) -> bool:
    """Replaces function and triggers in one transaction; returns as `locks.change`."""
    root = relations.root(tree, table)
    if not versions:
        return locks.change(connection, table, root, _removal(connection, table, tree), wait=wait)
    roots = [each for each in tree if not each.partition]  # a partition gets its triggers from its parent
    always = sql.SQL("ALTER TABLE ONLY {} ENABLE ALWAYS TRIGGER {}")
    statements = [
        _function(connection, table, versions),
        sql.SQL(_PRIVATE).format(function=_qualified(connection, table)),
        *_drops(connection, tree),
    ]
    statements += [
        sql.Composed([sql.SQL(_definition(connection, table, each, name))])
        for each in roots
        for name in names(connection)
    ]
    statements += [always.format(each.identifier, sql.Identifier(name)) for each in tree for name in names(connection)]
    return locks.change(connection, table, root, statements, wait=wait)


def _drops(connection: Connection, tree: Sequence[relations.Relation]) -> list[sql.Composed]:
    return [
        sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(sql.Identifier(name), each.identifier)
        for each in tree
        if not each.partition
        for name in names(connection)
    ]


def _removal(connection: Connection, table: EncryptedTable, tree: Sequence[relations.Relation]) -> list[sql.Composed]:
    return [*_drops(connection, tree), sql.SQL("DROP FUNCTION IF EXISTS {}()").format(_qualified(connection, table))]


def _fence_absent_versions(
    connection: Connection, table: EncryptedTable, versions: Sequence[KeyVersion], present: Iterable[KeyVersion]
) -> NoReturn:
    """Fences only versions that the table does not hold."""
    _put(connection, table, relations.tree(connection, table), tuple(set(versions).difference(present)))
    raise old_values_left(table, count_old_values(connection, table, versions).old)


def _name(table: EncryptedTable) -> str:
    digest = hashlib.sha256(f"{table.name.schema}\0{table.name.table}".encode()).hexdigest()
    return f"refuse_retired_keys_{digest[:16]}"


def _qualified(connection: Connection, table: EncryptedTable) -> sql.Identifier:
    return sql.Identifier(schema_of(connection), _name(table))


def _function(connection: Connection, table: EncryptedTable, versions: Sequence[KeyVersion]) -> sql.Composed:
    body = sql.Literal(_body(connection, table, tuple(sorted(versions))))
    return sql.SQL(_CREATE).format(function=_qualified(connection, table), body=body)


def _body(connection: Connection, table: EncryptedTable, versions: Sequence[KeyVersion]) -> str:
    names = quoted_names(connection, table.stored_columns)
    root = relations.root(relations.tree(connection, table), table)
    found = connection.execute(_TYPES, (root.oid, list(table.stored_columns))).fetchall()
    types = dict(cast("list[tuple[str, int]]", found))

    def of_column(template: str, column: relations.Column) -> str:
        name = names[column.name]
        new, old = _text(column, f"NEW.{name}"), _text(column, f"OLD.{name}")
        return template.format(name=name, type=types[column.name], new=new, old=old)

    single = [of_column(_CHANGED, column) for column in root.columns if not column.place.elements]
    several = [of_column(_ELEMENTS, column) for column in root.columns if column.place.elements]
    changed = " || ".join([f"ARRAY[{', '.join(single)}]" if single else "ARRAY[]::text[]", *several])
    # A cast to text is there for every type; where bytes, documents and arrays are, the functions may be missing.
    only_text = all(column.is_text for column in root.columns)
    errors = "undefined_column" if only_text else "undefined_column OR undefined_function"
    mac, written = mac_of(table.format.spec), sql.SQL("written")
    form, raw = (filled(each, written).as_string(connection) for each in (mac.shape, mac.raw))
    numbers = ", ".join(str(version.number) for version in versions)
    signing_keys = _SIGNING_KEYS.as_string(connection)
    return _BODY.format(
        changed=changed,
        changed_table=errors,
        shape=form,
        raw=raw,
        signing_keys=signing_keys,
        versions=numbers,
        mac=mac.mac_bytes,
    )


def _text(column: relations.Column, name: str) -> str:
    text = places.stored_text(column, sql.SQL("{}").format(sql.SQL(name))).as_string(None)
    return f'{text} COLLATE "C"'


def _definition(connection: Connection, table: EncryptedTable, relation: relations.Relation, name: str) -> str:
    """Returns a trigger exactly as `pg_get_triggerdef` of PostgreSQL 14 to 18 prints it."""
    columns = quoted_names(connection, [column.name for column in relation.columns])
    function = quoted(connection, schema_of(connection), _name(table))
    when, event = "", "INSERT"
    if name == names(connection)[1]:
        changes = [_difference(column, columns[column.name]) for column in relation.columns]
        when, event = f"WHEN ({_joined(changes)}) ", "UPDATE"
    place = quoted(connection, relation.schema, relation.name)
    return f"CREATE TRIGGER {name} AFTER {event} ON {place} FOR EACH ROW {when}EXECUTE FUNCTION {function}()"


def _difference(column: relations.Column, name: str) -> str:
    old, new = (places.printed_text(column, f"{row}.{name}") for row in ("old", "new"))
    return f'(({old} COLLATE "C") IS DISTINCT FROM ({new} COLLATE "C"))'


def _joined(conditions: Sequence[str]) -> str:
    return f"({' OR '.join(conditions)})" if len(conditions) > 1 else conditions[0]


def _body_of(connection: Connection, table: EncryptedTable) -> str:
    name = _qualified(connection, table).as_string(connection)
    row = connection.execute("SELECT prosrc FROM pg_proc WHERE oid = to_regproc(%s)", (name,)).fetchone()
    return "" if row is None else str(row[0])


def _versions_in(body: str) -> tuple[KeyVersion, ...]:
    found = _VERSIONS.search(body)
    return tuple(KeyVersion(int(number)) for number in found[1].split(",")) if found else ()
