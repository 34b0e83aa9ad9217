"""Finds which functions PostgreSQL runs for our reads and writes, and who owns them.

It cannot be known in general what a trusted role's function calls (a body in PL/pgSQL is text until it runs). So the
rule is by owner: a function of a superuser or of our role may call anything; its owner is responsible for that.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from keyrotation_pipeline.adapters.own_schema import own
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, quoted
from keyrotation_pipeline.errors import PreflightError

# From each thing that is evaluated for a row that we write, along the catalog's own dependencies, to the functions in
# it: called by name, behind an operator, in the constraint of a domain that is cast to, in the operator class of an
# index, or to read and write a type. Dependencies of functions are not followed. Of a trigger only the condition
# counts: its function does not run for us, or the trigger itself is refused. Defaults are not evaluated by an UPDATE.
_FOREIGN = """
WITH RECURSIVE tree(oid) AS (SELECT unnest(%s::bigint[]::oid[])),
start(what, relation, classid, objid) AS (
    SELECT 'type of column ' || attname, attrelid, 'pg_type'::regclass::oid, atttypid
    FROM pg_attribute JOIN tree ON attrelid = tree.oid WHERE attnum > 0 AND NOT attisdropped
    UNION ALL SELECT 'constraint ' || conname, conrelid, 'pg_constraint'::regclass, c.oid
    FROM pg_constraint c JOIN tree ON conrelid = tree.oid WHERE contype IN ('c', 'x')
    UNION ALL SELECT 'generated column ' || attname, adrelid, 'pg_attrdef'::regclass, d.oid
    FROM pg_attrdef d JOIN tree ON adrelid = tree.oid
    JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum AND attgenerated <> ''
    UNION ALL SELECT 'partition key', partrelid, 'pg_class'::regclass, partrelid
    FROM pg_partitioned_table
    WHERE partrelid IN (SELECT relid FROM tree CROSS JOIN LATERAL pg_partition_ancestors(tree.oid))
    UNION ALL SELECT 'index ' || relname, indrelid, 'pg_class'::regclass, indexrelid
    FROM pg_index JOIN tree ON indrelid = tree.oid JOIN pg_class c ON c.oid = indexrelid
    UNION ALL SELECT 'statistics ' || stxname, stxrelid, 'pg_statistic_ext'::regclass, s.oid
    FROM pg_statistic_ext s JOIN tree ON stxrelid = tree.oid
    UNION ALL SELECT 'policy ' || polname, polrelid, 'pg_policy'::regclass, p.oid
    FROM pg_policy p JOIN tree ON polrelid = tree.oid
    UNION ALL SELECT 'trigger ' || tgname, tgrelid, 'pg_trigger'::regclass, t.oid
    FROM pg_trigger t JOIN tree ON tgrelid = tree.oid
    WHERE NOT tgisinternal AND tgenabled IN ('O', 'A') AND tgtype & 16 <> 0),
reached(root, what, relation, classid, objid) AS (
    SELECT what, * FROM start
    UNION
    SELECT root, coalesce(next.what, r.what), r.relation, next.classid, next.objid
    FROM reached r CROSS JOIN LATERAL (
        SELECT NULL, refclassid, refobjid FROM pg_depend
        WHERE classid = r.classid AND objid = r.objid
          AND NOT EXISTS (SELECT FROM pg_trigger t WHERE r.classid = 'pg_trigger'::regclass AND t.oid = r.objid
                          AND refclassid = 'pg_proc'::regclass AND refobjid = t.tgfoid)
          AND CASE r.classid
              WHEN 'pg_proc'::regclass THEN false
              WHEN 'pg_type'::regclass THEN refclassid = 'pg_type'::regclass
              ELSE refclassid IN ('pg_type'::regclass, 'pg_proc'::regclass, 'pg_operator'::regclass,
                                  'pg_opclass'::regclass) END
        UNION ALL SELECT NULL, 'pg_proc'::regclass, unnest(ARRAY[typinput, typoutput, typreceive, typsend]::oid[])
        FROM pg_type t WHERE r.classid = 'pg_type'::regclass AND t.oid = r.objid
        UNION ALL SELECT NULL, 'pg_class'::regclass, typrelid
        FROM pg_type t WHERE r.classid = 'pg_type'::regclass AND t.oid = r.objid AND typrelid <> 0
        UNION ALL SELECT NULL, 'pg_proc'::regclass, unnest(ARRAY[rngcanonical, rngsubdiff]::oid[])
        FROM pg_range WHERE r.classid = 'pg_type'::regclass AND rngtypid = r.objid
        UNION ALL SELECT 'constraint ' || conname, 'pg_constraint'::regclass, c.oid
        FROM pg_constraint c WHERE r.classid = 'pg_type'::regclass AND contypid = r.objid
        UNION ALL SELECT NULL, 'pg_proc'::regclass, amproc::oid
        FROM pg_opclass o JOIN pg_amproc ON amprocfamily = opcfamily
        WHERE r.classid = 'pg_opclass'::regclass AND o.oid = r.objid
        UNION ALL SELECT NULL, 'pg_operator'::regclass, amopopr
        FROM pg_opclass o JOIN pg_amop ON amopfamily = opcfamily
        WHERE r.classid = 'pg_opclass'::regclass AND o.oid = r.objid
    ) next(what, classid, objid)),
type(oid) AS (SELECT objid FROM reached WHERE classid = 'pg_type'::regclass
              UNION SELECT oid FROM pg_type WHERE oid::bigint < 16384),  -- the server's own
called(root, what, relation, function) AS (
    SELECT root, what, relation, objid FROM reached WHERE classid = 'pg_proc'::regclass
    UNION ALL SELECT '', format('cast from %%s to %%s', castsource::regtype, casttarget::regtype),
                     (SELECT min(oid::bigint) FROM tree)::oid, castfunc
    FROM pg_cast WHERE castsource IN (SELECT oid FROM type) AND casttarget IN (SELECT oid FROM type))
SELECT DISTINCT what, relation::regclass::text, p.oid::regprocedure::text, owner.rolname, root, l.lanname
FROM called JOIN pg_proc p ON p.oid = called.function JOIN pg_roles owner ON owner.oid = p.proowner
JOIN pg_language l ON l.oid = p.prolang
"""
_OF_OTHERS = "WHERE NOT owner.rolsuper AND owner.rolname <> current_user ORDER BY 1, 2, 3"
# Whoever owns it, unless it came with the server or with an extension.
_NOT_INSTALLED = """
WHERE l.lanname NOT IN ('c', 'internal') AND NOT (owner.rolsuper AND EXISTS (
    SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'))
ORDER BY 1, 2, 3
"""

# They run for what we define: fences, the schema, a scratch database.
_EVENT_TRIGGERS = """
SELECT evtname, p.oid::regprocedure::text, owner.rolname
FROM pg_event_trigger JOIN pg_proc p ON p.oid = evtfoid JOIN pg_roles owner ON owner.oid = p.proowner
WHERE evtenabled IN ('O', 'A') AND NOT owner.rolsuper AND owner.rolname <> current_user
ORDER BY 1
"""

# The owner of a table of ours, or of the schema, can put a trigger on it, and so can a role that was granted that.
_OURS = own("""
WITH ours AS (
    SELECT 'schema ' || nspname AS what, nspowner AS owner FROM pg_namespace WHERE nspname = 'keyrotation'
    UNION ALL SELECT 'table ' || c.oid::regclass, c.relowner FROM pg_class c
    WHERE c.relnamespace = to_regnamespace('keyrotation') AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
    UNION ALL SELECT format('the function of trigger %s of %s', t.tgname, t.tgrelid::regclass), p.proowner
    FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_class c ON c.oid = t.tgrelid
    WHERE NOT t.tgisinternal AND c.relnamespace = to_regnamespace('keyrotation'))
SELECT what, rolname FROM ours JOIN pg_roles r ON r.oid = owner
WHERE NOT rolsuper AND rolname <> current_user ORDER BY 1
""")


class ForeignFunction(NamedTuple):
    """A function that would run as our role, and its caller."""

    what: str
    relation: str
    function: str
    owner: str
    root: str
    language: str


# The planner evaluates constants in these expressions, and so runs functions for every query on the table.
_EXPRESSIONS = ("index ", "statistics ")
_FOLDED = (*_EXPRESSIONS, "partition key")
_WITH_EXPRESSIONS = """
SELECT indrelid::bigint FROM pg_index
WHERE indrelid = ANY(%(oids)s::bigint[]::oid[]) AND (indexprs IS NOT NULL OR indpred IS NOT NULL)
UNION SELECT stxrelid::bigint FROM pg_statistic_ext WHERE stxrelid = ANY(%(oids)s::bigint[]::oid[])
UNION SELECT oid::bigint FROM pg_class
WHERE oid = ANY(%(oids)s::bigint[]::oid[]) AND (relispartition OR relkind = 'p')
"""


def foreign_planning(connection: Connection, *oids: int) -> ForeignFunction | None:
    """Returns a function of another role that the planner would run as our role for any query on these relations."""
    concerned = [int(str(oid)) for (oid,) in connection.execute(_WITH_EXPRESSIONS, {"oids": list(oids)})]
    found = foreign_functions(connection, concerned) if concerned else ()
    return next((each for each in found if each.root.startswith(_FOLDED)), None)


def require_own_planning(connection: Connection, *oids: int) -> None:
    """Refuses to query relations for which the planner itself would run functions of other roles.

    Raises:
        PreflightError: names one.
    """
    if (found := foreign_planning(connection, *oids)) is not None:
        role = connection.info.user
        raise PreflightError(
            f"{found.root} of {found.relation} calls {found.function} of role {found.owner}, which would run as {role} "
            f"for whoever reads the table; {to_be_ours(connection, found.function)}, or drop the "
            f"{found.root.partition(' ')[0]}"
        )


def to_be_ours(connection: Connection, function: str) -> str:
    """Returns the statement that fixes it. The application may still call the function, but not replace it."""
    return f"run ALTER FUNCTION {function} OWNER TO {quoted(connection, connection.info.user)} as a superuser"


def foreign_functions(connection: Connection, oids: Sequence[int]) -> Iterator[ForeignFunction]:
    """Yields functions of other roles that a write to these relations would run."""
    for row in connection.execute(_FOREIGN + _OF_OTHERS, (list(oids),)):
        yield ForeignFunction(*map(str, row))


# Planning evaluates what has no column in it; functions in SQL it may replace by what they contain. An expression
# without the oid of anything made after the server (16384 or more) calls only built-in functions.
_MAY_BE_EVALUATED = r"""
WITH expression(relation, tree) AS (
    SELECT indrelid, concat(indexprs, indpred) FROM pg_index WHERE indexprs IS NOT NULL OR indpred IS NOT NULL
    UNION ALL SELECT stxrelid, concat(to_jsonb(s) ->> 'stxexprs') FROM pg_statistic_ext s)
SELECT relation::bigint, relation::regclass::text, bool_or(tree ~ '[{]CONST |:args <>') FROM expression
WHERE relation = ANY(%s::bigint[]::oid[])
  AND tree ~ ' ([0-9]{6,}|[2-9][0-9]{4}|1[7-9][0-9]{3}|16[4-9][0-9]{2}|163(8[4-9]|9[0-9]))\M' GROUP BY relation
"""


def planned_functions(connection: Connection, oids: Sequence[int]) -> Mapping[int, str]:
    """Returns, by relation, a function that planning any query on it may run, whoever owns the function.

    Partitions count only where constraints are planned, too (`constraint_exclusion`).
    """
    with_expressions = connection.execute(_MAY_BE_EVALUATED, (list(oids),)).fetchall()
    constant = {str(name): bool(is_constant) for _, name, is_constant in with_expressions}
    oid_of = {str(name): int(str(oid)) for oid, name, _ in with_expressions}
    found: dict[int, str] = {}
    for row in connection.execute(_FOREIGN + _NOT_INSTALLED, (list(oid_of.values()),)) if oid_of else ():
        function = ForeignFunction(*map(str, row))
        if function.root.startswith(_EXPRESSIONS) and (constant[function.relation] or function.language == "sql"):
            found.setdefault(oid_of[function.relation], function.function)
    return found


def foreign_event_triggers(connection: Connection) -> Iterator[tuple[str, str, str]]:
    """Yields event triggers whose function belongs to another role: name, function, owner."""
    for name, function, owner in connection.execute(_EVENT_TRIGGERS):
        yield str(name), str(function), str(owner)


def foreign_parts_of_ours(connection: Connection) -> Iterator[tuple[str, str]]:
    """Yields what in the schema `keyrotation` belongs to another role, and to which."""
    for what, owner in connection.execute(_OURS):
        yield str(what), str(owner)
