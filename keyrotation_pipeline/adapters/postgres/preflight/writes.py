"""Preflight checks of what an update by the engine triggers: privileges, rules, row security, foreign code."""

import re
from collections.abc import Iterator, Sequence

from psycopg import sql

from keyrotation_pipeline.adapters.own_schema import own
from keyrotation_pipeline.adapters.postgres.inventory.foreign_code import (
    foreign_event_triggers,
    foreign_functions,
    foreign_parts_of_ours,
    to_be_ours,
)
from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation, heap_and_toast_bytes
from keyrotation_pipeline.adapters.postgres.inventory.samples import TABLE_SAMPLE_BYTES
from keyrotation_pipeline.adapters.postgres.inventory.scans import heap_scan, of_a_sample
from keyrotation_pipeline.adapters.postgres.preflight.table import Subject, fatal, warning
from keyrotation_pipeline.adapters.postgres.retirement import fence
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, quoted
from keyrotation_pipeline.adapters.postgres.server.dump_text import unquoted
from keyrotation_pipeline.fieldcrypto.formats.native import SEARCH_INDEX
from keyrotation_pipeline.fieldcrypto.formats.sources import NEVER_ENCRYPTED
from keyrotation_pipeline.model.environment import Problem

TRIGGER_CLAUSE = "WHEN (current_setting('keyrotation.engine', true) IS DISTINCT FROM 'on')"

# The same as pg_get_triggerdef prints it; it adds the schema to a function of this name in another schema.
_OURS = "current_setting('keyrotation.engine'::text, true) IS DISTINCT FROM 'on'::text"
_QUOTED = re.compile(r"\"(?:[^\"]|\"\")*\"|E?'(?:[^']|'')*'")
_KEPT = frozenset({"'keyrotation.engine'", "'on'"})

# tgtype 16: fires on UPDATE; 1: for each row. An UPDATE of a partition fires its row triggers, also those inherited
# from a parent, but no statement trigger of a parent. A trigger on UPDATE OF a generated column fires for the columns
# that it is generated from. Functions in the schema keyrotation are ours (`schema_is_ours`): those of a fence.
_TRIGGERS = own("""
SELECT t.tgname, t.tgqual IS NOT NULL, pg_get_triggerdef(t.oid)
FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE t.tgrelid = %(oid)s::bigint::oid AND NOT t.tgisinternal AND n.nspname <> 'keyrotation'
  AND t.tgenabled IN ('O', 'A') AND t.tgtype & 16 <> 0
  AND t.tgparentid = 0 AND (%(kind)s = 'r' OR t.tgtype & 1 <> 0)
  AND (cardinality(t.tgattr::int2[]) = 0 OR EXISTS (
      SELECT FROM pg_attribute a WHERE a.attrelid = t.tgrelid AND a.attnum = ANY(t.tgattr)
      AND (a.attname = ANY(%(columns)s) OR a.attgenerated <> '')))
ORDER BY t.tgname
""")

_SUPERUSER = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"


def triggers_stay_quiet(subject: Subject) -> Iterator[Problem]:
    """Refuses triggers that fire on our UPDATE, which changes nothing that an application can see."""
    for relation in subject.relations:
        parameters = {"oid": relation.oid, "kind": relation.kind, "columns": subject.written_columns}
        for trigger, conditional, definition in subject.connection.execute(_TRIGGERS, parameters):
            if never_fires_for_us(str(definition)) or watches_others(str(definition), subject.written_columns):
                continue
            rest = ", joined by AND to the condition that it has" if conditional else ""
            yield fatal(
                f"trigger {trigger} of {relation.label} would fire for every re-encrypted row; "
                f"recreate it with {TRIGGER_CLAUSE}{rest}"
            )


def no_foreign_code_runs(subject: Subject) -> Iterator[Problem]:
    """Requires everything that the server evaluates for our writes to be owned by a superuser or our role."""
    role = subject.connection.info.user
    oids = [relation.oid for relation in subject.relations]
    for what, relation, function, owner, *_ in foreign_functions(subject.connection, oids):
        yield fatal(
            f"{what} of {relation} calls {function} of role {owner}, which would run as {role} for every re-encrypted "
            f"row; {to_be_ours(subject.connection, function)}, or drop the {what.partition(' ')[0]}"
        )


def no_foreign_event_trigger_fires(connection: Connection) -> Iterator[Problem]:
    """Refuses event triggers that run another role's function when we add a fence."""
    role = connection.info.user
    for name, function, owner in foreign_event_triggers(connection):
        yield fatal(
            f"event trigger {name} calls {function} of role {owner}, which would run as {role} when a fence is added; "
            f"{to_be_ours(connection, function)}"
        )


def schema_is_ours(connection: Connection) -> Iterator[Problem]:
    """Requires that only our role and superusers can put code on the tables of our own records."""
    role = connection.info.user
    for what, owner in foreign_parts_of_ours(connection):
        yield fatal(
            f"{what} belongs to role {owner}, whose code would run as {role} whenever something is recorded; "
            f"ALTER it to OWNER TO {quoted(connection, role)}, or connect as {owner}"
        )


def role_is_no_superuser(connection: Connection) -> Iterator[Problem]:
    """Warns of a superuser role: any code that runs as it could do anything."""
    if connection.execute(_SUPERUSER).fetchone() == (True,):
        yield warning(
            f"role {connection.info.user} is a superuser: code that runs as it can do anything on the server; make a "
            "role for this (`keyrotation docs prepare-database`)"
        )


def never_fires_for_us(definition: str) -> bool:
    """Returns whether a trigger's condition is our clause, or our clause joined to others by AND.

    Args:
        definition: as pg_get_triggerdef prints it with an empty search path.
    """
    # Without quoted names and texts, which the owner chooses, only the server's own words remain.
    plain = _QUOTED.sub(lambda quoted: quoted[0] if quoted[0] in _KEPT else "_", definition)
    found = re.fullmatch(r"CREATE .*? WHEN \((.*)\) EXECUTE (?:FUNCTION|PROCEDURE) .*", plain, re.DOTALL)
    if found is None:
        return False
    condition = found[1]
    # A conjunction is printed flat, each part in parentheses; inside another expression it would have one more pair.
    return (
        condition == f"({_OURS})" or condition.startswith(f"(({_OURS}) AND ") or condition.endswith(f" AND ({_OURS}))")
    )


# A name as the server prints it. Whatever its owner chose, a quote inside is doubled, so this ends where the name does.
_NAME = r'([a-z_][a-z0-9_]*|"(?:[^"]|"")+")'
# A column's value, or what is at a path in it, as `places.printed_text` has it.
_VALUES = (
    r"{0}", r"\({0}\)::text", r"\({0} #>> '(?:[^']|'')*'::text\[\]\)", r"encode\({0}, 'escape'::text\)",
)  # fmt: skip
_OLD, _NEW = (
    rf'\((?:{"|".join(value.format(rf"{row}.{_NAME}") for value in _VALUES)}) COLLATE "C"\)' for row in ("old", "new")
)
_CHANGE = re.compile(rf"\({_OLD} IS DISTINCT FROM {_NEW}\)")
_TRIGGER = re.compile(rf"CREATE TRIGGER {_NAME} AFTER UPDATE ON (?:{_NAME}\.)?{_NAME} FOR EACH ROW WHEN ")
_CONDITION = re.compile(
    rf"\(\(?{_CHANGE.pattern}(?: OR {_CHANGE.pattern})*\)?\) EXECUTE FUNCTION (?:{_NAME}\.)?{_NAME}\(\)"
)


def watches_others(definition: str, columns: Sequence[str]) -> bool:
    """Returns whether a trigger fires only where other columns change, as the fence of another home does.

    Args:
        definition: as pg_get_triggerdef prints it with an empty search path.
        columns: those that we write.
    """
    begun = _TRIGGER.match(definition)
    if begun is None or _CONDITION.fullmatch(definition, begun.end()) is None:
        return False
    named = (filter(None, found.groups()) for found in _CHANGE.finditer(definition, begun.end()))
    return {unquoted(name) for names in named for name in names}.isdisjoint(columns)


# Smaller tables need no forecast of disk space.
FORECAST_FROM_BYTES = 2**30

# How many bytes plaintext becomes longer by, as a share of its rows as they are stored, compressed ones too. A value of
# ours has a head of 20 characters, and base64 of the text and its tag, which nothing compresses.
_GROWTH = """
SELECT coalesce(sum({added})::float8 / nullif(sum(pg_column_size(t.*)), 0), 0) FROM ONLY {relation} AS t {pages}
"""
_ADDED = "CASE WHEN {0}::text <> '' THEN 20 + 4 * ((octet_length({0}::text) + 18) / 3) - pg_column_size({0}) ELSE 0 END"

_RIGHTS = """
SELECT has_schema_privilege(c.relnamespace, 'USAGE'), has_table_privilege(c.oid, 'SELECT'),
       (SELECT bool_and(has_column_privilege(c.oid, a.attnum, 'UPDATE')) FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attname = ANY(%s)),
       pg_has_role(c.relowner, 'USAGE'), pg_get_userbyid(c.relowner)
FROM pg_class c WHERE c.oid = %s::bigint::oid
"""

_FENCE_NAME_TAKEN = """
SELECT FROM pg_constraint WHERE conrelid = %s::bigint::oid AND conname = %s
AND (contype <> 'c' OR pg_get_constraintdef(oid) NOT LIKE '%%keyrotation: key version%%')
"""

_RULES = """
SELECT rulename FROM pg_rewrite WHERE ev_class = %s::bigint::oid AND ev_type = '2' AND ev_enabled IN ('O', 'A')
ORDER BY rulename
"""

_PUBLISHED_WITHOUT_IDENTITY = """
SELECT string_agg(DISTINCT p.pubname, ', ' ORDER BY p.pubname)
FROM pg_class c JOIN pg_publication p ON p.pubupdate JOIN pg_publication_tables t ON t.pubname = p.pubname
WHERE c.oid = %s::bigint::oid AND c.relreplident <> 'f'
  AND EXISTS (
      SELECT FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace
      WHERE n.nspname = t.schemaname AND r.relname = t.tablename
        AND (r.oid = c.oid OR r.oid IN (SELECT relid FROM pg_partition_ancestors(c.oid::regclass))))
  AND NOT EXISTS (
      SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
        AND (c.relreplident = 'd' AND i.indisprimary OR c.relreplident = 'i' AND i.indisreplident))
"""


def role_may_read_and_write(subject: Subject) -> Iterator[Problem]:
    """Requires SELECT on each relation and UPDATE on those with rows; rights on a parent do not reach partitions."""
    role = subject.connection.info.user
    to = subject.quoted(role)
    for relation in subject.relations:
        if relation.kind not in {"r", "p"}:
            continue
        usage, select, update, _, _ = _rights(subject, relation.oid)
        if not usage:
            yield fatal(
                f"role {role} may not use schema {relation.schema}; "
                f"GRANT USAGE ON SCHEMA {subject.quoted(relation.schema)} TO {to}"
            )
        missing = [] if select else ["SELECT"]
        if relation.kind == "r" and not update:
            missing.append("UPDATE")
        if missing:
            rights = ", ".join(missing)
            yield fatal(
                f"role {role} lacks {rights} on {relation.label}; "
                f"GRANT {rights} ON {subject.quoted(*relation.parts)} TO {to}"
            )


def role_may_fence(subject: Subject) -> Iterator[Problem]:
    """Requires ownership: only an owner can add a constraint."""
    role = subject.connection.info.user
    for relation in subject.relations:
        *_, owns, owner = _rights(subject, relation.oid)
        if relation.kind in {"r", "p"} and not owns:
            yield fatal(
                f"role {role} does not own {relation.label}, so it cannot fence it against retired key versions; "
                f"GRANT {subject.quoted(str(owner))} TO {subject.quoted(role)}"
            )


def fence_name_is_free(subject: Subject) -> Iterator[Problem]:
    """Refuses another constraint with the name of our fence."""
    names = [fence.name(subject.connection)]
    if subject.table.indexes:
        names.append(fence.name(subject.connection, SEARCH_INDEX))
    for relation in subject.relations:
        for name in names:
            if subject.connection.execute(_FENCE_NAME_TAKEN, (relation.oid, name)).fetchone() is not None:
                yield fatal(
                    f"table {relation.label} has a constraint {name} that is not ours; "
                    f"ALTER TABLE {subject.quoted(*relation.parts)} RENAME CONSTRAINT {name} TO another name"
                )


def row_security_does_not_apply(subject: Subject) -> Iterator[Problem]:
    """Refuses row security that applies to us: policies would hide rows from counts and from the engine."""
    role = subject.connection.info.user
    for relation in subject.heaps:
        row = subject.connection.execute("SELECT row_security_active(%s::bigint::oid)", (relation.oid,)).fetchone()
        if row == (True,):
            yield fatal(
                f"row-level security of {relation.label} applies to role {role} and would hide rows from it; "
                f"ALTER ROLE {subject.quoted(role)} BYPASSRLS, or rotate as an owner without FORCE ROW LEVEL "
                "SECURITY"
            )


def no_rule_rewrites_updates(subject: Subject) -> Iterator[Problem]:
    """Refuses a rule that would turn our UPDATE into something else."""
    for relation in subject.heaps:
        for (rule,) in subject.connection.execute(_RULES, (relation.oid,)):
            yield fatal(
                f"rule {rule} of {relation.label} rewrites every UPDATE, including ours; replace it by a trigger with "
                f"{TRIGGER_CLAUSE}, or ALTER TABLE {subject.quoted(*relation.parts)} DISABLE RULE "
                f"{subject.quoted(str(rule))} during the rotation"
            )


def replica_identity_is_there(subject: Subject) -> Iterator[Problem]:
    """Requires a replica identity on published tables, which otherwise refuse every UPDATE."""
    for relation in subject.heaps:
        row = subject.connection.execute(_PUBLISHED_WITHOUT_IDENTITY, (relation.oid,)).fetchone()
        if row and row[0]:
            yield fatal(
                f"table {relation.label} is published ({row[0]}) without a replica identity, so it refuses every "
                f"UPDATE; add a primary key, or ALTER TABLE {subject.quoted(*relation.parts)} REPLICA IDENTITY FULL"
            )


def disk_has_room(subject: Subject) -> Iterator[Problem]:
    """Forecasts disk use of large tables: 1.1 times their size and about 3 times in WAL (measured, with vacuums).

    Of what plaintext becomes larger by, 1.3 times as much: its rows leave their pages, which later ones fill in part.
    """
    size = heap_and_toast_bytes(subject.connection, [relation.oid for relation in subject.heaps])
    if size >= FORECAST_FROM_BYTES:
        added = added_bytes(subject)
        gib, growth = size / 2**30, (size / 10 + 1.3 * added) / 2**30
        yield warning(
            f"re-encrypting {subject.table.name} ({gib:.1f} GiB) writes about {3 * (size + added) / 2**30:.0f} GiB of "
            f"WAL and makes the table about {growth:.1f} GiB larger; check that disk and archive have room"
        )


def added_bytes(subject: Subject) -> float:
    """By how many bytes the plaintext of a table grows when it is encrypted, by a sample of its rows.

    Values of other libraries are counted as of ours: they are about as long.
    """
    plain = [each.column for each in subject.table.places if each.source == NEVER_ENCRYPTED]
    return sum(_added(subject, relation, plain) for relation in subject.heaps) if plain else 0.0


def _added(subject: Subject, relation: Relation, columns: Sequence[str]) -> float:
    named = (sql.SQL(_ADDED).format(sql.Identifier("t", column)) for column in columns)
    query = sql.SQL(_GROWTH).format(
        added=sql.SQL(" + ").join(named),
        relation=relation.identifier,
        pages=of_a_sample(subject.connection, relation.oid, TABLE_SAMPLE_BYTES, len(subject.heaps)),
    )
    with heap_scan(subject.connection, relation.label, relation.oid):
        ((share,),) = subject.connection.execute(query).fetchall()
    return float(str(share)) * heap_and_toast_bytes(subject.connection, [relation.oid])


def _rights(subject: Subject, oid: int) -> tuple[object, ...]:
    return subject.connection.execute(_RIGHTS, (subject.written_columns, oid)).fetchone() or (False,) * 5
