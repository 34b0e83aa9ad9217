"""The fence where nothing in a value names its key: the login of a retired version loses the right to write values.

Applications use a login of their own while they encrypt with a version (`[format.logins]`), so who has the login of a
newer one has its key. A version counts as refused if no login of it, and no login that is not declared, can insert or
update a declared column of any relation of the tree, or add a trigger that changes what others write: by its own
right, by one of a group, of PUBLIC or of a predefined role, through a view or a rule, which write with the rights of
their owner, or through a trigger that may set it when another column is written. That is asked of the server each time.
Roles that can act as an owner of the tables or as a superuser are not refused by this; they are not logins of
applications (`preflight`). Nor is who may call a function that writes with its owner's rights: the pre-flight warns.

REVOKE waits for no reader or writer, only for a transaction that changes the table's definition or rights, and ends no
session. A transaction that has written before may still commit, so the proof decrypts what was written since while
nobody can write.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import psycopg
from psycopg import sql

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.postgres.inventory import relations
from keyrotation_pipeline.adapters.postgres.inventory.registered_versions import registered
from keyrotation_pipeline.adapters.postgres.retirement import row_triggers
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.errors import BlockedError, FenceError, PreflightError
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.tables import EncryptedTable
from keyrotation_pipeline.ports.clock import attempts

# By what transactions the rights on each relation and its columns were last changed; any other change of them counts.
MADE = sql.SQL("""
SELECT c.oid::bigint, array_agg(a.xmin::text::bigint) || c.xmin::text::bigint
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
WHERE c.oid = ANY (%s::bigint[]::oid[])
GROUP BY c.oid, c.xmin
""")
# The rights are part of what identifies a relation already.
IDENTITY = sql.SQL("NULL")

# Who can log in and write a declared column, and whether that is as an owner or a superuser. SET ROLE needs membership
# alone, whatever is inherited. An owner without a right can give it to itself. Who may write a view, or a table with a
# rule, writes what it leads to with the rights of its owner; a view with security_invoker asks for those of the user.
# Before PostgreSQL 16, CREATEROLE is enough to become a member of every role that is no superuser.
_WRITERS = """
WITH RECURSIVE place AS (
    SELECT attrelid, attnum FROM pg_attribute
    WHERE attrelid = ANY (%(oids)s::bigint[]::oid[]) AND attname = ANY (%(columns)s) AND NOT attisdropped
),
route (oid) AS (
    SELECT unnest(%(oids)s::bigint[]::oid[])
    UNION
    SELECT v.oid
    FROM route l JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = l.oid
    JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
    JOIN pg_class v ON v.oid = w.ev_class AND v.relkind IN ('v', 'r', 'p')
    WHERE NOT EXISTS (SELECT FROM pg_options_to_table(v.reloptions) AS o
                      WHERE o.option_name = 'security_invoker' AND o.option_value::boolean)
),
detour AS (
    SELECT l.oid, l.oid::regclass::text AS name, c.relkind FROM route l JOIN pg_class c ON c.oid = l.oid
    WHERE l.oid <> ALL (%(oids)s::bigint[]::oid[])
),
administrator AS (
    SELECT relowner AS oid FROM pg_class WHERE oid = ANY (%(oids)s::bigint[]::oid[])
    UNION SELECT oid FROM pg_roles WHERE rolsuper
),
holder AS (
    SELECT oid FROM administrator
    UNION SELECT r.oid FROM pg_roles r WHERE EXISTS (
        SELECT FROM place p WHERE has_column_privilege(r.oid, p.attrelid, p.attnum, 'INSERT')
                               OR has_column_privilege(r.oid, p.attrelid, p.attnum, 'UPDATE')
                               OR has_table_privilege(r.oid, p.attrelid, 'TRIGGER'))
),
setter AS (
    SELECT r.oid, t.name FROM pg_roles r, unnest(%(triggers)s::text[], %(events)s::text[]) AS t (name, event)
    WHERE EXISTS (
        SELECT FROM pg_attribute a WHERE a.attrelid = ANY (%(oids)s::bigint[]::oid[]) AND NOT a.attisdropped
        AND a.attnum > 0 AND a.attname <> ALL (%(columns)s)
        AND has_column_privilege(r.oid, a.attrelid, a.attnum, event))
),
roundabout AS (
    SELECT r.oid, d.name FROM pg_roles r, detour d
    WHERE has_any_column_privilege(r.oid, d.oid, 'INSERT') OR has_any_column_privilege(r.oid, d.oid, 'UPDATE')
       OR d.relkind <> 'v' AND has_table_privilege(r.oid, d.oid, 'DELETE')
)
SELECT r.rolname,
    makes_members OR EXISTS (SELECT FROM administrator a WHERE pg_has_role(r.oid, a.oid, 'MEMBER')),
    ARRAY(SELECT DISTINCT t.name FROM roundabout t WHERE pg_has_role(r.oid, t.oid, 'MEMBER') ORDER BY 1),
    ARRAY(SELECT DISTINCT t.name FROM setter t WHERE pg_has_role(r.oid, t.oid, 'MEMBER') ORDER BY 1)
FROM pg_roles r, LATERAL (
    SELECT r.rolcreaterole AND current_setting('server_version_num')::int < 160000
) AS before_16 (makes_members)
WHERE r.rolcanlogin AND (makes_members OR EXISTS (
    SELECT FROM (SELECT oid FROM holder UNION ALL SELECT oid FROM roundabout UNION ALL SELECT oid FROM setter) AS h
    WHERE pg_has_role(r.oid, h.oid, 'MEMBER')))
ORDER BY r.rolname
"""
_EXISTING = "SELECT rolname FROM pg_roles WHERE rolname = ANY (%s)"
# What a login may write of its own right, by relation, and its columns that are not declared. GRANT ALL gives TRIGGER.
_OWN_RIGHTS = """
SELECT c.oid::bigint, x.privilege_type, NULL
FROM pg_class c, aclexplode(c.relacl) AS x
WHERE c.oid = ANY (%(oids)s::bigint[]::oid[]) AND pg_get_userbyid(x.grantee) = %(login)s AND x.grantee <> 0
  AND x.privilege_type IN ('INSERT', 'UPDATE', 'TRIGGER')
UNION
SELECT a.attrelid::bigint, x.privilege_type, a.attname
FROM pg_attribute a, aclexplode(a.attacl) AS x
WHERE a.attrelid = ANY (%(oids)s::bigint[]::oid[]) AND pg_get_userbyid(x.grantee) = %(login)s AND x.grantee <> 0
  AND x.privilege_type IN ('INSERT', 'UPDATE') AND NOT a.attisdropped
"""
_OTHER_COLUMNS = """
SELECT attrelid::bigint, attname FROM pg_attribute
WHERE attrelid = ANY (%s::bigint[]::oid[]) AND attname <> ALL (%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
# Two sessions that change one row of the catalog, of which one is a VACUUM.
_CHANGED_MEANWHILE = "XX000"
_PATIENCE_SECONDS, _PAUSE_SECONDS = 10.0, 0.1

Rights = dict[tuple[int, str], set[str | None]]


@dataclass(frozen=True, slots=True)
class Writers:
    """The logins that can write a table's declared columns.

    Args:
        others: by their rights on the columns, by a trigger that they may add, or through a view, a rule or a trigger.
        administrators: as an owner of a relation of the tree, or as a superuser.
        detours: for each of `others`, the views and the tables with a rule through which it can write.
        triggers: for each of `others`, the triggers that may set a declared column when it writes another one.
    """

    others: frozenset[str]
    administrators: frozenset[str]
    detours: Mapping[str, Sequence[str]]
    triggers: Mapping[str, Sequence[str]]


def writers(connection: Connection, table: EncryptedTable, tree: Sequence[relations.Relation]) -> Writers:
    """Returns who can write the declared columns of any relation of a tree."""
    triggers = row_triggers.setting(connection, tree, table.written_columns)
    fired = [(trigger.name, event) for trigger in triggers for event in trigger.events]
    named = {
        "oids": [each.oid for each in tree],
        "columns": list(table.written_columns),
        "triggers": [name for name, _ in fired],
        "events": [event for _, event in fired],
    }
    rows = cast("list[tuple[str, bool, list[str], list[str]]]", connection.execute(_WRITERS, named).fetchall())
    administrators = frozenset(name for name, is_one, *_ in rows if is_one)
    others = frozenset(name for name, *_ in rows) - administrators
    return Writers(
        others,
        administrators,
        {name: ways for name, _, ways, _ in rows if ways and name in others},
        {name: fired for name, *_, fired in rows if fired and name in others},
    )


def what(connection: Connection) -> str:  # noqa: ARG001
    """See `Fence.what`."""
    return "the withdrawal of the right to write from the login of a retired version"


def fence(
    connection: Connection,
    table: EncryptedTable,
    versions: Sequence[KeyVersion],
    *,
    wait: bool = True,  # noqa: ARG001  a REVOKE waits for no reader or writer
) -> bool:
    """Takes the right to write the table's declared columns, and to add triggers, from the logins of `versions`.

    They keep their rights on other columns. See `fence.fence`.

    Raises:
        PreflightError: the role may not change the rights, a login has passed its right on, or it belongs to a version
            that is to be written, too.
        BlockedError: others are changing the table or its rights all the time.
        FenceError: a version can still be written; says by whom.
    """
    wanted, tree = sorted(set(versions)), relations.ordinary_tree(connection, table)
    if set(wanted) <= set(relations.or_raise(all_fences(connection, (table,))[table])):
        return True
    leaving = sorted(_logins_of(table, wanted))
    kept = {login for version, login in table.format.logins if version not in wanted}
    if shared := kept.intersection(leaving):
        raise PreflightError(
            f"login {min(shared)} is declared for a version that is to be refused and for another one; give each "
            "version logins of its own in [format.logins]"
        )
    statements = [each for login in leaving for each in _revoked(connection, table, tree, login)]
    try:
        _run(connection, table, statements)
    except psycopg.errors.DependentObjectsStillExist:
        from_logins = sql.SQL(", ").join(map(sql.Identifier, leaving))
        option = sql.SQL("REVOKE GRANT OPTION FOR INSERT, UPDATE, TRIGGER ON {} FROM {} CASCADE").format(
            relations.root(tree, table).identifier, from_logins
        )
        raise PreflightError(
            f"a login of [format.logins] has passed on its right to write table {table.name}; run "
            f"{option.as_string(connection)} as its owner (likewise for partitions)"
        ) from None
    if reason := why_not(connection, table, tree, wanted):
        raise FenceError(f"table {table.name}: {reason}")
    return True


def unfence(connection: Connection, table: EncryptedTable, version: KeyVersion) -> None:
    """Lets the logins of a version write the declared columns again: with the rights that other declared logins have.

    Where none of these can write them, with INSERT and UPDATE on the table itself.

    Raises:
        PreflightError, BlockedError: as `fence`.
    """
    tree = relations.tree(connection, table)
    statements: list[sql.Composed] = []
    for login in sorted(table.format.logins_of(version)):
        if not _can_write(table, own_rights(connection, tree, login)):
            statements += _granted(connection, table, tree, login)
    _run(connection, table, statements)


def all_fences(
    connection: Connection, tables: Sequence[EncryptedTable]
) -> dict[EncryptedTable, tuple[KeyVersion, ...] | PreflightError]:
    """See `Fence.all_fences`: the known versions that nobody can write; none if a login not declared can write."""
    known = registered(connection)
    return {
        table: tree if isinstance(tree, PreflightError) else _refused(connection, table, tree, known)
        for table, tree in relations.trees(connection, tables).items()
    }


def why_not(
    connection: Connection, table: EncryptedTable, tree: Sequence[relations.Relation], versions: Sequence[KeyVersion]
) -> str:
    """Returns by whom one of these versions can still be written, and what to do; empty: by nobody."""
    who = writers(connection, table, tree)
    declared = {login for _, login in table.format.logins}
    if masters := declared.intersection(who.administrators):
        return (
            f"login {min(masters)} can act as the table's owner or a superuser, who cannot lose a right; have the "
            "application use a login that owns nothing"
        )
    if through := sorted(set(who.detours).intersection([*(who.others - declared), *_logins_of(table, versions)])):
        return (
            f"login {through[0]} can write its encrypted columns through {who.detours[through[0]][0]}, with the rights "
            "of that one's owner; revoke INSERT, UPDATE and DELETE on it"
        )
    if fires := sorted(set(who.triggers).intersection([*(who.others - declared), *_logins_of(table, versions)])):
        return (
            f"login {fires[0]} can write a column, where {who.triggers[fires[0]][0]} may set an encrypted one; "
            "change its function, or take INSERT and UPDATE from the login"
        )
    if undeclared := sorted(who.others - declared):
        return (
            f"its encrypted columns can be written by {', '.join(undeclared)}, not in [format.logins]; revoke "
            "INSERT, UPDATE and TRIGGER from each such login, or declare it"
        )
    if left := sorted(_logins_of(table, versions) & who.others):
        return (
            f"its encrypted columns can still be written by {', '.join(left)}, through a group, PUBLIC, a "
            "predefined role or another role's grant; grant such rights to each login itself, as the owner"
        )
    return ""


def _logins_of(table: EncryptedTable, versions: Sequence[KeyVersion]) -> frozenset[str]:
    return frozenset(login for version in versions for login in table.format.logins_of(version))


def _refused(
    connection: Connection, table: EncryptedTable, tree: Sequence[relations.Relation], known: Sequence[KeyVersion]
) -> tuple[KeyVersion, ...]:
    declared = table.format.logins
    versions = known or sorted({version for version, _ in declared})
    who, logins = writers(connection, table, tree), {login for _, login in declared}
    if not declared or who.others - logins or logins.intersection(who.administrators):
        return ()
    return tuple(version for version in versions if not table.format.logins_of(version).intersection(who.others))


def own_rights(connection: Connection, tree: Sequence[relations.Relation], login: str) -> Rights:
    """Returns what was granted to a login itself: by relation and right its columns, None for the whole relation."""
    found: Rights = {}
    named = {"oids": [each.oid for each in tree], "login": login}
    for oid, right, column in cast("list[tuple[int, str, str | None]]", connection.execute(_OWN_RIGHTS, named)):
        found.setdefault((oid, right), set()).add(column)
    return found


def missing_logins(connection: Connection, value_format: ValueFormat) -> tuple[str, ...]:
    """Returns the declared logins that do not exist."""
    declared = sorted({login for _, login in value_format.logins})
    there = {str(name) for (name,) in connection.execute(_EXISTING, (declared,)).fetchall()}
    return tuple(login for login in declared if login not in there)


def _can_write(table: EncryptedTable, rights: Rights) -> bool:
    declared = {None, *table.written_columns}
    return any(columns & declared for (_, right), columns in rights.items() if right != "TRIGGER")


def _revoked(
    connection: Connection, table: EncryptedTable, tree: Sequence[relations.Relation], login: str
) -> Iterator[sql.Composed]:
    rows = connection.execute(_OTHER_COLUMNS, ([each.oid for each in tree], list(table.written_columns))).fetchall()
    others: dict[int, list[str]] = {}
    for oid, column in cast("list[tuple[int, str]]", rows):
        others.setdefault(oid, []).append(column)
    named = {each.oid: each for each in tree}
    for (oid, right), columns in own_rights(connection, tree, login).items():
        # A right on the relation goes with all those on its columns.
        yield sql.SQL("REVOKE {} ON {} FROM {}").format(sql.SQL(right), named[oid].identifier, sql.Identifier(login))
        kept = [column for column in others.get(oid, ()) if None in columns or column in columns]
        if kept and right != "TRIGGER":
            yield _grant(right, kept, named[oid], login)


def _granted(
    connection: Connection, table: EncryptedTable, tree: Sequence[relations.Relation], login: str
) -> Iterator[sql.Composed]:
    models = [own_rights(connection, tree, other) for _, other in table.format.logins if other != login]
    root, none_can = relations.root(tree, table), not any(_can_write(table, model) for model in models)
    for each in tree:
        for right in ("INSERT", "UPDATE"):
            found = {column for model in models for column in model.get((each.oid, right), ())}
            columns = [column for column in table.written_columns if column in found]
            if None in found:
                yield _grant(right, (), each, login)
            elif columns or (none_can and each == root):
                yield _grant(right, columns or table.written_columns, each, login)


def _grant(right: str, columns: Sequence[str], relation: relations.Relation, login: str) -> sql.Composed:
    listed = sql.SQL(" ({})").format(sql.SQL(", ").join(map(sql.Identifier, columns))) if columns else sql.SQL("")
    return sql.SQL("GRANT {}{} ON {} TO {}").format(sql.SQL(right), listed, relation.identifier, sql.Identifier(login))


def _run(connection: Connection, table: EncryptedTable, statements: Sequence[sql.Composed]) -> None:
    if not statements:
        return
    for _ in attempts(SystemClock(), pause_seconds=_PAUSE_SECONDS, patience_seconds=_PATIENCE_SECONDS):
        try:
            with connection.transaction():
                for statement in statements:
                    connection.execute(statement)
        except psycopg.errors.InsufficientPrivilege:
            raise PreflightError(
                f"this role may not change who writes table {table.name}; run keyrotation as the owner of the table"
            ) from None
        except psycopg.errors.UndefinedObject:
            gone = ", ".join(missing_logins(connection, table.format))
            raise PreflightError(
                f"the server does not have {gone} of [format.logins]; create each such login"
            ) from None
        except psycopg.errors.LockNotAvailable:  # somebody else's GRANT or ALTER is not committed yet
            continue
        except psycopg.errors.InternalError_ as error:
            if error.sqlstate != _CHANGED_MEANWHILE:
                raise
        else:
            return
    raise BlockedError(
        f"table {table.name} or the rights on it are being changed by others; wait until their transactions end, then "
        "run this step again"
    )
