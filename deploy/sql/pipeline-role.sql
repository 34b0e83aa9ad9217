-- The role that runs keyrotation, and all that it needs; run by a superuser. Write your own names for
-- clinic (the database) and clinic_owner (the role that owns the encrypted tables).
CREATE ROLE keyrotation LOGIN BYPASSRLS IN ROLE clinic_owner;   -- BYPASSRLS only where row-level security applies
GRANT CREATE ON DATABASE clinic TO keyrotation;                  -- for the schema keyrotation
GRANT pg_read_all_stats TO keyrotation;                          -- to name who holds an old snapshot
GRANT pg_read_all_data TO keyrotation;                           -- where other roles own tables: they are backed up and searched, too
GRANT pg_read_all_settings TO keyrotation;                       -- to find the server's disk, where it is on this host

-- restore-database creates a database, a role that restores it, and the roles that the backup names. From PostgreSQL 16
-- on, a role with CREATEROLE administers only the roles that it has created. Before, it could make itself a member of
-- any role, so it is not granted there: run that one command with a superuser's URL in KEYROTATION_DATABASE_URL.
SELECT current_setting('server_version_num')::int >= 160000 AS bounded \gset
\if :bounded
ALTER ROLE keyrotation CREATEDB CREATEROLE;
\endif
