"""Checks whether an old login can be kept from writing, where nothing but the writer can be refused."""

from collections.abc import Iterator
from itertools import chain
from typing import cast

from keyrotation_pipeline.adapters.postgres.evidence import evidence_of
from keyrotation_pipeline.adapters.postgres.inventory import relations
from keyrotation_pipeline.adapters.postgres.preflight.table import Subject, fatal, warning
from keyrotation_pipeline.adapters.postgres.retirement import login_fence, row_triggers
from keyrotation_pipeline.model.environment import Problem

# A trigger changes what others write.
_HAS = """CASE wanted.privilege WHEN 'TRIGGER' THEN has_table_privilege({role}, place.attrelid, 'TRIGGER')
    ELSE has_column_privilege({role}, place.attrelid, place.attnum, wanted.privilege) END"""
# Rights on declared columns that a login has, and those that it has through others.
_RIGHTS = f"""
SELECT DISTINCT g.login, wanted.privilege, place.attname,
    (SELECT string_agg(DISTINCT of.rolname, ', ' ORDER BY of.rolname) FROM pg_roles of
     WHERE of.oid <> r.oid AND NOT r.rolsuper AND pg_has_role(r.oid, of.oid, 'MEMBER')
       AND {_HAS.format(role="of.oid")}),
    {_HAS.format(role="'public'")},
    {_HAS.format(role="r.oid")}
FROM unnest(%(logins)s::text[]) AS g (login) JOIN pg_roles r ON r.rolname = g.login,
     unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'TRIGGER']) AS wanted (privilege),
     pg_attribute AS place
WHERE place.attrelid = %(oid)s::bigint::oid AND place.attname = ANY (%(columns)s) AND NOT place.attisdropped
ORDER BY 1, 2, 3
"""  # noqa: S608  text of our own

# Functions that run as a role that may write the columns, which a login may call or have a trigger call, and that
# mention the table, or may run any text. It is a hint: what else a function calls is not known.
_FUNCTIONS = r"""
SELECT p.oid::regprocedure::text, pg_get_userbyid(p.proowner), string_agg(DISTINCT r.rolname, ', ' ORDER BY r.rolname)
FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang JOIN pg_roles r ON r.rolname = ANY (%(logins)s)
WHERE p.prosecdef AND p.oid >= 16384
  AND NOT EXISTS (SELECT FROM pg_depend d
                  WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
  AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = ANY (%(oids)s::bigint[]::oid[])
              AND a.attname = ANY (%(columns)s) AND NOT a.attisdropped
              AND (has_column_privilege(p.proowner, a.attrelid, a.attnum, 'INSERT')
                   OR has_column_privilege(p.proowner, a.attrelid, a.attnum, 'UPDATE')))
  AND (l.lanname NOT IN ('sql', 'plpgsql')
       OR p.prosrc ~* '\mexecute\M'
       OR EXISTS (SELECT FROM unnest(%(names)s::text[]) AS name
                  WHERE position(name IN lower(concat(p.prosrc, pg_get_function_sqlbody(p.oid)))) > 0))
  AND CASE WHEN p.prorettype = 'trigger'::regtype
           THEN EXISTS (SELECT FROM pg_trigger t WHERE t.tgfoid = p.oid AND t.tgenabled <> 'D'
                        AND (has_any_column_privilege(r.oid, t.tgrelid, 'INSERT')
                             OR has_any_column_privilege(r.oid, t.tgrelid, 'UPDATE')
                             OR has_table_privilege(r.oid, t.tgrelid, 'DELETE')))
           ELSE has_function_privilege(r.oid, p.oid, 'EXECUTE') END
GROUP BY p.oid, p.proowner ORDER BY 1
"""


def logins_can_be_kept_from_writing(subject: Subject) -> Iterator[Problem]:
    """Requires for each version a login that owns nothing, with rights of its own; and that nobody else writes."""
    value_format = subject.table.format
    if not value_format.logins:
        return  # also: a restored copy has no application, so none is declared there
    missing = login_fence.missing_logins(subject.connection, value_format)
    new = value_format.logins_of(subject.target)
    if not new:
        example = min(login for _, login in value_format.logins)
        yield fatal(
            f"[format.logins] names no login for {subject.target}; create one with the rights of {example}, and "
            f'declare it: {subject.target} = "…"'
        )
    for login in missing:
        yield fatal(
            f"login {login} of [format.logins] does not exist; create it with rights on {subject.table.name}, and "
            "give it to the application with the key of its version"
        )
    if missing:
        return
    others = [version for version, _ in value_format.logins if version != subject.target]
    # Groups and owners first: their logins cannot lose a right whatever else is done.
    yield from _held_through_others(subject)
    if reason := login_fence.why_not(subject.connection, subject.table, subject.relations, ()):
        yield fatal(f"table {subject.table.name}: {reason}")
    yield from _written_through_others(subject)
    yield from _set_by_triggers(subject)
    yield from _written_by_functions(subject)
    if others and subject.target not in evidence_of(subject.connection, subject.table).fences():
        yield from _without_rights(subject, new)


def _held_through_others(subject: Subject) -> Iterator[Problem]:
    for relation in subject.relations:
        for login, right, column, groups, public, _ in _rights(subject, relation.oid):
            if right == "SELECT" or not (groups or public):
                continue
            through = "PUBLIC" if public else f"role {groups}"
            yield fatal(
                f"login {login} has {right} on {relation.label}.{column} through {through}, where it cannot be "
                "taken from one login; grant it to each login itself, and revoke it there"
            )
            return


def _written_through_others(subject: Subject) -> Iterator[Problem]:
    detours = login_fence.writers(subject.connection, subject.table, subject.relations).detours
    for place in sorted(set(chain.from_iterable(detours.values()))):
        yield fatal(
            f"{place} writes {subject.table.name} with its owner's rights, and the application can write it; revoke "
            "INSERT, UPDATE and DELETE on it from the application"
        )


def _set_by_triggers(subject: Subject) -> Iterator[Problem]:
    who = login_fence.writers(subject.connection, subject.table, subject.relations)
    fired = set(chain.from_iterable(who.triggers.values()))
    for trigger in row_triggers.setting(subject.connection, subject.relations, subject.written_columns):
        if trigger.name in fired:
            yield fatal(
                f"{trigger.name} calls {trigger.function}, which may set an encrypted column for an old login; let it "
                "mention only other columns of NEW, or drop it"
            )


def _written_by_functions(subject: Subject) -> Iterator[Problem]:
    named = {
        "oids": [each.oid for each in subject.relations],
        "names": [each.name.lower() for each in subject.relations],
        "columns": list(subject.written_columns),
        "logins": [login for _, login in subject.table.format.logins],
    }
    for function, owner, logins in subject.connection.execute(_FUNCTIONS, named).fetchall():
        yield warning(
            f"function {function} runs as {owner} for {logins}; if it writes an encrypted column of "
            f"{subject.table.name}, old logins still can: revoke EXECUTE on it"
        )


def _without_rights(subject: Subject, new: frozenset[str]) -> Iterator[Problem]:
    root = relations.root(subject.relations, subject.table)
    rights = _rights(subject, root.oid)
    needed = {
        (right, column)
        for login, right, column, *_, has in rights
        if has and login not in new and right != "TRIGGER"  # no application needs it to run
    }
    for login in sorted(new):
        held = {(right, column) for each, right, column, *_, has in rights if has and each == login}
        if missing := sorted(right for right, _ in needed - held):
            yield fatal(
                f"login {login}, which the application is to use with {subject.target}, lacks rights that the present "
                f"one has; GRANT {', '.join(dict.fromkeys(missing))} ON {subject.quoted(*root.parts)} TO "
                f"{subject.quoted(login)}"
            )


def _rights(subject: Subject, oid: int) -> list[tuple[str, str, str, str | None, bool, bool]]:
    logins = [login for _, login in subject.table.format.logins]
    named = {"logins": logins, "oid": oid, "columns": list(subject.table.written_columns)}
    return cast(
        "list[tuple[str, str, str, str | None, bool, bool]]", subject.connection.execute(_RIGHTS, named).fetchall()
    )
