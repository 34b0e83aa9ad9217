"""Manages the fence: one CHECK per table by which the database itself refuses every retired key version.

It refuses by a cast that fails, since a plain violation would print the whole row to the client and the log. We write
exactly the text that PostgreSQL 14 to 18 print, and a fence counts only if its text is exactly ours.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

import psycopg
from psycopg import sql

from keyrotation_pipeline.adapters.own_schema import own, schema_of, written
from keyrotation_pipeline.adapters.postgres.inventory import grammar_sql, places, relations
from keyrotation_pipeline.adapters.postgres.inventory.format_sql import Refusals, refusals_of
from keyrotation_pipeline.adapters.postgres.inventory.old_values import count_old_values
from keyrotation_pipeline.adapters.postgres.inventory.registered_versions import leaves_plaintext
from keyrotation_pipeline.adapters.postgres.retirement import locks
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, quoted_names
from keyrotation_pipeline.errors import BlockedError, PreflightError, ProofError
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE, SEARCH_INDEX
from keyrotation_pipeline.fieldcrypto.formats.sources import NEVER_ENCRYPTED
from keyrotation_pipeline.fieldcrypto.grammar import SECOND, KeyVersion
from keyrotation_pipeline.model.tables import EncryptedTable

NAME = "keyrotation_retired_key_versions"
# Of the columns of search indexes, which refuse a version later: once no application has its key.
INDEX_NAME = "keyrotation_retired_search_indexes"
VALIDATE_ATTEMPTS = 5

# By what transaction the fence of each relation was made.
MADE = own("""
SELECT f.conrelid::bigint, ARRAY[f.xmin::text::bigint]
FROM pg_constraint f
WHERE f.conname = 'keyrotation_retired_key_versions' AND f.contype = 'c' AND f.conrelid = ANY (%s::bigint[]::oid[])
""")
# What identifies the fence of the relation `c`, and changes with it.
IDENTITY = own("""
SELECT concat_ws(' ', f.oid, f.xmin)
FROM pg_constraint f WHERE f.conrelid = c.oid AND f.conname = 'keyrotation_retired_key_versions' AND f.contype = 'c'
""")

# The server prints NOT VALID, NO INHERIT and NOT ENFORCED as parts of the definition.
_EXISTING = """
SELECT c.conrelid::bigint, pg_get_constraintdef(c.oid), c.conislocal
FROM pg_constraint c WHERE c.conrelid = ANY(%s::bigint[]::oid[]) AND c.conname = %s AND c.contype = 'c'
"""


def name(connection: Connection, declared: ValueFormat = NATIVE) -> str:
    """Returns the name of the constraint, which begins with the schema of the home."""
    return written(INDEX_NAME if declared == SEARCH_INDEX else NAME, schema_of(connection))


def what(connection: Connection) -> str:
    """See `Fence.what`."""
    return f"constraint {name(connection)}"


def fence(connection: Connection, table: EncryptedTable, versions: Sequence[KeyVersion], *, wait: bool = True) -> bool:
    """Makes the table, its partitions and its children refuse exactly `versions`; does nothing if they already do.

    Args:
        wait: False: if another session, such as autovacuum, holds the table, change nothing.

    Returns:
        Whether it refuses them now; False only without `wait`.

    Raises:
        BlockedError: the lock could not be taken; names its holder.
        PreflightError: the tree holds something other than ordinary heaps, which a CHECK does not bind.
        ProofError: the table holds an old value. The fence then refuses only the versions that it does not hold.
    """
    wanted = tuple(sorted(set(versions)))
    tree = relations.ordinary_tree(connection, table)
    if _fences(connection, table, tree) == wanted:
        return True
    try:
        if not _put(connection, table, tree, wanted, wait=wait):
            return False
    except psycopg.errors.InvalidTextRepresentation:
        _fence_absent_versions(connection, table, wanted)
    if fences(connection, table) != wanted:
        raise ProofError(
            f"the fence of table {table.name} does not read back as written; check constraint "
            f"{name(connection, table.format)} there and in partitions, then run this step again"
        )
    return True


def unfence(connection: Connection, table: EncryptedTable, version: KeyVersion) -> None:
    """Lets the table accept values under `version` again, even if its fence was never validated.

    Raises:
        BlockedError: the lock could not be taken; names its holder.
    """
    tree = relations.tree(connection, table)
    existing = _definitions(connection, [relation.oid for relation in tree], table.format)
    versions_refused = refusals_of(connection, table.format).versions_refused
    named = {each for definition in existing.values() for each in versions_refused(definition)}
    also = {grammar_sql.present_refused(definition) for definition in existing.values()}
    if version not in named | also and not (named and table.gives_back):
        return
    # Of search indexes that are no longer declared, nothing says which columns the rest was about. And what goes back
    # to an earlier version accepts again what its columns held before; the fence of that walk's end refuses the rest.
    rest = tuple(sorted(named - {version})) if table.columns and not table.begun else ()
    try:
        _put(connection, table, tree, rest)
    except psycopg.errors.InvalidTextRepresentation:
        _put(connection, table, tree, ())


def fences(connection: Connection, table: EncryptedTable) -> tuple[KeyVersion, ...]:
    """Returns the versions that the table's fence refuses, in order; none unless it is intact on the whole tree.

    Intact means: validated, enforced, inherited, exactly the text that `fence` writes, and on types that hold values.
    """
    return _fences(connection, table, relations.tree(connection, table))


def _fences(
    connection: Connection, table: EncryptedTable, tree: Sequence[relations.Relation]
) -> tuple[KeyVersion, ...]:
    existing = _definitions(connection, [relation.oid for relation in tree], table.format)
    refusals = refusals_of(connection, table.format)
    return _whole(connection, tree, existing, quoted_names(connection, table.stored_columns), refusals)


def all_fences(
    connection: Connection, tables: Sequence[EncryptedTable]
) -> dict[EncryptedTable, tuple[KeyVersion, ...] | PreflightError]:
    """Returns the fences of many tables, by as many statements as for one; for each its versions or an error.

    Args:
        tables: either tables or their search indexes, whose fences have another name.
    """
    if not tables:
        return {}
    declared = tables[0].format
    trees = relations.trees(connection, tables)
    oids = {relation.oid for tree in trees.values() if not isinstance(tree, PreflightError) for relation in tree}
    existing = _definitions(connection, sorted(oids), declared)
    names = quoted_names(connection, sorted({column for table in tables for column in table.stored_columns}))
    refusals = refusals_of(connection, declared)
    return {
        table: tree if isinstance(tree, PreflightError) else _whole(connection, tree, existing, names, refusals)
        for table, tree in trees.items()
    }


def _definitions(connection: Connection, oids: Sequence[int], declared: ValueFormat = NATIVE) -> dict[int, str]:
    rows = connection.execute(_EXISTING, (oids, name(connection, declared))).fetchall()
    return {int(str(oid)): str(definition) for oid, definition, _ in rows}


def _whole(
    connection: Connection,
    tree: Sequence[relations.Relation],
    existing: Mapping[int, str],
    names: Mapping[str, str],
    refusals: Refusals,
) -> tuple[KeyVersion, ...]:
    # The server never checks a foreign table against its declared CHECK.
    if not all(relation.is_heap or relation.holds_no_rows for relation in tree):
        return ()
    # For another type the text that the CHECK tests would not be the value, but the result of a cast.
    if not all(column.holds_values for relation in tree for column in relation.columns):
        return ()
    named = {refusals.versions_refused(existing.get(relation.oid, "")) for relation in tree}
    versions = named.pop()
    if named or not versions or not refusals.knows(versions):
        return ()
    plaintext = _refuses_plaintext(connection, tree[0], versions)
    # A fence from before there were two generations stays as it is.
    whole = any(
        all(
            (text := existing[relation.oid])
            == _definition(
                relation,
                versions,
                names,
                refusals,
                text,
                other_generation=other_generation,
                plaintext=plaintext,
                present=_present(relation, text),
            )
            for relation in tree
        )
        for other_generation in (False, True)
    )
    return versions if whole else ()


def definition(
    connection: Connection, relation: relations.Relation, versions: Iterable[KeyVersion], declared: ValueFormat = NATIVE
) -> str:
    """Returns the constraint, exactly as `pg_get_constraintdef` prints it; NULL passes.

    A value under a retired version fails with SQLSTATE 22P02 and a message that names only the version.

    Raises:
        ProofError: as `Refusals.refusal`.
    """
    names = quoted_names(connection, [column.name for column in relation.columns])
    wanted = tuple(versions)
    # Of the second generation on, a number is refused in both.
    other_generation = declared.generation == SECOND.number or any(version.generation == SECOND for version in wanted)
    return _definition(
        relation,
        wanted,
        names,
        refusals_of(connection, declared),
        other_generation=other_generation,
        plaintext=_refuses_plaintext(connection, relation, wanted),
        present=_present(relation),
    )


def _present(relation: relations.Relation, existing: str = "") -> KeyVersion | None:
    """Returns the version that is refused besides the retired ones, in columns that are of their old form again."""
    given_back = (column.place.given_back for column in relation.columns)
    return next((each for each in given_back if each is not None), None) or grammar_sql.present_refused(existing)


def _refuses_plaintext(connection: Connection, relation: relations.Relation, versions: Sequence[KeyVersion]) -> bool:
    """Returns whether columns that held plaintext refuse it."""
    return any(column.place.source for column in relation.columns) and not leaves_plaintext(connection, versions)


def _definition(
    relation: relations.Relation,
    versions: Iterable[KeyVersion],
    names: Mapping[str, str],
    refusals: Refusals,
    existing: str = "",
    *,
    other_generation: bool,
    plaintext: bool,
    present: KeyVersion | None,
) -> str:
    wanted = tuple(versions)
    cases = [
        _refusal(
            column,
            names[column.name],
            wanted,
            refusals,
            existing,
            other_generation=other_generation,
            plaintext=plaintext,
            present=present,
        )
        for column in relation.columns
    ]
    return f"CHECK (({' AND'.join(cases)}))" if len(cases) > 1 else f"CHECK ({cases[0]})"


def _refusal(
    column: relations.Column,
    name: str,
    versions: Sequence[KeyVersion],
    refusals: Refusals,
    existing: str,
    *,
    other_generation: bool,
    plaintext: bool,
    present: KeyVersion | None,
) -> str:
    if column.place.elements:  # of the first generation alone
        return refusals.refusal_in_array(places.printed(column, name), versions)
    # Of bytes that are no text, the first ones are looked at.
    value = places.printed(column, name) if column.of_bytes else places.printed_text(column, name)
    if column.place.source and present is not None and not plaintext:
        return grammar_sql.refusal_of_values(value, versions, present, other_generation=other_generation)
    if column.place.source:  # of our own format alone
        refused = grammar_sql.FOREIGN if column.place.source_key else NEVER_ENCRYPTED
        return grammar_sql.refusal(
            value, versions, other_generation=other_generation, plaintext=plaintext, refused=refused
        )
    usual = refusals.refusal(value, versions, other_generation=other_generation)
    if refusals is not grammar_sql:
        return usual
    # A fence made while `from` was declared refuses the old form until it is made again.
    strict = [
        grammar_sql.refusal(value, versions, other_generation=other_generation, plaintext=True, refused=refused)
        for refused in (NEVER_ENCRYPTED, grammar_sql.FOREIGN)
    ]
    if present is not None:
        strict.append(grammar_sql.refusal_of_values(value, versions, present, other_generation=other_generation))
    return next((each for each in strict if each in existing), usual)


def _put(
    connection: Connection,
    table: EncryptedTable,
    tree: Sequence[relations.Relation],
    versions: Sequence[KeyVersion],
    *,
    wait: bool = True,
) -> bool:
    """Replaces the fence in one transaction, so that no version gets in meanwhile, then validates the new fence.

    Returns:
        As `locks.change`.
    """
    root = relations.root(tree, table)
    constraint = sql.Identifier(name(connection, table.format))
    drop = sql.SQL("ALTER TABLE {} DROP CONSTRAINT IF EXISTS {}")
    statements: list[sql.Composed] = [drop.format(root.identifier, constraint)]
    # A child that was detached and attached again has its own copy of the constraint, which would be in the way.
    statements += [
        drop.format(relation.identifier, constraint) for relation in _with_own(connection, table, tree, root)
    ]
    if versions:
        add = sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {} NOT VALID")
        statements.append(
            add.format(root.identifier, constraint, sql.SQL(definition(connection, root, versions, table.format)))
        )
    if not locks.change(connection, table, root, statements, wait=wait):
        return False
    if versions:
        _validate(connection, table, root)
    return True


def _with_own(
    connection: Connection, table: EncryptedTable, tree: Sequence[relations.Relation], root: relations.Relation
) -> tuple[relations.Relation, ...]:
    named = ([relation.oid for relation in tree], name(connection, table.format))
    rows = connection.execute(_EXISTING, named).fetchall()
    own = {row[0] for row in rows if row[2]}
    return tuple(relation for relation in tree if relation.oid in own and relation.oid != root.oid)


def _validate(connection: Connection, table: EncryptedTable, root: relations.Relation) -> None:
    statement = sql.SQL("ALTER TABLE {} VALIDATE CONSTRAINT {}").format(
        root.identifier, sql.Identifier(name(connection, table.format))
    )
    for _ in range(VALIDATE_ATTEMPTS):
        try:
            with connection.transaction():
                connection.execute(locks.OUTWAIT_AUTOVACUUM)
                connection.execute(statement)
        except psycopg.errors.LockNotAvailable:
            continue
        return
    who = "; ".join(locks.lock_holders(connection, table)) or "a passing session"
    raise BlockedError(
        f"the fence of table {table.name} cannot be validated while {who} uses it; "
        "wait until that ends, then run this step again"
    )


def _fence_absent_versions(connection: Connection, table: EncryptedTable, versions: Sequence[KeyVersion]) -> NoReturn:
    """Fences only the versions that the table does not hold: a fenced old value would block every update of its row."""
    counted = count_old_values(connection, table, versions)
    refused = () if leaves_plaintext(connection, versions) else table.begun
    old_form = {name: number for name, number in counted.unencrypted.items() if name in refused}
    others = [f"column {name}: {number} in {table.old_form}" for name, number in old_form.items()]
    others += [f"column {name}: {number} encrypted again" for name, number in counted.encrypted.items()]
    # The fence refuses these in any case.
    present = set(versions) if others else {version for _, version in counted.old} or set(versions)
    absent = tuple(version for version in versions if version not in present)
    _put(connection, table, relations.tree(connection, table), absent)
    raise old_values_left(table, counted.old, others) from None


def old_values_left(
    table: EncryptedTable, left: Mapping[tuple[str, KeyVersion], int], others: Iterable[str] = ()
) -> ProofError:
    """Returns the refusal of a fence where old values are left, by column and version; `others`: in words."""
    named = [f"column {column}: {number} under {version}" for (column, version), number in left.items()]
    places = ", ".join([*named, *others])
    return ProofError(
        f"table {table.name} still holds old values ({places or 'written meanwhile'}); find what writes them, "
        "then run this step again"
    )
