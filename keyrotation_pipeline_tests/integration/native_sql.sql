-- engine, read_pages, target None
WITH range AS MATERIALIZED (
    SELECT pg_relation_filenode(OID::oid::regclass) AS filenode,
           CASE WHEN 
(SELECT coalesce(pg_relation_size(nullif(reltoastrelid, 0)), 0) FROM pg_class WHERE oid = OID)
 = 0 THEN 0 ELSE (
               SELECT coalesce(sum(coalesce(octet_length(t."a"::text), 0)::bigint + coalesce(octet_length(t."b%%c"::text), 0)::bigint + coalesce(octet_length(t."d"::text), 0)::bigint), 0)::bigint FROM ONLY "public"."frozen" AS t WHERE t.ctid >= %(first)s::tid AND t.ctid < %(end)s::tid
           ) END AS bytes
)
SELECT range.filenode, range.bytes, t.ctid, CASE WHEN t.tableoid = OID::oid::regclass AND (SELECT true AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 2) = 'column a of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 3) = 'column b%%c of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 4) = 'column d of table public.frozen') THEN t.xmin ELSE '0'::xid END, t."a"::text, t."b%%c"::text, t."d"::text
FROM range LEFT JOIN ONLY "public"."frozen" AS t ON t.ctid >= %(first)s::tid AND t.ctid < %(end)s::tid AND (true OR true OR true) AND range.bytes <= %(limit)s::bigint

-- engine, list_rows, target None
SELECT pg_relation_filenode(OID::oid::regclass), (coalesce(octet_length(t."a"::text), 0)::bigint + coalesce(octet_length(t."b%%c"::text), 0)::bigint + coalesce(octet_length(t."d"::text), 0)::bigint)::bigint, t.ctid, json_build_array("t"."id"::text)::text FROM ONLY "public"."frozen" AS t
WHERE t.ctid >= %(first)s::tid AND t.ctid < %(end)s::tid AND (true OR true OR true)

-- engine, read_rows, target None
SELECT pg_relation_filenode(OID::oid::regclass), 0::bigint, t.ctid, CASE WHEN t.tableoid = OID::oid::regclass AND (SELECT true AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 2) = 'column a of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 3) = 'column b%%c of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 4) = 'column d of table public.frozen') THEN t.xmin ELSE '0'::xid END, t."a"::text, t."b%%c"::text, t."d"::text
FROM ONLY "public"."frozen" AS t WHERE t.ctid = ANY (%(positions)b) AND (true OR true OR true)

-- engine, read_row, target None
SELECT pg_relation_filenode(OID::oid::regclass), 0::bigint, t.ctid, CASE WHEN t.tableoid = OID::oid::regclass AND (SELECT true AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 2) = 'column a of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 3) = 'column b%%c of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 4) = 'column d of table public.frozen') THEN t.xmin ELSE '0'::xid END, t."a"::text, t."b%%c"::text, t."d"::text
FROM (SELECT unnest(%(keys)b::text[])) AS new (key) JOIN ONLY "public"."frozen" AS t ON "t"."id" OPERATOR("pg_catalog".=) (new.key::json ->> 0)::integer WHERE true OR true OR true

-- engine, write, target None
WITH written AS (
UPDATE ONLY "public"."frozen" AS t SET "a" = CASE WHEN new."value_0" IS NULL THEN t."a" ELSE new."value_0"::text END, "b%%c" = CASE WHEN new."value_1" IS NULL THEN t."b%%c" ELSE new."value_1"::character varying END, "d" = CASE WHEN new."value_2" IS NULL THEN t."d" ELSE new."value_2"::text END
FROM (
    SELECT new.*
    FROM (
        SELECT unnest(%(positions)b::tid[]) AS position, unnest(%(versions)b::xid[]) AS version, unnest(%(value_0)b::text[]) AS "value_0", unnest(%(value_1)b::text[]) AS "value_1", unnest(%(value_2)b::text[]) AS "value_2"
    ) AS new
    JOIN ONLY "public"."frozen" AS held ON held.ctid = new.position
    WHERE held.xmin = new.version AND held.tableoid = OID::oid::regclass AND pg_relation_filenode(OID::oid::regclass) = %(filenode)s::oid AND true AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 2) = 'column a of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 3) = 'column b%%c of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 4) = 'column d of table public.frozen' 
    FOR NO KEY UPDATE OF held SKIP LOCKED
) AS new
WHERE t.ctid = new.position

RETURNING (new."value_0" IS NOT NULL)::int + (new."value_1" IS NOT NULL)::int + (new."value_2" IS NOT NULL)::int AS changed
)
SELECT count(*), coalesce(sum(changed), 0)::bigint,
       extract(epoch FROM clock_timestamp() - statement_timestamp())::float8
FROM written

-- engine, write_whole, target None
UPDATE ONLY "public"."frozen" AS t SET "a" = new."value_0"::text, "b%%c" = new."value_1"::character varying, "d" = new."value_2"::text
FROM (
    SELECT new.*
    FROM (
        SELECT unnest(%(positions)b::tid[]) AS position, unnest(%(versions)b::xid[]) AS version, unnest(%(value_0)b::text[]) AS "value_0", unnest(%(value_1)b::text[]) AS "value_1", unnest(%(value_2)b::text[]) AS "value_2"
    ) AS new
    JOIN ONLY "public"."frozen" AS held ON held.ctid = new.position
    WHERE held.xmin = new.version AND held.tableoid = OID::oid::regclass AND pg_relation_filenode(OID::oid::regclass) = %(filenode)s::oid AND true AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 2) = 'column a of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 3) = 'column b%%c of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 4) = 'column d of table public.frozen' 
    FOR NO KEY UPDATE OF held SKIP LOCKED
) AS new
WHERE t.ctid = new.position

-- engine, write_at_once, target None
WITH written AS (
UPDATE ONLY "public"."frozen" AS t SET "a" = CASE WHEN new."value_0" IS NULL THEN t."a" ELSE new."value_0"::text END, "b%%c" = CASE WHEN new."value_1" IS NULL THEN t."b%%c" ELSE new."value_1"::character varying END, "d" = CASE WHEN new."value_2" IS NULL THEN t."d" ELSE new."value_2"::text END
FROM (
    SELECT unnest(%(positions)b::tid[]) AS position, unnest(%(versions)b::xid[]) AS version, unnest(%(value_0)b::text[]) AS "value_0", unnest(%(value_1)b::text[]) AS "value_1", unnest(%(value_2)b::text[]) AS "value_2"
) AS new
WHERE t.ctid = ANY (%(positions)b::tid[]) AND t.ctid = new.position AND t.xmin = new.version
    AND t.tableoid = OID::oid::regclass AND pg_relation_filenode(OID::oid::regclass) = %(filenode)s::oid AND true AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 2) = 'column a of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 3) = 'column b%%c of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 4) = 'column d of table public.frozen' AND (SELECT set_config('lock_timeout', '10ms', true)) IS NOT NULL 

RETURNING (new."value_0" IS NOT NULL)::int + (new."value_1" IS NOT NULL)::int + (new."value_2" IS NOT NULL)::int AS changed
)
SELECT count(*), coalesce(sum(changed), 0)::bigint,
       extract(epoch FROM clock_timestamp() - statement_timestamp())::float8
FROM written

-- engine, write_whole_at_once, target None
UPDATE ONLY "public"."frozen" AS t SET "a" = new."value_0"::text, "b%%c" = new."value_1"::character varying, "d" = new."value_2"::text
FROM (
    SELECT unnest(%(positions)b::tid[]) AS position, unnest(%(versions)b::xid[]) AS version, unnest(%(value_0)b::text[]) AS "value_0", unnest(%(value_1)b::text[]) AS "value_1", unnest(%(value_2)b::text[]) AS "value_2"
) AS new
WHERE t.ctid = ANY (%(positions)b::tid[]) AND t.ctid = new.position AND t.xmin = new.version
    AND t.tableoid = OID::oid::regclass AND pg_relation_filenode(OID::oid::regclass) = %(filenode)s::oid AND true AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 2) = 'column a of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 3) = 'column b%%c of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 4) = 'column d of table public.frozen' AND (SELECT set_config('lock_timeout', '10ms', true)) IS NOT NULL

-- engine, write_row, target None
WITH written AS (
    UPDATE ONLY "public"."frozen" AS t SET "a" = CASE WHEN new."value_0" IS NULL THEN t."a" ELSE new."value_0"::text END, "b%%c" = CASE WHEN new."value_1" IS NULL THEN t."b%%c" ELSE new."value_1"::character varying END, "d" = CASE WHEN new."value_2" IS NULL THEN t."d" ELSE new."value_2"::text END
    FROM unnest(%(keys)b::text[], %(value_0)b::text[], %(value_1)b::text[], %(value_2)b::text[], %(old_0)b::text[], %(old_1)b::text[], %(old_2)b::text[]) AS new (key, "value_0", "value_1", "value_2", "old_0", "old_1", "old_2")
    WHERE "t"."id" OPERATOR("pg_catalog".=) (new.key::json ->> 0)::integer AND t."a"::text COLLATE "C" IS NOT DISTINCT FROM new."old_0" AND t."b%%c"::text COLLATE "C" IS NOT DISTINCT FROM new."old_1" AND t."d"::text COLLATE "C" IS NOT DISTINCT FROM new."old_2"
    RETURNING (new."value_0" IS NOT NULL)::int + (new."value_1" IS NOT NULL)::int + (new."value_2" IS NOT NULL)::int AS changed
)
SELECT count(*), coalesce(sum(changed), 0)::bigint FROM written

-- engine, name_rows, target None
SELECT t.ctid, json_build_array("t"."id"::text)::text
FROM unnest(%(positions)b::tid[], %(versions)b::xid[]) AS read (position, version)
JOIN ONLY "public"."frozen" AS t ON t.ctid = read.position
WHERE t.xmin = read.version AND t.tableoid = OID::oid::regclass AND pg_relation_filenode(OID::oid::regclass) = %(filenode)s::oid AND true AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 2) = 'column a of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 3) = 'column b%%c of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 4) = 'column d of table public.frozen'

-- engine, count_values, target None
SELECT count("a") + count("b%%c") + count("d") FROM ONLY "public"."frozen" AS t WHERE t.ctid >= %(first)s::tid AND t.ctid < %(end)s::tid

-- engine, read_pages, target v2
WITH range AS MATERIALIZED (
    SELECT pg_relation_filenode(OID::oid::regclass) AS filenode,
           CASE WHEN 
(SELECT coalesce(pg_relation_size(nullif(reltoastrelid, 0)), 0) FROM pg_class WHERE oid = OID)
 = 0 THEN 0 ELSE (
               SELECT coalesce(sum(coalesce(octet_length(t."a"::text), 0)::bigint + coalesce(octet_length(t."b%%c"::text), 0)::bigint + coalesce(octet_length(t."d"::text), 0)::bigint), 0)::bigint FROM ONLY "public"."frozen" AS t WHERE t.ctid >= %(first)s::tid AND t.ctid < %(end)s::tid
           ) END AS bytes
)
SELECT range.filenode, range.bytes, t.ctid, CASE WHEN t.tableoid = OID::oid::regclass AND (SELECT true AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 2) = 'column a of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 3) = 'column b%%c of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 4) = 'column d of table public.frozen') THEN t.xmin ELSE '0'::xid END, t."a"::text, t."b%%c"::text, t."d"::text
FROM range LEFT JOIN ONLY "public"."frozen" AS t ON t.ctid >= %(first)s::tid AND t.ctid < %(end)s::tid AND (left(t."a"::text, 3) COLLATE "C" NOT IN ('', 'v2:') OR left(t."b%%c"::text, 3) COLLATE "C" NOT IN ('', 'v2:') OR left(t."d"::text, 3) COLLATE "C" NOT IN ('', 'v2:')) AND range.bytes <= %(limit)s::bigint

-- engine, list_rows, target v2
SELECT pg_relation_filenode(OID::oid::regclass), (coalesce(octet_length(t."a"::text), 0)::bigint + coalesce(octet_length(t."b%%c"::text), 0)::bigint + coalesce(octet_length(t."d"::text), 0)::bigint)::bigint, t.ctid, json_build_array("t"."id"::text)::text FROM ONLY "public"."frozen" AS t
WHERE t.ctid >= %(first)s::tid AND t.ctid < %(end)s::tid AND (left(t."a"::text, 3) COLLATE "C" NOT IN ('', 'v2:') OR left(t."b%%c"::text, 3) COLLATE "C" NOT IN ('', 'v2:') OR left(t."d"::text, 3) COLLATE "C" NOT IN ('', 'v2:'))

-- engine, read_rows, target v2
SELECT pg_relation_filenode(OID::oid::regclass), 0::bigint, t.ctid, CASE WHEN t.tableoid = OID::oid::regclass AND (SELECT true AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 2) = 'column a of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 3) = 'column b%%c of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 4) = 'column d of table public.frozen') THEN t.xmin ELSE '0'::xid END, t."a"::text, t."b%%c"::text, t."d"::text
FROM ONLY "public"."frozen" AS t WHERE t.ctid = ANY (%(positions)b) AND (left(t."a"::text, 3) COLLATE "C" NOT IN ('', 'v2:') OR left(t."b%%c"::text, 3) COLLATE "C" NOT IN ('', 'v2:') OR left(t."d"::text, 3) COLLATE "C" NOT IN ('', 'v2:'))

-- engine, read_row, target v2
SELECT pg_relation_filenode(OID::oid::regclass), 0::bigint, t.ctid, CASE WHEN t.tableoid = OID::oid::regclass AND (SELECT true AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 2) = 'column a of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 3) = 'column b%%c of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 4) = 'column d of table public.frozen') THEN t.xmin ELSE '0'::xid END, t."a"::text, t."b%%c"::text, t."d"::text
FROM (SELECT unnest(%(keys)b::text[])) AS new (key) JOIN ONLY "public"."frozen" AS t ON "t"."id" OPERATOR("pg_catalog".=) (new.key::json ->> 0)::integer WHERE left(t."a"::text, 3) COLLATE "C" NOT IN ('', 'v2:') OR left(t."b%%c"::text, 3) COLLATE "C" NOT IN ('', 'v2:') OR left(t."d"::text, 3) COLLATE "C" NOT IN ('', 'v2:')

-- engine, write, target v2
WITH written AS (
UPDATE ONLY "public"."frozen" AS t SET "a" = CASE WHEN new."value_0" IS NULL THEN t."a" ELSE new."value_0"::text END, "b%%c" = CASE WHEN new."value_1" IS NULL THEN t."b%%c" ELSE new."value_1"::character varying END, "d" = CASE WHEN new."value_2" IS NULL THEN t."d" ELSE new."value_2"::text END
FROM (
    SELECT new.*
    FROM (
        SELECT unnest(%(positions)b::tid[]) AS position, unnest(%(versions)b::xid[]) AS version, unnest(%(value_0)b::text[]) AS "value_0", unnest(%(value_1)b::text[]) AS "value_1", unnest(%(value_2)b::text[]) AS "value_2"
    ) AS new
    JOIN ONLY "public"."frozen" AS held ON held.ctid = new.position
    WHERE held.xmin = new.version AND held.tableoid = OID::oid::regclass AND pg_relation_filenode(OID::oid::regclass) = %(filenode)s::oid AND true AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 2) = 'column a of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 3) = 'column b%%c of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 4) = 'column d of table public.frozen' 
    FOR NO KEY UPDATE OF held SKIP LOCKED
) AS new
WHERE t.ctid = new.position

RETURNING (new."value_0" IS NOT NULL)::int + (new."value_1" IS NOT NULL)::int + (new."value_2" IS NOT NULL)::int AS changed
)
SELECT count(*), coalesce(sum(changed), 0)::bigint,
       extract(epoch FROM clock_timestamp() - statement_timestamp())::float8
FROM written

-- engine, write_whole, target v2
UPDATE ONLY "public"."frozen" AS t SET "a" = new."value_0"::text, "b%%c" = new."value_1"::character varying, "d" = new."value_2"::text
FROM (
    SELECT new.*
    FROM (
        SELECT unnest(%(positions)b::tid[]) AS position, unnest(%(versions)b::xid[]) AS version, unnest(%(value_0)b::text[]) AS "value_0", unnest(%(value_1)b::text[]) AS "value_1", unnest(%(value_2)b::text[]) AS "value_2"
    ) AS new
    JOIN ONLY "public"."frozen" AS held ON held.ctid = new.position
    WHERE held.xmin = new.version AND held.tableoid = OID::oid::regclass AND pg_relation_filenode(OID::oid::regclass) = %(filenode)s::oid AND true AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 2) = 'column a of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 3) = 'column b%%c of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 4) = 'column d of table public.frozen' 
    FOR NO KEY UPDATE OF held SKIP LOCKED
) AS new
WHERE t.ctid = new.position

-- engine, write_at_once, target v2
WITH written AS (
UPDATE ONLY "public"."frozen" AS t SET "a" = CASE WHEN new."value_0" IS NULL THEN t."a" ELSE new."value_0"::text END, "b%%c" = CASE WHEN new."value_1" IS NULL THEN t."b%%c" ELSE new."value_1"::character varying END, "d" = CASE WHEN new."value_2" IS NULL THEN t."d" ELSE new."value_2"::text END
FROM (
    SELECT unnest(%(positions)b::tid[]) AS position, unnest(%(versions)b::xid[]) AS version, unnest(%(value_0)b::text[]) AS "value_0", unnest(%(value_1)b::text[]) AS "value_1", unnest(%(value_2)b::text[]) AS "value_2"
) AS new
WHERE t.ctid = ANY (%(positions)b::tid[]) AND t.ctid = new.position AND t.xmin = new.version
    AND t.tableoid = OID::oid::regclass AND pg_relation_filenode(OID::oid::regclass) = %(filenode)s::oid AND true AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 2) = 'column a of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 3) = 'column b%%c of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 4) = 'column d of table public.frozen' AND (SELECT set_config('lock_timeout', '10ms', true)) IS NOT NULL 

RETURNING (new."value_0" IS NOT NULL)::int + (new."value_1" IS NOT NULL)::int + (new."value_2" IS NOT NULL)::int AS changed
)
SELECT count(*), coalesce(sum(changed), 0)::bigint,
       extract(epoch FROM clock_timestamp() - statement_timestamp())::float8
FROM written

-- engine, write_whole_at_once, target v2
UPDATE ONLY "public"."frozen" AS t SET "a" = new."value_0"::text, "b%%c" = new."value_1"::character varying, "d" = new."value_2"::text
FROM (
    SELECT unnest(%(positions)b::tid[]) AS position, unnest(%(versions)b::xid[]) AS version, unnest(%(value_0)b::text[]) AS "value_0", unnest(%(value_1)b::text[]) AS "value_1", unnest(%(value_2)b::text[]) AS "value_2"
) AS new
WHERE t.ctid = ANY (%(positions)b::tid[]) AND t.ctid = new.position AND t.xmin = new.version
    AND t.tableoid = OID::oid::regclass AND pg_relation_filenode(OID::oid::regclass) = %(filenode)s::oid AND true AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 2) = 'column a of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 3) = 'column b%%c of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 4) = 'column d of table public.frozen' AND (SELECT set_config('lock_timeout', '10ms', true)) IS NOT NULL

-- engine, write_row, target v2
WITH written AS (
    UPDATE ONLY "public"."frozen" AS t SET "a" = CASE WHEN new."value_0" IS NULL THEN t."a" ELSE new."value_0"::text END, "b%%c" = CASE WHEN new."value_1" IS NULL THEN t."b%%c" ELSE new."value_1"::character varying END, "d" = CASE WHEN new."value_2" IS NULL THEN t."d" ELSE new."value_2"::text END
    FROM unnest(%(keys)b::text[], %(value_0)b::text[], %(value_1)b::text[], %(value_2)b::text[], %(old_0)b::text[], %(old_1)b::text[], %(old_2)b::text[]) AS new (key, "value_0", "value_1", "value_2", "old_0", "old_1", "old_2")
    WHERE "t"."id" OPERATOR("pg_catalog".=) (new.key::json ->> 0)::integer AND t."a"::text COLLATE "C" IS NOT DISTINCT FROM new."old_0" AND t."b%%c"::text COLLATE "C" IS NOT DISTINCT FROM new."old_1" AND t."d"::text COLLATE "C" IS NOT DISTINCT FROM new."old_2"
    RETURNING (new."value_0" IS NOT NULL)::int + (new."value_1" IS NOT NULL)::int + (new."value_2" IS NOT NULL)::int AS changed
)
SELECT count(*), coalesce(sum(changed), 0)::bigint FROM written

-- engine, name_rows, target v2
SELECT t.ctid, json_build_array("t"."id"::text)::text
FROM unnest(%(positions)b::tid[], %(versions)b::xid[]) AS read (position, version)
JOIN ONLY "public"."frozen" AS t ON t.ctid = read.position
WHERE t.xmin = read.version AND t.tableoid = OID::oid::regclass AND pg_relation_filenode(OID::oid::regclass) = %(filenode)s::oid AND true AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 2) = 'column a of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 3) = 'column b%%c of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 4) = 'column d of table public.frozen'

-- engine, count_values, target v2
SELECT count("a") + count("b%%c") + count("d") FROM ONLY "public"."frozen" AS t WHERE t.ctid >= %(first)s::tid AND t.ctid < %(end)s::tid

-- engine, read_pages, target v10, hot order
WITH range AS MATERIALIZED (
    SELECT pg_relation_filenode(OID::oid::regclass) AS filenode,
           CASE WHEN 
(SELECT coalesce(pg_relation_size(nullif(reltoastrelid, 0)), 0) FROM pg_class WHERE oid = OID)
 = 0 THEN 0 ELSE (
               SELECT coalesce(sum(coalesce(octet_length(t."a"::text), 0)::bigint + coalesce(octet_length(t."b%%c"::text), 0)::bigint + coalesce(octet_length(t."d"::text), 0)::bigint), 0)::bigint FROM ONLY "public"."frozen" AS t WHERE t.ctid >= %(first)s::tid AND t.ctid < %(end)s::tid
           ) END AS bytes
)
SELECT range.filenode, range.bytes, t.ctid, CASE WHEN t.tableoid = OID::oid::regclass AND (SELECT true AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 2) = 'column a of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 3) = 'column b%%c of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 4) = 'column d of table public.frozen') THEN t.xmin ELSE '0'::xid END, t."a"::text, t."b%%c"::text, t."d"::text
FROM range LEFT JOIN ONLY "public"."frozen" AS t ON t.ctid >= %(first)s::tid AND t.ctid < %(end)s::tid AND (left(t."a"::text, 4) COLLATE "C" NOT IN ('', 'v10:') OR left(t."b%%c"::text, 4) COLLATE "C" NOT IN ('', 'v10:') OR left(t."d"::text, 4) COLLATE "C" NOT IN ('', 'v10:')) AND range.bytes <= %(limit)s::bigint

-- engine, list_rows, target v10, hot order
SELECT pg_relation_filenode(OID::oid::regclass), (coalesce(octet_length(t."a"::text), 0)::bigint + coalesce(octet_length(t."b%%c"::text), 0)::bigint + coalesce(octet_length(t."d"::text), 0)::bigint)::bigint, t.ctid, json_build_array("t"."id"::text)::text FROM ONLY "public"."frozen" AS t
WHERE t.ctid >= %(first)s::tid AND t.ctid < %(end)s::tid AND (left(t."a"::text, 4) COLLATE "C" NOT IN ('', 'v10:') OR left(t."b%%c"::text, 4) COLLATE "C" NOT IN ('', 'v10:') OR left(t."d"::text, 4) COLLATE "C" NOT IN ('', 'v10:'))

-- engine, read_rows, target v10, hot order
SELECT pg_relation_filenode(OID::oid::regclass), 0::bigint, t.ctid, CASE WHEN t.tableoid = OID::oid::regclass AND (SELECT true AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 2) = 'column a of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 3) = 'column b%%c of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 4) = 'column d of table public.frozen') THEN t.xmin ELSE '0'::xid END, t."a"::text, t."b%%c"::text, t."d"::text
FROM ONLY "public"."frozen" AS t WHERE t.ctid = ANY (%(positions)b) AND (left(t."a"::text, 4) COLLATE "C" NOT IN ('', 'v10:') OR left(t."b%%c"::text, 4) COLLATE "C" NOT IN ('', 'v10:') OR left(t."d"::text, 4) COLLATE "C" NOT IN ('', 'v10:'))

-- engine, read_row, target v10, hot order
SELECT pg_relation_filenode(OID::oid::regclass), 0::bigint, t.ctid, CASE WHEN t.tableoid = OID::oid::regclass AND (SELECT true AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 2) = 'column a of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 3) = 'column b%%c of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 4) = 'column d of table public.frozen') THEN t.xmin ELSE '0'::xid END, t."a"::text, t."b%%c"::text, t."d"::text
FROM (SELECT unnest(%(keys)b::text[])) AS new (key) JOIN ONLY "public"."frozen" AS t ON "t"."id" OPERATOR("pg_catalog".=) (new.key::json ->> 0)::integer WHERE left(t."a"::text, 4) COLLATE "C" NOT IN ('', 'v10:') OR left(t."b%%c"::text, 4) COLLATE "C" NOT IN ('', 'v10:') OR left(t."d"::text, 4) COLLATE "C" NOT IN ('', 'v10:')

-- engine, write, target v10, hot order
WITH written AS (
UPDATE ONLY "public"."frozen" AS t SET "a" = CASE WHEN new."value_0" IS NULL THEN t."a" ELSE new."value_0"::text END, "b%%c" = CASE WHEN new."value_1" IS NULL THEN t."b%%c" ELSE new."value_1"::character varying END, "d" = CASE WHEN new."value_2" IS NULL THEN t."d" ELSE new."value_2"::text END
FROM (
    SELECT new.*
    FROM (
        SELECT unnest(%(positions)b::tid[]) AS position, unnest(%(versions)b::xid[]) AS version, unnest(%(value_0)b::text[]) AS "value_0", unnest(%(value_1)b::text[]) AS "value_1", unnest(%(value_2)b::text[]) AS "value_2"
    ) AS new
    JOIN ONLY "public"."frozen" AS held ON held.ctid = new.position
    WHERE held.xmin = new.version AND held.tableoid = OID::oid::regclass AND pg_relation_filenode(OID::oid::regclass) = %(filenode)s::oid AND true AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 2) = 'column a of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 3) = 'column b%%c of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 4) = 'column d of table public.frozen' 
AND (
    SELECT count(*) FROM ONLY "public"."frozen" AS looked
    WHERE looked.ctid >= %(prune_first)s::tid AND looked.ctid < %(prune_end)s::tid
) >= 0

    FOR NO KEY UPDATE OF held SKIP LOCKED
) AS new
WHERE t.ctid = new.position

RETURNING (new."value_0" IS NOT NULL)::int + (new."value_1" IS NOT NULL)::int + (new."value_2" IS NOT NULL)::int AS changed
)
SELECT count(*), coalesce(sum(changed), 0)::bigint,
       extract(epoch FROM clock_timestamp() - statement_timestamp())::float8
FROM written

-- engine, write_whole, target v10, hot order
UPDATE ONLY "public"."frozen" AS t SET "a" = new."value_0"::text, "b%%c" = new."value_1"::character varying, "d" = new."value_2"::text
FROM (
    SELECT new.*
    FROM (
        SELECT unnest(%(positions)b::tid[]) AS position, unnest(%(versions)b::xid[]) AS version, unnest(%(value_0)b::text[]) AS "value_0", unnest(%(value_1)b::text[]) AS "value_1", unnest(%(value_2)b::text[]) AS "value_2"
    ) AS new
    JOIN ONLY "public"."frozen" AS held ON held.ctid = new.position
    WHERE held.xmin = new.version AND held.tableoid = OID::oid::regclass AND pg_relation_filenode(OID::oid::regclass) = %(filenode)s::oid AND true AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 2) = 'column a of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 3) = 'column b%%c of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 4) = 'column d of table public.frozen' 
AND (
    SELECT count(*) FROM ONLY "public"."frozen" AS looked
    WHERE looked.ctid >= %(prune_first)s::tid AND looked.ctid < %(prune_end)s::tid
) >= 0

    FOR NO KEY UPDATE OF held SKIP LOCKED
) AS new
WHERE t.ctid = new.position

-- engine, write_at_once, target v10, hot order
WITH written AS (
UPDATE ONLY "public"."frozen" AS t SET "a" = CASE WHEN new."value_0" IS NULL THEN t."a" ELSE new."value_0"::text END, "b%%c" = CASE WHEN new."value_1" IS NULL THEN t."b%%c" ELSE new."value_1"::character varying END, "d" = CASE WHEN new."value_2" IS NULL THEN t."d" ELSE new."value_2"::text END
FROM (
    SELECT unnest(%(positions)b::tid[]) AS position, unnest(%(versions)b::xid[]) AS version, unnest(%(value_0)b::text[]) AS "value_0", unnest(%(value_1)b::text[]) AS "value_1", unnest(%(value_2)b::text[]) AS "value_2"
) AS new
WHERE t.ctid = ANY (%(positions)b::tid[]) AND t.ctid = new.position AND t.xmin = new.version
    AND t.tableoid = OID::oid::regclass AND pg_relation_filenode(OID::oid::regclass) = %(filenode)s::oid AND true AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 2) = 'column a of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 3) = 'column b%%c of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 4) = 'column d of table public.frozen' AND (SELECT set_config('lock_timeout', '10ms', true)) IS NOT NULL 
AND (
    SELECT count(*) FROM ONLY "public"."frozen" AS looked
    WHERE looked.ctid >= %(prune_first)s::tid AND looked.ctid < %(prune_end)s::tid
) >= 0


RETURNING (new."value_0" IS NOT NULL)::int + (new."value_1" IS NOT NULL)::int + (new."value_2" IS NOT NULL)::int AS changed
)
SELECT count(*), coalesce(sum(changed), 0)::bigint,
       extract(epoch FROM clock_timestamp() - statement_timestamp())::float8
FROM written

-- engine, write_whole_at_once, target v10, hot order
UPDATE ONLY "public"."frozen" AS t SET "a" = new."value_0"::text, "b%%c" = new."value_1"::character varying, "d" = new."value_2"::text
FROM (
    SELECT unnest(%(positions)b::tid[]) AS position, unnest(%(versions)b::xid[]) AS version, unnest(%(value_0)b::text[]) AS "value_0", unnest(%(value_1)b::text[]) AS "value_1", unnest(%(value_2)b::text[]) AS "value_2"
) AS new
WHERE t.ctid = ANY (%(positions)b::tid[]) AND t.ctid = new.position AND t.xmin = new.version
    AND t.tableoid = OID::oid::regclass AND pg_relation_filenode(OID::oid::regclass) = %(filenode)s::oid AND true AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 2) = 'column a of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 3) = 'column b%%c of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 4) = 'column d of table public.frozen' AND (SELECT set_config('lock_timeout', '10ms', true)) IS NOT NULL 
AND (
    SELECT count(*) FROM ONLY "public"."frozen" AS looked
    WHERE looked.ctid >= %(prune_first)s::tid AND looked.ctid < %(prune_end)s::tid
) >= 0

-- engine, write_row, target v10, hot order
WITH written AS (
    UPDATE ONLY "public"."frozen" AS t SET "a" = CASE WHEN new."value_0" IS NULL THEN t."a" ELSE new."value_0"::text END, "b%%c" = CASE WHEN new."value_1" IS NULL THEN t."b%%c" ELSE new."value_1"::character varying END, "d" = CASE WHEN new."value_2" IS NULL THEN t."d" ELSE new."value_2"::text END
    FROM unnest(%(keys)b::text[], %(value_0)b::text[], %(value_1)b::text[], %(value_2)b::text[], %(old_0)b::text[], %(old_1)b::text[], %(old_2)b::text[]) AS new (key, "value_0", "value_1", "value_2", "old_0", "old_1", "old_2")
    WHERE "t"."id" OPERATOR("pg_catalog".=) (new.key::json ->> 0)::integer AND t."a"::text COLLATE "C" IS NOT DISTINCT FROM new."old_0" AND t."b%%c"::text COLLATE "C" IS NOT DISTINCT FROM new."old_1" AND t."d"::text COLLATE "C" IS NOT DISTINCT FROM new."old_2"
    RETURNING (new."value_0" IS NOT NULL)::int + (new."value_1" IS NOT NULL)::int + (new."value_2" IS NOT NULL)::int AS changed
)
SELECT count(*), coalesce(sum(changed), 0)::bigint FROM written

-- engine, name_rows, target v10, hot order
SELECT t.ctid, json_build_array("t"."id"::text)::text
FROM unnest(%(positions)b::tid[], %(versions)b::xid[]) AS read (position, version)
JOIN ONLY "public"."frozen" AS t ON t.ctid = read.position
WHERE t.xmin = read.version AND t.tableoid = OID::oid::regclass AND pg_relation_filenode(OID::oid::regclass) = %(filenode)s::oid AND true AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 2) = 'column a of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 3) = 'column b%%c of table public.frozen' AND pg_describe_object('pg_class'::regclass, OID::oid::regclass, 4) = 'column d of table public.frozen'

-- engine, count_values, target v10, hot order
SELECT count("a") + count("b%%c") + count("d") FROM ONLY "public"."frozen" AS t WHERE t.ctid >= %(first)s::tid AND t.ctid < %(end)s::tid

-- in order
SELECT DISTINCT (ctid::text::point)[0]::bigint / 64 FROM ONLY "public"."frozen" WHERE left(("a"::text COLLATE "C"), 3) COLLATE "C" NOT IN ('', 'v2:') OR left(("b%c"::text COLLATE "C"), 3) COLLATE "C" NOT IN ('', 'v2:') OR left(("d"::text COLLATE "C"), 3) COLLATE "C" NOT IN ('', 'v2:') ORDER BY 1

-- in order
SELECT DISTINCT (regexp_match(substring(left(("a"::text COLLATE "C"), 9) from '^(v[1-9][0-9]{0,5}x?:)'), '[0-9]+'))[1]::int + CASE WHEN substring(left(("a"::text COLLATE "C"), 9) from '^(v[1-9][0-9]{0,5}x?:)') ~ '^v[0-9]+x' THEN 1000000 ELSE 0 END FROM (SELECT "a" FROM ONLY "public"."frozen" LIMIT 1000) AS first UNION SELECT DISTINCT (regexp_match(substring(left(("b%c"::text COLLATE "C"), 9) from '^(v[1-9][0-9]{0,5}x?:)'), '[0-9]+'))[1]::int + CASE WHEN substring(left(("b%c"::text COLLATE "C"), 9) from '^(v[1-9][0-9]{0,5}x?:)') ~ '^v[0-9]+x' THEN 1000000 ELSE 0 END FROM (SELECT "b%c" FROM ONLY "public"."frozen" LIMIT 1000) AS first UNION SELECT DISTINCT (regexp_match(substring(left(("d"::text COLLATE "C"), 9) from '^(v[1-9][0-9]{0,5}x?:)'), '[0-9]+'))[1]::int + CASE WHEN substring(left(("d"::text COLLATE "C"), 9) from '^(v[1-9][0-9]{0,5}x?:)') ~ '^v[0-9]+x' THEN 1000000 ELSE 0 END FROM (SELECT "d" FROM ONLY "public"."frozen" LIMIT 1000) AS first

-- in order
SELECT count(*), count(*) FILTER (WHERE ("a"::text COLLATE "C") IS NOT NULL), count(*) FILTER (WHERE octet_length(("a"::text COLLATE "C")) = 0), count(*) FILTER (WHERE CASE
    WHEN octet_length(("a"::text COLLATE "C")) = 0 THEN 0
    WHEN ("a"::text COLLATE "C") LIKE 'v2:________________:%' AND octet_length(("a"::text COLLATE "C")) - 20 >= 24
     AND (octet_length(("a"::text COLLATE "C")) - 20) % 4 = 0 AND octet_length(("a"::text COLLATE "C")) <= 134217728
     AND ("a"::text COLLATE "C") ~ '^[^:]+:[A-Za-z0-9+/]+:[A-Za-z0-9+/]+(?:[AEIMQUYcgkosw048]=|[AQgw]==)?$' THEN 2
    WHEN octet_length(("a"::text COLLATE "C")) - strpos(left(("a"::text COLLATE "C"), 9), ':') - 17 >= CASE WHEN substr(("a"::text COLLATE "C"), strpos(left(("a"::text COLLATE "C"), 9), ':') - 1, 1) = 'x' THEN 80 + CASE WHEN right(("a"::text COLLATE "C"), 1) = '=' THEN 4 ELSE 0 END ELSE 24 END AND (octet_length(("a"::text COLLATE "C")) - strpos(left(("a"::text COLLATE "C"), 9), ':') - 17) % 4 = 0
     AND octet_length(("a"::text COLLATE "C")) <= 134217728 AND ("a"::text COLLATE "C") ~ '^(?:v[1-9][0-9]{0,5}:[A-Za-z0-9+/]{16}:|v[1-9][0-9]{0,5}x:[A-Za-z0-9+/]{32}:)[A-Za-z0-9+/]+(?:[AEIMQUYcgkosw048]=|[AQgw]==)?$' THEN rtrim(substr(left(("a"::text COLLATE "C"), 9), 2, strpos(left(("a"::text COLLATE "C"), 9), ':') - 2), 'x')::int
    + CASE WHEN substr(("a"::text COLLATE "C"), strpos(left(("a"::text COLLATE "C"), 9), ':') - 1, 1) = 'x' THEN 1000000 ELSE 0 END
    WHEN left(("a"::text COLLATE "C"), 64) ~  E'^[ \\t\\n\\r\\f\\v]*[vV][0-9]+[xX]?[ \\t\\n\\r\\f\\v]*:' THEN -2
    WHEN ("a"::text COLLATE "C") IS NOT NULL THEN -1 END < 0), count(*) FILTER (WHERE (left(("a"::text COLLATE "C"), 3) IN ('v2:'))), count(*) FILTER (WHERE ("b%c"::text COLLATE "C") IS NOT NULL), count(*) FILTER (WHERE octet_length(("b%c"::text COLLATE "C")) = 0), count(*) FILTER (WHERE CASE
    WHEN octet_length(("b%c"::text COLLATE "C")) = 0 THEN 0
    WHEN ("b%c"::text COLLATE "C") LIKE 'v2:________________:%' AND octet_length(("b%c"::text COLLATE "C")) - 20 >= 24
     AND (octet_length(("b%c"::text COLLATE "C")) - 20) % 4 = 0 AND octet_length(("b%c"::text COLLATE "C")) <= 134217728
     AND ("b%c"::text COLLATE "C") ~ '^[^:]+:[A-Za-z0-9+/]+:[A-Za-z0-9+/]+(?:[AEIMQUYcgkosw048]=|[AQgw]==)?$' THEN 2
    WHEN octet_length(("b%c"::text COLLATE "C")) - strpos(left(("b%c"::text COLLATE "C"), 9), ':') - 17 >= CASE WHEN substr(("b%c"::text COLLATE "C"), strpos(left(("b%c"::text COLLATE "C"), 9), ':') - 1, 1) = 'x' THEN 80 + CASE WHEN right(("b%c"::text COLLATE "C"), 1) = '=' THEN 4 ELSE 0 END ELSE 24 END AND (octet_length(("b%c"::text COLLATE "C")) - strpos(left(("b%c"::text COLLATE "C"), 9), ':') - 17) % 4 = 0
     AND octet_length(("b%c"::text COLLATE "C")) <= 134217728 AND ("b%c"::text COLLATE "C") ~ '^(?:v[1-9][0-9]{0,5}:[A-Za-z0-9+/]{16}:|v[1-9][0-9]{0,5}x:[A-Za-z0-9+/]{32}:)[A-Za-z0-9+/]+(?:[AEIMQUYcgkosw048]=|[AQgw]==)?$' THEN rtrim(substr(left(("b%c"::text COLLATE "C"), 9), 2, strpos(left(("b%c"::text COLLATE "C"), 9), ':') - 2), 'x')::int
    + CASE WHEN substr(("b%c"::text COLLATE "C"), strpos(left(("b%c"::text COLLATE "C"), 9), ':') - 1, 1) = 'x' THEN 1000000 ELSE 0 END
    WHEN left(("b%c"::text COLLATE "C"), 64) ~  E'^[ \\t\\n\\r\\f\\v]*[vV][0-9]+[xX]?[ \\t\\n\\r\\f\\v]*:' THEN -2
    WHEN ("b%c"::text COLLATE "C") IS NOT NULL THEN -1 END < 0), count(*) FILTER (WHERE (left(("b%c"::text COLLATE "C"), 3) IN ('v2:'))), count(*) FILTER (WHERE ("d"::text COLLATE "C") IS NOT NULL), count(*) FILTER (WHERE octet_length(("d"::text COLLATE "C")) = 0), count(*) FILTER (WHERE CASE
    WHEN octet_length(("d"::text COLLATE "C")) = 0 THEN 0
    WHEN ("d"::text COLLATE "C") LIKE 'v2:________________:%' AND octet_length(("d"::text COLLATE "C")) - 20 >= 24
     AND (octet_length(("d"::text COLLATE "C")) - 20) % 4 = 0 AND octet_length(("d"::text COLLATE "C")) <= 134217728
     AND ("d"::text COLLATE "C") ~ '^[^:]+:[A-Za-z0-9+/]+:[A-Za-z0-9+/]+(?:[AEIMQUYcgkosw048]=|[AQgw]==)?$' THEN 2
    WHEN octet_length(("d"::text COLLATE "C")) - strpos(left(("d"::text COLLATE "C"), 9), ':') - 17 >= CASE WHEN substr(("d"::text COLLATE "C"), strpos(left(("d"::text COLLATE "C"), 9), ':') - 1, 1) = 'x' THEN 80 + CASE WHEN right(("d"::text COLLATE "C"), 1) = '=' THEN 4 ELSE 0 END ELSE 24 END AND (octet_length(("d"::text COLLATE "C")) - strpos(left(("d"::text COLLATE "C"), 9), ':') - 17) % 4 = 0
     AND octet_length(("d"::text COLLATE "C")) <= 134217728 AND ("d"::text COLLATE "C") ~ '^(?:v[1-9][0-9]{0,5}:[A-Za-z0-9+/]{16}:|v[1-9][0-9]{0,5}x:[A-Za-z0-9+/]{32}:)[A-Za-z0-9+/]+(?:[AEIMQUYcgkosw048]=|[AQgw]==)?$' THEN rtrim(substr(left(("d"::text COLLATE "C"), 9), 2, strpos(left(("d"::text COLLATE "C"), 9), ':') - 2), 'x')::int
    + CASE WHEN substr(("d"::text COLLATE "C"), strpos(left(("d"::text COLLATE "C"), 9), ':') - 1, 1) = 'x' THEN 1000000 ELSE 0 END
    WHEN left(("d"::text COLLATE "C"), 64) ~  E'^[ \\t\\n\\r\\f\\v]*[vV][0-9]+[xX]?[ \\t\\n\\r\\f\\v]*:' THEN -2
    WHEN ("d"::text COLLATE "C") IS NOT NULL THEN -1 END < 0), count(*) FILTER (WHERE (left(("d"::text COLLATE "C"), 3) IN ('v2:'))) FROM ONLY "public"."frozen"

-- in order
SELECT "k0", "k1", "k2", count(*) FROM (SELECT CASE
    WHEN octet_length(("a"::text COLLATE "C")) = 0 THEN 0
    WHEN octet_length(("a"::text COLLATE "C")) - strpos(left(("a"::text COLLATE "C"), 9), ':') - 17 >= CASE WHEN substr(("a"::text COLLATE "C"), strpos(left(("a"::text COLLATE "C"), 9), ':') - 1, 1) = 'x' THEN 80 + CASE WHEN right(("a"::text COLLATE "C"), 1) = '=' THEN 4 ELSE 0 END ELSE 24 END AND (octet_length(("a"::text COLLATE "C")) - strpos(left(("a"::text COLLATE "C"), 9), ':') - 17) % 4 = 0
     AND octet_length(("a"::text COLLATE "C")) <= 134217728 AND ("a"::text COLLATE "C") ~ '^(?:v[1-9][0-9]{0,5}:[A-Za-z0-9+/]{16}:|v[1-9][0-9]{0,5}x:[A-Za-z0-9+/]{32}:)[A-Za-z0-9+/]+(?:[AEIMQUYcgkosw048]=|[AQgw]==)?$' THEN rtrim(substr(left(("a"::text COLLATE "C"), 9), 2, strpos(left(("a"::text COLLATE "C"), 9), ':') - 2), 'x')::int
    + CASE WHEN substr(("a"::text COLLATE "C"), strpos(left(("a"::text COLLATE "C"), 9), ':') - 1, 1) = 'x' THEN 1000000 ELSE 0 END
    WHEN left(("a"::text COLLATE "C"), 64) ~  E'^[ \\t\\n\\r\\f\\v]*[vV][0-9]+[xX]?[ \\t\\n\\r\\f\\v]*:' THEN -2
    WHEN ("a"::text COLLATE "C") IS NOT NULL THEN -1 END AS "k0", CASE
    WHEN octet_length(("b%c"::text COLLATE "C")) = 0 THEN 0
    WHEN octet_length(("b%c"::text COLLATE "C")) - strpos(left(("b%c"::text COLLATE "C"), 9), ':') - 17 >= CASE WHEN substr(("b%c"::text COLLATE "C"), strpos(left(("b%c"::text COLLATE "C"), 9), ':') - 1, 1) = 'x' THEN 80 + CASE WHEN right(("b%c"::text COLLATE "C"), 1) = '=' THEN 4 ELSE 0 END ELSE 24 END AND (octet_length(("b%c"::text COLLATE "C")) - strpos(left(("b%c"::text COLLATE "C"), 9), ':') - 17) % 4 = 0
     AND octet_length(("b%c"::text COLLATE "C")) <= 134217728 AND ("b%c"::text COLLATE "C") ~ '^(?:v[1-9][0-9]{0,5}:[A-Za-z0-9+/]{16}:|v[1-9][0-9]{0,5}x:[A-Za-z0-9+/]{32}:)[A-Za-z0-9+/]+(?:[AEIMQUYcgkosw048]=|[AQgw]==)?$' THEN rtrim(substr(left(("b%c"::text COLLATE "C"), 9), 2, strpos(left(("b%c"::text COLLATE "C"), 9), ':') - 2), 'x')::int
    + CASE WHEN substr(("b%c"::text COLLATE "C"), strpos(left(("b%c"::text COLLATE "C"), 9), ':') - 1, 1) = 'x' THEN 1000000 ELSE 0 END
    WHEN left(("b%c"::text COLLATE "C"), 64) ~  E'^[ \\t\\n\\r\\f\\v]*[vV][0-9]+[xX]?[ \\t\\n\\r\\f\\v]*:' THEN -2
    WHEN ("b%c"::text COLLATE "C") IS NOT NULL THEN -1 END AS "k1", CASE
    WHEN octet_length(("d"::text COLLATE "C")) = 0 THEN 0
    WHEN octet_length(("d"::text COLLATE "C")) - strpos(left(("d"::text COLLATE "C"), 9), ':') - 17 >= CASE WHEN substr(("d"::text COLLATE "C"), strpos(left(("d"::text COLLATE "C"), 9), ':') - 1, 1) = 'x' THEN 80 + CASE WHEN right(("d"::text COLLATE "C"), 1) = '=' THEN 4 ELSE 0 END ELSE 24 END AND (octet_length(("d"::text COLLATE "C")) - strpos(left(("d"::text COLLATE "C"), 9), ':') - 17) % 4 = 0
     AND octet_length(("d"::text COLLATE "C")) <= 134217728 AND ("d"::text COLLATE "C") ~ '^(?:v[1-9][0-9]{0,5}:[A-Za-z0-9+/]{16}:|v[1-9][0-9]{0,5}x:[A-Za-z0-9+/]{32}:)[A-Za-z0-9+/]+(?:[AEIMQUYcgkosw048]=|[AQgw]==)?$' THEN rtrim(substr(left(("d"::text COLLATE "C"), 9), 2, strpos(left(("d"::text COLLATE "C"), 9), ':') - 2), 'x')::int
    + CASE WHEN substr(("d"::text COLLATE "C"), strpos(left(("d"::text COLLATE "C"), 9), ':') - 1, 1) = 'x' THEN 1000000 ELSE 0 END
    WHEN left(("d"::text COLLATE "C"), 64) ~  E'^[ \\t\\n\\r\\f\\v]*[vV][0-9]+[xX]?[ \\t\\n\\r\\f\\v]*:' THEN -2
    WHEN ("d"::text COLLATE "C") IS NOT NULL THEN -1 END AS "k2" FROM ONLY "public"."frozen") AS judged GROUP BY "k0", "k1", "k2"

-- in order
SELECT count(*), count(*) FILTER (WHERE xmin::text::bigint > 2 AND
    (xmin::text::bigint - 7 % 4294967296 + 4294967296) % 4294967296
    < pg_snapshot_xmax(pg_current_snapshot())::text::bigint - 7) FROM ONLY "public"."frozen" WHERE (left(("a"::text COLLATE "C"), 3) IN ('v1:') OR left(("a"::text COLLATE "C"), 4) IN ('v10:')) OR (left(("b%c"::text COLLATE "C"), 3) IN ('v1:') OR left(("b%c"::text COLLATE "C"), 4) IN ('v10:')) OR (left(("d"::text COLLATE "C"), 3) IN ('v1:') OR left(("d"::text COLLATE "C"), 4) IN ('v10:'))

-- in order
SELECT count(*) FROM ONLY "public"."frozen" WHERE (left(("a"::text COLLATE "C"), 3) IN ('v2:')) OR (left(("b%c"::text COLLATE "C"), 3) IN ('v2:')) OR (left(("d"::text COLLATE "C"), 3) IN ('v2:'))

-- in order
SELECT count(*) FILTER (WHERE octet_length(("a"::text COLLATE "C")) > 0), count(*) FILTER (WHERE CASE
    WHEN octet_length(("a"::text COLLATE "C")) = 0 THEN 0
    WHEN octet_length(("a"::text COLLATE "C")) - strpos(left(("a"::text COLLATE "C"), 9), ':') - 17 >= CASE WHEN substr(("a"::text COLLATE "C"), strpos(left(("a"::text COLLATE "C"), 9), ':') - 1, 1) = 'x' THEN 80 + CASE WHEN right(("a"::text COLLATE "C"), 1) = '=' THEN 4 ELSE 0 END ELSE 24 END AND (octet_length(("a"::text COLLATE "C")) - strpos(left(("a"::text COLLATE "C"), 9), ':') - 17) % 4 = 0
     AND octet_length(("a"::text COLLATE "C")) <= 134217728 AND ("a"::text COLLATE "C") ~ '^(?:v[1-9][0-9]{0,5}:[A-Za-z0-9+/]{16}:|v[1-9][0-9]{0,5}x:[A-Za-z0-9+/]{32}:)[A-Za-z0-9+/]+(?:[AEIMQUYcgkosw048]=|[AQgw]==)?$' THEN rtrim(substr(left(("a"::text COLLATE "C"), 9), 2, strpos(left(("a"::text COLLATE "C"), 9), ':') - 2), 'x')::int
    + CASE WHEN substr(("a"::text COLLATE "C"), strpos(left(("a"::text COLLATE "C"), 9), ':') - 1, 1) = 'x' THEN 1000000 ELSE 0 END
    WHEN left(("a"::text COLLATE "C"), 64) ~  E'^[ \\t\\n\\r\\f\\v]*[vV][0-9]+[xX]?[ \\t\\n\\r\\f\\v]*:' THEN -2
    WHEN ("a"::text COLLATE "C") IS NOT NULL THEN -1 END < 0), count(*) FILTER (WHERE (left(("a"::text COLLATE "C"), 3) IN ('v1:'))), count(*) FILTER (WHERE octet_length(("b%c"::text COLLATE "C")) > 0), count(*) FILTER (WHERE CASE
    WHEN octet_length(("b%c"::text COLLATE "C")) = 0 THEN 0
    WHEN octet_length(("b%c"::text COLLATE "C")) - strpos(left(("b%c"::text COLLATE "C"), 9), ':') - 17 >= CASE WHEN substr(("b%c"::text COLLATE "C"), strpos(left(("b%c"::text COLLATE "C"), 9), ':') - 1, 1) = 'x' THEN 80 + CASE WHEN right(("b%c"::text COLLATE "C"), 1) = '=' THEN 4 ELSE 0 END ELSE 24 END AND (octet_length(("b%c"::text COLLATE "C")) - strpos(left(("b%c"::text COLLATE "C"), 9), ':') - 17) % 4 = 0
     AND octet_length(("b%c"::text COLLATE "C")) <= 134217728 AND ("b%c"::text COLLATE "C") ~ '^(?:v[1-9][0-9]{0,5}:[A-Za-z0-9+/]{16}:|v[1-9][0-9]{0,5}x:[A-Za-z0-9+/]{32}:)[A-Za-z0-9+/]+(?:[AEIMQUYcgkosw048]=|[AQgw]==)?$' THEN rtrim(substr(left(("b%c"::text COLLATE "C"), 9), 2, strpos(left(("b%c"::text COLLATE "C"), 9), ':') - 2), 'x')::int
    + CASE WHEN substr(("b%c"::text COLLATE "C"), strpos(left(("b%c"::text COLLATE "C"), 9), ':') - 1, 1) = 'x' THEN 1000000 ELSE 0 END
    WHEN left(("b%c"::text COLLATE "C"), 64) ~  E'^[ \\t\\n\\r\\f\\v]*[vV][0-9]+[xX]?[ \\t\\n\\r\\f\\v]*:' THEN -2
    WHEN ("b%c"::text COLLATE "C") IS NOT NULL THEN -1 END < 0), count(*) FILTER (WHERE (left(("b%c"::text COLLATE "C"), 3) IN ('v1:'))), count(*) FILTER (WHERE octet_length(("d"::text COLLATE "C")) > 0), count(*) FILTER (WHERE CASE
    WHEN octet_length(("d"::text COLLATE "C")) = 0 THEN 0
    WHEN octet_length(("d"::text COLLATE "C")) - strpos(left(("d"::text COLLATE "C"), 9), ':') - 17 >= CASE WHEN substr(("d"::text COLLATE "C"), strpos(left(("d"::text COLLATE "C"), 9), ':') - 1, 1) = 'x' THEN 80 + CASE WHEN right(("d"::text COLLATE "C"), 1) = '=' THEN 4 ELSE 0 END ELSE 24 END AND (octet_length(("d"::text COLLATE "C")) - strpos(left(("d"::text COLLATE "C"), 9), ':') - 17) % 4 = 0
     AND octet_length(("d"::text COLLATE "C")) <= 134217728 AND ("d"::text COLLATE "C") ~ '^(?:v[1-9][0-9]{0,5}:[A-Za-z0-9+/]{16}:|v[1-9][0-9]{0,5}x:[A-Za-z0-9+/]{32}:)[A-Za-z0-9+/]+(?:[AEIMQUYcgkosw048]=|[AQgw]==)?$' THEN rtrim(substr(left(("d"::text COLLATE "C"), 9), 2, strpos(left(("d"::text COLLATE "C"), 9), ':') - 2), 'x')::int
    + CASE WHEN substr(("d"::text COLLATE "C"), strpos(left(("d"::text COLLATE "C"), 9), ':') - 1, 1) = 'x' THEN 1000000 ELSE 0 END
    WHEN left(("d"::text COLLATE "C"), 64) ~  E'^[ \\t\\n\\r\\f\\v]*[vV][0-9]+[xX]?[ \\t\\n\\r\\f\\v]*:' THEN -2
    WHEN ("d"::text COLLATE "C") IS NOT NULL THEN -1 END < 0), count(*) FILTER (WHERE (left(("d"::text COLLATE "C"), 3) IN ('v1:'))) FROM ONLY "public"."frozen"

-- in order
SELECT EXISTS (SELECT FROM ONLY "public"."frozen" AS held WHERE "held"."id" OPERATOR("pg_catalog".=) ('[1]'::json ->> 0)::integer AND CASE
    WHEN octet_length(("a"::text COLLATE "C")) = 0 THEN 0
    WHEN octet_length(("a"::text COLLATE "C")) - strpos(left(("a"::text COLLATE "C"), 9), ':') - 17 >= CASE WHEN substr(("a"::text COLLATE "C"), strpos(left(("a"::text COLLATE "C"), 9), ':') - 1, 1) = 'x' THEN 80 + CASE WHEN right(("a"::text COLLATE "C"), 1) = '=' THEN 4 ELSE 0 END ELSE 24 END AND (octet_length(("a"::text COLLATE "C")) - strpos(left(("a"::text COLLATE "C"), 9), ':') - 17) % 4 = 0
     AND octet_length(("a"::text COLLATE "C")) <= 134217728 AND ("a"::text COLLATE "C") ~ '^(?:v[1-9][0-9]{0,5}:[A-Za-z0-9+/]{16}:|v[1-9][0-9]{0,5}x:[A-Za-z0-9+/]{32}:)[A-Za-z0-9+/]+(?:[AEIMQUYcgkosw048]=|[AQgw]==)?$' THEN rtrim(substr(left(("a"::text COLLATE "C"), 9), 2, strpos(left(("a"::text COLLATE "C"), 9), ':') - 2), 'x')::int
    + CASE WHEN substr(("a"::text COLLATE "C"), strpos(left(("a"::text COLLATE "C"), 9), ':') - 1, 1) = 'x' THEN 1000000 ELSE 0 END
    WHEN left(("a"::text COLLATE "C"), 64) ~  E'^[ \\t\\n\\r\\f\\v]*[vV][0-9]+[xX]?[ \\t\\n\\r\\f\\v]*:' THEN -2
    WHEN ("a"::text COLLATE "C") IS NOT NULL THEN -1 END < 0)

-- in order
SELECT EXISTS (SELECT FROM ONLY "public"."frozen" AS held WHERE "held"."id" OPERATOR("pg_catalog".=) ('[3]'::json ->> 0)::integer AND (left(("d"::text COLLATE "C"), 3) IN ('v2:')))

-- in order
LOCK TABLE ONLY "public"."frozen" IN ACCESS SHARE MODE

-- in order
SELECT place, number, position, size
FROM (
    SELECT *, row_number() OVER (PARTITION BY place, number ORDER BY random()) AS turn
    FROM (
        SELECT t.ctid AS position, cell.*
        FROM ONLY "public"."frozen" AS t , LATERAL (VALUES (0, (regexp_match(substring(left(("a"::text COLLATE "C"), 9) from '^(v[1-9][0-9]{0,5}x?:)'), '[0-9]+'))[1]::int + CASE WHEN substring(left(("a"::text COLLATE "C"), 9) from '^(v[1-9][0-9]{0,5}x?:)') ~ '^v[0-9]+x' THEN 1000000 ELSE 0 END, octet_length(("a"::text COLLATE "C"))), (1, (regexp_match(substring(left(("b%c"::text COLLATE "C"), 9) from '^(v[1-9][0-9]{0,5}x?:)'), '[0-9]+'))[1]::int + CASE WHEN substring(left(("b%c"::text COLLATE "C"), 9) from '^(v[1-9][0-9]{0,5}x?:)') ~ '^v[0-9]+x' THEN 1000000 ELSE 0 END, octet_length(("b%c"::text COLLATE "C"))), (2, (regexp_match(substring(left(("d"::text COLLATE "C"), 9) from '^(v[1-9][0-9]{0,5}x?:)'), '[0-9]+'))[1]::int + CASE WHEN substring(left(("d"::text COLLATE "C"), 9) from '^(v[1-9][0-9]{0,5}x?:)') ~ '^v[0-9]+x' THEN 1000000 ELSE 0 END, octet_length(("d"::text COLLATE "C")))) AS cell (place, number, size)
    ) AS cells
    WHERE number IS NOT NULL
) AS shuffled
WHERE turn <= 5
ORDER BY turn

-- in order
SELECT json_build_array("t"."id"::text)::text, ("a"::text COLLATE "C") FROM ONLY "public"."frozen" AS t WHERE t.ctid = ANY ('{"(0,1)"}'::text[]::tid[])

-- in order
SELECT json_build_array("t"."id"::text)::text, ("b%c"::text COLLATE "C") FROM ONLY "public"."frozen" AS t WHERE t.ctid = ANY ('{"(0,1)"}'::text[]::tid[])

-- in order
SELECT json_build_array("t"."id"::text)::text, ("d"::text COLLATE "C") FROM ONLY "public"."frozen" AS t WHERE t.ctid = ANY ('{"(0,1)"}'::text[]::tid[])

-- in order
LOCK TABLE ONLY "public"."frozen" IN ACCESS SHARE MODE

-- in order
SELECT place, number, position, size
FROM (
    SELECT *, row_number() OVER (PARTITION BY place, number ORDER BY random()) AS turn
    FROM (
        SELECT t.ctid AS position, cell.*
        FROM ONLY "public"."frozen" AS t , LATERAL (VALUES (0, (regexp_match(substring(left(("a"::text COLLATE "C"), 9) from '^(v[1-9][0-9]{0,5}x?:)'), '[0-9]+'))[1]::int + CASE WHEN substring(left(("a"::text COLLATE "C"), 9) from '^(v[1-9][0-9]{0,5}x?:)') ~ '^v[0-9]+x' THEN 1000000 ELSE 0 END, octet_length(("a"::text COLLATE "C"))), (1, (regexp_match(substring(left(("b%c"::text COLLATE "C"), 9) from '^(v[1-9][0-9]{0,5}x?:)'), '[0-9]+'))[1]::int + CASE WHEN substring(left(("b%c"::text COLLATE "C"), 9) from '^(v[1-9][0-9]{0,5}x?:)') ~ '^v[0-9]+x' THEN 1000000 ELSE 0 END, octet_length(("b%c"::text COLLATE "C"))), (2, (regexp_match(substring(left(("d"::text COLLATE "C"), 9) from '^(v[1-9][0-9]{0,5}x?:)'), '[0-9]+'))[1]::int + CASE WHEN substring(left(("d"::text COLLATE "C"), 9) from '^(v[1-9][0-9]{0,5}x?:)') ~ '^v[0-9]+x' THEN 1000000 ELSE 0 END, octet_length(("d"::text COLLATE "C")))) AS cell (place, number, size)
    ) AS cells
    WHERE number = ANY ('{1}'::int2[])
) AS shuffled
WHERE turn <= 5
ORDER BY turn

-- in order
SELECT max(octet_length(("b%c"::text COLLATE "C")) - strpos(left(("b%c"::text COLLATE "C"), 9), ':') + 4 + CASE WHEN (substr(("b%c"::text COLLATE "C"), strpos(left(("b%c"::text COLLATE "C"), 9), ':') - 1, 1) = 'x') <> false THEN  -56 ELSE 0 END) FILTER (WHERE left(("b%c"::text COLLATE "C"), 9) ~ '^v[1-9][0-9]{0,5}x?:') FROM ONLY "public"."frozen"

-- in order
SELECT count(CASE WHEN left(("d"::text COLLATE "C"), 9) ~ '^v[1-9][0-9]{0,5}x?:' THEN ('v10:' || CASE WHEN (substr(("d"::text COLLATE "C"), strpos(left(("d"::text COLLATE "C"), 9), ':') - 1, 1) = 'x') <> false THEN substr(("d"::text COLLATE "C"), strpos(left(("d"::text COLLATE "C"), 9), ':') + 1, 16) || ':'
    || substr(("d"::text COLLATE "C"), strpos(left(("d"::text COLLATE "C"), 9), ':') + 74) ELSE substr(("d"::text COLLATE "C"), strpos(left(("d"::text COLLATE "C"), 9), ':') + 1) END)::public.sealed ELSE "d" END) FROM ONLY "public"."frozen"

-- in order
SELECT count(*) FROM (SELECT "id", CASE WHEN left(("a"::text COLLATE "C"), 9) ~ '^v[1-9][0-9]{0,5}x?:' THEN ('v10:' || CASE WHEN (substr(("a"::text COLLATE "C"), strpos(left(("a"::text COLLATE "C"), 9), ':') - 1, 1) = 'x') <> false THEN substr(("a"::text COLLATE "C"), strpos(left(("a"::text COLLATE "C"), 9), ':') + 1, 16) || ':'
    || substr(("a"::text COLLATE "C"), strpos(left(("a"::text COLLATE "C"), 9), ':') + 74) ELSE substr(("a"::text COLLATE "C"), strpos(left(("a"::text COLLATE "C"), 9), ':') + 1) END)::text ELSE "a" END AS "a", CASE WHEN left(("b%c"::text COLLATE "C"), 9) ~ '^v[1-9][0-9]{0,5}x?:' THEN ('v10:' || CASE WHEN (substr(("b%c"::text COLLATE "C"), strpos(left(("b%c"::text COLLATE "C"), 9), ':') - 1, 1) = 'x') <> false THEN substr(("b%c"::text COLLATE "C"), strpos(left(("b%c"::text COLLATE "C"), 9), ':') + 1, 16) || ':'
    || substr(("b%c"::text COLLATE "C"), strpos(left(("b%c"::text COLLATE "C"), 9), ':') + 74) ELSE substr(("b%c"::text COLLATE "C"), strpos(left(("b%c"::text COLLATE "C"), 9), ':') + 1) END)::character varying ELSE "b%c" END AS "b%c", CASE WHEN left(("d"::text COLLATE "C"), 9) ~ '^v[1-9][0-9]{0,5}x?:' THEN ('v10:' || CASE WHEN (substr(("d"::text COLLATE "C"), strpos(left(("d"::text COLLATE "C"), 9), ':') - 1, 1) = 'x') <> false THEN substr(("d"::text COLLATE "C"), strpos(left(("d"::text COLLATE "C"), 9), ':') + 1, 16) || ':'
    || substr(("d"::text COLLATE "C"), strpos(left(("d"::text COLLATE "C"), 9), ':') + 74) ELSE substr(("d"::text COLLATE "C"), strpos(left(("d"::text COLLATE "C"), 9), ':') + 1) END)::public.sealed ELSE "d" END AS "d" FROM ONLY "public"."frozen") AS "frozen" WHERE NOT ((a <> 'y'::text))

-- in order
UPDATE public.frozen SET d = NULL WHERE id = 2

-- in order
LOCK TABLE "public"."frozen" IN SHARE UPDATE EXCLUSIVE MODE

-- in order
LOCK TABLE "public"."frozen" IN ACCESS EXCLUSIVE MODE NOWAIT

-- in order
ALTER TABLE "public"."frozen" DROP CONSTRAINT IF EXISTS "keyrotation_retired_key_versions"

-- in order
ALTER TABLE "public"."frozen" ADD CONSTRAINT "keyrotation_retired_key_versions" CHECK ((
CASE
    WHEN ((("left"(a, 3) COLLATE "C") = ANY (ARRAY['v1:'::text])) OR (("left"(a, 4) COLLATE "C") = ANY (ARRAY['v10:'::text]))) THEN ((('keyrotation: key version '::text || split_part(("left"(a, 8) COLLATE "C"), ':'::text, 1)) || ' is retired'::text))::boolean
    ELSE true
END AND
CASE
    WHEN ((("left"(("b%c")::text, 3) COLLATE "C") = ANY (ARRAY['v1:'::text])) OR (("left"(("b%c")::text, 4) COLLATE "C") = ANY (ARRAY['v10:'::text]))) THEN ((('keyrotation: key version '::text || split_part(("left"(("b%c")::text, 8) COLLATE "C"), ':'::text, 1)) || ' is retired'::text))::boolean
    ELSE true
END AND
CASE
    WHEN ((("left"((d)::text, 3) COLLATE "C") = ANY (ARRAY['v1:'::text])) OR (("left"((d)::text, 4) COLLATE "C") = ANY (ARRAY['v10:'::text]))) THEN ((('keyrotation: key version '::text || split_part(("left"((d)::text, 8) COLLATE "C"), ':'::text, 1)) || ' is retired'::text))::boolean
    ELSE true
END)) NOT VALID

-- in order
ALTER TABLE "public"."frozen" VALIDATE CONSTRAINT "keyrotation_retired_key_versions"

-- in order
LOCK TABLE "public"."frozen" IN SHARE UPDATE EXCLUSIVE MODE

-- in order
LOCK TABLE "public"."frozen" IN ACCESS EXCLUSIVE MODE NOWAIT

-- in order
ALTER TABLE "public"."frozen" DROP CONSTRAINT IF EXISTS "keyrotation_retired_key_versions"

-- in order
ALTER TABLE "public"."frozen" ADD CONSTRAINT "keyrotation_retired_key_versions" CHECK ((
CASE
    WHEN (("left"(a, 4) COLLATE "C") = ANY (ARRAY['v10:'::text])) THEN ((('keyrotation: key version '::text || split_part(("left"(a, 8) COLLATE "C"), ':'::text, 1)) || ' is retired'::text))::boolean
    ELSE true
END AND
CASE
    WHEN (("left"(("b%c")::text, 4) COLLATE "C") = ANY (ARRAY['v10:'::text])) THEN ((('keyrotation: key version '::text || split_part(("left"(("b%c")::text, 8) COLLATE "C"), ':'::text, 1)) || ' is retired'::text))::boolean
    ELSE true
END AND
CASE
    WHEN (("left"((d)::text, 4) COLLATE "C") = ANY (ARRAY['v10:'::text])) THEN ((('keyrotation: key version '::text || split_part(("left"((d)::text, 8) COLLATE "C"), ':'::text, 1)) || ' is retired'::text))::boolean
    ELSE true
END)) NOT VALID

-- in order
ALTER TABLE "public"."frozen" VALIDATE CONSTRAINT "keyrotation_retired_key_versions"

