-- The role that runs keyrotation, and all that it needs; for psql, as a superuser. Write your own names for clinic (the
-- database) and clinic_owner (the role that owns the encrypted tables). It can be run again, and on a server that has
-- the role already: the result is the same.
SELECT NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'keyrotation') AS missing,
       bounded, CASE WHEN bounded THEN 'WITH INHERIT TRUE, SET TRUE' ELSE '' END AS fully
FROM (SELECT current_setting('server_version_num')::int >= 160000 AS bounded) AS server \gset
\if :missing
CREATE ROLE keyrotation;
\endif
ALTER ROLE keyrotation LOGIN INHERIT NOSUPERUSER NOREPLICATION;
ALTER ROLE keyrotation BYPASSRLS;                                -- only where row-level security applies
GRANT clinic_owner TO keyrotation :fully;
GRANT CREATE ON DATABASE clinic TO keyrotation;                  -- for the schema keyrotation
GRANT pg_read_all_stats TO keyrotation :fully;                   -- to name who holds an old snapshot
GRANT pg_read_all_data TO keyrotation :fully;                    -- where other roles own tables: they are backed up and searched, too
GRANT pg_read_all_settings TO keyrotation :fully;                -- to find the server's disk, where it is on this host

-- restore-database creates a database, a role that restores it, and the roles that the backup names. From PostgreSQL 16
-- on, a role with CREATEROLE administers only the roles that it has created. Before, it could make itself a member of
-- any role, so it is not granted there: run that one command with a superuser's URL in KEYROTATION_DATABASE_URL.
\if :bounded
ALTER ROLE keyrotation CREATEDB CREATEROLE;
\else
ALTER ROLE keyrotation NOCREATEDB NOCREATEROLE;
\endif
