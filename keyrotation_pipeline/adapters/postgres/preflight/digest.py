"""Computes a digest of everything in the catalog that the checks of a table depend on, to skip repeated checks."""

from collections.abc import Sequence

from keyrotation_pipeline.adapters.own_schema import own
from keyrotation_pipeline.adapters.postgres.inventory.relations import Relation
from keyrotation_pipeline.adapters.postgres.retirement.fence import name
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.fieldcrypto.codecs.value_format import SEARCH_INDEX

# One line per object. Sizes, file nodes and statistics are left out: they change while rows are rewritten. So is our
# own fence. Relations are compared without resolving names, for which our role would need rights on every schema that
# the planner looks at. Functions count with their owners and bodies, and rights with the roles that grant them.
_DIGEST = own("""
WITH tree(oid) AS (SELECT unnest(%(oids)s::bigint[]::oid[])),
index AS (SELECT i.* FROM pg_index i JOIN tree ON i.indrelid = tree.oid),
attribute AS (SELECT a.* FROM pg_attribute a JOIN tree ON a.attrelid = tree.oid WHERE a.attnum > 0),
trigger AS (
    SELECT t.* FROM pg_trigger t JOIN tree ON t.tgrelid = tree.oid JOIN pg_proc p ON p.oid = t.tgfoid
    JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname <> 'keyrotation'),
line(text) AS (
    SELECT format('class %%s %%s', c.oid, to_jsonb(c) - ARRAY['relfilenode', 'relpages', 'reltuples', 'relallvisible',
           'relallfrozen', 'relfrozenxid', 'relminmxid', 'reltoastrelid', 'relchecks', 'reltablespace'])
    FROM pg_class c JOIN tree USING (oid)
    UNION ALL SELECT format('may %%s %%s %%s', oid, pg_has_role(relowner, 'USAGE'), has_table_privilege(oid, 'SELECT'))
    FROM pg_class JOIN tree USING (oid)
    UNION ALL SELECT format('attribute %%s', to_jsonb(a) - ARRAY['attstattarget', 'attcacheoff', 'attmissingval'])
    FROM attribute a
    UNION ALL SELECT format('default %%s %%s', d.adrelid, pg_get_expr(d.adbin, d.adrelid))
    FROM pg_attrdef d JOIN tree ON d.adrelid = tree.oid
    UNION ALL SELECT format('constraint %%s %%s %%s', c.conrelid, c.conname, pg_get_constraintdef(c.oid))
    FROM pg_constraint c
    WHERE (c.conrelid IN (SELECT oid FROM tree) OR c.contypid IN (SELECT atttypid FROM attribute)
           OR c.confrelid IN (SELECT oid FROM tree)) AND c.conname <> ALL (%(fences)s)
    UNION ALL SELECT format('index %%s %%s %%s %%s', indrelid, pg_get_indexdef(indexrelid), indisvalid, indisreplident)
    FROM index
    UNION ALL SELECT format('trigger %%s %%s %%s', tgrelid, pg_get_triggerdef(oid), tgenabled) FROM trigger
    UNION ALL SELECT format('rule %%s', to_jsonb(r)) FROM pg_rewrite r JOIN tree ON r.ev_class = tree.oid
    UNION ALL SELECT format('policy %%s', to_jsonb(p)) FROM pg_policy p JOIN tree ON p.polrelid = tree.oid
    UNION ALL SELECT format('inherits %%s', to_jsonb(i)) FROM pg_inherits i
    WHERE i.inhrelid IN (SELECT oid FROM tree) OR i.inhparent IN (SELECT oid FROM tree)
    UNION ALL SELECT format('publication %%s', to_jsonb(p)) FROM pg_publication p
    UNION ALL SELECT format('published %%s', to_jsonb(r)) FROM pg_publication_rel r JOIN tree ON r.prrelid = tree.oid
    UNION ALL SELECT format('published as %%s', to_jsonb(t)) FROM pg_publication_tables t
    WHERE (t.schemaname, t.tablename) IN (
        SELECT n.nspname, c.relname FROM pg_class c JOIN tree USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace)
    UNION ALL SELECT format('subscribed %%s %%s', r.srsubid, r.srrelid)
    FROM pg_subscription_rel r JOIN tree ON r.srrelid = tree.oid
    UNION ALL SELECT format('function %%s %%s %%s', p.oid, p.proowner, md5(p.prosrc)) FROM pg_proc p WHERE p.oid IN (
        SELECT tgfoid FROM trigger UNION ALL
        SELECT d.refobjid FROM pg_depend d WHERE d.refclassid = 'pg_proc'::regclass AND (
            d.classid = 'pg_class'::regclass AND d.objid IN (SELECT indexrelid FROM index)
            OR d.classid = 'pg_constraint'::regclass
               AND d.objid IN (SELECT c.oid FROM pg_constraint c JOIN tree ON c.conrelid = tree.oid)
            OR d.classid = 'pg_attrdef'::regclass
               AND d.objid IN (SELECT f.oid FROM pg_attrdef f JOIN tree ON f.adrelid = tree.oid)
            OR d.classid = 'pg_policy'::regclass
               AND d.objid IN (SELECT y.oid FROM pg_policy y JOIN tree ON y.polrelid = tree.oid)))
    UNION ALL SELECT format('role %%s', to_jsonb(r)) FROM pg_roles r WHERE r.rolname = current_user
)
SELECT md5(string_agg(text, E'\\n' ORDER BY text COLLATE "C")) FROM line
""")


def catalog_digest(connection: Connection, relations: Sequence[Relation]) -> str:
    """Returns the digest of a table's whole tree as the catalog describes it now."""
    parameters = {
        "oids": [relation.oid for relation in relations],
        "fences": [name(connection), name(connection, SEARCH_INDEX)],
    }
    (digest,) = connection.execute(_DIGEST, parameters).fetchall()[0]
    return str(digest)
