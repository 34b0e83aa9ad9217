-- Every object with its properties. Each query returns an identity and a jsonb; "-- from N" is the oldest server for it.

SELECT 'schema ' || nspname, jsonb_build_object('owner', nspowner::regrole, 'acl', pg_temp.acl(nspacl, 'n', nspowner), 'comment', obj_description(oid, 'pg_namespace'))
FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' AND NOT pg_temp.member('pg_namespace', oid);

SELECT pg_temp.identity('pg_class', c.oid), jsonb_build_object('kind', relkind, 'owner', relowner::regrole,
       'acl', pg_temp.acl(relacl, CASE relkind WHEN 'S' THEN 's' ELSE 'r' END, relowner), 'comment', obj_description(c.oid, 'pg_class'),
       'persistence', relpersistence, 'options', reloptions, 'security', ARRAY[relrowsecurity, relforcerowsecurity],
       'identity', relreplident, 'populated', relispopulated, 'bound', pg_get_expr(relpartbound, c.oid),
       'key', CASE relkind WHEN 'p' THEN pg_get_partkeydef(c.oid) END, 'view', CASE WHEN relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END,
       'of', nullif(reloftype, 0)::regtype, 'am', relam,
       'parents', (SELECT array_agg(inhparent::regclass::text ORDER BY inhseqno) FROM pg_inherits WHERE inhrelid = c.oid))
FROM pg_class c WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c') AND pg_temp.ours('pg_class', c.oid, relnamespace);

SELECT pg_temp.identity('pg_class', c.oid), jsonb_build_object('def', pg_get_indexdef(c.oid), 'options', reloptions,
       'clustered', indisclustered, 'identity', indisreplident, 'valid', indisvalid, 'comment', obj_description(c.oid, 'pg_class'),
       'parent', (SELECT inhparent::regclass FROM pg_inherits WHERE inhrelid = c.oid))
FROM pg_class c JOIN pg_index ON indexrelid = c.oid WHERE pg_temp.ours('pg_class', c.oid, relnamespace);

SELECT 'column ' || c.oid::regclass || ' ' || attname, jsonb_build_object(
       'place', (SELECT count(*) FROM pg_attribute b WHERE b.attrelid = a.attrelid AND b.attnum BETWEEN 1 AND a.attnum AND NOT b.attisdropped),
       'type', format_type(atttypid, atttypmod), 'null', attnotnull, 'default', pg_get_expr(adbin, adrelid), 'has', ARRAY[attidentity, attgenerated],
       'collation', nullif(attcollation, 0)::regcollation, 'storage', attstorage, 'compression', attcompression,
       'target', nullif(attstattarget, -1), 'options', (SELECT array_agg(x) FROM unnest(attoptions) x WHERE x !~ '^pg_attver'), 'fdw', attfdwoptions, 'acl', pg_temp.acl(attacl, 'c', relowner),
       'local', attislocal OR relispartition, 'comment', col_description(c.oid, attnum))
FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid LEFT JOIN pg_attrdef ON adrelid = c.oid AND adnum = attnum
WHERE attnum > 0 AND NOT attisdropped AND relkind IN ('r', 'p', 'v', 'm', 'f', 'c') AND pg_temp.ours('pg_class', c.oid, relnamespace);

SELECT pg_temp.identity('pg_constraint', oid), jsonb_build_object('def', pg_get_constraintdef(oid), 'validated', convalidated,
       'comment', obj_description(oid, 'pg_constraint'), 'inherits', ARRAY[connoinherit AND contype NOT IN ('p', 'u'), conislocal OR coninhcount > 0])
FROM pg_constraint WHERE pg_temp.ours('pg_constraint', oid, connamespace) AND contype <> 't';

SELECT pg_temp.identity('pg_trigger', oid), jsonb_build_object('def', pg_get_triggerdef(oid), 'state', tgenabled, 'comment', obj_description(oid, 'pg_trigger'))
FROM pg_trigger WHERE NOT tgisinternal;

SELECT pg_temp.identity('pg_rewrite', oid), jsonb_build_object('def', pg_get_ruledef(oid), 'state', ev_enabled, 'comment', obj_description(oid, 'pg_rewrite'))
FROM pg_rewrite WHERE oid >= 16384 AND rulename <> '_RETURN';

SELECT pg_temp.identity('pg_policy', oid), jsonb_build_object('permissive', polpermissive, 'command', polcmd, 'roles',
       (SELECT array_agg(CASE r WHEN 0 THEN 'PUBLIC' ELSE r::regrole::text END ORDER BY r::regrole::text) FROM unnest(polroles) r),
       'using', pg_get_expr(polqual, polrelid), 'check', pg_get_expr(polwithcheck, polrelid)) FROM pg_policy;

SELECT 'sequence ' || schemaname || '.' || sequencename, to_jsonb(s) - 'sequenceowner' FROM pg_sequences s;

SELECT 'sequence of column ' || objid::regclass, jsonb_build_array(refobjid::regclass, attname, deptype)
FROM pg_depend JOIN pg_class c ON c.oid = objid AND relkind = 'S' JOIN pg_attribute ON attrelid = refobjid AND attnum = refobjsubid
WHERE classid = 'pg_class'::regclass AND deptype IN ('a', 'i') AND refclassid = 'pg_class'::regclass;

SELECT pg_temp.identity('pg_proc', oid), jsonb_build_object('owner', proowner::regrole, 'acl', pg_temp.acl(proacl, 'f', proowner),
       'comment', obj_description(oid, 'pg_proc'), 'def', CASE WHEN prokind <> 'a' THEN pg_get_functiondef(oid) END,
       'aggregate', (SELECT to_jsonb(a) - 'aggfnoid' FROM pg_aggregate a WHERE aggfnoid = p.oid))
FROM pg_proc p WHERE pg_temp.ours('pg_proc', oid, pronamespace);

SELECT 'privileges of a function of an extension: ' || oid::regprocedure, pg_temp.acl(proacl, 'f', proowner)
FROM pg_proc WHERE oid >= 16384 AND pg_temp.member('pg_proc', oid) AND proacl IS NOT NULL;

-- Up to 15, ALTER TYPE … OWNER TO of a range leaves its multirange with the old owner, which no dump names.
SELECT pg_temp.identity('pg_type', t.oid), jsonb_build_object(
       'owner', CASE WHEN typtype <> 'm' THEN typowner::regrole END, 'acl', CASE WHEN typtype <> 'm' THEN pg_temp.acl(typacl, 'T', typowner) END,
       'comment', obj_description(t.oid, 'pg_type'), 'kind', typtype, 'labels', (SELECT array_agg(enumlabel ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = t.oid),
       'base', format_type(typbasetype, typtypmod), 'null', typnotnull, 'default', typdefault, 'collation', nullif(typcollation, 0)::regcollation,
       'range', (SELECT jsonb_build_array(rngsubtype::regtype, rngmultitypid::regtype, rngsubdiff, nullif(rngcollation, 0)::regcollation) FROM pg_range WHERE rngtypid = t.oid))
FROM pg_type t WHERE pg_temp.ours('pg_type', t.oid, typnamespace) AND typelem = 0;

SELECT pg_temp.identity('pg_operator', oid), jsonb_build_object('owner', oprowner::regrole, 'comment', obj_description(oid, 'pg_operator'),
       'is', ARRAY[oprcode::regprocedure::text, oprcom::regoperator::text, oprrest::text, oprcanmerge::text, oprcanhash::text])
FROM pg_operator WHERE pg_temp.ours('pg_operator', oid, oprnamespace);

SELECT pg_temp.identity('pg_opclass', oid), jsonb_build_object('owner', opcowner::regrole, 'type', opcintype::regtype, 'default', opcdefault)
FROM pg_opclass WHERE pg_temp.ours('pg_opclass', oid, opcnamespace);

SELECT pg_temp.identity('pg_opfamily', f.oid), jsonb_build_object('owner', opfowner::regrole, 'operators',
       (SELECT array_agg(amopopr::regoperator || ' ' || amopstrategy ORDER BY amopstrategy, amopopr::regoperator::text) FROM pg_amop WHERE amopfamily = f.oid),
       'functions', (SELECT array_agg(amproc || ' ' || amprocnum ORDER BY amprocnum, amproc::text) FROM pg_amproc WHERE amprocfamily = f.oid))
FROM pg_opfamily f WHERE pg_temp.ours('pg_opfamily', f.oid, opfnamespace);

SELECT 'cast ' || castsource::regtype || ' ' || casttarget::regtype, jsonb_build_object('f', nullif(castfunc, 0)::regprocedure,
       'how', ARRAY[castcontext, castmethod], 'comment', obj_description(oid, 'pg_cast'))
FROM pg_cast WHERE oid >= 16384 AND NOT pg_temp.member('pg_cast', oid);

SELECT pg_temp.identity('pg_conversion', oid), jsonb_build_object('owner', conowner::regrole, 'is', ARRAY[conforencoding, contoencoding], 'f', conproc)
FROM pg_conversion WHERE pg_temp.ours('pg_conversion', oid, connamespace);

SELECT pg_temp.identity('pg_collation', oid), (to_jsonb(x) - ARRAY['oid', 'collowner', 'collnamespace']) || jsonb_build_object('owner', collowner::regrole, 'comment', obj_description(oid, 'pg_collation'))
FROM pg_collation x WHERE pg_temp.ours('pg_collation', oid, collnamespace);

SELECT pg_temp.identity('pg_ts_dict', oid), jsonb_build_object('owner', dictowner::regrole, 'options', dictinitoption, 'comment', obj_description(oid, 'pg_ts_dict'))
FROM pg_ts_dict WHERE pg_temp.ours('pg_ts_dict', oid, dictnamespace);

SELECT pg_temp.identity('pg_ts_config', oid), jsonb_build_object('owner', cfgowner::regrole, 'comment', obj_description(oid, 'pg_ts_config'), 'map',
       (SELECT array_agg(maptokentype || ' ' || mapdict::regdictionary ORDER BY maptokentype, mapseqno) FROM pg_ts_config_map WHERE mapcfg = x.oid))
FROM pg_ts_config x WHERE pg_temp.ours('pg_ts_config', oid, cfgnamespace);

SELECT pg_temp.identity('pg_statistic_ext', oid), jsonb_build_object('owner', stxowner::regrole, 'def', pg_get_statisticsobjdef(oid),
       'target', nullif(stxstattarget, -1), 'comment', obj_description(oid, 'pg_statistic_ext')) FROM pg_statistic_ext;

SELECT 'publication ' || pubname, (to_jsonb(p) - ARRAY['oid', 'pubowner']) || jsonb_build_object('owner', pubowner::regrole, 'comment', obj_description(oid, 'pg_publication'))
FROM pg_publication p;

-- from 15
SELECT 'published ' || pubname || ' ' || prrelid::regclass, jsonb_build_array(pg_get_expr(prqual, prrelid),
       (SELECT array_agg(attname ORDER BY attname) FROM pg_attribute WHERE attrelid = prrelid AND attnum = ANY (prattrs)))
FROM pg_publication_rel r JOIN pg_publication p ON p.oid = prpubid;

-- from 15
SELECT 'published ' || pubname || ' ' || pnnspid::regnamespace, 'true'::jsonb FROM pg_publication_namespace JOIN pg_publication p ON p.oid = pnpubid;

SELECT 'event trigger ' || evtname, jsonb_build_object('owner', evtowner::regrole, 'event', evtevent, 'state', evtenabled, 'tags', evttags,
       'f', evtfoid::regprocedure, 'comment', obj_description(oid, 'pg_event_trigger')) FROM pg_event_trigger;

SELECT 'extension ' || extname, jsonb_build_array(extnamespace::regnamespace, extversion) FROM pg_extension;

SELECT 'wrapper ' || fdwname, jsonb_build_object('owner', fdwowner::regrole, 'acl', pg_temp.acl(fdwacl, 'F', fdwowner), 'is', ARRAY[fdwhandler::text, fdwvalidator::text], 'options', (SELECT jsonb_agg(x ORDER BY x) FROM unnest(fdwoptions) x))
FROM pg_foreign_data_wrapper WHERE NOT pg_temp.member('pg_foreign_data_wrapper', oid);

SELECT 'server ' || srvname, jsonb_build_object('owner', srvowner::regrole, 'acl', pg_temp.acl(srvacl, 'S', srvowner), 'is', ARRAY[srvtype, srvversion], 'options', (SELECT jsonb_agg(x ORDER BY x) FROM unnest(srvoptions) x))
FROM pg_foreign_server;

SELECT 'user mapping ' || srvname || ' ' || usename, (SELECT jsonb_agg(x ORDER BY x) FROM unnest(umoptions) x) FROM pg_user_mappings;

SELECT 'foreign table ' || ftrelid::regclass, jsonb_build_array(srvname, (SELECT jsonb_agg(x ORDER BY x) FROM unnest(ftoptions) x)) FROM pg_foreign_table JOIN pg_foreign_server s ON s.oid = ftserver;

SELECT 'language ' || lanname, to_jsonb(lanpltrusted) FROM pg_language WHERE lanname <> 'plpgsql';

SELECT 'large object ' || oid, jsonb_build_object('owner', lomowner::regrole, 'acl', pg_temp.acl(lomacl, 'L', lomowner), 'comment', obj_description(oid, 'pg_largeobject'), 'content', md5(lo_get(oid)))
FROM pg_largeobject_metadata;

SELECT format('default privileges of %s in %s on %s', defaclrole::regrole, nullif(defaclnamespace, 0)::regnamespace, defaclobjtype),
       (SELECT jsonb_agg(x ORDER BY x) FROM unnest(defaclacl::text[]) x) FROM pg_default_acl;

SELECT 'settings of ' || coalesce(nullif(setrole, 0)::regrole::text, 'the database'), (SELECT jsonb_agg(x ORDER BY x) FROM unnest(setconfig) x)
FROM pg_db_role_setting WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database());

SELECT 'the database', (to_jsonb(d) - ARRAY['oid', 'datname', 'datdba', 'datfrozenxid', 'datminmxid', 'datacl', 'dattablespace', 'datlastsysoid'])
       || jsonb_build_object('owner', datdba::regrole, 'acl', pg_temp.acl(datacl, 'd', datdba), 'comment', shobj_description(oid, 'pg_database'))
FROM pg_database d WHERE datname = current_database();

SELECT 'rows of ' || c.oid::regclass, to_jsonb(pg_temp.digest(c.oid)) FROM pg_class c WHERE relkind = 'r' AND pg_temp.ours('pg_class', c.oid, relnamespace);
