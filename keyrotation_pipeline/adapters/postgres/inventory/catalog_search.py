"""Searches large objects and catalog definitions for encrypted values, and lists the places that are not searched."""

from collections.abc import Iterator

from psycopg import sql

from keyrotation_pipeline.adapters.own_schema import own
from keyrotation_pipeline.adapters.postgres.inventory.format_sql import sql_of
from keyrotation_pipeline.adapters.postgres.inventory.scans import heap_scan
from keyrotation_pipeline.adapters.postgres.server.connection import Connection, quoted
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline.model.audit import counted
from keyrotation_pipeline.model.environment import NEVER_SEARCHED, Unsearched
from keyrotation_pipeline.model.tables import FoundColumn

LARGE_OBJECTS = 2613  # the oid of pg_largeobject, which holds their content

_READABLE = """
(SELECT rolsuper FROM pg_roles WHERE rolname = current_user) OR pg_has_role(m.lomowner, 'USAGE') OR EXISTS (
    SELECT FROM aclexplode(m.lomacl) AS entry WHERE entry.privilege_type = 'SELECT'
    AND (entry.grantee = 0 OR pg_has_role(entry.grantee, 'USAGE')))
"""

# In pieces that overlap by more than a match can be long. (OFFSET 0: checks rights before reading anything.)
_IN_LARGE_OBJECTS = """
SELECT count(*) FROM (SELECT m.oid FROM pg_largeobject_metadata m WHERE {readable} OFFSET 0) AS object, LATERAL (
    WITH RECURSIVE piece(place, data) AS (
        SELECT 0::bigint, lo_get(object.oid, 0, {bytes})
        UNION ALL
        SELECT place + {step}, lo_get(object.oid, place + {step}, {bytes}) FROM piece WHERE octet_length(data) = {bytes}
    )
    SELECT bool_or({found}) AS found FROM piece
) AS searched WHERE found
"""
_PIECE_BYTES, _STEP_BYTES = 1024 * 1024, 1024 * 1024 - 1024

_UNREADABLE = "SELECT count(*) FROM pg_largeobject_metadata m WHERE NOT ({readable})"

# Whoever inserts a row without the column writes its default; whoever reads the schema finds the others. (A view's text
# is in pg_rewrite too, as rule _RETURN. Functions may be in any schema, also in pg_catalog.)
_IN_DEFINITIONS = """
WITH own(oid) AS (
    SELECT oid FROM pg_namespace WHERE nspname <> 'information_schema' AND nspname !~ '^pg_'
), definition(place, part, text) AS (
    SELECT a.attrelid::regclass::text, a.attname || ' (default)', pg_get_expr(d.adbin, d.adrelid)
    FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
    UNION ALL SELECT conrelid::regclass::text, format('constraint %s', conname), pg_get_constraintdef(oid)
    FROM pg_constraint WHERE contype = 'c'
    UNION ALL SELECT oid::regclass::text, 'view definition', pg_get_viewdef(oid)
    FROM pg_class WHERE relkind IN ('v', 'm') AND relnamespace IN (SELECT oid FROM own)
    UNION ALL SELECT proname, 'function body', concat(prosrc, pg_get_function_sqlbody(oid))
    FROM pg_proc WHERE oid >= 16384
    UNION ALL SELECT proname, 'function arguments', pg_get_function_arguments(oid)
    FROM pg_proc WHERE oid >= 16384 AND proargdefaults IS NOT NULL
    UNION ALL SELECT proname, 'function settings', proconfig::text FROM pg_proc WHERE proconfig IS NOT NULL
    UNION ALL SELECT aggfnoid::text, 'initial value of the aggregate', concat_ws(' ', agginitval, aggminitval)
    FROM pg_aggregate WHERE aggfnoid >= 16384
    UNION ALL SELECT tgrelid::regclass::text, format('trigger %s', tgname), pg_get_triggerdef(oid)
    FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT ev_class::regclass::text, format('rule %s', rulename), pg_get_ruledef(oid)
    FROM pg_rewrite WHERE rulename <> '_RETURN' AND ev_class >= 16384
    UNION ALL SELECT oid::regclass::text, 'partition bound', pg_get_expr(relpartbound, oid)
    FROM pg_class WHERE relpartbound IS NOT NULL
    UNION ALL SELECT oid::regtype::text, 'default of the type', typdefault FROM pg_type WHERE typdefault IS NOT NULL
    UNION ALL SELECT enumtypid::regtype::text, 'label of the type', enumlabel FROM pg_enum
    UNION ALL SELECT fdwname, 'options of the foreign-data wrapper', fdwoptions::text FROM pg_foreign_data_wrapper
    UNION ALL SELECT srvname, 'server options', srvoptions::text FROM pg_foreign_server
    UNION ALL SELECT ftrelid::regclass::text, 'foreign table options', ftoptions::text FROM pg_foreign_table
    UNION ALL SELECT attrelid::regclass::text, attname || ' (options)', attfdwoptions::text
    FROM pg_attribute WHERE attfdwoptions IS NOT NULL
    UNION ALL SELECT srvname, format('options of the user mapping for %s', usename), umoptions::text
    FROM pg_user_mappings WHERE umoptions IS NOT NULL
    UNION ALL SELECT 'database or role', 'settings', setconfig::text FROM pg_db_role_setting
    WHERE setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
    UNION ALL SELECT classoid::regclass::text, 'security label', label FROM pg_seclabel
    UNION ALL SELECT indrelid::regclass::text, format('index %s', indexrelid::regclass), pg_get_indexdef(indexrelid)
    FROM pg_index WHERE indexprs IS NOT NULL OR indpred IS NOT NULL
    UNION ALL SELECT stxrelid::regclass::text, format('extended statistics %s', stxname), pg_get_statisticsobjdef(oid)
    FROM pg_statistic_ext
    UNION ALL SELECT polrelid::regclass::text, format('policy %s', polname),
        concat(pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)) FROM pg_policy
    UNION ALL SELECT classoid::regclass::text, 'comment', description FROM pg_description WHERE objoid >= 16384
    UNION ALL SELECT classoid::regclass::text, 'comment', description FROM pg_shdescription
    {others}
)
SELECT regexp_replace(place, '^public\\.', ''), part, count(*) FROM definition
WHERE {found} GROUP BY 1, 2 ORDER BY 1, 2
"""

_WITH_ROW_FILTERS = 150000
_ROW_FILTERS = """
UNION ALL SELECT p.prrelid::regclass::text, format('row filter of the publication %s', o.pubname),
    pg_get_expr(p.prqual, p.prrelid)
FROM pg_publication_rel p JOIN pg_publication o ON o.oid = p.prpubid WHERE p.prqual IS NOT NULL
"""

# Subscriptions of this database; who may read with what they connect is a matter of one column.
_SUBSCRIPTIONS = """
FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_CONNECTIONS = f"UNION ALL SELECT subname, 'connection of the subscription', subconninfo {_SUBSCRIPTIONS}"
_MAY_READ_CONNECTIONS = "SELECT has_column_privilege('pg_subscription', 'subconninfo', 'SELECT')"


def in_large_objects(connection: Connection, value_format: ValueFormat = NATIVE) -> Iterator[FoundColumn]:
    """Yields large objects that hold a value of ours, and those that cannot be read.

    Reads none where no text tells a value of this format.
    """
    if not value_format.identified_by.is_searchable:
        return
    readable = sql.SQL(_READABLE)
    searched = sql.SQL(_IN_LARGE_OBJECTS).format(
        readable=readable,
        bytes=sql.Literal(_PIECE_BYTES),
        step=sql.Literal(_STEP_BYTES),
        found=sql_of(value_format).is_in(sql.SQL("encode(data, 'escape')")),
    )
    with heap_scan(connection, "large objects"):
        (found,) = connection.execute(searched).fetchall()[0]
        (unreadable,) = connection.execute(sql.SQL(_UNREADABLE).format(readable=readable)).fetchall()[0]
    if found:
        yield FoundColumn("large objects", "*", int(str(found)), 0, (), "large objects hold encrypted values")
    if unreadable:
        role = connection.info.user
        reason = (
            f"{counted(int(str(unreadable)), 'large object')} cannot be read by role {role}; "
            f"GRANT SELECT ON LARGE OBJECT … TO {quoted(connection, role)}"
        )
        yield FoundColumn("large objects", "*", 0, 0, (), reason)


def in_definitions(connection: Connection, value_format: ValueFormat = NATIVE) -> Iterator[FoundColumn]:
    """Yields whatever in the catalog's definitions, options and comments contains a value of ours.

    What this role may not read there, `search_exclusions` names.
    """
    with heap_scan(connection, "the catalog"):
        others = _ROW_FILTERS if connection.info.server_version >= _WITH_ROW_FILTERS else ""
        if _may_read_connections(connection):
            others += _CONNECTIONS
        found_in = sql_of(value_format).is_in(sql.SQL("text"))
        query = sql.SQL(_IN_DEFINITIONS).format(others=sql.SQL(others), found=found_in)
        found = connection.execute(query).fetchall()
    for place, part, number in found:
        yield FoundColumn(str(place), str(part), int(str(number)), 0, (), "a definition holds an encrypted value")


def _may_read_connections(connection: Connection) -> bool:
    return connection.execute(_MAY_READ_CONNECTIONS).fetchone() == (True,)


# Types are resolved, so that a domain over bytea, or an array of it, is not missed. Declared columns are text. Another
# home's signing keys come and go while it rotates; its word is not taken for what they are, but they hold 64 bytes.
_COLUMNS = own("""
WITH RECURSIVE holding(oid, base) AS (
    SELECT oid, typname::text FROM pg_type WHERE oid IN ('bytea'::regtype, 'bit'::regtype, 'varbit'::regtype)
    UNION
    SELECT contains.outside, holding.base FROM holding JOIN (
        SELECT oid AS outside, typbasetype AS inside FROM pg_type WHERE typtype = 'd'
        UNION ALL SELECT oid, typelem FROM pg_type WHERE typcategory = 'A' AND typelem <> 0
        UNION ALL SELECT c.reltype, a.atttypid FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
                  WHERE c.reltype <> 0 AND a.attnum > 0 AND NOT a.attisdropped
    ) AS contains ON contains.inside = holding.oid
)
SELECT DISTINCT h.base = 'bytea',
       CASE WHEN n.nspname = 'public' THEN '' ELSE n.nspname || '.' END || c.relname || '.' || a.attname
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN holding h ON h.oid = a.atttypid
WHERE c.relkind IN ('r', 'm', 'f', 'p') AND NOT c.relispartition AND c.relpersistence <> 't' AND c.oid >= 16384
  AND n.nspname <> 'keyrotation' AND n.nspname !~ '^pg_'
  AND NOT (c.relkind = 'r' AND c.relname = 'retired_signing_halves' AND EXISTS (
      SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'c' AND k.convalidated
      AND pg_get_constraintdef(k.oid) = format('CHECK ((octet_length(%I) = 64))', a.attname)))
ORDER BY 2
""")

_SERVERS = "SELECT DISTINCT s.srvname::text FROM pg_foreign_table t JOIN pg_foreign_server s ON s.oid = t.ftserver"
_DATABASES = "SELECT datname::text FROM pg_database WHERE datname <> current_database() AND NOT datistemplate"
_UNREADABLE_SUBSCRIPTIONS = f"SELECT subname::text {_SUBSCRIPTIONS} AND NOT ({_MAY_READ_CONNECTIONS})"
# The view shows a role what it may know; nothing else tells hidden options from none.
_UNREADABLE_MAPPINGS = """
SELECT concat(srvname, ' for ', usename) FROM pg_user_mappings
WHERE umoptions IS NULL AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
"""
_LARGE_OBJECTS = "SELECT EXISTS (SELECT FROM pg_largeobject_metadata)"


def search_exclusions(connection: Connection) -> tuple[Unsearched, ...]:
    """Returns the places here that are not searched, by the catalog alone, and what no search can read anywhere.

    Raises:
        PreflightError, BlockedError, DatabaseUnavailableError: the catalog cannot be read.
    """
    with heap_scan(connection, "the catalog"):
        columns = connection.execute(_COLUMNS).fetchall()
        servers = _names(connection.execute(_SERVERS).fetchall())
        databases = _names(connection.execute(_DATABASES).fetchall())
        objects = connection.execute(_LARGE_OBJECTS).fetchone() == (True,)
        mappings = _names(connection.execute(_UNREADABLE_MAPPINGS).fetchall())
        subscriptions = _names(connection.execute(_UNREADABLE_SUBSCRIPTIONS).fetchall())
    binary = [str(name) for is_binary, name in columns if is_binary]
    if objects:
        binary.append("large objects")
    bits = tuple(str(name) for is_binary, name in columns if not is_binary)
    found = (
        Unsearched("what is compressed or encrypted in binary columns", tuple(binary)),
        Unsearched("bit strings", bits),
        Unsearched("what foreign servers hold besides their foreign tables", servers),
        Unsearched("options of user mappings that the pipeline's role may not read", mappings),
        Unsearched("connections of subscriptions that the pipeline's role may not read", subscriptions),
        Unsearched("other databases of the server", databases, fleeting=True),
    )
    return (*(each for each in found if each.names), *NEVER_SEARCHED)


def _names(rows: list[tuple[object, ...]]) -> tuple[str, ...]:
    return tuple(sorted(str(name) for (name,) in rows))
