-- The role that runs keyrotation, and all that it needs; run by a superuser. Write your own names for
-- clinic (the database) and clinic_owner (the role that owns the encrypted tables).
CREATE ROLE keyrotation LOGIN BYPASSRLS IN ROLE clinic_owner;   -- BYPASSRLS only where row-level security applies
GRANT CREATE ON DATABASE clinic TO keyrotation;                  -- for the schema keyrotation
GRANT pg_read_all_stats TO keyrotation;                          -- to name who holds an old snapshot
