"""Reads what belongs to a database and is in no dump of it; names only, never a value of an option or a setting.

pg_dump writes one database, so what is the server's is missing, roles first of all. As a role that is no superuser it
also writes user mappings without their options, and no subscriptions.
"""

from collections.abc import Iterator
from typing import Any

import psycopg

from keyrotation_pipeline.adapters.postgres.server.archive import shown
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.adapters.postgres.server.roles import CONNECTED, roles_of_database
from keyrotation_pipeline.model.undumped import RoleAttribute, Undumped

_MOST_NAMED = 1000
_MOST_ROLES = 50_000  # with their memberships; less than half of the largest manifest
_EXTENSIONS = "SELECT extname, pg_get_userbyid(extowner) FROM pg_extension ORDER BY extname"
_EXTENSIONS_HERE = """
SELECT extname, rolname, rolsuper FROM pg_extension JOIN pg_roles r ON r.oid = extowner ORDER BY extname
"""
# The view hides options from pg_dump; whoever has pg_read_all_data sees the table beneath.
_SEES_OPTIONS = "SELECT has_table_privilege('pg_user_mapping', 'SELECT')"
_NAMES_OF_OPTIONS = """
SELECT format('options of USER MAPPING %s SERVER %s: %s', v.usename, v.srvname,
              (SELECT string_agg(split_part(o, '=', 1), ', ' ORDER BY o) FROM unnest(m.umoptions) o))
FROM pg_user_mappings v JOIN pg_user_mapping m ON m.oid = v.umid
WHERE v.umoptions IS NULL AND m.umoptions IS NOT NULL ORDER BY 1
"""
_HIDDEN_OPTIONS = """
SELECT format('options of USER MAPPING %s SERVER %s, if it has any', usename, srvname)
FROM pg_user_mappings WHERE umoptions IS NULL ORDER BY 1
"""
_SUBSCRIPTIONS = """
SELECT 'SUBSCRIPTION ' || subname FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
WHERE d.datname = current_database() AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) ORDER BY 1
"""
_SLOTS = """
SELECT 'replication slot ' || slot_name FROM pg_replication_slots
WHERE database = current_database() AND NOT temporary ORDER BY 1
"""
_TABLESPACES = """
SELECT format('place of relations in tablespace %s: %s', t.spcname, count(*))
FROM pg_class c JOIN pg_database d ON d.datname = current_database()
JOIN pg_tablespace t ON t.oid = coalesce(nullif(c.reltablespace, 0), d.dattablespace)
WHERE t.spcname NOT IN ('pg_default', 'pg_global') AND c.relnamespace <> 'pg_catalog'::regnamespace
  AND c.relkind IN ('r', 'm', 'i') GROUP BY t.spcname ORDER BY 1
"""
_SETTINGS = f"""
SELECT format('settings of role %s in every database: %s', coalesce(r.rolname, 'ALL'),
              (SELECT string_agg(split_part(o, '=', 1), ', ' ORDER BY o) FROM unnest(s.setconfig) o))
FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole
WHERE s.setdatabase = 0 AND (s.setrole = 0 OR s.setrole IN ({CONNECTED})) ORDER BY 1
"""  # noqa: S608  text of our own
_COMMENTS = f"""
SELECT 'comment on role ' || rolname FROM pg_roles
WHERE oid IN ({CONNECTED}) AND rolname !~ '^pg_' AND shobj_description(oid, 'pg_authid') IS NOT NULL
UNION ALL SELECT 'security label on role ' || r.rolname FROM pg_shseclabel l JOIN pg_roles r ON r.oid = l.objoid
WHERE l.classoid = 'pg_authid'::regclass AND r.oid IN ({CONNECTED}) ORDER BY 1
"""  # noqa: S608  text of our own
_PARAMETERS = f"""
SELECT DISTINCT format('privileges on parameter %s of role %s', p.parname, coalesce(r.rolname, 'PUBLIC'))
FROM pg_parameter_acl p CROSS JOIN aclexplode(p.paracl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
WHERE a.grantee = 0 OR (a.grantee <> 10 AND a.grantee IN ({CONNECTED})) ORDER BY 1
"""  # noqa: S608  text of our own
_FIRST_WITH_PARAMETERS = 150_000


def read_undumped(connection: Connection) -> Undumped | None:
    """Returns what is in no dump of the database that a connection leads to, made as the connection's role.

    None: the role may not look at something that every role sees unless somebody has forbidden it, or somebody has made
    more roles than a manifest should hold.
    """
    try:
        with connection.transaction():
            found = _undumped(connection)
    except psycopg.errors.InsufficientPrivilege:
        return None
    return found if len(found.roles.roles) + len(found.roles.memberships) <= _MOST_ROLES else None


def _undumped(connection: Connection) -> Undumped:
    ((sees_options,),) = _rows(connection, _SEES_OPTIONS)
    options = _NAMES_OF_OPTIONS if sees_options else _HIDDEN_OPTIONS
    parameters = [_PARAMETERS] if connection.info.server_version >= _FIRST_WITH_PARAMETERS else []
    return Undumped(
        roles_of_database(connection),
        _phrases(connection, options, _SUBSCRIPTIONS, _TABLESPACES),
        _phrases(connection, _SLOTS, _SETTINGS, _COMMENTS, *parameters),
        dict(_rows(connection, _EXTENSIONS)),
    )


def changed_owners(connection: Connection, wanted: Undumped) -> Iterator[str]:
    """Yields a phrase for each extension that another role owns in a restored database; superusers count as one."""
    superusers = {each.name for each in wanted.roles.roles if RoleAttribute.SUPERUSER in each.attributes}
    for extension, owner, is_superuser in _rows(connection, _EXTENSIONS_HERE):
        before = wanted.extension_owners.get(extension, owner)
        if before != owner and not (is_superuser and before in superusers):
            yield shown(f"owner {before} of EXTENSION {extension}, which belongs to {owner}")


def _phrases(connection: Connection, *queries: str) -> tuple[str, ...]:
    found = [shown(phrase) for query in queries for (phrase,) in _rows(connection, query)]
    more = len(found) - _MOST_NAMED
    return (*found[:_MOST_NAMED], *([f"{more:,} more"] if more > 0 else []))


def _rows(connection: Connection, query: str) -> list[Any]:
    return connection.execute(query.encode()).fetchall()
