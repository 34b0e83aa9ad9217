"""Checks of whose code runs as our role when the engine writes, and how much that role may do.

PostgreSQL runs the functions of triggers, CHECK constraints, generated columns, indexes and policies with the rights of
whoever writes. So the owner of such a function acts as our role (with a superuser role, as the server itself), unless
that owner could do so anyway: a superuser, or our role.
"""

import re
from collections.abc import Iterator

from keyrotation_pipeline.adapters.postgres.inventory.foreign_code import (
    foreign_event_triggers,
    foreign_functions,
    foreign_parts_of_ours,
    to_be_ours,
)
from keyrotation_pipeline.adapters.postgres.preflight.subject import Subject, fatal, warning
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.adapters.postgres.server.quoting import quoted
from keyrotation_pipeline.model.tables import Problem

TRIGGER_CLAUSE = "WHEN (current_setting('keyrotation.engine', true) IS DISTINCT FROM 'on')"

# The same as pg_get_triggerdef gives it back, where a function of this name in another schema is written with that.
_OURS = "current_setting('keyrotation.engine'::text, true) IS DISTINCT FROM 'on'::text"
_QUOTED = re.compile(r"\"(?:[^\"]|\"\")*\"|E?'(?:[^']|'')*'")
_KEPT = frozenset({"'keyrotation.engine'", "'on'"})

# tgtype 16: fires on UPDATE; 1: for each row. An UPDATE of a partition fires its row triggers, also those inherited
# from a parent, but no statement trigger of a parent. A trigger on UPDATE OF a generated column fires for the columns
# that it is generated from.
_TRIGGERS = """
SELECT t.tgname, t.tgqual IS NOT NULL, pg_get_triggerdef(t.oid)
FROM pg_trigger t
WHERE t.tgrelid = %(oid)s::bigint::oid AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND t.tgtype & 16 <> 0
  AND t.tgparentid = 0 AND (%(kind)s = 'r' OR t.tgtype & 1 <> 0)
  AND (cardinality(t.tgattr::int2[]) = 0 OR EXISTS (
      SELECT FROM pg_attribute a WHERE a.attrelid = t.tgrelid AND a.attnum = ANY(t.tgattr)
      AND (a.attname = ANY(%(columns)s) OR a.attgenerated <> '')))
ORDER BY t.tgname
"""

_SUPERUSER = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"


def triggers_stay_quiet(subject: Subject) -> Iterator[Problem]:
    """No trigger fires on our UPDATE, since it changes nothing that an application can see."""
    for relation in subject.relations:
        parameters = {"oid": relation.oid, "kind": relation.kind, "columns": subject.columns}
        for trigger, conditional, definition in subject.connection.execute(_TRIGGERS, parameters):
            if never_fires_for_us(str(definition)):
                continue
            rest = ", joined by AND to the condition that it has" if conditional else ""
            yield fatal(
                f"trigger {trigger} of {relation.label} would fire for every re-encrypted row; "
                f"create it anew with {TRIGGER_CLAUSE}{rest}"
            )


def no_foreign_code_runs(subject: Subject) -> Iterator[Problem]:
    """Whatever the server evaluates for our writes is owned by a superuser or by our role."""
    role = subject.connection.info.user
    oids = [relation.oid for relation in subject.relations]
    for what, relation, function, owner, _ in foreign_functions(subject.connection, oids):
        yield fatal(
            f"{what} of {relation} calls {function} of role {owner}, which would run as {role} for every re-encrypted "
            f"row; {to_be_ours(subject.connection, function)}, or drop the {what.partition(' ')[0]}"
        )


def no_foreign_event_trigger_fires(connection: Connection) -> Iterator[Problem]:
    """No event trigger runs a function of another role when we add a fence."""
    role = connection.info.user
    for name, function, owner in foreign_event_triggers(connection):
        yield fatal(
            f"event trigger {name} calls {function} of role {owner}, which would run as {role} when a fence is added; "
            f"{to_be_ours(connection, function)}"
        )


def schema_is_ours(connection: Connection) -> Iterator[Problem]:
    """Nobody but our role and superusers can put code on the tables that we keep our own records in."""
    role = connection.info.user
    for what, owner in foreign_parts_of_ours(connection):
        yield fatal(
            f"{what} belongs to role {owner}, whose code would run as {role} whenever something is recorded; "
            f"ALTER it to OWNER TO {quoted(connection, role)}, or connect as {owner}"
        )


def role_is_no_superuser(connection: Connection) -> Iterator[Problem]:
    """A role that may do everything lends that to whatever runs as it."""
    if connection.execute(_SUPERUSER).fetchone() == (True,):
        yield warning(
            f"role {connection.info.user} is a superuser, so whatever ran as it could do anything on the server; make "
            "a role for this: CREATE ROLE keyrotation LOGIN IN ROLE the_tables_owner; GRANT pg_read_all_stats TO "
            "keyrotation; GRANT CREATE ON DATABASE the_database TO keyrotation"
        )


def never_fires_for_us(definition: str) -> bool:
    """Whether a trigger's condition is our clause, or our clause joined to others by AND.

    Args:
        definition: as pg_get_triggerdef gives it with an empty search path.
    """
    # Without quoted names and texts, which the owner chooses, only the server's own words are left.
    plain = _QUOTED.sub(lambda quoted: quoted[0] if quoted[0] in _KEPT else "_", definition)
    found = re.fullmatch(r"CREATE .*? WHEN \((.*)\) EXECUTE (?:FUNCTION|PROCEDURE) .*", plain, re.DOTALL)
    if found is None:
        return False
    condition = found[1]
    # A conjunction comes back flat, each part in parentheses; within another expression it would have a pair more.
    return (
        condition == f"({_OURS})" or condition.startswith(f"(({_OURS}) AND ") or condition.endswith(f" AND ({_OURS}))")
    )
