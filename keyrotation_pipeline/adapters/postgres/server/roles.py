"""Reads the roles of a server and their memberships."""

from typing import Any

from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.model.undumped import DatabaseRole, Membership, RoleAttribute, Roles

# Owners, grantees, policies and default privileges; then settings; the first superuser is recorded nowhere, since it
# cannot be dropped.
NAMED_BY_DATABASE = """
pg_roles r JOIN pg_database d ON d.datname = current_database()
WHERE r.rolname !~ '^pg_'
  AND (r.oid = 10
       OR EXISTS (SELECT FROM pg_shdepend s WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = r.oid
                    AND (s.dbid = d.oid OR s.classid = 'pg_database'::regclass AND s.objid = d.oid))
       OR EXISTS (SELECT FROM pg_db_role_setting s WHERE s.setdatabase = d.oid AND s.setrole = r.oid))
"""
# Those, all that are members of them, directly or not, and all that any of these are in.
CONNECTED = f"""
WITH RECURSIVE inside (oid) AS (
    SELECT r.oid FROM {NAMED_BY_DATABASE}
    UNION SELECT m.member FROM pg_auth_members m JOIN inside i ON m.roleid = i.oid
), connected (oid) AS (
    SELECT oid FROM inside
    UNION SELECT m.roleid FROM pg_auth_members m JOIN connected c ON m.member = c.oid
) SELECT oid FROM connected
"""  # noqa: S608  text of our own
_ROLES = """
SELECT rolname, ARRAY(SELECT name FROM unnest(
           ARRAY['SUPERUSER', 'LOGIN', 'CREATEDB', 'CREATEROLE', 'BYPASSRLS', 'REPLICATION', 'NOINHERIT'],
           ARRAY[rolsuper, rolcanlogin, rolcreatedb, rolcreaterole, rolbypassrls, rolreplication, NOT rolinherit]
       ) AS attribute (name, has) WHERE has), rolconnlimit, nullif(to_json(rolvaliduntil) #>> '{}', 'infinity')
FROM pg_roles
"""
# Several roles may have granted the same; from 16 on, each with options of its own.
_MEMBERSHIPS = """
SELECT g.rolname, r.rolname, bool_or(m.admin_option),
       bool_or(coalesce((to_jsonb(m) -> 'inherit_option')::boolean, r.rolinherit)),
       bool_or(coalesce((to_jsonb(m) -> 'set_option')::boolean, true))
FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid JOIN pg_roles r ON r.oid = m.member
"""


def roles_of_server(connection: Connection) -> Roles:
    """Returns every role, the predefined ones too."""
    return _roles(connection, "true", "true")


def roles_of_database(connection: Connection) -> Roles:
    """Returns the roles that the connected database names, and through which others have their rights, or they others'.

    Predefined ones are named as what others are members of.
    """
    return _roles(connection, f"rolname !~ '^pg_' AND oid IN ({CONNECTED})", f"m.member IN ({CONNECTED})")


def _roles(connection: Connection, which: str, whose: str) -> Roles:
    found = _rows(connection, f'{_ROLES} WHERE {which} ORDER BY rolname COLLATE "C"')
    members = _rows(
        connection, f'{_MEMBERSHIPS} WHERE {whose} GROUP BY 1, 2 ORDER BY g.rolname COLLATE "C", r.rolname COLLATE "C"'
    )
    roles = tuple(
        DatabaseRole(name, tuple(map(RoleAttribute, attributes)), limit, until)
        for name, attributes, limit, until in found
    )
    return Roles(roles, tuple(Membership(*each) for each in members))


def _rows(connection: Connection, query: str) -> list[Any]:
    return connection.execute(query.encode()).fetchall()
